"""Reference of `regista.kernels.cpu.convolution`."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def convolve(x: Array, weight: Array, bias: Array, stride: int = 1, slope: float = 1.0) -> Array:
    """Return a convolution 3 wide, its sides padded by zeros, rectified.

    Parameters
    ----------
    x : (C, *shape) ndarray
        Channels first, 2 or 3 axes.
    weight : (M, C, *taps) ndarray
        As PyTorch keeps it.
    bias : (M,) ndarray
        Of each output.
    stride : int
        Every how manieth place is kept.
    slope : float
        What values below 0 are multiplied by.
    """
    ndim = x.ndim - 1
    padded = np.pad(x.astype(np.float64), [(0, 0), *[(1, 1)] * ndim])
    taps = np.moveaxis(weight, (0, 1), (-2, -1)).reshape(-1, *weight.shape[:2])
    out = np.zeros((len(weight), *x.shape[1:])) + bias.reshape(-1, *[1] * ndim)
    for tap, matrix in zip(product(range(3), repeat=ndim), taps, strict=True):
        seen = padded[(slice(None), *(slice(t, t + n) for t, n in zip(tap, x.shape[1:], strict=True)))]
        out += (matrix @ seen.reshape(len(x), -1)).reshape(out.shape)
    out = out[(slice(None), *[slice(None, None, stride)] * ndim)]
    return np.where(out < 0, slope * out, out)


def repeated(x: Array) -> Array:
    """Return channels whose places are repeated along every axis."""
    for axis in range(1, x.ndim):
        x = np.repeat(x, 2, axis)
    return x
