"""The oracle: the same functions as `regista.kernels.cpu` in plain float64 NumPy."""
