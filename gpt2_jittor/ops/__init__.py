"""The operators of GPT-2, one a file.

Each has a *composed* definition in plain Jittor, which runs on every device and is the reference, and where it
pays a *fused* kernel for the CPU (`kernels/*.h`), some for CUDA as well (`kernels/cuda/*.cuh`), which run where they
have proved themselves. One public function stands in front of them; callers never see which one ran.
"""
