"""Weighted windows and patches against their float64 reference, and what they promise: the hidden does not count."""

from __future__ import annotations

import numpy as np
import pytest

from regista.core import threads
from regista.kernels.cpu import lncc, mind, weighted_lncc, weighted_mind
from regista.kernels.reference import lncc as slow_lncc
from regista.kernels.reference import mind as slow_mind
from regista.kernels.reference import rows as slow_rows
from regista.kernels.reference import weighted_lncc as slow_weighted_lncc
from regista.kernels.reference import weighted_mind as slow_weighted_mind

SHAPES = [(11, 14, 9), (7, 10, 1), (1, 9, 12), (5, 6, 7)]
UNTOUCHED = np.float32(-77.0)


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return request.param


def volume(rng, shape, low=0.0, high=1.0):
    return rng.uniform(low, high, shape).astype(np.float32)


def weights(rng, shape, kind):
    """Return weights: of an image with a hidden half-space and holes, all voxels alike or not."""
    weight = volume(rng, shape, 0.05) if kind == "graded" else np.ones(shape, np.float32)
    weight[:, : shape[1] // 3] = 0
    weight[rng.uniform(size=shape) < 0.1] = 0
    return weight


def agree(fast, slow, share=3e-5):
    """Compare to a share of the largest value: derivatives by small variances are large."""
    np.testing.assert_allclose(fast, slow, atol=share * float(np.abs(slow).max(initial=1e-6)), rtol=2e-4)


@pytest.mark.parametrize("kind", ["graded", "binary"])
@pytest.mark.parametrize(("radius", "floor"), [(1, 1e-9), (1, 0.05), (2, 0.02)])
def test_weighted_lncc(rng, shape, kind, radius, floor):
    fixed, warped, weight = volume(rng, shape), volume(rng, shape), weights(rng, shape, kind)
    low = rng.integers(0, shape[2] + 1, shape[:2])
    ragged = np.stack([low, np.full(shape[:2], shape[2])] * 2).astype(np.int32)
    ragged[2] = 0
    for rows in (None, ragged):
        fast, slow = np.full((3, *shape), UNTOUCHED), np.full((3, *shape), float(UNTOUCHED))
        given = fixed, warped, weight, radius, floor
        got = weighted_lncc.weighted_lncc_coefficients(*given, out=fast, rows=rows)
        expected = slow_weighted_lncc.weighted_lncc_coefficients(*given, out=slow, rows=rows)
        assert got == pytest.approx(expected, rel=1e-4)
        agree(fast, slow)
        assert (fast[:, ~slow_rows.within(shape, rows)] == UNTOUCHED).all()
        weighted_lncc.apply_weight(fast, weight, rows=rows)
        slow_weighted_lncc.apply_weight(slow, weight, rows=rows)
        agree(fast, slow)


def test_lncc_of_equal_weights_is_that_without(rng, shape):
    fixed, warped = volume(rng, shape), volume(rng, shape)
    plain, equal, less = np.empty((3, 3, *shape), np.float32)
    one = lncc.lncc_coefficients(fixed, *lncc.lncc_fixed(fixed, 2), warped, None, 2, 1e-5, out=plain)
    for share, out in ((1.0, equal), (0.3, less)):
        weight = np.full(shape, share, np.float32)
        two = weighted_lncc.weighted_lncc_coefficients(fixed, warped, weight, 2, 1e-5, out=out)
        assert two == pytest.approx([share * one[0], share * one[1]], rel=1e-5)
    agree(equal, plain)
    agree(less, plain)  # per unit of the weight that `apply_weight` multiplies by


@pytest.mark.parametrize("floor", [1e-9, 0.05])
@pytest.mark.parametrize("shape", [(5, 6, 4), (7, 1, 6), (1, 8, 5)], ids=str)
def test_weighted_lncc_reference_gradient_is_the_derivative_of_its_value(rng, shape, floor):
    radius = 1
    fixed, warped, step = (rng.uniform(size=shape) for _ in range(3))
    weight, out = weights(rng, shape, "graded"), np.empty((3, *shape))

    def value(image):
        given = fixed, image, weight, radius, floor
        return slow_weighted_lncc.weighted_lncc_coefficients(*given, out=out)[0]

    eps = 1e-6
    expected = (value(warped + eps * step) - value(warped - eps * step)) / (2 * eps)
    assert value(warped) > 0
    gradient = slow_lncc.lncc_gradient(fixed, warped, out, radius) * weight
    assert (gradient * step).sum() == pytest.approx(expected, rel=1e-6)


def test_a_window_that_sees_a_few_voxels_gives_nothing():
    """Of 125 voxels of a window it takes 25: a plane of them counts in full, 20 for nothing, and between it goes over."""
    ramp = np.arange(15.0**3).reshape(15, 15, 15) % 7
    weight, out = np.zeros((15, 15, 15), np.float32), np.empty((3, 15, 15, 15), np.float32)
    given = ramp.astype(np.float32), (ramp**2).astype(np.float32)
    weight[7, 5:10, 5:10] = 1
    kept = []
    for hidden in range(6):
        weight[7, 5, 5 : 5 + hidden] = 0
        kept.append(weighted_lncc.weighted_lncc_coefficients(*given, weight, 2, 1e-9, out=out)[1])
    np.testing.assert_allclose(kept, [1, 0.8, 0.6, 0.4, 0.2, 0], atol=1e-5)
    assert np.abs(out).max() < 1e-4
    weight[...] = 0
    weight[7, 7, 7] = 1  # one voxel is no window at all
    assert weighted_lncc.weighted_lncc_coefficients(*given, weight, 2, 1e-9, out=out) == (0, 0)
    assert not out.any()


def test_weighted_lncc_does_not_jump_as_windows_lose_sight(rng):
    shape, steps = (9, 8, 7), 400
    fixed, warped, weight = volume(rng, shape), volume(rng, shape), np.zeros(shape, np.float32)
    values, pulls = [], []
    for share in np.linspace(0.1, 1, steps + 1, dtype=np.float32):
        weight[3:6] = share
        weight[4, 4, 4] = 1  # the window around it sees from 8 to 75 of 125
        out = np.empty((3, *shape), np.float32)
        values.append(weighted_lncc.weighted_lncc_coefficients(fixed, warped, weight, 2, 1e-5, out=out))
        pulls.append(out.ravel())
    for series in (np.array(values), np.array(pulls)):
        jumps, span = np.abs(np.diff(series, axis=0)).max(axis=0), np.ptp(series, axis=0)
        moves = span > 1e-3 * span.max()
        assert moves.any()
        assert (jumps[moves] < 0.08 * span[moves]).all()


@pytest.mark.parametrize("flat", ["fixed", "warped", "both"])
def test_weighted_lncc_of_what_is_flat(rng, flat):
    """A constant image is like nothing, at the edge of a mask or away from it."""
    shape = (8, 7, 9)
    fixed, warped = volume(rng, shape), volume(rng, shape)
    if flat != "warped":
        fixed[...] = 0.6
    if flat != "fixed":
        warped[...] = 0.7
    weight, out = weights(rng, shape, "graded"), np.empty((3, *shape), np.float32)
    value, kept = weighted_lncc.weighted_lncc_coefficients(fixed, warped, weight, 2, 1e-5, out=out)
    assert abs(value) < 1e-3 * weight.sum()
    if flat == "warped":
        assert kept > 0.9 * weight.sum()
    else:
        assert kept < 0.01 * weight.sum()
    pull = lncc.lncc_gradient(fixed, warped, out, 2, out=np.empty(shape, np.float32))
    assert np.isfinite(pull).all()
    assert np.abs(pull).max() < 0.1 / np.sqrt(1e-5)  # what a window at the floor may pull


PATCHES = [(1, 2), (2, 1), (0, 1)]


def padded_of(volume, radius, dilation):
    return mind.pad_nearest(volume, mind.mind_margin(volume.shape, radius, dilation))


@pytest.mark.parametrize("kind", ["graded", "binary"])
@pytest.mark.parametrize("bounds", [(1e-9, 1e9), (0.05, 0.08)])
@pytest.mark.parametrize(("radius", "dilation"), PATCHES)
def test_weighted_mind(rng, shape, kind, bounds, radius, dilation):
    fixed, warped = (padded_of(volume(rng, shape), radius, dilation) for _ in range(2))
    given = padded_of(weights(rng, shape, kind), radius, dilation), radius, dilation
    channels = {3: 12, 2: 4}[sum(n > 1 for n in shape)]
    target, fast = np.empty((2, channels, *shape), np.float32)
    slow_target, slow = np.empty((2, channels, *shape))
    assert weighted_mind.weighted_mind_bounds(fixed, *given) == pytest.approx(
        slow_weighted_mind.weighted_mind_bounds(fixed, *given), rel=1e-4
    )
    assert weighted_mind.weighted_mind_total(*given) == pytest.approx(
        slow_weighted_mind.weighted_mind_total(*given), rel=1e-5
    )
    weighted_mind.weighted_mind_descriptors(fixed, *given, bounds, out=target)
    slow_weighted_mind.weighted_mind_descriptors(fixed, *given, bounds, out=slow_target)
    agree(target, slow_target)
    got = weighted_mind.weighted_mind_coefficients(target, warped, *given, bounds, out=fast)
    expected = slow_weighted_mind.weighted_mind_coefficients(slow_target, warped, *given, bounds, out=slow)
    assert got == pytest.approx(expected, rel=2e-4, abs=1e-6)
    agree(fast, slow, 1e-4)
    pulls = slow.astype(np.float32)
    gradient = weighted_mind.weighted_mind_gradient(
        warped, given[0], pulls, radius, dilation, 0.3, out=np.empty(shape, np.float32)
    )
    agree(
        gradient,
        slow_weighted_mind.weighted_mind_gradient(
            warped, given[0], pulls, radius, dilation, 0.3, out=np.empty(shape)
        ),
    )


def test_mind_of_equal_weights_is_that_without(rng, shape):
    fixed, warped = volume(rng, shape), volume(rng, shape)
    padded, weight = padded_of(warped, 1, 2), padded_of(np.ones(shape, np.float32), 1, 2)
    target = mind.mind_descriptors(fixed, 1, 2)
    hidden, plain, weighted = np.empty((3, *target.shape), np.float32)
    bounds = mind.mind_bounds(padded_of(fixed, 1, 2), 1, 2)
    assert weighted_mind.weighted_mind_bounds(padded_of(fixed, 1, 2), weight, 1, 2) == pytest.approx(
        bounds, rel=1e-5
    )
    weighted_mind.weighted_mind_descriptors(padded_of(fixed, 1, 2), weight, 1, 2, bounds, out=hidden)
    agree(hidden, target)
    one = mind.mind_coefficients(target, padded, None, 1, 2, bounds, out=plain)
    two = weighted_mind.weighted_mind_coefficients(target, padded, weight, 1, 2, bounds, out=weighted)
    assert two == pytest.approx((one, fixed.size), rel=1e-5)
    agree(
        weighted_mind.weighted_mind_gradient(
            padded, weight, weighted, 1, 2, 1.0, out=np.empty(shape, np.float32)
        ),
        mind.mind_gradient(padded, plain, 1, 2, 1.0, out=np.empty(shape, np.float32)),
        1e-4,
    )


@pytest.mark.parametrize("bounds", [(1e-9, 1e9), (0.05, 0.08)])
@pytest.mark.parametrize("small", [(5, 6, 4), (1, 7, 6)], ids=str)
def test_weighted_mind_reference_gradient_is_the_derivative_of_its_value(rng, small, bounds):
    radius, dilation = 1, 2
    weight, warped = weights(rng, small, "graded"), rng.uniform(size=small)
    margin = slow_mind.mind_margin(small, radius, dilation)
    given = slow_mind.pad_nearest(weight, margin), radius, dilation, bounds
    target, out = np.empty((2, 12 if 1 not in small else 4, *small))
    fixed = slow_mind.pad_nearest(rng.uniform(size=small), margin)
    slow_weighted_mind.weighted_mind_descriptors(fixed, *given, out=target)

    def value(image):
        padded = slow_mind.pad_nearest(image, margin)
        return slow_weighted_mind.weighted_mind_coefficients(target, padded, *given, out=out)[0]

    assert value(warped) > 0
    padded = slow_mind.pad_nearest(warped, margin)
    gradient = slow_weighted_mind.weighted_mind_gradient(
        padded, given[0], out, radius, dilation, 1.0, out=np.empty(small)
    )
    eps = 1e-7
    for place in list(np.ndindex(small))[::3]:
        step = np.zeros(small)
        step[place] = eps
        expected = (value(warped + step) - value(warped - step)) / (2 * eps)
        assert gradient[place] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_weighted_kernels_give_the_same_bits_for_any_number_of_threads(rng):
    shape = (23, 10, 13)
    fixed, warped, weight = volume(rng, shape), volume(rng, shape), weights(rng, shape, "graded")
    results = []
    for n in (1, 2, 3):
        with threads(n):
            results.append((_lncc(fixed, warped, weight), _mind(fixed, warped, weight)))
    assert len(set(results)) == 1


def _lncc(fixed, warped, weight):
    out = np.empty((3, *fixed.shape), np.float32)
    value = weighted_lncc.weighted_lncc_coefficients(fixed, warped, weight, 2, 1e-5, out=out)
    return weighted_lncc.apply_weight(out, weight).tobytes(), value


def _mind(fixed, warped, weight):
    padded, other, own = (padded_of(one, 1, 2) for one in (warped, fixed, weight))
    target, out = np.empty((2, 12, *fixed.shape), np.float32)
    weighted_mind.weighted_mind_descriptors(other, own, 1, 2, (1e-3, 1.0), out=target)
    value = weighted_mind.weighted_mind_coefficients(target, padded, own, 1, 2, (1e-3, 1.0), out=out)
    gradient = np.empty(fixed.shape, np.float32)
    weighted_mind.weighted_mind_gradient(padded, own, out, 1, 2, 0.1, out=gradient)
    return gradient.tobytes(), value
