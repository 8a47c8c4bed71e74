"""Kernels of guides against their references, and the references' gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from regista.core import threads
from regista.kernels.cpu import overlap as fast
from regista.kernels.cpu import points as points_fast
from regista.kernels.cpu import update as update_fast
from regista.kernels.reference import overlap as slow
from regista.kernels.reference import points as points_slow
from regista.kernels.reference import update as update_slow

SHAPES = [(11, 14, 9), (13, 1, 10), (1, 9, 12), (3, 2, 4), (1, 1, 1)]
TILT = np.array([[0.93, 0.11, -0.06], [-0.09, 1.07, 0.08], [0.05, -0.07, 0.9]])


def labelled(rng, shape, count=4):
    """Return codes 0 … count − 1 in patches of several voxels."""
    noise = ndimage.gaussian_filter(rng.normal(size=(count, *shape)), (0, 1.5, 1.5, 1.5))
    return noise.argmax(axis=0).astype(np.int32)


def case(rng, shape):
    """Return codes of both images, the map between them, a field that leads out of the image here and there."""
    other = tuple(n + 2 if n > 1 else 1 for n in shape)
    affine = np.hstack([TILT, rng.uniform(0.2, 1.4, (3, 1))])
    for axis in range(3):
        if other[axis] == 1:
            affine[axis] = 0
    field = (2.5 * ndimage.gaussian_filter(rng.normal(size=(3, *shape)), (0, 1, 1, 1))).astype(np.float32)
    return labelled(rng, shape), labelled(rng, other), affine, field


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_soft_dice_equals_the_reference(rng, shape):
    fixed, moving, affine, field = case(rng, shape)
    sizes = np.bincount(fixed.ravel(), minlength=4)
    out, expected = np.full((3, *shape), 0.25, np.float32), np.full((3, *shape), 0.25)
    dice = fast.soft_dice(fixed, moving, affine, field, sizes, factor=7.0, out=out)
    wanted = slow.soft_dice(fixed, moving, affine, field, sizes, factor=7.0, out=expected)
    np.testing.assert_allclose(dice, wanted, atol=1e-9)
    np.testing.assert_allclose(out, expected, atol=2e-6 + 1e-5 * np.abs(expected - 0.25).max())
    if max(shape) > 4:
        assert np.abs(expected - 0.25).max() > 0.01
    alone = fast.soft_dice(fixed, moving, affine, field, sizes)
    np.testing.assert_array_equal(alone, dice)


def test_soft_dice_takes_strided_codes_and_any_number_of_threads(rng):
    fixed, moving, affine, field = case(rng, (11, 14, 9))
    sizes = np.bincount(fixed.ravel(), minlength=4)
    found = []
    for count in (1, 2, 5):
        with threads(count):
            out = np.zeros(field.shape, np.float32)
            strided = np.asfortranarray(fixed), np.repeat(moving, 2, axis=2)[:, :, ::2]
            found.append((fast.soft_dice(*strided, affine, field, sizes, factor=1.0, out=out), out))
    for dice, out in found[1:]:
        np.testing.assert_array_equal(dice, found[0][0])
        np.testing.assert_array_equal(out, found[0][1])


@pytest.mark.parametrize("shape", [(11, 14, 9), (13, 1, 10)], ids=str)
def test_the_gradient_of_soft_dice_is_exact(rng, shape):
    fixed, moving, affine, field = case(rng, shape)
    sizes, field = np.bincount(fixed.ravel(), minlength=4), field.astype(np.float64)
    gradient = np.zeros(field.shape)
    slow.soft_dice(fixed, moving, affine, field, sizes, factor=1.0, out=gradient)
    for _ in range(3):
        direction, step = rng.normal(size=field.shape), 1e-7
        ends = [
            slow.soft_dice(fixed, moving, affine, field + s * direction, sizes).sum() for s in (step, -step)
        ]
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx((gradient * direction).sum(), rel=2e-4, abs=1e-6)


def test_soft_dice_of_equal_labels_is_one_and_counts_what_left_the_image():
    codes = np.zeros((6, 7, 5), np.int32)
    codes[:3, 2:5, 1:4] = 1
    still, sizes = np.zeros((3, 6, 7, 5), np.float32), np.bincount(codes.ravel())
    assert fast.soft_dice(codes, codes, np.eye(4)[:3], still, sizes) == pytest.approx([1.0])
    # one voxel to the side: a third of it has left, the rest meets
    shift = np.eye(4)[:3].copy()
    shift[0, 3] = 1
    assert fast.soft_dice(codes, codes, shift, still, sizes) == pytest.approx([2 * 18 / (27 + 18)])
    shift[0, 3] = 0.5
    assert fast.soft_dice(codes, codes, shift, still, sizes) == pytest.approx([2 * 22.5 / (27 + 18 + 9 / 4)])


def test_leaving_the_lattice_costs_soft_dice_nothing_by_itself():
    codes = np.zeros((12, 9, 9), np.int32)
    codes[3:9, 2:7, 2:7] = 1
    still, sizes = np.zeros((3, 12, 9, 9), np.float32), np.bincount(codes.ravel())
    for part in (0.01, 0.1):
        shift = np.eye(4)[:3].copy()
        shift[0, 3] = part
        lost = 1 - float(fast.soft_dice(codes, codes, shift, still, sizes)[0])
        # two faces of 25 voxels, each a part of a voxel off: second order; 1 − 2 Σab / (Σa + Σb) would be first order
        assert 0 < lost < 1.03 * part**2 / 6


@pytest.mark.parametrize(
    ("shape", "samples"), [((5, 6, 4), (2, 2, 2)), ((4, 1, 6), (3, 1, 2)), ((11, 14, 9), (1, 1, 1))]
)
def test_majority_equals_the_reference(rng, shape, samples):
    codes = labelled(rng, (10, 1 if shape[1] == 1 else 12, 9))
    affine = np.hstack([TILT * np.array(samples), rng.uniform(-0.9, 0.4, (3, 1))])
    if shape[1] == 1:
        affine[1] = 0
    found = fast.majority(codes, affine, shape, samples, 4)
    np.testing.assert_array_equal(found, slow.majority(codes, affine, shape, samples, 4))
    assert len(np.unique(found)) > 2


def test_fields_are_read_at_points_and_vectors_spread_by_the_adjoint(rng):
    for shape in SHAPES:
        field = rng.normal(size=(3, *shape)).astype(np.float32)
        places = rng.uniform(-1.5, 1.5, (60, 3)) + rng.uniform(0, 1, (60, 3)) * (np.array(shape) - 1)
        vectors = rng.normal(size=(60, 3))
        read = points_fast.field_at(field, places)
        np.testing.assert_allclose(read, points_slow.field_at(field, places), atol=1e-6)
        out, expected = np.ones(field.shape, np.float32), np.ones(field.shape)
        points_fast.spread(places, vectors, out=out)
        np.testing.assert_allclose(out, points_slow.spread(places, vectors, out=expected), atol=2e-5)
        assert ((expected - 1) * field).sum() == pytest.approx((vectors * read).sum(), rel=1e-4, abs=1e-4)


def test_volumes_and_slopes_at_points(rng):
    for shape in SHAPES:
        volume = rng.normal(size=shape).astype(np.float32)
        places = rng.uniform(-1.5, 1.5, (80, 3)) + rng.uniform(0, 1, (80, 3)) * (np.array(shape) - 1)
        value, slope = points_fast.value_and_slope(volume, places)
        expected = points_slow.value_and_slope(volume, places)
        np.testing.assert_allclose(value, expected[0], atol=1e-6)
        np.testing.assert_allclose(slope, expected[1], atol=1e-6)
        for axis in range(3):
            step = 1e-6 * np.eye(3)[axis]
            ends = [points_slow.value_and_slope(volume, places + s * step)[0] for s in (1, -1)]
            np.testing.assert_allclose((ends[0] - ends[1]) / 2e-6, expected[1][:, axis], atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_gradient_is_taken_from_a_force_through_the_field_s_derivatives(rng, shape):
    gradient, field, force = rng.normal(size=(3, 3, *shape)).astype(np.float32)
    gradient[:, rng.random(shape) < 0.3] = 0
    scale = np.array([1.0, 0.5, 0.0], np.float32)
    expected = update_slow.resist(gradient, field, scale, out=force.astype(np.float64))
    np.testing.assert_allclose(update_fast.resist(gradient, field, scale, out=force), expected, atol=1e-5)
