"""Metrics for images of different contrast: what they must not see, and what they must; sums of metrics."""

import numpy as np
import pytest

from regista.core import PlanError
from regista.kernels.cpu.rows import rows_of
from regista.kernels.reference import mind
from regista.similarity import LNCC, MI, MIND, NCC, NGF, SSD, CorrelationRatio, Sum

SHAPE = (11, 14, 9)


def smooth(rng, shape=SHAPE):
    place = np.indices(shape, dtype=np.float64)
    waves = sum(
        np.sin(sum(f * p for f, p in zip(rng.normal(0, 0.7, 3), place)) + rng.uniform(0, 6)) for _ in range(6)
    )
    return (0.5 + 0.06 * waves + 0.02 * rng.standard_normal(shape)).astype(np.float32)


def value(metric, fixed, warped, weight=None):
    return metric.prepare(fixed, weight).value_and_gradient(warped, weight, np.empty_like(fixed))


@pytest.mark.parametrize(
    "metric", [MIND(), MIND(radius=0, dilation=1), NGF(share=0.2), CorrelationRatio(both=True)]
)
@pytest.mark.parametrize(("gain", "offset"), [(-1.0, 1.0), (0.6, 0.3), (-0.4, 0.7)])
def test_contrast_and_its_sign_do_not_matter(rng, metric, gain, offset):
    fixed, warped = smooth(rng), smooth(rng)
    other = np.float32(gain) * warped + np.float32(offset)
    assert value(metric, fixed, other) == pytest.approx(value(metric, fixed, warped), rel=2e-2)
    here = np.float32(gain) * fixed + np.float32(offset)
    assert value(metric, fixed, here) < 0.6 * value(metric, fixed, warped)


@pytest.mark.parametrize("metric", [MIND(), NGF(edge=0.01)])
def test_contrast_may_change_slowly_over_the_image(rng, metric):
    fixed = smooth(rng, (24, 20, 18))
    field = np.linspace(0.6, 1.4, 24, dtype=np.float32)[:, None, None]
    same, apart = value(metric, fixed, fixed * field), value(metric, fixed, np.roll(fixed, 2, axis=1))
    assert same < 0.3 * apart
    shifted = value(MI(), fixed, fixed * field) / value(MI(), fixed, fixed)
    assert shifted < 0.8  # what only the whole image's histogram is asked, the field does disturb


def test_mind_is_the_mean_squared_difference_of_descriptors(rng):
    fixed, warped, weight = smooth(rng), smooth(rng), rng.uniform(size=SHAPE).astype(np.float32)
    one, other = mind.mind_descriptors(fixed), mind.mind_descriptors(warped)
    expected = ((one - other) ** 2).mean(axis=0)
    assert value(MIND(), fixed, warped) == pytest.approx(expected.mean(), rel=1e-4)
    assert value(MIND(), fixed, warped, weight) == pytest.approx(
        np.average(expected, weights=weight), rel=1e-4
    )
    assert value(MIND(), fixed, fixed) < 1e-9


def test_ngf_is_zero_for_parallel_edges_and_one_for_edges_across():
    place = np.indices((12, 13, 14), dtype=np.float32)
    along, across = place[0] / 12, place[1] / 13
    assert value(NGF(edge=1e-4), along, 1 - along) == pytest.approx(0, abs=1e-4)
    assert value(NGF(edge=1e-4), along, across) == pytest.approx(1, abs=1e-4)
    assert value(NGF(edge=1 / 12), along, along) == pytest.approx(0.75, abs=1e-4)  # 1 − (½)²
    assert value(NGF(share=1.0), along, along) == pytest.approx(
        0.75, abs=1e-4
    )  # by itself: the mean magnitude
    assert value(NGF(share=3**-0.5), along, along) == pytest.approx(1 - 0.75**2, abs=1e-4)


@pytest.mark.parametrize("both", [False, True])
def test_the_correlation_ratio_is_what_its_name_says(rng, both):
    levels = rng.integers(0, 5, SHAPE)
    fixed = (levels / 4).astype(np.float32)
    foretold = np.array([0.9, 0.1, 0.6, 0.1, 0.3])[levels]
    warped = (foretold + 0.1 * rng.standard_normal(SHAPE)).clip(0, 1).astype(np.float32)
    within = sum((levels == n).sum() * warped[levels == n].astype(float).var() for n in range(5))
    expected = within / (levels.size * warped.astype(float).var())
    got = value(CorrelationRatio(bins=65), fixed, warped)
    assert got == pytest.approx(expected, abs=2e-4)
    if both:
        back = 2 * value(CorrelationRatio(bins=65, both=True), fixed, warped) - got
        assert 0 < back < 1
        assert value(CorrelationRatio(both=True), fixed, fixed) < 0.02


