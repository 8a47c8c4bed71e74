"""Label and fold kernels against their references."""

from __future__ import annotations

import numpy as np
import pytest

from regista.core import threads
from regista.kernels.cpu import folds, labels
from regista.kernels.cpu.fields import jacobian_determinant
from regista.kernels.reference import folds as folds_reference
from regista.kernels.reference import labels as labels_reference

SHAPES = [(11, 14, 9), (1, 7, 5), (6, 1, 8), (9, 13, 1), (2, 2, 2), (1, 1, 1), (1, 6, 1), (2, 3, 40)]


@pytest.fixture(params=SHAPES, ids=str)
def codes(request, rng):
    return rng.integers(0, 4, request.param).astype(np.int32)


def test_overlaps_match_the_reference(codes, rng):
    other = np.where(rng.random(codes.shape) < 0.5, codes, rng.integers(0, 4, codes.shape))
    np.testing.assert_array_equal(
        labels.overlap_counts(codes, other, 6), labels_reference.overlap_counts(codes, other, 6)
    )


def test_many_labels_take_the_frugal_way(rng):
    codes = rng.integers(0, 3, (4, 5, 6)).astype(np.int32)
    codes[0, 0, 0] = (1 << 22) + 5
    counts = labels.overlap_counts(codes, codes, (1 << 22) + 6)
    assert counts[:, -1].tolist() == [1, 1, 1]
    assert counts.sum() == 3 * codes.size


@pytest.mark.parametrize("name", ["border_voxels", "surface_cells"])
def test_surfaces_match_the_reference(codes, name):
    ours, reference = (getattr(module, name)(codes, 5) for module in (labels, labels_reference))
    for one, other in zip(ours, reference, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["border_voxels", "surface_cells"])
def test_surfaces_do_not_depend_on_threads_or_layout(rng, name):
    codes = rng.integers(0, 3, (13, 8, 10)).astype(np.uint16)
    with threads(1):
        one = getattr(labels, name)(codes, 3)
    with threads(3):
        other = getattr(labels, name)(np.asfortranarray(codes)[::1], 3)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(7, 9, 6), (8, 6, 1), (3, 3, 3), (2, 5, 4)])
def test_folds_match_the_reference(shape, rng):
    u = rng.normal(scale=0.8, size=(3, *shape)).astype(np.float32)
    weight = rng.random(shape) < 0.7
    weight[:2, :2] = True
    ours = folds.non_diffeomorphic_volume(u, weight)
    assert ours == pytest.approx(folds_reference.non_diffeomorphic_volume(u, weight), rel=1e-5)
    assert ours > 0


@pytest.mark.parametrize("shape", [(7, 9, 6), (8, 6, 1), (9, 1, 7), (3, 2, 140), (1, 1, 1), (2, 5, 4)])
def test_smallest_corners_match_the_reference(shape, rng):
    u = rng.normal(scale=0.5, size=(3, *shape)).astype(np.float32)
    u[[n == 1 for n in shape]] = 0  # a plane stays in its plane
    found = folds.smallest_corners(u)
    np.testing.assert_allclose(found, folds_reference.smallest_corners(u), atol=2e-5)
    with threads(3):
        np.testing.assert_array_equal(folds.smallest_corners(np.asfortranarray(u)), found)
    stretched = 0.5 * np.indices(shape).astype(np.float32)
    stretched[[n == 1 for n in shape]] = 0
    np.testing.assert_allclose(folds.smallest_corners(stretched), 1.5 ** sum(n > 1 for n in shape), rtol=1e-5)


def test_corners_see_the_fold_that_central_differences_miss():
    u = np.zeros((3, 7, 5, 4), np.float32)
    u[0, 3] = 1.5  # one plane jumps over the next: its neighbours on both sides stay where they are
    assert jacobian_determinant(u).min() > 0
    assert folds.smallest_corners(u).min() < 0
