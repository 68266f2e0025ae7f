"""Kernels written as machine code, for one pattern of zeros each."""
