"""Normalized gradient fields: how well the edges of two images lie along each other, and the exact gradient of that.

With central differences in voxels, one-sided at borders, and ``n = ∇F / √(|∇F|² + η_F²)`` (Haber & Modersitzki 2006)::

    Σ w r² / h,   r = n·∇W,   h = |∇W|² + η²
    ∂/∂W = Σ over axes of the adjoint difference of  w (2 r / h) (n − (r / h) ∇W)

One pass streams over the planes and keeps the last three of that vector in a ring.
"""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined, njit

_NONE = np.ones((1, 1, 1), np.float32)


def mean_gradient(volume, weight=None):
    """Return the weighted mean magnitude of an image's gradient, intensity per voxel (0 without any weight).

    Parameters
    ----------
    volume : (I, J, K) float32 ndarray
        Image.
    weight : (I, J, K) float32 ndarray, optional
        Weight of each voxel.
    """
    volume = np.ascontiguousarray(volume)
    sums = np.zeros((volume.shape[0], 2))
    w = _NONE if weight is None else np.ascontiguousarray(weight)
    parallel_for(lambda a, b: _magnitude(a, b, volume, w, weight is not None, sums), volume.shape[0])
    total, count = sums.sum(axis=0)
    return float(total / count) if count > 0 else 0.0


def ngf_field(volume, edge):
    """Return the normalized gradient field ``∇F / √(|∇F|² + η²)``, (3, I, J, K) float32.

    Parameters
    ----------
    volume : (I, J, K) float32 ndarray
        Image.
    edge : float
        The edge parameter η, intensity per voxel: weaker gradients are noise.
    """
    volume = np.ascontiguousarray(volume)
    out = np.empty((3, *volume.shape), np.float32)
    parallel_for(lambda a, b: _field(a, b, volume, np.float32(edge) ** 2, out), volume.shape[0])
    return out


def ngf_gradient(field, warped, weight, edge, scale, *, out):
    """Return ``Σ w (n·∇W)² / (|∇W|² + η²)`` and write ``scale`` times its derivative by W to `out`.

    Parameters
    ----------
    field : (3, I, J, K) float32 ndarray
        The fixed image's `ngf_field` n.
    warped : (I, J, K) float32 ndarray
        Warped image.
    weight : (I, J, K) float32 ndarray or None
        Weight of each voxel.
    edge : float
        The warped image's edge parameter η, intensity per voxel.
    scale : float
        Factor.
    out : (I, J, K) float32 ndarray
        Destination.
    """
    warped = np.ascontiguousarray(warped)
    values = np.zeros(warped.shape[0])
    w = _NONE if weight is None else np.ascontiguousarray(weight)
    given = field, warped, w, weight is not None, np.float32(edge) ** 2, np.float32(scale)
    parallel_for(lambda a, b: _gradient(a, b, *given, out, values), warped.shape[0])
    return float(values.sum())


def least_of_neighbours(weight, *, out=None):
    """Return the least weight of every voxel and its neighbours along the axes: of what central differences read.

    Parameters
    ----------
    weight : (I, J, K) float32 ndarray
        Weight of each voxel.
    out : (I, J, K) float32 ndarray, optional
        Destination; must not be `weight`.

    Returns
    -------
    (I, J, K) float32 ndarray

    Examples
    --------
    >>> least_of_neighbours(np.float32([[[1, 1, 1, 0.5, 0, 1]]])).tolist()
    [[[1.0, 1.0, 0.5, 0.0, 0.0, 0.0]]]
    """
    weight = np.ascontiguousarray(weight)
    out = np.empty_like(weight) if out is None else out
    parallel_for(lambda a, b: _least(a, b, weight, out), weight.shape[0])
    return out


@inlined
def _differences(volume, i, j, slope):
    """Write a row's central differences along the three axes, one-sided at borders."""
    inn, jn, kn = volume.shape
    half = np.float32(0.5)
    for axis in range(2):
        n, p = (inn, i) if axis == 0 else (jn, j)
        low, high = max(p - 1, 0), min(p + 1, n - 1)
        inverse = np.float32(1) / np.float32(max(high - low, 1))
        up = volume[high, j] if axis == 0 else volume[i, high]
        down = volume[low, j] if axis == 0 else volume[i, low]
        target = slope[axis]
        for k in range(kn):
            target[k] = inverse * (up[k] - down[k])
    row, target = volume[i, j], slope[2]
    target[0] = row[min(1, kn - 1)] - row[0]
    target[kn - 1] = row[kn - 1] - row[max(kn - 2, 0)]
    if kn > 2:
        inner, up, down = target[1 : kn - 1], row[2:], row[: kn - 2]
        for k in range(kn - 2):
            inner[k] = half * (up[k] - down[k])


@inlined
def _squares(slope, edge2, total):
    a, b, c = slope[0], slope[1], slope[2]
    for k in range(total.shape[0]):
        total[k] = a[k] * a[k] + b[k] * b[k] + c[k] * c[k] + edge2


