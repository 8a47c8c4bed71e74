"""Reference of `regista.kernels.cpu.weighted_mind`: pair of neighbours after pair, by the definition."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.kernels.reference.mind import (
    Volume,
    _differences,
    _inner,
    _shifted,
    mind_margin,
    neighbours,
)

LEAST_SHARE = 0.195


def _pairs(weight: Volume, shape: tuple[int, ...], radius: int, dilation: int) -> list[Volume]:
    """Return ``ω(x + o) ω(x + o')`` of each channel, for all x in reach of a patch."""
    return [
        _shifted(weight, one, shape, radius) * _shifted(weight, other, shape, radius)
        for one, other in neighbours(shape, dilation)
    ]


def _patch_sums(values: Volume, shape: tuple[int, ...], radius: int) -> Volume:
    """Return sums over the patch around every voxel of `shape`, from values in reach of one."""
    window = tuple(2 * radius + 1 if n > 1 else 1 for n in shape)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(values, window).sum(axis=(-3, -2, -1)))


def _distances(
    padded: ArrayLike, weight: ArrayLike, radius: int, dilation: int
) -> tuple[Volume, Volume, NDArray[np.bool_], Volume]:
    """Return the distances, the weight of what they show, which are open, and the weight of the voxels compared."""
    image, weights = np.asarray(padded, np.float64), np.asarray(weight, np.float64)
    shape = _inner(image, radius + dilation)
    pairs = _pairs(weights, shape, radius, dilation)
    sums = [
        _patch_sums(pair * difference**2, shape, radius)
        for pair, difference in zip(pairs, _differences(image, radius, dilation), strict=True)
    ]
    own = _shifted(weights, np.zeros(3, np.int64), shape, 0)
    if not pairs:
        return np.empty((0, *shape)), np.empty((0, *shape)), np.empty((0, *shape), bool), np.zeros(shape)
    shown = np.stack([_patch_sums(pair, shape, radius) for pair in pairs])
    size = (2 * radius + 1) ** sum(n > 1 for n in shape)
    seen = (own > 1e-12) & (shown >= LEAST_SHARE * size * own**2)
    distances = np.where(seen, np.stack(sums) / np.where(seen, shown, 1), 0)
    kept = np.where(seen.sum(axis=0) >= 0.5 * len(pairs), own, 0)
    return distances, shown, seen, kept


def _above(
    distances: Volume, seen: NDArray[np.bool_], kept: Volume
) -> tuple[Volume, Volume, NDArray[np.int64], NDArray[np.int64]]:
    """Return the distances above the smallest, their mean, the channel of the smallest, and how many are open."""
    least = np.where(seen, distances, np.inf).argmin(axis=0)
    smallest = np.take_along_axis(distances, least[None], axis=0)[0]
    number = np.where(kept > 0, seen.sum(axis=0), 1)
    above = np.where(seen & (kept > 0), distances - smallest, 0)
    return above, above.sum(axis=0) / number, least, number


def weighted_mind_total(weight: ArrayLike, radius: int, dilation: int) -> float:
    """Return the weight of the voxels compared."""
    return float(_distances(weight, weight, radius, dilation)[3].sum())


def weighted_mind_bounds(
    padded: ArrayLike, weight: ArrayLike, radius: int, dilation: int
) -> tuple[float, float]:
    """Return the bounds of the variance."""
    distances, _, seen, kept = _distances(padded, weight, radius, dilation)
    if not len(distances):
        return 1e-12, 1.0
    _, spread, _, _ = _above(distances, seen, kept)
    mean = float((kept * spread).sum() / kept.sum()) if kept.sum() > 0 else 0.0
    return max(1e-3 * mean, 1e-12), max(1e3 * mean, 1e-9)


def weighted_mind_descriptors(
    padded: ArrayLike,
    weight: ArrayLike,
    radius: int,
    dilation: int,
    bounds: tuple[float, float],
    *,
    out: Volume,
) -> Volume:
    """Write the self-similarity context of every voxel."""
    distances, _, seen, kept = _distances(padded, weight, radius, dilation)
    if len(distances):
        above, spread, _, _ = _above(distances, seen, kept)
        out[...] = np.where(seen & (kept > 0), np.exp(-above / np.clip(spread, *bounds)), 0)
    return out


def weighted_mind_coefficients(
    descriptors: ArrayLike,
    padded: ArrayLike,
    weight: ArrayLike,
    radius: int,
    dilation: int,
    bounds: tuple[float, float],
    *,
    out: Volume,
) -> tuple[float, float]:
    """Return the weighted sum of squared differences and the weight compared; write the derivative by the ``A_e``."""
    distances, shown, seen, kept = _distances(padded, weight, radius, dilation)
    if not len(distances):
        return 0.0, 0.0
    above, spread, least, number = _above(distances, seen, kept)
    variance = np.clip(spread, *bounds)
    got = np.exp(-above / variance)
    share = np.where(seen, kept * len(distances) / number, 0)
    difference = got - np.asarray(descriptors, np.float64)
    by_exponent = -2 * share * difference * got
    by_variance = -(by_exponent * above).sum(axis=0) / variance**2
    by_above = by_exponent / variance + np.where(variance == spread, by_variance / number, 0)
    by_above = np.where(seen, by_above, 0)
    first = np.arange(len(distances))[:, None, None, None] == least
    by_distance = by_above - np.where(first, by_above.sum(axis=0), 0)
    out[...] = np.where(seen, by_distance / np.where(seen, shown, 1), 0)
    return float((share * difference**2).sum()), float(kept.sum())


def weighted_mind_gradient(
    padded: ArrayLike,
    weight: ArrayLike,
    coefficients: ArrayLike,
    radius: int,
    dilation: int,
    scale: float,
    *,
    out: Volume,
) -> Volume:
    """Write ``scale · ∂/∂W`` of that sum: each patch's voxels are pulled together or pushed apart."""
    image, pulls = np.asarray(padded, np.float64), np.asarray(coefficients, np.float64)
    shape = out.shape
    window = [2 * radius + 1 if n > 1 else 1 for n in shape]
    pairs = _pairs(np.asarray(weight, np.float64), shape, radius, dilation)
    whole = np.zeros_like(image)
    for channel, difference in enumerate(_differences(image, radius, dilation)):
        shares = np.zeros(difference.shape)
        for place in np.ndindex(*shape):
            around = tuple(slice(p, p + n) for p, n in zip(place, window, strict=True))
            shares[around] += pulls[(channel, *place)]
        push = 2 * shares * pairs[channel] * difference
        for offset, sign in zip(neighbours(shape, dilation)[channel], (1, -1), strict=True):
            _shifted(whole, offset, shape, radius)[...] += sign * push
    for axis, margin in enumerate(mind_margin(shape, radius, dilation)):
        whole = np.moveaxis(whole, axis, 0)
        if margin:  # what lies beyond the border is the border's own value
            inner = whole[margin:-margin].copy()
            inner[0] += whole[:margin].sum(axis=0)
            inner[-1] += whole[-margin:].sum(axis=0)
            whole = inner
        whole = np.moveaxis(whole, 0, axis)
    out[...] = scale * whole
    return out
