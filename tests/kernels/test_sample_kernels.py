"""Kernels at few voxels against their reference, and against the dense kernels."""

from __future__ import annotations

import numpy as np
import pytest

from regista.core import threads
from regista.kernels.cpu import bspline, warp
from regista.kernels.cpu import samples as fast
from regista.kernels.reference import bspline as slow_bspline
from regista.kernels.reference import samples as slow

SHAPES = pytest.mark.parametrize("shape", [(11, 14, 9), (7, 1, 12), (1, 2, 3)])


@SHAPES
def test_splines_at_voxels_and_their_adjoint(rng, shape):
    axes, slow_axes = ([of(n, 2.5) for n in shape] for of in (bspline.spline_axis, slow_bspline.spline_axis))
    voxels = rng.integers(np.prod(shape), size=700)  # some named more than once
    control = rng.normal(size=(3, *(axis.controls for axis in axes)))
    values = rng.normal(size=(3, len(voxels))).astype(np.float32)
    with threads(2):
        found, spread = fast.spline_at(control, axes, voxels), fast.spline_spread(values, axes, voxels)
    np.testing.assert_allclose(found, slow.spline_at(control, slow_axes, voxels), atol=2e-6)
    np.testing.assert_allclose(spread, slow.spline_spread(values, slow_axes, voxels), atol=1e-5)
    dense = bspline.spline_expand(control, axes).reshape(3, -1)
    np.testing.assert_allclose(found, dense[:, voxels], atol=2e-6)
    assert np.vdot(found, values) == pytest.approx(np.vdot(control, spread), rel=1e-4)
    with threads(1):
        np.testing.assert_array_equal(found, fast.spline_at(control, axes, voxels))
        np.testing.assert_array_equal(spread, fast.spline_spread(values, axes, voxels))


@SHAPES
@pytest.mark.parametrize("moving_shape", [(10, 13, 12), (9, 1, 8)])
def test_warped_values_and_slopes_at_voxels(rng, shape, moving_shape):
    moving = rng.random(moving_shape, np.float32)
    affine = np.hstack([np.eye(3) + rng.normal(0, 0.1, (3, 3)), rng.normal(0, 1, (3, 1))])
    voxels = rng.integers(np.prod(shape), size=700)
    disp = rng.normal(0, 2, (3, len(voxels))).astype(np.float32)
    with threads(2):
        found = fast.warp_at(moving, affine, disp, voxels, shape)
    for got, expected in zip(found, slow.warp_at(moving, affine, disp, voxels, shape), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)
    assert {0.0, 1.0} == set(np.unique(found[2]))
    with threads(1):
        for got, again in zip(found, fast.warp_at(moving, affine, disp, voxels, shape), strict=True):
            np.testing.assert_array_equal(got, again)


def test_all_voxels_are_what_the_dense_kernels_give(rng):
    shape = (6, 7, 5)
    moving, affine = rng.random((8, 6, 7), np.float32), np.eye(4)[:3]
    field = rng.normal(0, 1, (3, *shape)).astype(np.float32)
    values, slopes, inside = fast.warp_at(
        moving, affine, field.reshape(3, -1), np.arange(np.prod(shape)), shape
    )
    within, by_disp = np.empty(shape, np.float32), np.empty_like(field)
    warped = warp.warp(moving, affine, field, shape=shape, inside=within)
    warp.warp_gradient(moving, affine, field, np.ones(shape, np.float32), out=by_disp)
    np.testing.assert_allclose(values.reshape(shape), warped, atol=2e-6)
    np.testing.assert_array_equal(inside.reshape(shape), within)
    np.testing.assert_allclose(slopes.reshape(field.shape), by_disp, atol=2e-6)