@njit
def _least(start, stop, weight, out):
    inn, jn, kn = weight.shape
    for i in range(start, stop):
        before, after = max(i - 1, 0), min(i + 1, inn - 1)
        for j in range(jn):
            row, target = weight[i, j], out[i, j]
            a, b = weight[before, j], weight[after, j]
            c, d = weight[i, max(j - 1, 0)], weight[i, min(j + 1, jn - 1)]
            for k in range(kn):
                target[k] = min(row[k], min(min(a[k], b[k]), min(c[k], d[k])))
            first, last = target[: kn - 1], target[1:]
            lower, upper = row[: kn - 1], row[1:]
            for k in range(kn - 1):
                first[k] = min(first[k], upper[k])
            for k in range(kn - 1):
                last[k] = min(last[k], lower[k])


@njit
def _magnitude(start, stop, volume, weight, has_weight, sums):
    _, jn, kn = volume.shape
    slope, total, ones = np.empty((3, kn), np.float32), np.empty(kn, np.float32), np.ones(kn, np.float32)
    for i in range(start, stop):
        for j in range(jn):
            _differences(volume, i, j, slope)
            _squares(slope, np.float32(0), total)
            weights = weight[i, j] if has_weight else ones
            value, count = np.float32(0), np.float32(0)
            for k in range(kn):
                value += weights[k] * np.sqrt(total[k])
                count += weights[k]
            sums[i, 0] += value
            sums[i, 1] += count


@njit
def _field(start, stop, volume, edge2, out):
    _, jn, kn = volume.shape
    slope, total = np.empty((3, kn), np.float32), np.empty(kn, np.float32)
    for i in range(start, stop):
        for j in range(jn):
            _differences(volume, i, j, slope)
            _squares(slope, edge2, total)
            for k in range(kn):
                total[k] = np.float32(1) / np.sqrt(total[k])
            for axis in range(3):
                source, target = slope[axis], out[axis, i, j]
                for k in range(kn):
                    target[k] = source[k] * total[k]


@inlined
def _fluxes(field, warped, weight, has_weight, edge2, scale, i, slope, work, ones, ring):
    """Write the derivative by each difference of plane i, the difference's own factor included; return the value."""
    inn, jn, kn = warped.shape
    ratio, inverse, alike = work[0], work[1], work[2]
    value, two, half, one = 0.0, np.float32(2), np.float32(0.5), np.float32(1)
    for j in range(jn):
        _differences(warped, i, j, slope)
        _squares(slope, edge2, inverse)
        weights = weight[i, j] if has_weight else ones
        ratio[:] = np.float32(0)
        for axis in range(3):
            source, other = slope[axis], field[axis, i, j]
            for k in range(kn):
                ratio[k] += source[k] * other[k]
        row = np.float32(0)
        for k in range(kn):
            q = ratio[k] / inverse[k]
            alike[k] = weights[k] * ratio[k]
            row += alike[k] * q
            ratio[k] = q
        value += row
        for k in range(kn):
            inverse[k] = scale * two * alike[k] / inverse[k]
        for axis in range(3):
            source, other, target = slope[axis], field[axis, i, j], ring[axis, i % 3, j]
            n, p = (inn, i) if axis == 0 else (jn, j)
            factor = one if axis < 2 and (p == 0 or p == n - 1) else half
            if axis < 2 and n == 1:
                factor = np.float32(0)
            for k in range(kn):
                target[k] = factor * inverse[k] * (other[k] - ratio[k] * source[k])
        ends = ring[2, i % 3, j]
        for k in (0, kn - 1):
            ends[k] *= np.float32(0) if kn == 1 else two
    return value


@inlined
def _add_adjoint(target, flux, other, lower, upper):
    """Add what two neighbouring differences say: one's upper end less the other's lower."""
    for k in range(target.shape[0]):
        target[k] += lower * flux[k] - upper * other[k]


@njit
def _gradient(start, stop, field, warped, weight, has_weight, edge2, scale, out, values):
    inn, jn, kn = warped.shape
    ring = np.empty((3, 3, jn, kn), np.float32)
    slope, work, ones = np.empty((3, kn), np.float32), np.empty((3, kn), np.float32), np.ones(kn, np.float32)
    one = np.float32(1)
    done = max(start - 1, 0)
    for i in range(start, stop):
        while done <= min(i + 1, inn - 1):
            value = _fluxes(field, warped, weight, has_weight, edge2, scale, done, slope, work, ones, ring)
            if start <= done < stop:
                values[done] = value
            done += 1
        fi, fj, fk = ring[0], ring[1], ring[2]
        for j in range(jn):
            target = out[i, j]
            target[:] = np.float32(0)
            # at a border the difference there has its lower (upper) end at the voxel itself
            _add_adjoint(
                target, fi[max(i - 1, 0) % 3, j], fi[min(i + 1, inn - 1) % 3, j], -one if i == 0 else one,
                -one if i == inn - 1 else one,
            )  # fmt: skip
            _add_adjoint(
                target, fj[i % 3, max(j - 1, 0)], fj[i % 3, min(j + 1, jn - 1)], -one if j == 0 else one,
                -one if j == jn - 1 else one,
            )  # fmt: skip
            row = fk[i % 3, j]
            if kn > 1:
                target[0] -= row[0] + row[1]
                target[kn - 1] += row[kn - 2] + row[kn - 1]
            if kn > 2:
                _add_adjoint(target[1 : kn - 1], row[: kn - 2], row[2:], one, one)
