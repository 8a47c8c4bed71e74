"""The kernels of MIND and NGF against their float64 reference: odd shapes, borders, one slice, threads."""

from __future__ import annotations

import numpy as np
import pytest

from regista.core import threads
from regista.kernels.cpu import mind, ngf
from regista.kernels.reference import mind as slow_mind
from regista.kernels.reference import ngf as slow_ngf

SHAPES = [
    (11, 14, 9),
    (7, 10, 1),
    (1, 9, 12),
    (6, 1, 13),
    (3, 2, 4),
    (5, 1, 1),
    (1, 1, 1),
    (2, 3, 17),
    (2, 40, 5),
]


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return request.param


@pytest.fixture(params=[1, 3], ids=lambda n: f"{n}threads")
def count(request):
    with threads(request.param):
        yield request.param


def volume(rng, shape, low=0.0, high=1.0):
    return rng.uniform(low, high, shape).astype(np.float32)


def agree(fast, slow, share=2e-5):
    """Compare to a share of the largest value: derivatives by small variances are large."""
    np.testing.assert_allclose(fast, slow, atol=share * float(np.abs(slow).max(initial=1e-6)), rtol=1e-4)


PATCHES = [(1, 2), (2, 1), (0, 1), (3, 4)]


@pytest.mark.parametrize(("radius", "dilation"), PATCHES)
def test_mind_descriptors(rng, shape, count, radius, dilation):
    image = volume(rng, shape)
    got = mind.mind_descriptors(image, radius, dilation)
    assert got.dtype == np.float32
    assert got.shape == ({3: 12, 2: 4}.get(sum(n > 1 for n in shape), 0), *shape)
    agree(got, slow_mind.mind_descriptors(image, radius, dilation))
    margin = mind.mind_margin(shape, radius, dilation)
    padded = mind.pad_nearest(image, margin)
    np.testing.assert_array_equal(padded, slow_mind.pad_nearest(image, margin))
    bounds = mind.mind_bounds(padded, radius, dilation)
    assert bounds == pytest.approx(slow_mind.mind_bounds(padded, radius, dilation), rel=1e-4)
    narrow = (0.05, 0.08)
    agree(
        mind.mind_descriptors(image, radius, dilation, narrow),
        slow_mind.mind_descriptors(image, radius, dilation, narrow),
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bounds", [(1e-9, 1e9), (0.05, 0.08)])
@pytest.mark.parametrize(("radius", "dilation"), PATCHES)
def test_mind_coefficients_and_gradient(rng, shape, count, radius, dilation, bounds, weighted):
    target = slow_mind.mind_descriptors(volume(rng, shape), radius, dilation)
    weight = volume(rng, shape) if weighted else None
    padded = mind.pad_nearest(volume(rng, shape), mind.mind_margin(shape, radius, dilation))
    fast, slow = np.empty(target.shape, np.float32), np.empty(target.shape)
    given = padded, weight, radius, dilation, bounds
    value = mind.mind_coefficients(target.astype(np.float32), *given, out=fast)
    assert value == pytest.approx(slow_mind.mind_coefficients(target, *given, out=slow), rel=1e-5, abs=1e-6)
    agree(fast, slow, 5e-5)
    pulls = slow.astype(np.float32)
    got = mind.mind_gradient(padded, pulls, radius, dilation, 0.3, out=np.empty(shape, np.float32))
    agree(got, slow_mind.mind_gradient(padded, pulls, radius, dilation, 0.3, out=np.empty(shape)))


@pytest.mark.parametrize("bounds", [(1e-9, 1e9), (0.05, 0.08)])
@pytest.mark.parametrize("shape", [(5, 6, 4), (1, 7, 6), (3, 2, 4)], ids=str)
def test_mind_reference_gradient_is_the_derivative_of_its_value(rng, shape, bounds):
    radius, dilation = 1, 2
    target, weight = slow_mind.mind_descriptors(rng.uniform(size=shape)), rng.uniform(size=shape)
    warped, out = rng.uniform(size=shape), np.empty(target.shape)
    margin = slow_mind.mind_margin(shape, radius, dilation)

    def value(image):
        padded = slow_mind.pad_nearest(image, margin)
        return slow_mind.mind_coefficients(target, padded, weight, radius, dilation, bounds, out=out)

    value(warped)
    padded = slow_mind.pad_nearest(warped, margin)
    gradient = slow_mind.mind_gradient(padded, out, radius, dilation, 1.0, out=np.empty(shape))
    eps = 1e-7
    for place in np.ndindex(shape):
        step = np.zeros(shape)
        step[place] = eps
        expected = (value(warped + step) - value(warped - step)) / (2 * eps)
        assert gradient[place] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_mind_by_hand():
    """One bright voxel, patches of one voxel: a pair differs where one of its neighbours is the bright one."""
    image = np.zeros((9, 9, 9), np.float32)
    image[4, 4, 4] = 1.0
    got = mind.mind_descriptors(image, 0, 2)
    here = got[:, 4, 4, 6]  # the bright voxel is the neighbour −k, in the channels of (i, k) and (j, k)
    assert set(np.flatnonzero(here < 0.5)) == {5, 6, 9, 10}
    np.testing.assert_allclose(here[[5, 6, 9, 10]], np.exp(-3.0), rtol=1e-5)  # the mean is 4/12
    assert (got[:, 4, 4, 4] == 1).all()  # no pair contains the voxel itself


@pytest.mark.parametrize("weighted", [False, True])
def test_ngf(rng, shape, count, weighted):
    fixed, warped = volume(rng, shape), volume(rng, shape)
    weight = volume(rng, shape) if weighted else None
    assert ngf.mean_gradient(fixed, weight) == pytest.approx(slow_ngf.mean_gradient(fixed, weight), rel=1e-5)
    field = slow_ngf.ngf_field(fixed, 0.2)
    agree(ngf.ngf_field(fixed, 0.2), field)
    fast, slow = np.empty(shape, np.float32), np.empty(shape)
    value = ngf.ngf_gradient(field.astype(np.float32), warped, weight, 0.3, 0.7, out=fast)
    assert value == pytest.approx(slow_ngf.ngf_gradient(field, warped, weight, 0.3, 0.7, out=slow), rel=1e-5)
    agree(fast, slow)


@pytest.mark.parametrize("shape", [(5, 6, 4), (1, 7, 6), (3, 2, 2)], ids=str)
def test_ngf_reference_gradient_is_the_derivative_of_its_value(rng, shape):
    field, weight, out = (
        slow_ngf.ngf_field(rng.uniform(size=shape), 0.2),
        rng.uniform(size=shape),
        np.empty(shape),
    )
    warped, eps = rng.uniform(size=shape), 1e-6
    gradient = np.empty(shape)
    slow_ngf.ngf_gradient(field, warped, weight, 0.3, 0.7, out=gradient)
    for place in np.ndindex(shape):
        step = np.zeros(shape)
        step[place] = eps
        up, down = (
            slow_ngf.ngf_gradient(field, w, weight, 0.3, 1.0, out=out) for w in (warped + step, warped - step)
        )
        assert gradient[place] == pytest.approx(0.7 * (up - down) / (2 * eps), rel=1e-5, abs=1e-7)


def test_mean_gradient_without_any_weight_is_zero():
    assert ngf.mean_gradient(np.ones((3, 4, 5), np.float32), np.zeros((3, 4, 5), np.float32)) == 0


def test_least_of_neighbours(rng, shape, count):
    weight = volume(rng, shape)
    slow = slow_ngf.least_of_neighbours(weight)
    np.testing.assert_array_equal(ngf.least_of_neighbours(weight), slow)
    np.testing.assert_array_equal(ngf.least_of_neighbours(np.asfortranarray(weight)), slow)
    padded = np.pad(weight, 1, constant_values=2)
    place = tuple(n // 2 for n in shape)
    i, j, k = place
    cross = padded[i : i + 3, j + 1, k + 1], padded[i + 1, j : j + 3, k + 1], padded[i + 1, j + 1, k : k + 3]
    assert slow[place] == min(line.min() for line in cross)
