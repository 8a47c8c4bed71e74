"""Self-similarity contexts whose patch distances leave out what has no weight, how far they differ, and the gradient.

With weights ω and ``p_e(z) = ω(z) ω(z + e)``, a patch distance is the weighted mean of the squared differences that both
of its patches show (see `regista.kernels.cpu.mind` for the rest)::

    s_c(x) = A_e(x + o) / P_e(x + o),   A_e = sum over a cube of p_e(z) (W(z) − W(z + e))²,   P_e = sum of p_e(z)

A channel is *open* at x where P_e is at least `LEAST_SHARE` of what it would be, were all voxels' weight that of x. The
smallest distance and the mean are those of the open channels, and voxels where fewer than half of them are open are left
out. Which are open depends on the weights alone: given the same, the descriptors of two images compare like with like.
"""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined, njit
from regista.kernels.cpu.filters import _filter_plane, _sum_ring
from regista.kernels.cpu.mind import (
    _FLAT,
    _LEAST,
    _MOST,
    _count,
    _exp_minus,
    _inner,
    _layout,
    _spread,
    _window,
    mind_margin,
)

LEAST_SHARE = 0.195
"""Least share of a patch that must be seen; see the module's text."""
_VARIANCE, _DESCRIPTOR, _COEFFICIENT = 0, 1, 2


def weighted_mind_total(weight, radius, dilation):
    """Return the ``Σ ω`` of the voxels that are compared: of which enough channels are open.

    Parameters
    ----------
    weight : (I + 2a, J + 2b, K + 2c) float32 ndarray
        Weight ω of the voxels, continued by `mind_margin` voxels (`regista.kernels.cpu.mind`).
    radius, dilation : int
        Radius of the patches, and distance of the neighbours, voxels.
    """
    if not _layout(_inner(weight.shape, radius + dilation), dilation)[2].size:
        return 0.0
    none = np.empty((0, 1, 1, 1), np.float32)
    # what is open depends on the weights alone, so that any image will do
    values = _stream(none, weight, weight, radius, dilation, (_FLAT, 1.0), _VARIANCE, none)
    return float(values.sum(axis=0)[1])


def weighted_mind_bounds(padded, weight, radius, dilation):
    """Return the bounds of the variance: a thousandth and a thousand times its weighted mean over the image.

    Parameters
    ----------
    padded, weight : (I + 2a, J + 2b, K + 2c) float32 ndarray
        Image and weight ω of its voxels, both continued by `mind_margin` voxels (`regista.kernels.cpu.mind`).
    radius, dilation : int
        Radius of the patches, and distance of the neighbours, voxels.
    """
    if not _layout(_inner(padded.shape, radius + dilation), dilation)[2].size:
        return _FLAT, 1.0
    none = np.empty((0, 1, 1, 1), np.float32)
    values = _stream(none, padded, weight, radius, dilation, (_FLAT, 1.0), _VARIANCE, none)
    total, kept = values.sum(axis=0)
    mean = float(total) / float(kept) if kept > 0 else 0.0
    return max(_LEAST * mean, _FLAT), max(_MOST * mean, 1e3 * _FLAT)


def weighted_mind_descriptors(padded, weight, radius, dilation, bounds, *, out):
    """Write the self-similarity context of every voxel to `out`: 0 in channels that are not open.

    Parameters
    ----------
    padded, weight, radius, dilation
        As for `weighted_mind_bounds`.
    bounds : (float, float)
        Bounds of the variance.
    out : (C, I, J, K) float32 ndarray
        Destination; channels as in `regista.kernels.cpu.mind.mind_descriptors`.
    """
    if out.shape[0]:
        _stream(
            np.empty((0, 1, 1, 1), np.float32), padded, weight, radius, dilation, bounds, _DESCRIPTOR, out
        )
    return out


