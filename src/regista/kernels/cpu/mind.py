"""Self-similarity context (MIND-SSC) descriptors, how far they differ, and the exact gradient of that.

The patch distances of a voxel x compare its neighbours ``x + o`` and ``x + o'``, six of them, wherever two are
diagonal to each other (Heinrich 2013). With ``e = o' − o`` and the mean over a cube of voxels::

    s_c(x) = mean over ρ of (W(x + o + ρ) − W(x + o' + ρ))² = B_e(x + o),   B_e = mean of (W(z) − W(z + e))²

so that twelve channels need six filtered volumes ``B_e``, each read at two places. The image continues beyond its
borders with the values there. With ``d_c = s_c − min s`` and ``v = mean d``, held within two bounds, the descriptor
is ``exp(−d_c / v)``.

Both passes stream: they keep the last few planes of what they filter in rings, as `regista.kernels.cpu.filters` does.
"""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined, njit
from regista.kernels.cpu.filters import _filter_plane, _sum_ring

_NONE = np.ones((1, 1, 1), np.float32)
_LEAST, _MOST = 1e-3, 1e3
"""Bounds of the variance, as shares of its mean over the image."""
_FLAT = 1e-12
"""Smallest bound: an image without any structure."""
_VARIANCE, _DESCRIPTOR, _COEFFICIENT = 0, 1, 2


def mind_margin(shape, radius, dilation):
    """Return by how many voxels an image is continued along each axis, (3,) ints: what a descriptor reaches."""
    return tuple(radius + dilation if n > 1 else 0 for n in shape)


def pad_nearest(volume, margin, *, out=None):
    """Continue an image beyond its borders with the values there.

    Parameters
    ----------
    volume : (I, J, K) float32 ndarray
        Image.
    margin : tuple of 3 ints
        Voxels to add at both ends of each axis.
    out : (I + 2a, J + 2b, K + 2c) float32 ndarray, optional
        Destination.
    """
    volume = np.ascontiguousarray(volume)
    if out is None:
        out = np.empty(tuple(n + 2 * m for n, m in zip(volume.shape, margin, strict=True)), np.float32)
    parallel_for(lambda a, b: _pad(a, b, volume, *margin, out), out.shape[0])
    return out


def mind_bounds(padded, radius, dilation):
    """Return the bounds of the variance: a thousandth and a thousand times its mean over the image.

    Parameters
    ----------
    padded : (I + 2a, J + 2b, K + 2c) float32 ndarray
        Image, continued by `mind_margin` voxels (see `pad_nearest`).
    radius, dilation : int
        Radius of the patches, and distance of the neighbours, voxels.
    """
    shape = _inner(padded.shape, radius + dilation)
    if not _layout(padded.shape, dilation)[2].size:
        return _FLAT, 1.0
    values = _stream(
        padded, _NONE, None, radius, dilation, (_FLAT, 1.0), _VARIANCE, np.empty((0, 1, 1, 1), np.float32)
    )
    mean = float(values.sum()) / float(np.prod(shape))
    return max(_LEAST * mean, _FLAT), max(_MOST * mean, 1e3 * _FLAT)


def mind_descriptors(volume, radius=1, dilation=2, bounds=None):
    """Return the self-similarity context of every voxel.

    Channels go through the pairs of axes (0, 1), (0, 2), (1, 2) and compare, for axes a and b, the neighbours −a with
    +b, −b with +a, −a with −b, +b with +a. Axes of one voxel have no neighbours: a slice has one pair of axes.

    Parameters
    ----------
    volume : (I, J, K) float32 ndarray
        Image.
    radius : int
        Radius of the patches that are compared, voxels.
    dilation : int
        Distance of the neighbours, voxels.
    bounds : (float, float), optional
        Bounds of the variance; else `mind_bounds` of this image.

    Returns
    -------
    (12, I, J, K) float32 ndarray
        Values in 0 … 1, 1 for the most similar pair; 4 channels for a slice, none for a line.
    """
    padded = pad_nearest(volume, mind_margin(volume.shape, radius, dilation))
    channels = len(_layout(volume.shape, dilation)[2])
    out = np.empty((channels, *volume.shape), np.float32)
    if channels:
        bounds = mind_bounds(padded, radius, dilation) if bounds is None else bounds
        _stream(padded, _NONE, None, radius, dilation, bounds, _DESCRIPTOR, out)
    return out


