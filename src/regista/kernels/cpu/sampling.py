"""Read an image at arbitrary places: nearest, linear, cubic B-spline, Lanczos-windowed sinc, label votes.

Border rule, as in ITK: a place lies inside when each index is within ``[-0.5, n - 0.5]``, so half a voxel
beyond the outermost centres still belongs to the image and is read from its edge; elsewhere `fill`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined_finite_checked, njit_finite_checked

LANCZOS_RADIUS = 5
"""Half width of the windowed sinc in voxels, as in SimpleITK."""

_GRAIN = 4096


def spline_coefficients(image: ArrayLike) -> NDArray[np.float32]:
    """Return the cubic B-spline coefficients of ``(..., I, J, K)`` voxels, edges mirrored about centres."""
    coefficients = np.asarray(image, np.float64)
    for axis in range(-3, 0):
        if coefficients.shape[axis] > 1:
            coefficients = ndimage.spline_filter1d(coefficients, 3, axis, np.float64, "mirror")
    return np.ascontiguousarray(coefficients, np.float32)


def sample_points(
    image: ArrayLike,
    coords_vox: ArrayLike,
    order: str = "linear",
    fill: float = 0.0,
    *,
    prefiltered: bool = False,
) -> NDArray[np.float32]:
    """Interpolate `image` at places given in its own voxels.

    Parameters
    ----------
    image : (I, J, K) or (C, I, J, K) ndarray
        Voxels; several channels are read in one pass.
    coords_vox : (N, 3) ndarray
        Places in voxels, taken as float64; a NaN coordinate gives `fill`.
    order : {'nearest', 'linear', 'cubic', 'lanczos'}
        Interpolation. 'lanczos' has radius 5, and weights that sum to 1.
    fill : float
        Value outside.
    prefiltered : bool
        For 'cubic': `image` already holds `spline_coefficients`.

    Returns
    -------
    (N,) or (C, N) float32 ndarray
        Interpolated values.
    """
    if order not in ("nearest", "linear", "cubic", "lanczos"):
        raise ValueError(f"order is 'nearest', 'linear', 'cubic' or 'lanczos', got {order!r}")
    voxels = np.ascontiguousarray(image, np.float32)
    if order == "cubic" and not prefiltered:
        voxels = spline_coefficients(voxels)
    shape = voxels.shape[-3:]
    flat = voxels.reshape(-1, shape[0] * shape[1] * shape[2])
    coords = np.ascontiguousarray(coords_vox, np.float64)
    out = np.empty((len(flat), len(coords)), np.float32)
    kernel = {"nearest": _nearest, "linear": _linear, "cubic": _cubic, "lanczos": _lanczos}[order]
    value = np.float32(fill)
    parallel_for(lambda a, b: kernel(a, b, flat, shape, coords, value, out), len(coords), grain=_GRAIN)
    return out if voxels.ndim == 4 else out[0]


def nearest_index(shape: tuple[int, ...], coords_vox: ArrayLike) -> NDArray[np.int64]:
    """Return the flat index of the voxel nearest to each ``(N, 3)`` place, −1 outside (halves round up)."""
    coords = np.ascontiguousarray(coords_vox, np.float64)
    out = np.empty(len(coords), np.int64)
    shape = tuple(int(n) for n in shape)
    parallel_for(lambda a, b: _nearest_index(a, b, shape, coords, out), len(coords), grain=_GRAIN)
    return out


def vote_labels(labels: ArrayLike, coords_vox: ArrayLike, background: int = 0) -> NDArray[np.int32]:
    """Return the label with the largest sum of linear weights among the 8 voxels around each place.

    The same as interpolating each label's indicator image linearly and taking the largest, without making
    those images. Equal sums go to the smaller label.

    Parameters
    ----------
    labels : (I, J, K) int32 ndarray
        Labels.
    coords_vox : (N, 3) float64 ndarray
        Places in voxels.
    background : int
        Label outside.

    Returns
    -------
    (N,) int32 ndarray
        Labels.
    """
    voxels = np.ascontiguousarray(labels, np.int32)
    coords = np.ascontiguousarray(coords_vox, np.float64)
    out = np.empty(len(coords), np.int32)
    flat, shape, value = voxels.reshape(-1), voxels.shape, np.int32(background)
    parallel_for(lambda a, b: _vote(a, b, flat, shape, coords, value, out), len(coords), grain=_GRAIN)
    return out


def pull_coords(
    affine: NDArray[np.float64],
    shape: tuple[int, ...],
    start: int,
    stop: int,
    field: NDArray[np.float32] | None = None,
    linear: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return where voxels ``start <= i < stop`` of a grid are read from: ``affine(x) + linear · field(x)``.

    Parameters
    ----------
    affine : (3, 4) float64 ndarray
        Map from the grid's voxels to the read image's voxels.
    shape : tuple of int
        Shape of the grid.
    start, stop : int
        Range along axis 0.
    field : (3, I, J, K) float32 ndarray, optional
        Displacement at each voxel of the grid, in any unit.
    linear : (3, 3) float64 ndarray, optional
        Map from the field's unit to voxels of the read image.

    Returns
    -------
    (N, 3) float64 ndarray
        Places in voxels of the read image, in C order.
    """
    _, jn, kn = shape
    out = np.empty(((stop - start) * jn * kn, 3))
    matrix = np.ascontiguousarray(affine, np.float64)
    has_field = field is not None
    vectors = np.zeros((3, 1, 1, 1), np.float32) if field is None else np.ascontiguousarray(field, np.float32)
    turn = np.ascontiguousarray(linear, np.float64) if has_field else np.zeros((3, 3))
    parallel_for(
        lambda a, b: _pull(a, b, start, jn, kn, matrix, vectors, has_field, turn, out), (stop - start) * jn
    )
    return out


