"""Kernels of the dense models against their reference, and their derivatives against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from regista.core import threads
from regista.kernels.cpu import bspline, demons, fields, warp
from regista.kernels.reference import bspline as slow_bspline
from regista.kernels.reference import demons as slow_demons
from regista.kernels.reference import fields as slow_fields
from regista.kernels.reference import warp as slow_warp

SHAPES = [(11, 14, 9), (6, 1, 7), (5, 8, 1), (2, 3, 4)]
AFFINE = np.array([[1.05, 0.1, -0.04, -0.6], [-0.08, 0.93, 0.05, 0.4], [0.02, -0.07, 1.1, -0.3]])


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def smooth(rng, shape, length):
    """Return a random field of about `length` voxels, still along axes of one voxel."""
    noise = [ndimage.gaussian_filter(rng.standard_normal(shape), 1.5) for _ in range(3)]
    field = np.stack(noise) / np.std(noise) * length
    field[[n == 1 for n in shape]] = 0
    return field.astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_warp_gradient_equals_its_reference(rng, shape):
    moving = rng.random((7, 9, 8)).astype(np.float32)
    field, slope = smooth(rng, shape, 2.0), rng.standard_normal(shape).astype(np.float32)
    slope[0] = 0
    found = warp.warp_gradient(moving, AFFINE, field, slope, out=np.empty((3, *shape), np.float32))
    expected = slow_warp.warp_gradient(moving, AFFINE, field, slope)
    away = np.isclose(expected, found, atol=1e-4).all(axis=0)
    assert away.mean() > 0.99  # a place on a cell's face belongs to either cell
    assert np.abs(expected).max() > 0.1


def test_rounding_does_not_choose_the_side_of_a_voxel(rng):
    shape = (5, 6, 4)
    moving, slope = rng.random(shape).astype(np.float32), np.ones(shape, np.float32)
    still, results = np.zeros((3, *shape), np.float32), []
    for nudge in (0.0, 1e-9, -1e-9):
        affine = np.eye(4)[:3]
        affine[:, 3] += nudge
        results.append(warp.warp_gradient(moving, affine, still, slope, out=np.empty_like(still)))
        np.testing.assert_allclose(
            results[-1], slow_warp.warp_gradient(moving, affine, still, slope), atol=1e-5
        )
    np.testing.assert_allclose(results[1], results[0], atol=1e-6)
    np.testing.assert_allclose(results[2], results[0], atol=1e-6)


def test_warp_gradient_reference_is_the_derivative_of_warp(rng):
    shape = (5, 6, 4)
    moving, field, slope = rng.random((6, 7, 5)), 0.4 * rng.standard_normal((3, *shape)), rng.random(shape)
    gradient = slow_warp.warp_gradient(moving, AFFINE, field, slope)
    for index in [(0, 2, 3, 1), (1, 4, 0, 2), (2, 1, 5, 3)]:
        step = np.zeros_like(field)
        step[index] = 1e-6
        ends = [
            (slope * slow_warp.warp(moving, AFFINE, field + s * step, shape=shape)).sum() for s in (1, -1)
        ]
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(gradient[index], abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_adjoint_of_the_exponential_equals_its_reference(rng, shape):
    velocity, slope = smooth(rng, shape, 1.5), smooth(rng, shape, 1.0)
    slow = slow_fields.exponential_adjoint(slow_fields.squarings(velocity, 3), slope)
    kept = slope.copy()
    with threads(1):
        one = fields.exponential_adjoint(fields.squarings(velocity, 3), slope)
    with threads(2):
        two = fields.exponential_adjoint(fields.squarings(velocity, 3), slope)
    np.testing.assert_allclose(one, slow, atol=2e-4)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(slope, kept)
    np.testing.assert_allclose(fields.squarings(velocity, 3)[-1], fields.exponential(velocity, 3), atol=1e-6)


def test_the_adjoint_of_the_exponential_is_its_derivative(rng):
    shape = (6, 5, 7)
    velocity = smooth(rng, shape, 1.0).astype(np.float64)
    slope = rng.standard_normal((3, *shape))
    gradient = slow_fields.exponential_adjoint(slow_fields.squarings(velocity, 4), slope)
    for index in [(0, 2, 3, 1), (1, 4, 0, 5), (2, 1, 2, 3)]:
        step = np.zeros_like(velocity)
        step[index] = 1e-6
        ends = [(slope * slow_fields.exponential(velocity + s * step, 4)).sum() for s in (1, -1)]
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(gradient[index], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spacing", [3.0, 4.5])
def test_splines_equal_their_reference(rng, shape, spacing):
    axes = [bspline.spline_axis(n, spacing) for n in shape]
    slow_axes = [slow_bspline.spline_axis(n, spacing) for n in shape]
    control = rng.standard_normal((3, *(axis.controls for axis in axes)))
    dense = rng.standard_normal((3, *shape))
    expected = slow_bspline.spline_expand(control, slow_axes)
    np.testing.assert_allclose(bspline.spline_expand(control, axes), expected, atol=1e-5)
    summed = slow_bspline.spline_reduce(dense, slow_axes)
    np.testing.assert_allclose(bspline.spline_reduce(dense, axes), summed, atol=1e-4)
    # the adjoint: <expand(c), d> = <c, reduce(d)>
    assert (expected * dense).sum() == pytest.approx((control * summed).sum(), abs=1e-8)


def test_equal_control_points_make_a_translation_and_linear_ones_a_linear_map():
    axes = [bspline.spline_axis(n, 3.5) for n in (11, 14, 9)]
    control = np.ones((3, *(axis.controls for axis in axes)))
    np.testing.assert_allclose(bspline.spline_expand(control, axes), 1, atol=1e-6)
    control *= (3.5 * (np.arange(axes[1].controls) - 1))[:, None]
    expected = np.broadcast_to(np.arange(14.0)[:, None], (3, 11, 14, 9))
    np.testing.assert_allclose(bspline.spline_expand(control, axes), expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_demons_force_equals_its_reference(rng, shape, shares, weighted):
    fixed, warped = (rng.random(shape).astype(np.float32) for _ in range(2))
    weight = (rng.random(shape) > 0.3).astype(np.float32) if weighted else None
    found, expected = np.zeros((3, *shape), np.float32), np.zeros((3, *shape))
    arguments = (fixed, warped, weight, (1.0, 0.4, 0.8), shares, 1.5, 0.05)
    value = demons.demons_force(*arguments, out=found)
    assert value == pytest.approx(slow_demons.demons_force(*arguments, out=expected), rel=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    lengths = np.sqrt((found**2 / np.array((1.0, 0.4, 0.8))[:, None, None, None]).sum(axis=0))
    assert lengths.max() <= 1.5 / 2 + 1e-4  # no step is longer than half of K


def test_a_demons_step_undoes_a_small_shift_of_a_ramp():
    # F = x, W = x - d: the step is d / (1 + d²/K²) along x
    x = np.broadcast_to(np.arange(12.0, dtype=np.float32)[:, None, None], (12, 6, 5))
    out = np.zeros((3, 12, 6, 5), np.float32)
    demons.demons_force(x.copy(), x - np.float32(0.2), None, np.ones(3), (0.5, 0.5), 1.0, 0.0, out=out)
    np.testing.assert_allclose(out[0], 0.2 / (1 + 0.04), atol=1e-5)
    np.testing.assert_allclose(out[1:], 0, atol=1e-6)