def test_any_function_of_the_fixed_intensity_is_foretold(rng):
    levels = rng.integers(0, 5, SHAPE)
    fixed = (levels / 4).astype(np.float32)
    for _ in range(3):
        warped = rng.uniform(0.1, 0.9, 5).astype(np.float32)[levels]
        assert value(CorrelationRatio(), fixed, warped) == pytest.approx(0, abs=1e-5)
    shuffled = rng.permutation(warped.ravel()).reshape(SHAPE)
    assert value(CorrelationRatio(), fixed, shuffled) > 0.95


@pytest.mark.parametrize("metric", [NGF(edge=0.02), CorrelationRatio(), MIND()])
def test_what_masked_voxels_hold_does_not_count(rng, metric):
    fixed, warped = smooth(rng), smooth(rng)
    weight = np.ones(SHAPE, np.float32)
    weight[:, :7] = 0
    reach = metric.prepare(fixed, weight).reach_vox
    changed, kept = warped.copy(), 7 - reach
    changed[:, :kept] = rng.uniform(0.2, 0.8, changed[:, :kept].shape)
    expected, got = (value(metric, fixed, image, weight) for image in (warped, changed))
    # MIND's bounds of the variance are shares of its mean over the whole image, and hardly ever reached
    assert got == pytest.approx(expected, rel=1e-5)
    fixed_changed = fixed.copy()
    fixed_changed[:, :kept] = 0.5
    assert value(metric, fixed_changed, warped, weight) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("metric", [MIND(), NGF(), CorrelationRatio(), Sum(terms=((1, MIND()), (1, LNCC())))])
def test_nothing_to_compare_is_no_alignment(rng, metric):
    fixed = smooth(rng)
    out = np.empty_like(fixed)
    none = np.zeros(SHAPE, np.float32)
    assert metric.prepare(fixed, None).value_and_gradient(fixed, none, out) == np.inf
    assert (out == 0).all()


def test_two_dimensions_know_neighbours_in_the_plane_alone(rng):
    for axis in range(3):
        fixed = np.take(smooth(rng), [0], axis=axis)
        assert mind.mind_descriptors(fixed).shape[0] == 4
        gradient = np.empty_like(fixed)
        MIND().prepare(fixed, None).value_and_gradient(np.roll(fixed, 1, (axis + 1) % 3), None, gradient)
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


SUM = Sum(terms=((0.7, LNCC(radius=1)), (2.0, MI(bins=16)), (0.3, MIND()), (1.5, SSD())))


def test_a_sum_adds_values_and_gradients(rng):
    fixed, warped, weight = smooth(rng), smooth(rng), rng.uniform(size=SHAPE).astype(np.float32)
    got, one, expected, total = np.empty_like(fixed), np.empty_like(fixed), np.zeros(SHAPE), 0.0
    for share, term in SUM.terms:
        total += share * term.prepare(fixed, weight).value_and_gradient(warped, weight, one)
        expected += share * one
    assert SUM.prepare(fixed, weight).value_and_gradient(warped, weight, got) == pytest.approx(
        total, rel=1e-6
    )
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("some", [False, True])
def test_the_force_of_a_sum_is_that_of_its_terms(rng, symmetric, some):
    fixed, warped, weight = smooth(rng), smooth(rng), rng.uniform(size=SHAPE).astype(np.float32)
    prepared, axis_scale = SUM.prepare(fixed, weight), np.array([1, 0.5, 0.2], np.float32)
    assert prepared.reach_vox == 3
    rows = None
    if some:
        ranges = np.stack([np.full(SHAPE[:2], 4), np.full(SHAPE[:2], 6)]).astype(np.int32)
        ranges[:, 3] = [[SHAPE[2]], [0]]
        rows = rows_of(ranges, SHAPE[2], 0, prepared.reach_vox)
    scratch, expected, total = np.zeros((3, *SHAPE), np.float32), np.zeros((3, *SHAPE)), 0.0
    for share, term in SUM.terms:
        one = np.zeros((3, *SHAPE), np.float32)
        total += share * term.prepare(fixed, weight).force(
            warped, weight, axis_scale, symmetric, scratch, one, rows
        )
        expected += share * one
    out = np.full((3, *SHAPE), -7.0, np.float32)
    for _ in range(2):  # buffers that were used before change nothing
        assert prepared.force(warped, weight, axis_scale, symmetric, scratch, out, rows) == pytest.approx(
            total
        )
    here = np.ones(SHAPE, bool)
    if rows is not None:
        k = np.arange(SHAPE[2])
        here = (k >= rows[0, ..., None]) & (k < rows[1, ..., None])
        assert not here.all()
    np.testing.assert_allclose(out[:, here], expected[:, here], atol=1e-5 * np.abs(expected).max())
    assert (out[:, ~here] == -7).all()