def weighted_mind_coefficients(descriptors, padded, weight, radius, dilation, bounds, *, out):
    """Return ``Σ ω (C / open) Σ_open (descriptor of the image − given one)²`` and the ``Σ ω`` of what was compared.

    Its derivative by ``A_e(x + o)``, which is that by ``s_c`` over ``P_e``, is written to `out`.

    Parameters
    ----------
    descriptors : (C, I, J, K) float32 ndarray
        From `weighted_mind_descriptors`, with the same weight.
    padded, weight, radius, dilation
        As for `weighted_mind_bounds`.
    bounds : (float, float)
        Bounds of the variance: constants here.
    out : (C, I, J, K) float32 ndarray
        Destination.
    """
    if not descriptors.shape[0]:
        return 0.0, 0.0
    values = _stream(descriptors, padded, weight, radius, dilation, bounds, _COEFFICIENT, out)
    total, kept = values.sum(axis=0)
    return float(total), float(kept)


def weighted_mind_gradient(padded, weight, coefficients, radius, dilation, scale, *, out):
    """Write ``scale · ∂/∂W`` of the sum of `weighted_mind_coefficients` to `out`; weights are constants.

    Parameters
    ----------
    padded, weight, radius, dilation
        As there.
    coefficients : (C, I, J, K) float32 ndarray
        What it wrote.
    scale : float
        Factor.
    out : (I, J, K) float32 ndarray
        Destination.
    """
    starts, edges, first = _layout(out.shape, dilation)
    if not first.size:
        out[...] = 0
        return out
    given = padded, weight, coefficients, starts, edges, *_window(padded.shape, radius)
    margin, factor = mind_margin(out.shape, radius, dilation), np.float32(2 * scale)
    parallel_for(lambda a, b: _gradient(a, b, *given, *margin, factor, out), out.shape[0])
    return out


def _stream(descriptors, padded, weight, radius, dilation, bounds, mode, out):
    shape = _inner(padded.shape, radius + dilation)
    layout, margin = _layout(shape, dilation), mind_margin(shape, radius, dilation)
    low, high = (np.float32(b) for b in bounds)
    least = np.float32(LEAST_SHARE * _count(shape, radius))
    values = np.zeros((shape[0], 2))
    given = padded, weight, descriptors, *layout, *_window(shape, radius), *margin, least, low, high, mode
    parallel_for(lambda a, b: _planes(a, b, *given, out, values), shape[0])
    return values


@inlined
def _weighted_differences(padded, weight, z, edge, square, pair):
    """Write ``p_e (W(z) − W(z + e))²`` and ``p_e`` of plane z: 0 where ``z + e`` is outside."""
    inn, jn, kn = padded.shape
    ei, ej, ek = edge[0], edge[1], edge[2]
    square[...] = 0
    pair[...] = 0
    if z + ei >= inn:
        return
    p, q = max(-ek, 0), min(kn - ek, kn)
    for j in range(max(-ej, 0), min(jn - ej, jn)):
        here, there, row = padded[z, j, p:q], padded[z + ei, j + ej, p + ek : q + ek], square[j, p:q]
        own, other, both = weight[z, j, p:q], weight[z + ei, j + ej, p + ek : q + ek], pair[j, p:q]
        for k in range(q - p):
            both[k] = own[k] * other[k]
        for k in range(q - p):
            difference = here[k] - there[k]
            row[k] = both[k] * difference * difference


