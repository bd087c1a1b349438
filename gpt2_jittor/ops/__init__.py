"""The operators of GPT-2, one a file.

Each has a *composed* definition in plain Jittor, which runs on every device and is the reference, and where it
pays a *fused* CPU kernel (`kernels/*.h`). One public function stands in front of both; callers never see which
one ran.
"""