def test_the_symmetric_force_is_for_terms_of_one_contrast(rng):
    fixed, warped = smooth(rng), smooth(rng)
    axis_scale, scratch = np.ones(3, np.float32), np.empty((3, *SHAPE), np.float32)
    for metric, same in ((MIND(), True), (NGF(), True), (CorrelationRatio(), True), (NCC(), False)):
        prepared, forces = Sum(terms=((1.0, metric),)).prepare(fixed, None), []
        for symmetric in (False, True):
            forces.append(np.empty((3, *SHAPE), np.float32))
            prepared.force(warped, None, axis_scale, symmetric, scratch, forces[-1])
        assert np.array_equal(*forces) == same


@pytest.mark.parametrize("metric", [SSD(), NCC(), LNCC(), MIND(), NGF(edge=0.01), MI(), SUM])
def test_a_metric_bound_anew_is_that_of_the_new_image(rng, metric):
    first, fixed, warped = (smooth(rng) for _ in range(3))
    # the range of intensities, which a histogram keeps, is the same
    for image in (first, fixed):
        image[0, 0, 0], image[-1, 0, 0] = 0, 1
    prepared, gradients = metric.prepare(first, None), [np.empty(SHAPE, np.float32) for _ in range(2)]
    prepared.value_and_gradient(warped, None, gradients[0])
    prepared.rebind(fixed, None)
    again = prepared.value_and_gradient(warped, None, gradients[0])
    assert again == pytest.approx(metric.prepare(fixed, None).value_and_gradient(warped, None, gradients[1]))
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-9)


def test_bins_span_the_scan_once_there_is_more_to_see(rng):
    first, fixed, warped = (smooth(rng) for _ in range(3))
    prepared, out = MI().prepare(0.2 + 0.1 * first, None), np.empty(SHAPE, np.float32)
    prepared.value_and_gradient(warped, None, out)
    fixed[0, 0, 0], fixed[-1, 0, 0] = 0, 1
    prepared.rebind(fixed, None)
    kept = prepared.value_and_gradient(warped, None, out)
    assert kept == pytest.approx(value(MI(), fixed, warped))


def test_what_masks_hid_is_not_kept_for_what_they_do_not(rng):
    fixed, warped = smooth(rng), smooth(rng)
    weight = (rng.random(SHAPE) > 0.3).astype(np.float32)
    prepared, out = MIND().prepare(fixed, weight), np.empty(SHAPE, np.float32)
    prepared.hides = True
    prepared.value_and_gradient(warped, weight, out)
    prepared.hides = False
    assert prepared.value_and_gradient(warped, None, out) == pytest.approx(value(MIND(), fixed, warped))


@pytest.mark.parametrize("metric", [MI(), NGF(share=0.5)])
def test_scales_stay_when_a_metric_is_bound_anew(rng, metric):
    first, fixed, warped = (smooth(rng) for _ in range(3))
    first[4, 5, 6] = 2.0  # a bright voxel, which interpolation loses
    prepared, out = metric.prepare(first, None), np.empty(SHAPE, np.float32)
    prepared.value_and_gradient(warped, None, out)
    prepared.rebind(fixed, None)
    kept = prepared.value_and_gradient(warped, None, out)
    assert kept != pytest.approx(value(metric, fixed, warped), rel=1e-3)
    prepared.rebind(fixed, None)
    assert prepared.value_and_gradient(warped, None, out) == kept


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MIND(radius=9), "mind radius is between 0 and 8 voxels, got 9"),
        (lambda: MIND(dilation=0), "mind dilation is between 1 and 8 voxels, got 0"),
        (lambda: NGF(edge=0.0), "ngf edge is 'auto' or an intensity per voxel above 0, got 0.0"),
        (lambda: NGF(share=-1.0), "ngf share is above 0"),
        (lambda: CorrelationRatio(bins=3), "cr bins is between 8 and 254, got 3"),
        (lambda: Sum(terms=()), "at least one term"),
        (lambda: Sum(terms=((-0.5, MI()),)), "a number above 0, got -0.5"),
        (lambda: Sum(terms=((float("nan"), MI()),)), "a number above 0, got nan"),
        (lambda: Sum(terms=((1.0, SUM),)), "a single metric"),
        (lambda: Sum(terms=((1.0, "mi"),)), "a single metric, got 'mi'"),
    ],
)
def test_metrics_check_themselves(make, message):
    with pytest.raises(PlanError, match=message):
        make()