@njit
def _planes(
    start, stop, padded, weight, descriptors, starts, edges, owner, ti, tj, tk, pi, pj, pk, least, low, high, mode, out,
    values,
):  # fmt: skip
    pin, pjn, pkn = padded.shape
    jn, kn = pjn - 2 * pj, pkn - 2 * pk
    ri, rk = ti.shape[0] - 1, tk.shape[0] - 1
    count, channels, back = edges.shape[0], owner.shape[0], pi - ri
    ring = np.empty((2, count, 2 * ri + 1, pjn, pkn), np.float32)
    boxes = np.empty((2, count, back + 1, pjn, pkn), np.float32)
    planes = np.empty((2, pjn, pkn), np.float32)  # squared differences, and the weights of their pairs
    lines = np.zeros((pjn, pkn + 2 * rk), np.float32)
    lows, highs = np.zeros(pjn, np.int32), np.full(pjn, pkn, np.int32)
    distances, inverses = np.empty((channels, kn), np.float32), np.empty((channels, kn), np.float32)
    work = np.empty((9, kn), np.float32)
    ready = start + pi - back
    filtered = max(ready - ri, 0)
    for i in range(start, stop):
        while ready <= i + pi:
            while filtered <= min(ready + ri, pin - 1):
                slot = filtered % (2 * ri + 1)
                for e in range(count):
                    _weighted_differences(padded, weight, filtered, edges[e], planes[0], planes[1])
                    for s in range(2):
                        _filter_plane(planes[s], tj, tk, False, lows, highs, lines, ring[s, e, slot])
                filtered += 1
            for e in range(count):
                for s in range(2):
                    slot = ready % (back + 1)
                    _sum_ring(boxes[s, e, slot], ring[s, e], ready, pin, ti, False, lows, highs)
            ready += 1
        for j in range(jn):
            own = weight[i + pi, j + pj, pk : pk + kn]
            for c in range(channels):
                z, y, x = (i + pi + starts[c, 0]) % (back + 1), j + pj + starts[c, 1], pk + starts[c, 2]
                sums, pairs = boxes[0, owner[c], z, y, x : x + kn], boxes[1, owner[c], z, y, x : x + kn]
                _open_distances(sums, pairs, own, least, distances[c], inverses[c])
            _variances(distances, inverses, own, low, high, work)
            if mode == _COEFFICIENT:
                value = _coefficients_of_row(distances, inverses, descriptors, work, i, j, out)
            elif mode == _DESCRIPTOR:
                value = _descriptors_of_row(distances, inverses, work, i, j, out)
            else:
                value, share, variance = np.float32(0), work[5], work[3]
                for k in range(kn):
                    value += share[k] * variance[k]
            kept, share = np.float32(0), work[5]
            for k in range(kn):
                kept += share[k]
            values[i, 0] += value
            values[i, 1] += kept


@inlined
def _open_distances(sums, pairs, own, least, distance, inverse):
    """Write a channel's distances, and 1 / P_e where it is open, 0 elsewhere."""
    zero, one, tiny = np.float32(0), np.float32(1), np.float32(1e-12)
    for k in range(sums.shape[0]):
        u, p = own[k], pairs[k]
        seen = u > tiny and p >= least * u * u
        inverse[k] = one / p if seen else zero
        distance[k] = sums[k] * inverse[k]


@inlined
def _variances(distances, inverses, own, low, high, work):
    """Write what a row's distances say, of the open channels alone.

    The smallest distance, 1 / variance, if it is free of its bounds, the variance, the channel of the smallest, the
    weight (0 where too few are open), 1 / number of the open ones, and that number.
    """
    channels, kn = distances.shape
    smallest, inverse, free, variance, first = work[0], work[1], work[2], work[3], work[4]
    share, mean, number = work[5], work[6], work[7]
    zero, one, much = np.float32(0), np.float32(1), np.float32(1e30)
    smallest[:] = much
    variance[:] = zero
    first[:] = np.float32(-1)
    number[:] = zero
    for c in range(channels):
        row, seen, label = distances[c], inverses[c], np.float32(c)
        for k in range(kn):
            better = seen[k] > zero and row[k] < smallest[k]
            first[k] = label if better else first[k]
            smallest[k] = row[k] if better else smallest[k]
            variance[k] += row[k]  # 0 where it is not open
            number[k] += one if seen[k] > zero else zero
    half = np.float32(0.5 * channels)
    for k in range(kn):
        enough = number[k] >= half
        share[k] = own[k] if enough else zero
        smallest[k] = smallest[k] if enough else zero
        mean[k] = one / (number[k] if enough else one)
        v = variance[k] * mean[k] - smallest[k]
        variance[k] = v
        inverse[k] = one / min(max(v, low), high)
        free[k] = one if low < v < high else zero


@inlined
def _scale(row, seen, smallest, inverse):
    """Turn distances into ``d / v``: 0 where the channel is not open."""
    zero = np.float32(0)
    for k in range(row.shape[0]):
        row[k] = max(row[k] - smallest[k], zero) * inverse[k] if seen[k] > zero else zero


