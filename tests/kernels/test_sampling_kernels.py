"""Sampling kernels against their float64 reference and against the border rule."""

from __future__ import annotations

import numpy as np
import pytest

from regista.core import threads
from regista.kernels.cpu import sampling as fast
from regista.kernels.reference import sampling as slow

SHAPES = [(11, 14, 9), (7, 1, 5), (12, 9, 1), (2, 3, 2), (1, 1, 1)]
ORDERS = ["nearest", "linear", "cubic", "lanczos"]


def places(rng, shape, count=400):
    return rng.uniform(-1.2, np.array(shape) + 0.2, (count, 3))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_samples_equal_the_reference(rng, order, shape):
    image = rng.normal(size=shape).astype(np.float32)
    coords = places(rng, shape)
    got = fast.sample_points(image, coords, order, fill=-3)
    np.testing.assert_allclose(got, slow.sample_points(image, coords, order, -3), atol=2e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_channels_are_read_in_one_pass(rng, order):
    image = rng.normal(size=(3, 6, 5, 7)).astype(np.float32)
    coords = places(rng, image.shape[1:])
    got = fast.sample_points(image, coords, order)
    assert got.shape == (3, len(coords))
    for channel, values in zip(image, got, strict=True):
        np.testing.assert_array_equal(values, fast.sample_points(channel, coords, order))


@pytest.mark.parametrize("order", ORDERS)
def test_strided_input_and_threads_change_nothing(rng, order):
    image = rng.normal(size=(9, 22, 8)).astype(np.float32).transpose(2, 1, 0)[:, ::2]
    coords = places(rng, image.shape, 9000)
    with threads(1):
        one = fast.sample_points(image, coords[::-1][::-1], order)
    with threads(3):
        three = fast.sample_points(np.ascontiguousarray(image), coords, order)
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("order", ORDERS)
def test_voxel_centres_give_the_voxels(rng, order):
    image = rng.normal(size=(11, 14, 9)).astype(np.float32)
    coords = np.indices(image.shape).reshape(3, -1).T
    got = fast.sample_points(image, coords, order, fill=99)
    np.testing.assert_allclose(got.reshape(image.shape), image, atol=2e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_border_rule(rng, order):
    image = np.full((5, 6, 4), 2.5, np.float32)
    coords = [[-0.49, 0, 0], [4.49, 5.49, 3.49], [-0.51, 0, 0], [0, 5.51, 0], [0, 0, np.nan], [np.inf, 0, 0]]
    got = fast.sample_points(image, coords, order, fill=7)
    np.testing.assert_allclose(got, [2.5, 2.5, 7, 7, 7, 7], atol=1e-5)


def test_cubic_reproduces_a_smooth_function_better_than_linear(rng):
    index = np.indices((20, 18, 16))
    wave = np.sin(index[0] / 3) + np.cos(index[1] / 2.5) * np.sin(index[2] / 4)
    coords = rng.uniform(5, 10, (300, 3))
    x, y, z = coords.T
    truth = np.sin(x / 3) + np.cos(y / 2.5) * np.sin(z / 4)
    error = {o: np.abs(fast.sample_points(wave, coords, o) - truth).max() for o in ORDERS}
    assert error["cubic"] < 2e-3 < error["linear"] < error["nearest"]
    assert error["lanczos"] < error["linear"]


@pytest.mark.parametrize("shape", SHAPES)
def test_votes_equal_the_largest_interpolated_indicator(rng, shape):
    labels = rng.integers(-1, 4, shape).astype(np.int32) * 7
    coords = places(rng, shape)
    np.testing.assert_array_equal(fast.vote_labels(labels, coords, 5), slow.vote_labels(labels, coords, 5))


def test_equal_votes_go_to_the_smaller_label():
    labels = np.array([4, 2], np.int32).reshape(2, 1, 1)
    assert fast.vote_labels(labels, [[0.5, 0, 0]])[0] == 2
    assert fast.vote_labels(labels, [[0.4, 0, 0]])[0] == 4


def test_nearest_index_and_pull_coords_equal_the_reference(rng):
    shape = (6, 5, 7)
    coords = places(rng, shape)
    np.testing.assert_array_equal(fast.nearest_index(shape, coords), slow.nearest_index(shape, coords))
    affine, linear = rng.normal(size=(3, 4)), rng.normal(size=(3, 3))
    field = rng.normal(size=(3, *shape)).astype(np.float32)
    for extra in ((), (field, linear)):
        got = fast.pull_coords(affine, shape, 2, 5, *extra)
        np.testing.assert_allclose(got, slow.pull_coords(affine, shape, 2, 5, *extra), atol=1e-6)


def test_unknown_order_is_refused():
    with pytest.raises(ValueError, match="'quintic'"):
        fast.sample_points(np.zeros((2, 2, 2)), [[0, 0, 0]], "quintic")
