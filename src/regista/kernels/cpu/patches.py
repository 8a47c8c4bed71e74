"""Patches read from an image at turned, scaled and warped places, many at a time."""

from __future__ import annotations

import math

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined, njit


def sample_patches(image, matrices, waves, side):
    """Return patches of an image, ``(N, *side)`` float32.

    The place of patch voxel p, counted from the centre of the patch, is ``A (p + Σ_m a_m sin(k_m · p + φ_m)) + t``.
    Places outside the image take the nearest edge value.

    Parameters
    ----------
    image : (I, J, K) float32 ndarray
        Voxels.
    matrices : (N, 3, 4) float64 ndarray
        ``[A | t]`` of each patch, from patch voxels to image voxels.
    waves : (N, M, 7) float64 ndarray
        Amplitude a (3), wave vector k (3, radians per voxel) and phase φ of each wave of each patch; M may be 0.
    side : (3,) int
        Voxels of a patch along each axis; odd.
    """
    image = np.ascontiguousarray(image, np.float32)
    matrices = np.ascontiguousarray(matrices, np.float64)
    waves = np.ascontiguousarray(waves, np.float64)
    out = np.empty((len(matrices), *side), np.float32)
    parallel_for(lambda a, b: _sample_patches(a, b, image, matrices, waves, out), len(matrices), grain=1)
    return out


@inlined
def _bracket(x, n):
    """Return the voxels on both sides of a place along an axis, and the share of the second."""
    x = min(max(x, 0.0), n - 1.0)
    low = int(x)
    high = min(low + 1, n - 1)
    return low, high, x - low


@inlined
def _linear_at(image, x, y, z):
    a, b, u = _bracket(x, image.shape[0])
    c, d, v = _bracket(y, image.shape[1])
    e, f, w = _bracket(z, image.shape[2])
    near = (image[a, c, e] * (1 - w) + image[a, c, f] * w) * (1 - v) + (
        image[a, d, e] * (1 - w) + image[a, d, f] * w
    ) * v
    far = (image[b, c, e] * (1 - w) + image[b, c, f] * w) * (1 - v) + (
        image[b, d, e] * (1 - w) + image[b, d, f] * w
    ) * v
    return near * (1 - u) + far * u


@njit
def _sample_patches(start, stop, image, matrices, waves, out):
    _, ni, nj, nk = out.shape
    for n in range(start, stop):
        m = matrices[n]
        for i in range(ni):
            p = i - ni // 2
            for j in range(nj):
                q = j - nj // 2
                for k in range(nk):
                    r = k - nk // 2
                    x, y, z = float(p), float(q), float(r)
                    for number in range(waves.shape[1]):
                        wave = waves[n, number]
                        swing = math.sin(wave[3] * p + wave[4] * q + wave[5] * r + wave[6])
                        x += wave[0] * swing
                        y += wave[1] * swing
                        z += wave[2] * swing
                    out[n, i, j, k] = _linear_at(
                        image,
                        m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3],
                        m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3],
                        m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3],
                    )