@inlined
def _descriptors_of_row(distances, inverses, work, i, j, out):
    channels, kn = distances.shape
    zero, share = np.float32(0), work[5]
    for c in range(channels):
        row, seen, target = distances[c], inverses[c], out[c, i, j]
        _scale(row, seen, work[0], work[1])
        for k in range(kn):
            target[k] = _exp_minus(row[k])
        for k in range(kn):
            target[k] = target[k] if seen[k] > zero and share[k] > zero else zero
    return zero


@inlined
def _coefficients_of_row(distances, inverses, descriptors, work, i, j, out):
    """Write the derivative of a row's sum by the ``A_e``; return the sum."""
    channels, kn = distances.shape
    inverse, free, first, share, mean, number = work[1], work[2], work[4], work[5], work[6], work[7]
    got, pulls, moment = work[8], work[0], work[3]
    value, zero, two, many = np.float32(0), np.float32(0), np.float32(2), np.float32(channels)
    for c in range(channels):
        _scale(distances[c], inverses[c], work[0], inverse)
    pulls[:] = zero  # the smallest distance and the variance are not needed any more
    moment[:] = zero
    for c in range(channels):
        row, seen, target, pull = distances[c], inverses[c], descriptors[c, i, j], out[c, i, j]
        for k in range(kn):
            got[k] = _exp_minus(row[k])
        for k in range(kn):
            difference = got[k] - target[k]
            wanted = difference * share[k] * mean[k] * many
            wanted = wanted if seen[k] > zero else zero
            value += wanted * difference
            pull[k] = -two * wanted * got[k]  # by d_c / v
        for k in range(kn):
            pulls[k] += pull[k]
            moment[k] += pull[k] * row[k]
    for k in range(kn):
        moment[k] *= -mean[k] * free[k] * inverse[k]  # by each open d_c, through the variance
        pulls[k] = pulls[k] * inverse[k] + number[k] * moment[k]  # by the smallest distance, its sign aside
    for c in range(channels):
        pull, seen, label = out[c, i, j], inverses[c], np.float32(c)
        for k in range(kn):
            by_distance = pull[k] * inverse[k] + moment[k] - (pulls[k] if first[k] == label else zero)
            pull[k] = by_distance * seen[k]
    return value


@njit
def _gradient(start, stop, padded, weight, coefficients, starts, edges, ti, tj, tk, pi, pj, pk, factor, out):
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
                _pull_row(line, padded, weight, boxes[e], edges[e], z, j)
            own = weight[z, j]
            for k in range(pkn):
                line[k] *= factor * own[k]
            row = target[min(max(j - pj, 0), jn - 1)]
            for k in range(pk):  # what lies beyond the border is the border's own value
                row[0] += line[k]
                row[kn - 1] += line[pk + kn + k]
            inner = line[pk : pk + kn]
            for k in range(kn):
                row[k] += inner[k]


@inlined
def _pull_row(line, padded, weight, boxes, edge, z, j):
    """Add ``H(x) ω(x + e) (W(x) − W(x + e)) + H(x − e) ω(x − e) (W(x) − W(x − e))`` along a row."""
    pin, pjn, pkn = padded.shape
    depth = boxes.shape[0]
    for sign in (1, -1):
        oi, oj, ok = sign * edge[0], sign * edge[1], sign * edge[2]
        if not (0 <= z + oi < pin and 0 <= j + oj < pjn):
            continue
        p, q = max(-ok, 0), min(pkn - ok, pkn)
        here, there, row = padded[z, j, p:q], padded[z + oi, j + oj, p + ok : q + ok], line[p:q]
        other = weight[z + oi, j + oj, p + ok : q + ok]
        box = boxes[z % depth, j, p:q] if sign > 0 else boxes[(z + oi) % depth, j + oj, p + ok : q + ok]
        for k in range(q - p):
            row[k] += box[k] * other[k] * (here[k] - there[k])
