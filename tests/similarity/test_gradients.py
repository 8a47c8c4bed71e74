"""Every similarity's gradient is the derivative of its value, with and without weights."""

import numpy as np
import pytest

from regista.kernels.reference import mind, weighted_lncc, weighted_mind
from regista.similarity import LNCC, MI, MIND, NCC, NGF, NMI, SSD, CorrelationRatio, Sum

SHAPES = [(11, 14, 9), (11, 14, 1), (1, 9, 12)]


def _pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    place = np.indices(shape, dtype=np.float64)
    smooth = sum(np.sin(place[a] * (0.4 + 0.13 * a) + a) for a in range(3))
    fixed = 0.5 + 0.12 * smooth + 0.02 * rng.standard_normal(shape)
    warped = 0.5 + 0.1 * np.roll(smooth, 1, axis=1) ** 2 * 0.5 + 0.03 * rng.standard_normal(shape)
    return fixed.astype(np.float32), warped.astype(np.float32)


METRICS = [
    SSD(), NCC(), LNCC(radius=2), LNCC(radius=1), MI(bins=16), NMI(bins=16),
    MIND(), MIND(radius=2, dilation=1), NGF(), NGF(edge=0.05), CorrelationRatio(bins=16),
    CorrelationRatio(bins=16, both=True), Sum(terms=((0.7, LNCC()), (2.0, MI(bins=16)), (0.3, NGF()))),
]  # fmt: skip
TOLERANCE = 3e-3  # what float32 values leave of the differences is below half of it


def _slope(value, image, direction, eps):
    """Return the derivative of a value along a direction: central differences, extrapolated to order 4."""

    def central(step):
        return (value(image + step * direction) - value(image - step * direction)) / float(2 * step)

    return (4 * central(np.float32(eps / 2)) - central(np.float32(eps))) / 3


def _directions(gradient, rng):
    """Yield directions, and the size of an error along each that a gradient off by 100 % would make.

    Along the gradient's own signs nothing cancels, so that its scale is told exactly: everywhere, at the border
    and within. Random ones tell what is wrong in its direction.
    """
    shape = gradient.shape
    border = np.zeros(shape, bool)
    for axis, n in enumerate(shape):
        if n > 1:
            np.moveaxis(border, axis, 0)[[0, 1, -2, -1]] = True
    for where in (np.ones(shape, bool), border, ~border):
        along = np.sign(gradient) * np.abs(rng.standard_normal(shape)) * where
        yield along.astype(np.float32), float((gradient.astype(np.float64) * along).sum())
    for _ in range(3):
        yield rng.standard_normal(shape).astype(np.float32), float(np.linalg.norm(gradient))


def _exact_mind(metric, fixed, warped, weight, hides):
    """Return the value in float64: it has kinks, where the smallest distance changes, close to any image."""
    if hides:
        return _exact_hidden_mind(metric, fixed, warped, weight)
    margin = mind.mind_margin(fixed.shape, metric.radius, metric.dilation)
    target = mind.mind_descriptors(fixed, metric.radius, metric.dilation)
    bounds = mind.mind_bounds(mind.pad_nearest(warped, margin), metric.radius, metric.dilation)
    out = np.empty(target.shape)
    total = len(target) * (fixed.size if weight is None else float(weight.sum(dtype=np.float64)))

    def value(image):
        padded = mind.pad_nearest(image, margin)
        given = target, padded, weight, metric.radius, metric.dilation, bounds
        return mind.mind_coefficients(*given, out=out) / total

    return value


def _exact_hidden_lncc(metric, fixed, weight):
    """Return the value in float64: a window of few pixels, some of little weight, leaves float32 few digits."""
    out = np.empty((3, *fixed.shape))

    def value(image):
        given = fixed, image, weight, metric.radius, metric.floor
        total, kept = weighted_lncc.weighted_lncc_coefficients(*given, out=out)
        return -total / kept

    return value


