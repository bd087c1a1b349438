"""What only maintainers run: `tools/cuda` checks CUDA, with a GPU and without one; `variants` compares LoRA's."""