def mind_coefficients(descriptors, padded, weight, radius, dilation, bounds, *, out):
    """Return ``Σ weight · Σ_c (descriptor of the image − given one)²`` and write its derivative by ``s_c`` to `out`.

    Parameters
    ----------
    descriptors : (C, I, J, K) float32 ndarray
        From `mind_descriptors`.
    padded : (I + 2a, J + 2b, K + 2c) float32 ndarray
        Image, continued by `mind_margin` voxels (see `pad_nearest`).
    weight : (I, J, K) float32 ndarray or None
        Weight of each voxel.
    radius, dilation : int
        As for `mind_descriptors`.
    bounds : (float, float)
        Bounds of the variance: constants here.
    out : (C, I, J, K) float32 ndarray
        Destination.
    """
    if not descriptors.shape[0]:
        return 0.0
    values = _stream(padded, descriptors, weight, radius, dilation, bounds, _COEFFICIENT, out)
    return float(values.sum())


def mind_gradient(padded, coefficients, radius, dilation, scale, *, out):
    """Write ``scale · ∂/∂W`` of the sum of `mind_coefficients` to `out`.

    Parameters
    ----------
    padded : (I + 2a, J + 2b, K + 2c) float32 ndarray
        The same image.
    coefficients : (C, I, J, K) float32 ndarray
        What `mind_coefficients` wrote.
    radius, dilation : int
        As there.
    scale : float
        Factor.
    out : (I, J, K) float32 ndarray
        Destination.
    """
    starts, edges, first = _layout(out.shape, dilation)
    if not first.size:
        out[...] = 0
        return out
    taps = _window(padded.shape, radius)
    margin = mind_margin(out.shape, radius, dilation)
    factor = np.float32(2 * scale / _count(padded.shape, radius))
    parallel_for(
        lambda a, b: _gradient(a, b, padded, coefficients, starts, edges, *taps, *margin, factor, out),
        out.shape[0],
    )
    return out


def _layout(shape, dilation):
    """Return the first neighbour ``o`` of each channel, ``e`` of each volume, and the volume each channel reads."""
    axes = [axis for axis, n in enumerate(shape) if n > 1]
    starts, edges, owner = [], [], []
    step = dilation * np.eye(3, dtype=np.int64)
    for n, a in enumerate(axes):
        for b in axes[n + 1 :]:
            for sign in (1, -1):
                starts += [-step[a], -sign * step[b]]
                owner += [len(edges)] * 2
                edges.append(step[a] + sign * step[b])
    return (
        np.array(starts, np.int64).reshape(-1, 3),
        np.array(edges, np.int64).reshape(-1, 3),
        np.array(owner, np.int64),
    )


def _window(shape, radius):
    return tuple(np.ones(radius + 1 if n > 1 else 1, np.float32) for n in shape)


def _count(shape, radius):
    return (2 * radius + 1) ** sum(n > 1 for n in shape)


def _inner(shape, margin):
    return tuple(n - 2 * margin if n > 1 else 1 for n in shape)


def _stream(padded, descriptors, weight, radius, dilation, bounds, mode, out):
    shape = _inner(padded.shape, radius + dilation)
    starts, edges, owner = _layout(shape, dilation)
    margin = mind_margin(shape, radius, dilation)
    low, high = (np.float32(b) for b in bounds)
    share = np.float32(1 / _count(shape, radius))
    w = _NONE if weight is None else weight
    if descriptors.ndim == 3:
        descriptors = descriptors[None]
    values = np.zeros(shape[0])
    parallel_for(
        lambda a, b: _planes(
            a, b, padded, descriptors, w, weight is not None, starts, edges, owner, *_window(shape, radius), *margin,
            share, low, high, mode, out, values,
        ),
        shape[0],
    )  # fmt: skip
    return values


@njit
def _pad(start, stop, volume, pi, pj, pk, out):
    inn, jn, kn = volume.shape
    for i in range(start, stop):
        plane = volume[min(max(i - pi, 0), inn - 1)]
        for j in range(out.shape[1]):
            source, row = plane[min(max(j - pj, 0), jn - 1)], out[i, j]
            for k in range(pk):
                row[k] = source[0]
                row[pk + kn + k] = source[kn - 1]
            row[pk : pk + kn] = source


@inlined
def _squared_differences(padded, z, edge, square):
    """Write ``(W(z) − W(z + e))²`` of plane z: 0 where ``z + e`` is outside."""
    inn, jn, kn = padded.shape
    ei, ej, ek = edge[0], edge[1], edge[2]
    square[...] = 0
    if z + ei >= inn:
        return
    p, q = max(-ek, 0), min(kn - ek, kn)
    for j in range(max(-ej, 0), min(jn - ej, jn)):
        here, there, row = padded[z, j, p:q], padded[z + ei, j + ej, p + ek : q + ek], square[j, p:q]
        for k in range(q - p):
            difference = here[k] - there[k]
            row[k] = difference * difference


