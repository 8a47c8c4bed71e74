"""Weights widened by a margin, against their reference."""

from __future__ import annotations

import numpy as np
import pytest

from regista.core import threads
from regista.kernels.cpu import widening as fast
from regista.kernels.reference import widening as slow


@pytest.mark.parametrize("shape", [(17, 19, 23), (12, 1, 15), (1, 1, 9), (40, 40, 40)], ids=str)
@pytest.mark.parametrize("margin", [0.0, 1.0, 2.7, 50.0])
def test_masks_are_those_of_the_reference(rng, shape, margin):
    mask = (rng.random(shape) < 0.02).astype(np.float32)
    spacing = (0.9, 1.3, 2.0)
    with threads(2):
        found = fast.widened(mask, spacing, margin)
    np.testing.assert_array_equal(found, slow.widened(mask, spacing, margin))
    with threads(1):
        np.testing.assert_array_equal(found, fast.widened(mask, spacing, margin))


def test_each_voxel_takes_the_weight_of_the_nearest(rng):
    weights = np.zeros((15, 16, 17), np.float32)
    at = rng.choice(weights.size, 20, replace=False)
    weights.ravel()[at] = rng.uniform(0.1, 1, 20)
    # sides without a common measure: no two voxels are equally near
    spacing = (1.0, np.sqrt(2.0), np.pi / 2)
    found, expected = fast.widened(weights, spacing, 6.0), slow.widened(weights, spacing, 6.0)
    assert np.array_equal(found > 0, expected > 0)
    assert np.mean(found != expected) < 0.03  # halfway between two of them by symmetry


def test_nothing_stays_nothing():
    assert not fast.widened(np.zeros((4, 5, 6), np.float32), (1, 1, 1), 3.0).any()
