"""Reference of `regista.kernels.cpu.lncc`: window after window, by the definition."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.kernels.reference.intensity import image_force
from regista.kernels.reference.rows import Rows, put, within

Volume = NDArray[np.floating]
Place = tuple[int, ...]


def windows(shape: tuple[int, ...], radius: int) -> Iterator[tuple[Place, tuple[slice, ...]]]:
    """Yield each voxel and the window around it, cut at the borders."""
    for place in np.ndindex(shape):
        yield place, tuple(slice(max(c - radius, 0), c + radius + 1) for c in place)


def lncc_fixed(fixed: ArrayLike, radius: int) -> tuple[Volume, Volume]:
    """Return the window means and the window sums of squares about them."""
    image = np.asarray(fixed, np.float64)
    mean, spread = np.empty_like(image), np.empty_like(image)
    for place, window in windows(image.shape, radius):
        mean[place] = image[window].mean()
        spread[place] = ((image[window] - image[window].mean()) ** 2).sum()
    return mean, spread


def lncc_coefficients(
    fixed: ArrayLike,
    fixed_mean: ArrayLike,
    fixed_spread: ArrayLike,
    warped: ArrayLike,
    weight: ArrayLike | None,
    radius: int,
    floor: float,
    *,
    out: Volume,
    rows: Rows | None = None,
) -> tuple[float, float]:
    """Write ``a, b, c`` of the gradient to `out`; return Σ weight · cc² and Σ weight (where fixed is not flat)."""
    f, w = np.asarray(fixed, np.float64), np.asarray(warped, np.float64)
    mean, spread = np.asarray(fixed_mean, np.float64), np.asarray(fixed_spread, np.float64)
    q = np.ones_like(f) if weight is None else np.asarray(weight, np.float64)
    result, here, total = np.zeros((3, *f.shape)), within(f.shape, rows), 0.0
    weight_kept = 0.0
    for place, window in windows(f.shape, radius):
        if not here[place]:
            continue
        dw = w[window] - w[window].mean()
        least = floor * dw.size
        a, b, c = float(((f[window] - mean[place]) * dw).sum()), float(spread[place]), float((dw**2).sum())
        weight_kept += float(q[place]) if b > least else 0.0
        if b > least and c > least:
            total += q[place] * a * a / (b * c)
            ca, cb = 2 * a / (b * c) * q[place], 2 * a * a / (b * c * c) * q[place]
            for n, value in enumerate((ca, cb, ca * mean[place] - cb * w[window].mean())):
                result[n][place] = value
    put(result, out, rows)
    return float(total), weight_kept


def lncc_gradient(
    fixed: ArrayLike, warped: ArrayLike, coefficients: ArrayLike, radius: int, *, out: Volume | None = None
) -> Volume:
    """Return ``∂Σcc²/∂warped``: what each window a voxel lies in says about it."""
    f, w = np.asarray(fixed, np.float64), np.asarray(warped, np.float64)
    a, b, c = np.asarray(coefficients, np.float64)
    result = np.zeros_like(f)
    for place, window in windows(f.shape, radius):
        result[window] += a[place] * f[window] - b[place] * w[window] - c[place]
    return put(result, out, None)


def lncc_force(
    fixed: ArrayLike,
    warped: ArrayLike,
    coefficients: ArrayLike,
    radius: int,
    axis_scale: ArrayLike,
    symmetric: bool,
    *,
    out: Volume | None = None,
    rows: Rows | None = None,
) -> Volume:
    """Return ``∂Σcc²/∂W`` times a spatial gradient, the ascent force."""
    descent = -lncc_gradient(fixed, warped, coefficients, radius)
    return image_force(descent, warped, fixed, axis_scale, symmetric, out=out, rows=rows)
