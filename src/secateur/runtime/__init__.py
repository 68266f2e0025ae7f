"""Sparse formats and kernels for CPUs; knows tensors, not models."""
