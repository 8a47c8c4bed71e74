"""The engine's kernels against their float64 reference: odd shapes, borders, one slice, rows, threads."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from regista.core import threads
from regista.kernels.cpu import filters, histogram, intensity, lncc, mind, ngf, rows, update, warp
from regista.kernels.reference import filters as slow_filters
from regista.kernels.reference import histogram as slow_histogram
from regista.kernels.reference import intensity as slow_intensity
from regista.kernels.reference import lncc as slow_lncc
from regista.kernels.reference import rows as slow_rows
from regista.kernels.reference import update as slow_update
from regista.kernels.reference import warp as slow_warp

pytestmark = pytest.mark.long
SHAPES = [(11, 14, 9), (7, 10, 1), (1, 9, 12), (3, 2, 4), (5, 1, 1), (2, 3, 17), (2, 75, 5), (2, 3, 530)]
UNTOUCHED = np.float32(-77.0)


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return request.param


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n}threads")
def count(request):
    with threads(request.param):
        yield request.param


def volume(rng, shape, low=0.0, high=1.0):
    return rng.uniform(low, high, shape).astype(np.float32)


def some_rows(rng, shape, reach=0):
    """Return ragged rows: some empty, some in full, some a part."""
    low = rng.integers(0, shape[2] + 1, shape[:2])
    high = rng.integers(0, shape[2] + 1, shape[:2])
    high[::3], low[::3] = shape[2], 0
    wide_low = ndimage.minimum_filter1d(low, 2 * reach + 1, axis=0, mode="nearest")
    wide_high = ndimage.maximum_filter1d(high, 2 * reach + 1, axis=0, mode="nearest")
    return np.ascontiguousarray(np.stack([low, high, wide_low, wide_high]), np.int32)


def agree(fast, slow, atol=2e-5):
    np.testing.assert_allclose(fast, slow, atol=atol, rtol=1e-4)


def both(shape, rows_given, call_fast, call_slow, atol=2e-5, channels=()):
    """Compare outputs, in full and within rows; other voxels must keep what they held."""
    for some in (None, rows_given):
        fast = np.full((*channels, *shape), UNTOUCHED)
        slow = fast.astype(np.float64)
        a, b = call_fast(fast, some), call_slow(slow, some)
        agree(fast, slow, atol)
        if isinstance(a, float | tuple):
            assert a == pytest.approx(b, rel=1e-4, abs=1e-4)
        here = slow_rows.within(shape, some)
        assert (fast[..., ~here] == UNTOUCHED).all()
        assert not (fast[..., here] == UNTOUCHED).any()


def test_rows_hold_the_content_and_its_margin(rng, shape):
    np.testing.assert_array_equal(rows.all_rows(shape), slow_rows.all_rows(shape))
    for share in (0.0, 0.03, 0.5):
        active = rng.uniform(size=shape) < share
        image = np.where(active, 0.7, 0.5).astype(np.float32)
        ranges = rows.ranges_of(image, 0.5, 1e-3)
        np.testing.assert_array_equal(ranges, slow_rows.ranges_of(image, 0.5, 1e-3))
        for margin, reach in ((0, 0), (1, 2), (3, 1)):
            got = rows.rows_of(ranges, shape[2], margin, reach)
            np.testing.assert_array_equal(got, slow_rows.rows_of(ranges, shape[2], margin, reach))
            grown = ndimage.binary_dilation(active, np.ones([2 * margin + 1] * 3))
            assert slow_rows.within(shape, got)[grown].all()


@pytest.mark.parametrize("displaced", [False, True])
def test_warp(rng, shape, count, displaced):
    moving = volume(rng, (9, 6, 1 if shape[2] == 1 else 8))
    affine = np.column_stack([np.diag([0.8, 0.6, 0.9]) + rng.normal(0, 0.1, (3, 3)), [0.3, -0.9, 0.2]])
    disp = volume(rng, (3, *shape), -2, 2) if displaced else None
    flags = {}

    def call(module, kind):
        def run(out, some):
            flags[kind] = np.full(shape, UNTOUCHED, out.dtype)
            module.warp(moving, affine, disp, shape=shape, out=out, inside=flags[kind], rows=some)
            if kind == "slow":
                np.testing.assert_array_equal(*flags.values())

        return run

    both(shape, some_rows(rng, shape), call(warp, "fast"), call(slow_warp, "slow"))
    assert set(np.unique(flags["fast"])) <= {0.0, 1.0, UNTOUCHED}


def test_warp_by_the_identity_gives_the_voxels_back(rng, shape):
    moving = volume(rng, shape)
    agree(warp.warp(moving, np.eye(4)[:3], shape=shape), moving, 1e-7)


def test_half_a_voxel_beyond_the_edge_is_inside_and_no_more(rng):
    moving, inside = volume(rng, (4, 5, 6)), np.empty((3, 1, 1), np.float32)
    for start, expected in ((-0.75, [0, 1, 1]), (2.75, [1, 1, 0])):
        affine = np.column_stack([np.diag([0.5, 1, 1]), [start, 0, 0]])
        warp.warp(moving, affine, shape=(3, 1, 1), inside=inside)
        assert inside.ravel().tolist() == expected


@pytest.mark.parametrize("border", ["zero", "nearest"])
@pytest.mark.parametrize("sigma", [0.4, 1.7, (0.0, 2.1, 0.8)])
def test_gaussian_filter(rng, shape, count, border, sigma):
    stack = volume(rng, (2, *shape), -1, 1)
    reach = len(filters.gaussian_taps(float(np.max(sigma)))) - 1
    both(
        shape,
        some_rows(rng, shape, reach),
        lambda out, some: filters.gaussian_filter(stack, sigma, out=out, border=border, rows=some),
        lambda out, some: slow_filters.gaussian_filter(stack, sigma, out=out, border=border, rows=some),
        channels=(2,),
    )


@pytest.mark.parametrize("radius", [0, 1, 4])
def test_box_filter(rng, shape, count, radius):
    stack = volume(rng, (2, *shape), -1, 1)
    agree(filters.box_filter(stack, radius), slow_filters.box_filter(stack, radius), 5e-5)


@pytest.mark.parametrize("sigma", [0.0, 0.2, 1.0, 3.7])
def test_gaussian_taps_sum_to_one(sigma):
    taps = filters.gaussian_taps(sigma)
    agree(taps, slow_filters.gaussian_taps(sigma), 1e-6)
    assert taps[0] + 2 * taps[1:].sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("floor", [1e-9, 0.08])
def test_lncc_coefficients(rng, shape, count, radius, weighted, floor):
    if max(shape) <= radius:
        pytest.skip("smaller than one window")
    fixed, warped = volume(rng, shape), volume(rng, shape)
    weight = volume(rng, shape) if weighted else None
    mean, spread = lncc.lncc_fixed(fixed, radius)
    slow_mean, slow_spread = slow_lncc.lncc_fixed(fixed, radius)
    agree(mean, slow_mean)
    agree(spread, slow_spread, 1e-4)

    def call(module):
        return lambda out, some: module.lncc_coefficients(
            fixed, slow_mean.astype(np.float32), slow_spread.astype(np.float32), warped, weight, radius,
            floor, out=out, rows=some,
        )  # fmt: skip

    reach = some_rows(rng, shape, radius)
    both(shape, reach, call(lncc), call(slow_lncc), atol=1e-3, channels=(3,))


@pytest.mark.parametrize("symmetric", [False, True])
def test_lncc_gradient_and_force(rng, shape, count, symmetric):
    radius, scale = 2, (1.0, 0.5, 0.3)
    fixed, warped, coefficients = volume(rng, shape), volume(rng, shape), volume(rng, (3, *shape), -1, 1)
    got = lncc.lncc_gradient(fixed, warped, coefficients, radius, out=np.empty_like(fixed))
    agree(got, slow_lncc.lncc_gradient(fixed, warped, coefficients, radius), 1e-4)
    given = (fixed, warped, coefficients, radius, scale, symmetric)
    both(
        shape,
        some_rows(rng, shape, radius),
        lambda out, some: lncc.lncc_force(*given, out=out, rows=some),
        lambda out, some: slow_lncc.lncc_force(*given, out=out, rows=some),
        atol=1e-4,
        channels=(3,),
    )


def test_lncc_reference_gradient_is_the_derivative_of_its_value(rng):
    shape, radius = (5, 6, 4), 1
    fixed, warped, step = (rng.uniform(size=shape) for _ in range(3))
    weight, out = rng.uniform(size=shape), np.empty((3, *shape))
    mean, spread = slow_lncc.lncc_fixed(fixed, radius)

    def value(image):
        return slow_lncc.lncc_coefficients(fixed, mean, spread, image, weight, radius, 1e-9, out=out)[0]

    eps = 1e-6
    expected = (value(warped + eps * step) - value(warped - eps * step)) / (2 * eps)
    value(warped)
    got = (slow_lncc.lncc_gradient(fixed, warped, out, radius) * step).sum()
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_moments_and_their_combination(rng, shape, count, weighted):
    fixed, warped = volume(rng, shape), volume(rng, shape)
    weight = volume(rng, shape) if weighted else None
    agree(intensity.moments(fixed, warped, weight), slow_intensity.moments(fixed, warped, weight), 1e-3)
    given = (fixed, warped, weight, -1.3, 0.7, 0.2)
    agree(intensity.combine(*given, out=np.empty_like(fixed)), slow_intensity.combine(*given))


@pytest.mark.parametrize("symmetric", [False, True])
def test_image_force_and_linear_gradient(rng, shape, count, symmetric):
    gradient, warped, fixed = volume(rng, shape, -1, 1), volume(rng, shape), volume(rng, shape)
    given = (gradient, warped, fixed, (1.0, 0.5, 0.3), symmetric)
    both(
        shape,
        some_rows(rng, shape),
        lambda out, some: intensity.image_force(*given, out=out, rows=some),
        lambda out, some: slow_intensity.image_force(*given, out=out, rows=some),
        channels=(3,),
    )
    got, expected = (m.linear_gradient(gradient, warped) for m in (intensity, slow_intensity))
    agree(got, expected, 2e-3)


@pytest.mark.parametrize("weighted", [False, True])
def test_joint_histogram_and_its_gradient(rng, shape, count, weighted):
    bins, low, width = 12, 0.1, 0.09
    fixed_bins = rng.integers(0, bins, shape).astype(np.uint8)
    fixed_bins[rng.uniform(size=shape) < 0.2] = 255
    warped = volume(rng, shape, -0.3, 1.3)  # beyond both ends of the range too
    weight = volume(rng, shape) * (rng.uniform(size=shape) < 0.8) if weighted else None
    given = (fixed_bins, warped, weight, bins, low, width)
    got = histogram.joint_histogram(*given)
    agree(got, slow_histogram.joint_histogram(*given), 1e-4)
    total = (np.ones(shape) if weight is None else weight)[fixed_bins != 255].sum()
    assert got.sum() == pytest.approx(total, rel=1e-5)
    table = rng.normal(size=(bins, bins))
    given = (fixed_bins, warped, weight, table, low, width)
    fast = histogram.histogram_gradient(*given, out=np.empty_like(warped))
    agree(fast, slow_histogram.histogram_gradient(*given), 1e-3)


def test_histogram_reference_gradient_is_the_derivative_of_the_counts(rng):
    bins, shape, eps = 10, (4, 5, 3), 1e-6
    fixed_bins, table = rng.integers(0, bins, shape).astype(np.uint8), rng.normal(size=(bins, bins))
    warped, step = rng.uniform(0.05, 0.6, shape), rng.uniform(size=shape)

    def cost(image):
        return (table * slow_histogram.joint_histogram(fixed_bins, image, None, bins, 0.0, 0.1)).sum()

    expected = (cost(warped + eps * step) - cost(warped - eps * step)) / (2 * eps)
    got = (slow_histogram.histogram_gradient(fixed_bins, warped, None, table, 0.0, 0.1) * step).sum()
    assert got == pytest.approx(expected, rel=1e-5)


def test_weighted_addition(rng, shape, count):
    first, second = volume(rng, (2, *shape), -1, 1), volume(rng, (2, *shape), -1, 1)
    for given in (None, some_rows(rng, shape)):
        for own, other in ((0.3, -0.7), (1.0, 0.4), (2.0, 0.0)):
            fast, slow = first.copy(), first.astype(np.float64)
            unread = np.full_like(second, np.nan) if other == 0 else second
            intensity.add_weighted(fast, unread, own, other, rows=given)
            agree(fast, slow_intensity.add_weighted(slow, unread, own, other, rows=given))
            assert (
                fast[:, ~slow_rows.within(shape, given)] == first[:, ~slow_rows.within(shape, given)]
            ).all()


def test_small_composition(rng, shape, count):
    disp, v = volume(rng, (3, *shape), -4, 4), volume(rng, (3, *shape), -1.25, 1.25)
    for factor in (0.8, 0.37):
        both(
            shape,
            some_rows(rng, shape),
            lambda out, some, s=factor: update.compose_small(disp, v, s, out=out, rows=some),
            lambda out, some, s=factor: slow_update.compose_small(disp, v, s, out=out, rows=some),
            channels=(3,),
        )


def test_largest_component(rng, shape, count):
    disp, some = volume(rng, (3, *shape), -4, 4), some_rows(rng, shape)
    for given in (None, some, np.zeros_like(some)):
        assert update.largest_component(disp, given) == pytest.approx(
            slow_update.largest_component(disp, given), rel=1e-6
        )


def test_saturation(rng, shape, count):
    v, largest = volume(rng, (3, *shape), -4, 4), 4.5
    fast, slow = v.copy(), v.copy()
    for given in (some_rows(rng, shape), None):
        got = update.saturate(fast, 3.0, largest, given)
        assert got == pytest.approx(slow_update.saturate(slow, 3.0, largest, given), rel=1e-5)
        agree(fast, slow, 1e-5)
    one = np.zeros((3, 1, 1, 1), np.float32)
    one[1] = -largest
    assert update.saturate(one, 3.0, largest) == pytest.approx(largest / 4)


def test_every_kernel_gives_the_same_bits_for_any_number_of_threads(rng):
    shape = (23, 10, 13)
    a, b, w, g = (volume(rng, shape) for _ in range(4))
    field, v = volume(rng, (3, *shape), -2, 2), volume(rng, (3, *shape), -1, 1)
    affine = np.column_stack([np.eye(3) * 0.9, [0.3, -0.4, 1.2]])
    bins = (a * 11).astype(np.uint8)
    calls = [
        lambda: warp.warp(a, affine, field, shape=shape),
        lambda: filters.gaussian_filter(field, 1.3),
        lambda: filters.box_filter(field, 2),
        lambda: np.stack(lncc.lncc_fixed(a, 2)),
        lambda: _coefficients(a, b, w),
        lambda: lncc.lncc_gradient(a, b, field, 2, out=np.empty_like(a)),
        lambda: lncc.lncc_force(a, b, field, 2, (1, 1, 1), True, out=np.empty_like(field)),
        lambda: intensity.moments(a, b, w),
        lambda: intensity.image_force(g, a, b, (1, 1, 1), True, out=np.empty_like(field)),
        lambda: intensity.linear_gradient(g, a),
        lambda: histogram.joint_histogram(bins, b, w, 12, 0.0, 0.1),
        lambda: update.compose_small(field, v, 0.9, out=np.empty_like(field)),
        lambda: np.array(update.largest_component(field)),
        lambda: _saturated(field),
        lambda: mind.mind_descriptors(a, 1, 2),
        lambda: _mind(a, b, w),
        lambda: np.array(ngf.mean_gradient(a, w)),
        lambda: ngf.ngf_field(a, 0.1),
        lambda: _ngf(field, b, w),
        lambda: intensity.add_weighted(field.copy(), v, 0.3, 0.7),
    ]
    for number, call in enumerate(calls):
        results = []
        for n in (1, 2, 3):
            with threads(n):
                results.append(call().tobytes())
        assert len(set(results)) == 1, f"kernel {number} depends on the number of threads"


def _mind(fixed, warped, weight):
    descriptors, padded = mind.mind_descriptors(fixed), mind.pad_nearest(warped, (3, 3, 3))
    pulls, out = np.empty_like(descriptors), np.empty_like(fixed)
    bounds = mind.mind_bounds(padded, 1, 2)
    value = mind.mind_coefficients(descriptors, padded, weight, 1, 2, bounds, out=pulls)
    return np.append(mind.mind_gradient(padded, pulls, 1, 2, 0.1, out=out), (value, *bounds))


def _ngf(field, warped, weight):
    out = np.empty_like(warped)
    return np.append(ngf.ngf_gradient(field, warped, weight, 0.1, 0.3, out=out), out)


def _saturated(field):
    out = field.copy()
    return np.append(update.saturate(out, 3.0, 2.0), out)


def test_the_order_of_the_array_in_memory_does_not_matter(rng):
    image, stack = volume(rng, (9, 7, 8)), volume(rng, (2, 9, 7, 8))
    for given in (np.asfortranarray, lambda array: array[..., ::-1][..., ::-1]):
        agree(filters.gaussian_filter(given(stack), 1.2), filters.gaussian_filter(stack, 1.2), 1e-6)
        agree(np.stack(lncc.lncc_fixed(given(image), 2)), np.stack(lncc.lncc_fixed(image, 2)), 1e-6)
        agree(mind.mind_descriptors(given(image)), mind.mind_descriptors(image), 1e-6)
        agree(ngf.ngf_field(given(image), 0.2), ngf.ngf_field(image, 0.2), 1e-6)
        agree(_ngf(stack[[0, 0, 1], :, :, :], given(image), None), _ngf(stack[[0, 0, 1]], image, None), 1e-6)
        assert ngf.mean_gradient(given(image), given(image)) == pytest.approx(ngf.mean_gradient(image, image))
    with pytest.raises(ValueError, match="contiguous"):
        filters.gaussian_filter(stack, 1.2, out=np.asfortranarray(stack))


def _coefficients(fixed, warped, weight):
    out = np.empty((3, *fixed.shape), np.float32)
    value = lncc.lncc_coefficients(fixed, *lncc.lncc_fixed(fixed, 2), warped, weight, 2, 1e-5, out=out)
    return np.append(out.ravel().astype(np.float64), value)
