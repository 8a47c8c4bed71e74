"""Field kernels against their reference, analytic maps and the definition of an inverse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from regista.core import threads
from regista.kernels.cpu import fields as fast
from regista.kernels.reference import fields as slow

SHAPES = [(11, 14, 9), (13, 10, 1), (3, 2, 4)]


def smooth_field(rng, shape, size=1.5, sigma=2.0):
    noise = [ndimage.gaussian_filter(rng.normal(size=shape), sigma) for _ in range(3)]
    field = np.stack(noise).astype(np.float32)
    if shape[2] == 1:
        field[2] = 0
    return field * np.float32(size / np.abs(field).max())


@pytest.mark.parametrize("outside", ["edge", "zero"])
@pytest.mark.parametrize("shape", SHAPES)
def test_composition_and_samples_equal_the_reference(rng, shape, outside):
    u, v = smooth_field(rng, shape), smooth_field(rng, shape, 2.5)
    np.testing.assert_allclose(fast.compose(u, v, outside), slow.compose(u, v, outside), atol=1e-5)
    coords = rng.uniform(-2, np.array(shape) + 1, (200, 3))
    got = fast.sample_field(u, coords, outside)
    np.testing.assert_allclose(got, slow.sample_field(u, coords, outside), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_exponential_equals_the_reference(rng, shape):
    v = smooth_field(rng, shape)
    np.testing.assert_allclose(fast.exponential(v, 5), slow.exponential(v, 5), atol=2e-5)


def test_exponential_of_a_linear_velocity_is_the_matrix_exponential():
    index = np.indices((15, 13, 11)).astype(np.float64) - np.array([7, 6, 5])[:, None, None, None]
    rate = np.array([0.2, -0.1, 0.05])[:, None, None, None]
    got = fast.exponential(rate * index, 10)
    inner = (slice(None), *[slice(4, -4)] * 3)
    np.testing.assert_allclose(got[inner], ((np.exp(rate) - 1) * index)[inner], atol=2e-3)


@pytest.mark.parametrize("shape", [(11, 14, 9), (17, 15, 1)])
def test_inverse_equals_the_reference_and_undoes_the_field(rng, shape):
    u = smooth_field(rng, shape, 1.2, 2.5)
    assert fast.jacobian_determinant(u).min() > 0.2
    w, residual = fast.invert(u, 0.001)
    expected, _ = slow.invert(u, 0.001)
    assert residual < 0.002
    np.testing.assert_allclose(w, expected, atol=5e-3)
    places = np.indices(shape) + w
    inside = ((places >= 0) & (places <= np.array(shape)[:, None, None, None] - 1)).all(axis=0)
    assert inside.mean() > 0.5
    assert np.linalg.norm(fast.compose(u, w), axis=0)[inside].max() <= residual + 1e-5


def test_inverse_of_a_steep_field_converges_where_plain_iteration_does_not():
    slope = 1.6 * np.exp(-(((np.arange(40) - 20) / 3) ** 2))
    u = np.zeros((3, 40, 5, 4), np.float32)
    u[0] = np.cumsum(slope - slope.mean())[:, None, None]
    jacobian = fast.jacobian_determinant(u)
    assert jacobian.max() > 2.1
    assert jacobian.min() > 0.5
    w = -u
    for _ in range(200):
        w = -fast.sample_field(u, (np.indices(u.shape[1:]) + w).reshape(3, -1).T).reshape(u.shape)
    assert np.abs(fast.compose(u, w)).max() > 0.1
    w, residual = fast.invert(u)
    assert residual < 0.01
    assert np.isfinite(w).all()


def test_inverse_of_a_folded_field_stays_finite_and_tells_its_misfit(rng):
    u = rng.normal(0, 3, (3, 9, 8, 7)).astype(np.float32)
    w, residual = fast.invert(u, max_iterations=5)
    assert np.isfinite(w).all()
    misfit = np.linalg.norm(slow.compose(u, w), axis=0)
    places = np.indices(u.shape[1:]) + w
    limits = np.array(u.shape[1:]).reshape(3, 1, 1, 1) - 0.5
    inside = ((places >= -0.5) & (places <= limits)).all(axis=0)
    assert residual == pytest.approx(misfit[inside].max(), rel=1e-3, abs=1e-5)


def test_no_smooth_map_is_left_without_its_inverse(rng):
    # strong but unfolded: the smallest determinant is small, and still every voxel is solved
    from scipy import ndimage

    u = ndimage.gaussian_filter(rng.normal(0, 1, (3, 24, 22, 26)), (0, 1.5, 1.5, 1.5))
    u *= 0.9 / np.abs(np.gradient(u, axis=(1, 2, 3))).sum(axis=0).max() * 1.5
    assert 0 < fast.jacobian_determinant(u.astype(np.float32)).min() < 0.5
    _, residual = fast.invert(u.astype(np.float32))
    assert residual < 0.01


def test_thread_count_changes_nothing(rng):
    u = smooth_field(rng, (11, 14, 9))
    results = []
    for count in (1, 3):
        with threads(count):
            results.append((fast.invert(u)[0], fast.exponential(u), fast.jacobian_determinant(u)))
    for one, three in zip(*results, strict=True):
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 1, 1)])
def test_jacobian_equals_the_reference(rng, shape):
    u = rng.normal(size=(3, *shape)).astype(np.float32)
    np.testing.assert_allclose(fast.jacobian_determinant(u), slow.jacobian_determinant(u), atol=1e-4)


def test_jacobian_of_an_affine_map_is_its_determinant(rng):
    matrix = np.eye(3) + rng.normal(0, 0.2, (3, 3))
    index = np.indices((7, 6, 5)).reshape(3, -1)
    u = ((matrix - np.eye(3)) @ index).reshape(3, 7, 6, 5)
    np.testing.assert_allclose(fast.jacobian_determinant(u), np.linalg.det(matrix), atol=1e-5)


def test_strided_fields_are_accepted(rng):
    u = smooth_field(rng, (9, 14, 11)).transpose(0, 3, 2, 1)[:, :, ::2]
    np.testing.assert_array_equal(fast.compose(u, u), fast.compose(u.copy(), u.copy()))