@njit_finite_checked
def _pull(first, last, start, jn, kn, affine, field, has_field, linear, out):
    for row in range(first, last):
        i, j = start + row // jn, row % jn
        r0 = affine[0, 0] * i + affine[0, 1] * j + affine[0, 3]
        r1 = affine[1, 0] * i + affine[1, 1] * j + affine[1, 3]
        r2 = affine[2, 0] * i + affine[2, 1] * j + affine[2, 3]
        n = row * kn
        for k in range(kn):
            x = r0 + affine[0, 2] * k
            y = r1 + affine[1, 2] * k
            z = r2 + affine[2, 2] * k
            if has_field:
                u, v, w = field[0, i, j, k], field[1, i, j, k], field[2, i, j, k]
                x += linear[0, 0] * u + linear[0, 1] * v + linear[0, 2] * w
                y += linear[1, 0] * u + linear[1, 1] * v + linear[1, 2] * w
                z += linear[2, 0] * u + linear[2, 1] * v + linear[2, 2] * w
            out[n + k, 0] = x
            out[n + k, 1] = y
            out[n + k, 2] = z


@inlined_finite_checked
def _inside(x, y, z, shape):
    return (
        (x >= -0.5)
        and (x <= shape[0] - 0.5)
        and (y >= -0.5)
        and (y <= shape[1] - 0.5)
        and (z >= -0.5)
        and (z <= shape[2] - 0.5)
    )


@inlined_finite_checked
def _nearest_one(x, y, z, shape):
    if not _inside(x, y, z, shape):
        return -1
    i = min(int(x + 0.5), shape[0] - 1)
    j = min(int(y + 0.5), shape[1] - 1)
    k = min(int(z + 0.5), shape[2] - 1)
    return (i * shape[1] + j) * shape[2] + k


@njit_finite_checked
def _nearest_index(start, stop, shape, coords, out):
    for n in range(start, stop):
        out[n] = _nearest_one(coords[n, 0], coords[n, 1], coords[n, 2], shape)


@njit_finite_checked
def _nearest(start, stop, flat, shape, coords, fill, out):
    for n in range(start, stop):
        at = _nearest_one(coords[n, 0], coords[n, 1], coords[n, 2], shape)
        for c in range(flat.shape[0]):
            out[c, n] = flat[c, at] if at >= 0 else fill


@inlined_finite_checked
def _cell(x, size):
    """Return the lower corner of the cell around `x` (clamped to the lattice) and the fraction within it."""
    x = min(max(x, 0.0), size - 1.0)
    low = min(int(x), max(size - 2, 0))
    return low, np.float32(x - low)


@njit_finite_checked
def _linear(start, stop, flat, shape, coords, fill, out):
    si = shape[1] * shape[2] if shape[0] > 1 else 0
    sj = shape[2] if shape[1] > 1 else 0
    sk = 1 if shape[2] > 1 else 0
    for n in range(start, stop):
        x, y, z = coords[n, 0], coords[n, 1], coords[n, 2]
        if not _inside(x, y, z, shape):
            for c in range(flat.shape[0]):
                out[c, n] = fill
            continue
        p, fx = _cell(x, shape[0])
        q, fy = _cell(y, shape[1])
        r, fz = _cell(z, shape[2])
        base = (p * shape[1] + q) * shape[2] + r
        for c in range(flat.shape[0]):
            v = flat[c]
            c00 = v[base] + fz * (v[base + sk] - v[base])
            c01 = v[base + sj] + fz * (v[base + sj + sk] - v[base + sj])
            c10 = v[base + si] + fz * (v[base + si + sk] - v[base + si])
            c11 = v[base + si + sj] + fz * (v[base + si + sj + sk] - v[base + si + sj])
            c0 = c00 + fy * (c01 - c00)
            c1 = c10 + fy * (c11 - c10)
            out[c, n] = c0 + fx * (c1 - c0)


