"""Fused Numba kernels; every array is 3-D (a 2-D image is one slice), float32 and C-contiguous."""