def _exact_hidden_mind(metric, fixed, warped, weight):
    margin = mind.mind_margin(fixed.shape, metric.radius, metric.dilation)
    given = mind.pad_nearest(weight, margin), metric.radius, metric.dilation
    one, other = (mind.pad_nearest(image, margin) for image in (fixed, warped))
    bounds = weighted_mind.weighted_mind_bounds(other, *given)
    channels = len(mind.neighbours(fixed.shape, metric.dilation))
    target, out = np.empty((2, channels, *fixed.shape))
    limits = weighted_mind.weighted_mind_bounds(one, *given)
    weighted_mind.weighted_mind_descriptors(one, *given, limits, out=target)

    def value(image):
        padded = mind.pad_nearest(image, margin)
        total, kept = weighted_mind.weighted_mind_coefficients(target, padded, *given, bounds, out=out)
        return total / (channels * kept)

    return value


def _mismatch(metric, shape, weighted, factor=1.0, hides=False):
    """Return how far the gradient, times `factor`, is off at most, as a share of itself."""
    fixed, warped = _pair(shape)
    rng = np.random.default_rng(1)
    weight = rng.uniform(0, 1, shape).astype(np.float32) if weighted else None
    if hides:
        weight = hidden(shape, weight)
    prepared = metric.prepare(fixed, weight)
    prepared.hides = hides
    gradient, scratch = np.empty_like(warped), np.empty_like(warped)
    prepared.value_and_gradient(warped, weight, gradient)
    gradient *= np.float32(factor)
    found = []
    value = lambda image: prepared.value_and_gradient(image, weight, scratch)  # noqa: E731
    eps = 1e-3 if isinstance(metric, NGF | Sum) else 4e-3  # weak gradients turn soon
    if isinstance(metric, MIND):
        value, eps = _exact_mind(metric, fixed, warped, weight, hides), 1e-6
        warped = warped.astype(np.float64)
    if hides and isinstance(metric, LNCC) and 1 in shape:
        value, eps = _exact_hidden_lncc(metric, fixed, weight), 1e-4
        warped = warped.astype(np.float64)
    for direction, size in _directions(gradient, rng):
        expected = _slope(value, warped, direction, eps)
        got = float((gradient.astype(np.float64) * direction).sum())
        found.append(abs(got - expected) / size)
    return max(found)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_gradient_matches_finite_differences(metric, weighted, shape):
    assert _mismatch(metric, shape, weighted) < TOLERANCE


