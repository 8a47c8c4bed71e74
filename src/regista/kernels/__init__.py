"""Array-only numerics in voxel coordinates: `cpu` (Numba) and `reference` (slow, obviously right)."""