@njit
def _planes(
    start, stop, padded, descriptors, weight, has_weight, starts, edges, owner, ti, tj, tk, pi, pj, pk, share, low, high,
    mode, out, values,
):  # fmt: skip
    pin, pjn, pkn = padded.shape
    jn, kn = pjn - 2 * pj, pkn - 2 * pk
    ri, rk = ti.shape[0] - 1, tk.shape[0] - 1
    count, channels, back = (
        edges.shape[0],
        owner.shape[0],
        pi - ri,
    )  # the neighbours' distance along this axis
    ring = np.empty((count, 2 * ri + 1, pjn, pkn), np.float32)
    boxes = np.empty((count, back + 1, pjn, pkn), np.float32)
    square = np.empty((pjn, pkn), np.float32)
    lines = np.zeros((pjn, pkn + 2 * rk), np.float32)
    lows, highs = np.zeros(pjn, np.int32), np.full(pjn, pkn, np.int32)
    distances, work = np.empty((channels, kn), np.float32), np.empty((8, kn), np.float32)
    ones = np.ones(kn, np.float32)
    ready = start + pi - back
    filtered = max(ready - ri, 0)
    for i in range(start, stop):
        while ready <= i + pi:
            while filtered <= min(ready + ri, pin - 1):
                for e in range(count):
                    _squared_differences(padded, filtered, edges[e], square)
                    _filter_plane(square, tj, tk, False, lows, highs, lines, ring[e, filtered % (2 * ri + 1)])
                filtered += 1
            for e in range(count):
                _sum_ring(boxes[e, ready % (back + 1)], ring[e], ready, pin, ti, False, lows, highs)
            ready += 1
        for j in range(jn):
            for c in range(channels):
                z = (i + pi + starts[c, 0]) % (back + 1)
                first = pk + starts[c, 2]
                row, box = distances[c], boxes[owner[c], z, j + pj + starts[c, 1], first : first + kn]
                for k in range(kn):
                    row[k] = box[k] * share
            _variances(distances, low, high, work)
            if mode == _COEFFICIENT:
                weights = weight[i, j] if has_weight else ones
                values[i] += _coefficients_of_row(distances, descriptors, weights, work, i, j, out)
            elif mode == _DESCRIPTOR:
                smallest, inverse = work[0], work[1]
                for c in range(channels):
                    row, target = distances[c], out[c, i, j]
                    for k in range(kn):
                        row[k] = (row[k] - smallest[k]) * inverse[k]
                    for k in range(kn):
                        target[k] = _exp_minus(row[k])
            else:
                total, variance = np.float32(0), work[3]
                for k in range(kn):
                    total += variance[k]
                values[i] += total


@inlined
def _variances(distances, low, high, work):
    """Write a row's smallest distance, 1 / variance, if it is free of its bounds, the variance and the channel."""
    channels, kn = distances.shape
    smallest, inverse, free, variance, least = work[0], work[1], work[2], work[3], work[4]
    zero, one, mean = np.float32(0), np.float32(1), np.float32(1 / channels)
    smallest[:] = distances[0]
    variance[:] = distances[0]
    least[:] = zero
    for c in range(1, channels):
        row, number = distances[c], np.float32(c)
        for k in range(kn):
            d, before = row[k], smallest[k]
            variance[k] += d
            least[k] = number if d < before else least[k]
            smallest[k] = d if d < before else before
    for k in range(kn):
        variance[k] = variance[k] * mean - smallest[k]
    for k in range(kn):
        v = variance[k]
        inverse[k] = one / min(max(v, low), high)
        free[k] = one if low < v < high else zero


@inlined
def _exp_minus(q):
    """Return ``exp(−q)`` for ``q ≥ 0``, to 4e-6 at most: a polynomial, squared six times. It vectorizes."""
    one = np.float32(1)
    x = min(q, np.float32(24)) * np.float32(-1 / 64)
    y = np.float32(1 / 24) + x * np.float32(1 / 120)
    y = one + x * (one + x * (np.float32(1 / 2) + x * (np.float32(1 / 6) + x * y)))
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    return y * y