def hidden(shape, weight):
    """Return weights with a corner of the volume hidden: a third along every axis."""
    weight = np.ones(shape, np.float32) if weight is None else weight.copy()
    weight[tuple(slice(n // 3 + 1 if n > 1 else 1) for n in shape)] = 0
    return weight


WINDOWED = [
    LNCC(radius=2), LNCC(radius=1), MIND(), MIND(radius=2, dilation=1), NGF(),
    Sum(terms=((0.7, LNCC()), (2.0, MI(bins=16)), (0.3, NGF()))),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True], ids=["binary", "graded"])
@pytest.mark.parametrize("metric", WINDOWED)
def test_gradient_matches_finite_differences_where_voxels_are_hidden(metric, weighted, shape):
    assert _mismatch(metric, shape, weighted, hides=True) < TOLERANCE


@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("weighted", [False, True], ids=["binary", "graded"])
@pytest.mark.parametrize("metric", [SSD(), NCC(), MI(), CorrelationRatio(), *WINDOWED])
def test_what_is_hidden_does_not_count(metric, weighted, shape):
    """Whatever either image shows there: neither for the value nor for the gradient."""
    rng = np.random.default_rng(2)
    fixed, warped = _pair(shape)
    weight = hidden(shape, rng.uniform(0.1, 1, shape).astype(np.float32) if weighted else None)
    found = []
    for junk in (0.0, 1.0):
        one, other = (np.where(weight > 0, image, np.float32(junk)) for image in (fixed, warped))
        prepared = metric.prepare(one, weight)
        prepared.hides = True
        gradient = np.empty_like(fixed)
        value = prepared.value_and_gradient(other, weight, gradient)
        assert not gradient[weight == 0].any()
        found.append((value, gradient))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("metric", WINDOWED)
def test_hiding_nothing_changes_nothing(metric):
    fixed, warped = _pair((11, 14, 9))
    weight, found = np.ones(fixed.shape, np.float32), []
    for hides in (False, True):
        prepared, gradient = metric.prepare(fixed, weight), np.empty_like(fixed)
        prepared.hides = hides
        force, scratch = np.empty((2, 3, *fixed.shape), np.float32)
        scale = np.array([1.0, 0.5, 0.3], np.float32)
        found.append((prepared.value_and_gradient(warped, weight, gradient), gradient))
        prepared.force(warped, weight, scale, True, scratch, force)
        found[-1] += (force,)
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for one, two in zip(found[0][1:], found[1][1:], strict=True):
        np.testing.assert_allclose(two, one, atol=1e-4 * np.abs(one).max())


@pytest.mark.parametrize("factor", [0.99, 1.01])
@pytest.mark.parametrize("metric", METRICS)
def test_a_gradient_off_by_one_percent_would_be_told(metric, factor):
    assert _mismatch(metric, SHAPES[0], True, factor) > 2 * TOLERANCE


@pytest.mark.parametrize("metric", [SSD(), NCC(), LNCC(), MI(), NMI(), MIND(), NGF(), CorrelationRatio()])
def test_an_image_is_most_similar_to_itself(metric):
    fixed, other = _pair((11, 14, 9))
    prepared = metric.prepare(fixed, None)
    out = np.empty_like(fixed)
    same = prepared.value_and_gradient(fixed.copy(), None, out)
    assert same < metric.prepare(fixed, None).value_and_gradient(other, None, out)
    assert same < metric.prepare(fixed, None).value_and_gradient(np.roll(fixed, 1, axis=0), None, out)


@pytest.mark.parametrize("metric", [NCC(), LNCC(floor=0.0)])
def test_correlation_ignores_a_linear_change_of_intensity(metric):
    fixed, warped = _pair((11, 14, 9))
    prepared = metric.prepare(fixed, None)
    out = np.empty_like(fixed)
    a = prepared.value_and_gradient(warped, None, out)
    b = prepared.value_and_gradient(np.float32(1.7) * warped + np.float32(0.2), None, out)
    assert b == pytest.approx(a, rel=1e-3)


def test_lncc_equals_its_definition():
    fixed, warped = _pair((11, 14, 9))
    total = 0.0
    for i, j, k in np.ndindex(fixed.shape):
        box = tuple(slice(max(c - 2, 0), c + 3) for c in (i, j, k))
        f, w = fixed[box].astype(float).ravel(), warped[box].astype(float).ravel()
        f, w = f - f.mean(), w - w.mean()
        total += (f @ w) ** 2 / ((f @ f) * (w @ w))
    value = (
        LNCC(radius=2, floor=0.0).prepare(fixed, None).value_and_gradient(warped, None, np.empty_like(fixed))
    )
    assert value == pytest.approx(-total / fixed.size, rel=1e-4)


def test_mutual_information_of_an_invertible_map_is_the_entropy():
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 4, (20, 20, 10))
    fixed = (levels / 3).astype(np.float32)
    warped = np.array([0.9, 0.1, 0.6, 0.3], np.float32)[levels]
    value = MI(bins=64).prepare(fixed, None).value_and_gradient(warped, None, np.empty_like(fixed))
    share = np.bincount(levels.ravel()) / levels.size
    assert -value == pytest.approx(-(share * np.log(share)).sum(), abs=1e-3)


@pytest.mark.parametrize("metric", [SSD(), NCC(), LNCC(), MI(), NMI(), NGF(), CorrelationRatio(), MIND()])
def test_masked_voxels_have_no_pull(metric):
    fixed, warped = _pair((11, 14, 9))
    weight = np.ones(fixed.shape, np.float32)
    weight[:, :7] = 0
    gradient = np.empty_like(fixed)
    metric.prepare(fixed, weight).value_and_gradient(warped, weight, gradient)
    reach = metric.prepare(fixed, weight).reach_vox
    assert np.abs(gradient[:, : 7 - reach]).max() == 0
    assert np.abs(gradient[:, 7:]).max() > 0


@pytest.mark.parametrize(
    "metric",
    [SSD(), NCC(), LNCC(), MI(), MIND(), NGF(), CorrelationRatio(both=True), Sum(terms=((1, MIND()),))],
)
def test_constant_images_give_no_force(metric):
    flat = np.full((6, 7, 8), 0.5, np.float32)
    gradient = np.empty_like(flat)
    value = metric.prepare(flat, None).value_and_gradient(flat.copy(), None, gradient)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
