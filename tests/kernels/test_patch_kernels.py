"""Patches read through maps, against their reference."""

from __future__ import annotations

import numpy as np
import pytest

from regista.core import threads
from regista.kernels.cpu import patches as fast
from regista.kernels.reference import patches as slow


@pytest.mark.parametrize(
    ("shape", "side"), [((11, 14, 9), (5, 3, 7)), ((12, 1, 15), (5, 1, 7)), ((1, 2, 3), (3, 3, 3))]
)
@pytest.mark.parametrize("count", [0, 2])
def test_patches_are_those_of_the_reference(rng, shape, side, count):
    image = rng.random(shape, np.float32)
    linear = np.eye(3) + rng.normal(0, 0.2, (9, 3, 3))
    centers = rng.uniform(-2, np.array(shape) + 1, (9, 3))  # some beyond the border
    matrices = np.concatenate([linear, centers[:, :, None]], axis=2)
    waves = rng.normal(0, 0.7, (9, count, 7))
    with threads(2):
        found = fast.sample_patches(image, matrices, waves, side)
    assert found.shape == (9, *side)
    np.testing.assert_allclose(found, slow.sample_patches(image, matrices, waves, side), atol=2e-6)
    with threads(1):
        np.testing.assert_array_equal(found, fast.sample_patches(image, matrices, waves, side))


def test_an_unmoved_patch_is_a_piece_of_the_image(rng):
    image = rng.random((9, 8, 10), np.float32)
    still = np.concatenate([np.eye(3), [[4], [3], [5]]], axis=1)[None]
    found = fast.sample_patches(image, still, np.zeros((1, 0, 7)), (3, 5, 3))
    np.testing.assert_array_equal(found[0], image[3:6, 1:6, 4:7])
