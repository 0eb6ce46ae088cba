"""CUDA: streams of its own, pinned memory, raw kernels."""