@inlined
def _coefficients_of_row(distances, descriptors, weight, work, i, j, out):
    """Write the derivative of a row's sum by its distances; return the sum.

    Loops are short: the compiler vectorizes those over a few arrays.
    """
    channels, kn = distances.shape
    smallest, inverse, free, least = work[0], work[1], work[2], work[4]
    got, pulls, moment = work[5], work[6], work[7]
    value, zero, two = np.float32(0), np.float32(0), np.float32(2)
    mean, many = np.float32(1 / channels), np.float32(channels)
    pulls[:] = zero
    moment[:] = zero
    for c in range(channels):
        row, target, pull = distances[c], descriptors[c, i, j], out[c, i, j]
        for k in range(kn):
            row[k] = (row[k] - smallest[k]) * inverse[k]
        for k in range(kn):
            got[k] = _exp_minus(row[k])
        for k in range(kn):
            difference = got[k] - target[k]
            wanted = difference * weight[k]
            value += wanted * difference
            pull[k] = -two * wanted * got[k]  # by d_c / v
        for k in range(kn):
            pulls[k] += pull[k]
            moment[k] += pull[k] * row[k]
    for k in range(kn):
        moment[k] *= -mean * free[k] * inverse[k]  # by each d_c, through the variance
        pulls[k] = pulls[k] * inverse[k] + many * moment[k]  # by the smallest distance, its sign aside
    for c in range(channels):
        pull, number = out[c, i, j], np.float32(c)
        for k in range(kn):
            pull[k] = pull[k] * inverse[k] + moment[k] - (pulls[k] if least[k] == number else zero)
    return value


@inlined
def _spread(plane, coefficients, z, e, starts, pi, pj, pk):
    """Write what the two channels of volume e say about its plane z."""
    inn, jn, kn = coefficients.shape[1:]
    plane[...] = 0
    for c in (2 * e, 2 * e + 1):
        i = z - pi - starts[c, 0]
        if not 0 <= i < inn:
            continue
        first = pk + starts[c, 2]
        for j in range(jn):
            row, source = plane[j + pj + starts[c, 1], first : first + kn], coefficients[c, i, j]
            for k in range(kn):
                row[k] += source[k]


@njit
def _gradient(start, stop, padded, coefficients, starts, edges, ti, tj, tk, pi, pj, pk, factor, out):
    inn, jn, kn = out.shape
    pin, pjn, pkn = padded.shape
    ri, rk = ti.shape[0] - 1, tk.shape[0] - 1
    count, back = edges.shape[0], pi - ri
    ring = np.empty((count, 2 * ri + 1, pjn, pkn), np.float32)
    boxes = np.empty((count, back + 1, pjn, pkn), np.float32)
    plane = np.empty((pjn, pkn), np.float32)
    lines = np.zeros((pjn, pkn + 2 * rk), np.float32)
    lows, highs = np.zeros(pjn, np.int32), np.full(pjn, pkn, np.int32)
    line = np.empty(pkn, np.float32)
    first = 0 if start == 0 else start + pi
    last = pin if stop == inn else stop + pi
    ready = max(first - back, 0)
    filtered = max(ready - ri, 0)
    out[start:stop] = 0
    for z in range(first, last):
        while ready <= z:
            while filtered <= min(ready + ri, pin - 1):
                for e in range(count):
                    _spread(plane, coefficients, filtered, e, starts, pi, pj, pk)
                    _filter_plane(plane, tj, tk, False, lows, highs, lines, ring[e, filtered % (2 * ri + 1)])
                filtered += 1
            for e in range(count):
                _sum_ring(boxes[e, ready % (back + 1)], ring[e], ready, pin, ti, False, lows, highs)
            ready += 1
        target = out[min(max(z - pi, 0), inn - 1)]
        for j in range(pjn):
            line[:] = 0
            for e in range(count):
                _pull_row(line, padded, boxes[e], edges[e], z, j)
            row = target[min(max(j - pj, 0), jn - 1)]
            for k in range(pk):  # what lies beyond the border is the border's own value
                row[0] += factor * line[k]
                row[kn - 1] += factor * line[pk + kn + k]
            inner = line[pk : pk + kn]
            for k in range(kn):
                row[k] += factor * inner[k]


@inlined
def _pull_row(line, padded, boxes, edge, z, j):
    """Add ``H(x) (W(x) − W(x + e)) + H(x − e) (W(x) − W(x − e))`` along a row."""
    pin, pjn, pkn = padded.shape
    depth = boxes.shape[0]
    for sign in (1, -1):
        oi, oj, ok = sign * edge[0], sign * edge[1], sign * edge[2]
        if not (0 <= z + oi < pin and 0 <= j + oj < pjn):
            continue
        p, q = max(-ok, 0), min(pkn - ok, pkn)
        here, there, row = padded[z, j, p:q], padded[z + oi, j + oj, p + ok : q + ok], line[p:q]
        box = boxes[z % depth, j, p:q] if sign > 0 else boxes[(z + oi) % depth, j + oj, p + ok : q + ok]
        for k in range(q - p):
            row[k] += box[k] * (here[k] - there[k])
