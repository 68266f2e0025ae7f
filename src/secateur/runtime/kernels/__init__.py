"""Kernels that LLVM makes for this processor, through llvmlite."""