@njit_finite_checked
def _vote(start, stop, flat, shape, coords, background, out):
    si = shape[1] * shape[2] if shape[0] > 1 else 0
    sj = shape[2] if shape[1] > 1 else 0
    sk = 1 if shape[2] > 1 else 0
    found, weight = np.empty(8, np.int32), np.empty(8, np.float32)
    one = np.float32(1)
    for n in range(start, stop):
        x, y, z = coords[n, 0], coords[n, 1], coords[n, 2]
        if not _inside(x, y, z, shape):
            out[n] = background
            continue
        p, fx = _cell(x, shape[0])
        q, fy = _cell(y, shape[1])
        r, fz = _cell(z, shape[2])
        base = (p * shape[1] + q) * shape[2] + r
        count = 0
        for corner in range(8):
            a, b, c = corner >> 2, (corner >> 1) & 1, corner & 1
            share = (fx if a else one - fx) * (fy if b else one - fy) * (fz if c else one - fz)
            label = flat[base + a * si + b * sj + c * sk]
            at = 0
            while at < count and found[at] != label:
                at += 1
            if at == count:
                found[at] = label
                weight[at] = share
                count += 1
            else:
                weight[at] += share
        best = 0
        for at in range(1, count):
            larger = weight[at] > weight[best]
            if larger or (weight[at] == weight[best] and found[at] < found[best]):
                best = at
        out[n] = found[best]


@inlined_finite_checked
def _mirror(i, size):
    """Return the index that lies at `i` when the lattice is mirrored about its outermost centres."""
    if size == 1:
        return 0
    period = 2 * (size - 1)
    i = abs(i) % period
    return min(i, period - i)


@inlined_finite_checked
def _spline_axis(x, size, stride, weight, at):
    """Fill the 4 weights and offsets of one axis; a single voxel has all its weight on itself."""
    if size == 1:
        for tap in range(4):
            weight[tap] = np.float32(tap == 0)
            at[tap] = 0
        return
    low = int(np.floor(x))
    t = x - low
    weight[3] = t * t * t / 6
    weight[0] = 1 / 6 + t * (t - 1) / 2 - weight[3]
    weight[2] = t + weight[0] - 2 * weight[3]
    weight[1] = 1 - weight[0] - weight[2] - weight[3]
    for tap in range(4):
        at[tap] = _mirror(low - 1 + tap, size) * stride


@inlined_finite_checked
def _lanczos_axis(x, size, stride, weight, at):
    """Fill the 10 weights and offsets of one axis; the edge voxel continues outside."""
    radius = LANCZOS_RADIUS
    low = int(np.floor(x))
    total = 0.0
    for tap in range(2 * radius):
        place = low - radius + 1 + tap
        d = np.pi * (x - place)
        w = 1.0 if abs(d) < 1e-9 else np.sin(d) * np.sin(d / radius) * radius / (d * d)
        weight[tap] = w
        total += w
        at[tap] = min(max(place, 0), size - 1) * stride
    for tap in range(2 * radius):
        weight[tap] /= total


@inlined_finite_checked
def _weighted_sum(flat, weights, offsets, taps, c):
    total = np.float32(0)
    for a in range(taps[0]):
        plane = np.float32(0)
        for b in range(taps[1]):
            line = np.float32(0)
            base = offsets[0, a] + offsets[1, b]
            for d in range(taps[2]):
                line += weights[2, d] * flat[c, base + offsets[2, d]]
            plane += weights[1, b] * line
        total += weights[0, a] * plane
    return total


@njit_finite_checked
def _cubic(start, stop, flat, shape, coords, fill, out):
    weights, offsets = np.empty((3, 4), np.float32), np.empty((3, 4), np.int64)
    taps = (4 if shape[0] > 1 else 1, 4 if shape[1] > 1 else 1, 4 if shape[2] > 1 else 1)
    for n in range(start, stop):
        if not _inside(coords[n, 0], coords[n, 1], coords[n, 2], shape):
            for c in range(flat.shape[0]):
                out[c, n] = fill
            continue
        _spline_axis(coords[n, 0], shape[0], shape[1] * shape[2], weights[0], offsets[0])
        _spline_axis(coords[n, 1], shape[1], shape[2], weights[1], offsets[1])
        _spline_axis(coords[n, 2], shape[2], 1, weights[2], offsets[2])
        for c in range(flat.shape[0]):
            out[c, n] = _weighted_sum(flat, weights, offsets, taps, c)


@njit_finite_checked
def _lanczos(start, stop, flat, shape, coords, fill, out):
    width = 2 * LANCZOS_RADIUS
    weights, offsets = np.empty((3, width), np.float32), np.empty((3, width), np.int64)
    taps = (width if shape[0] > 1 else 1, width if shape[1] > 1 else 1, width if shape[2] > 1 else 1)
    weights[:, 0] = 1
    offsets[:, 0] = 0
    for n in range(start, stop):
        if not _inside(coords[n, 0], coords[n, 1], coords[n, 2], shape):
            for c in range(flat.shape[0]):
                out[c, n] = fill
            continue
        if shape[0] > 1:
            _lanczos_axis(coords[n, 0], shape[0], shape[1] * shape[2], weights[0], offsets[0])
        if shape[1] > 1:
            _lanczos_axis(coords[n, 1], shape[1], shape[2], weights[1], offsets[1])
        if shape[2] > 1:
            _lanczos_axis(coords[n, 2], shape[2], 1, weights[2], offsets[2])
        for c in range(flat.shape[0]):
            out[c, n] = _weighted_sum(flat, weights, offsets, taps, c)
