"""Reference of `regista.kernels.cpu.mind`: pair of neighbours after pair, by the definition."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from regista.kernels.reference.rows import put

Volume = NDArray[np.floating]


def mind_margin(shape: tuple[int, ...], radius: int, dilation: int) -> tuple[int, ...]:
    """Return by how many voxels an image is continued along each axis."""
    return tuple(radius + dilation if n > 1 else 0 for n in shape)


def pad_nearest(volume: ArrayLike, margin: tuple[int, ...], *, out: Volume | None = None) -> Volume:
    """Continue an image beyond its borders with the values there."""
    return put(np.pad(np.asarray(volume, np.float64), [(m, m) for m in margin], mode="edge"), out, None)


def neighbours(shape: tuple[int, ...], dilation: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the two neighbours each channel compares."""
    step = dilation * np.eye(3, dtype=np.int64)
    axes = [axis for axis, n in enumerate(shape) if n > 1]
    pairs = []
    for a in axes:
        for b in axes:
            if a < b:
                pairs += [(-step[a], step[b]), (-step[b], step[a]), (-step[a], -step[b]), (step[b], step[a])]
    return pairs


def _inner(padded: Volume, margin: int) -> tuple[int, ...]:
    return tuple(n - 2 * margin if n > 1 else 1 for n in padded.shape)


def _shifted(padded: Volume, offset: NDArray[np.int64], shape: tuple[int, ...], reach: int) -> Volume:
    """Return the image at ``x + offset`` for all x within `reach` of the voxels of `shape`."""
    grown = [n + 2 * reach if n > 1 else 1 for n in shape]
    start = [(m - n) // 2 + o for m, n, o in zip(padded.shape, grown, offset, strict=True)]
    return padded[tuple(slice(s, s + n) for s, n in zip(start, grown, strict=True))]


def _differences(padded: ArrayLike, radius: int, dilation: int) -> list[Volume]:
    """Return ``W(x + o) − W(x + o')`` of each channel, for all x in reach of a patch."""
    image = np.asarray(padded, np.float64)
    shape = _inner(image, radius + dilation)
    return [
        _shifted(image, one, shape, radius) - _shifted(image, other, shape, radius)
        for one, other in neighbours(shape, dilation)
    ]


def _distances(padded: ArrayLike, radius: int, dilation: int) -> Volume:
    shape = _inner(np.asarray(padded), radius + dilation)
    result = np.empty((len(neighbours(shape, dilation)), *shape))
    inside = tuple(slice(radius, -radius or None) if n > 1 else slice(None) for n in shape)
    for channel, difference in enumerate(_differences(padded, radius, dilation)):
        size = [2 * radius + 1 if n > 1 else 1 for n in shape]
        result[channel] = ndimage.uniform_filter(difference**2, size)[inside]
    return result


def mind_bounds(padded: ArrayLike, radius: int, dilation: int) -> tuple[float, float]:
    """Return the bounds of the variance."""
    distances = _distances(padded, radius, dilation)
    if not len(distances):
        return 1e-12, 1.0
    mean = float((distances.mean(axis=0) - distances.min(axis=0)).mean())
    return max(1e-3 * mean, 1e-12), max(1e3 * mean, 1e-9)


def mind_descriptors(
    volume: ArrayLike, radius: int = 1, dilation: int = 2, bounds: tuple[float, float] | None = None
) -> Volume:
    """Return the self-similarity context of every voxel."""
    image = np.asarray(volume, np.float64)
    padded = pad_nearest(image, mind_margin(image.shape, radius, dilation))
    distances = _distances(padded, radius, dilation)
    if not len(distances):
        return distances
    low, high = mind_bounds(padded, radius, dilation) if bounds is None else bounds
    above = distances - distances.min(axis=0)
    return np.asarray(np.exp(-above / np.clip(above.mean(axis=0), low, high)))


def mind_coefficients(
    descriptors: ArrayLike,
    padded: ArrayLike,
    weight: ArrayLike | None,
    radius: int,
    dilation: int,
    bounds: tuple[float, float],
    *,
    out: Volume,
) -> float:
    """Return the weighted sum of squared differences and write its derivative by the patch distances."""
    distances = _distances(padded, radius, dilation)
    if not len(distances):
        return 0.0
    shape, channels = distances.shape[1:], len(distances)
    q = np.ones(shape) if weight is None else np.asarray(weight, np.float64)
    above = distances - distances.min(axis=0)
    spread = above.mean(axis=0)
    variance = np.clip(spread, *bounds)
    got = np.exp(-above / variance)
    difference = got - np.asarray(descriptors, np.float64)
    by_exponent = -2 * q * difference * got
    by_variance = -(by_exponent * above).sum(axis=0) / variance**2
    by_above = by_exponent / variance + np.where(variance == spread, by_variance / channels, 0)
    first = np.arange(channels)[:, None, None, None] == distances.argmin(axis=0)
    out[...] = by_above - np.where(first, by_above.sum(axis=0), 0)
    return float((q * difference**2).sum())


def mind_gradient(
    padded: ArrayLike, coefficients: ArrayLike, radius: int, dilation: int, scale: float, *, out: Volume
) -> Volume:
    """Write ``scale · ∂/∂W`` of that sum: each patch's voxels are pulled together or pushed apart."""
    image, pulls = np.asarray(padded, np.float64), np.asarray(coefficients, np.float64)
    shape = out.shape
    window = [2 * radius + 1 if n > 1 else 1 for n in shape]
    whole = np.zeros_like(image)
    for channel, difference in enumerate(_differences(image, radius, dilation)):
        shares = np.zeros(difference.shape)
        for place in np.ndindex(*shape):
            around = tuple(slice(p, p + n) for p, n in zip(place, window, strict=True))
            shares[around] += pulls[(channel, *place)] / np.prod(window)
        push = 2 * shares * difference
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
