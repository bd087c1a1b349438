"""Checks of the CUDA kernels: compiled, counted, compared and timed."""
