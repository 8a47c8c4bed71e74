"""Several passes: how far answers are followed, by networks whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from regista.learning._passes import answer_in_passes

SPACING = (2.0, 2.0, 2.0)


def textured(shape, rng):
    """Return a textured ball on black, so large that its borders are not all there is."""
    index = np.indices(shape) - np.reshape([(n - 1) / 2 for n in shape], (-1, *[1] * len(shape)))
    inside = (index**2).sum(0) < (0.38 * min(shape)) ** 2
    texture = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    image = np.where(inside, 0.5 + 0.25 * texture / texture.std(), 0)
    return ndimage.gaussian_filter(image, 0.7).clip(0, 1).astype(np.float32)


def center(image):
    return np.array(ndimage.center_of_mass(image), np.float32)


def shifting(share):
    """Return a network that says a share of the shift that is left."""

    def estimate(fixed, moving):
        away = np.float32(share) * (center(moving) - center(fixed))
        field = np.zeros((fixed.ndim, *fixed.shape), np.float32)
        return field + away.reshape(-1, *[1] * fixed.ndim)

    return estimate


def shifted(image, by):
    return ndimage.shift(image, by, order=1).astype(np.float32)


def run(estimate, fixed, moving, passes):
    return answer_in_passes(estimate, lambda field: field, fixed, moving, SPACING[: fixed.ndim], passes)


@pytest.mark.parametrize("shape", [(40, 36, 32), (64, 60)])
def test_each_pass_goes_on_from_the_one_before(shape, rng):
    fixed, by = textured(shape, rng), np.array([3.0, -2.0, 1.0][: len(shape)])
    moving = shifted(fixed, by)
    left = []
    for passes in (1, 2, 3):
        found = run(shifting(0.6), fixed, moving, passes)
        assert found.shape == (len(shape), *shape)
        middle = tuple(n // 2 for n in shape)
        left.append(np.linalg.norm(found[(slice(None), *middle)] - by) / np.linalg.norm(by))
    np.testing.assert_allclose(left, [0.4, 0.16, 0.064], atol=0.02)


def test_an_answer_that_goes_too_far_is_followed_half_the_way(rng):
    fixed = textured((40, 36, 32), rng)
    by = np.array([2.0, 1.5, -1.0])
    found = run(shifting(2.0), fixed, shifted(fixed, by), 3)
    np.testing.assert_allclose(found[:, 20, 18, 16], by, atol=0.1)


def test_an_answer_that_goes_astray_is_not_followed(rng):
    fixed = textured((40, 36, 32), rng)
    assert run(shifting(-1.0), fixed, shifted(fixed, (2.0, 1.5, -1.0)), 3) is None


def test_images_that_lie_well_stay_whatever_the_network_says_of_them(rng):
    fixed = textured((40, 36, 32), rng)
    noise = np.stack([ndimage.gaussian_filter(rng.standard_normal(fixed.shape), 3) for _ in range(3)])
    noise = (0.5 * noise / noise.std()).astype(np.float32)
    assert run(lambda a, b: noise if a is fixed else -noise, fixed, fixed + 0, 3) is None


def test_what_is_said_both_ways_round_alike_cancels(rng):
    """A bias of the network alone, of 1.5 voxels, moves nothing; with it, the shift is found all the same."""
    fixed = textured((40, 36, 32), rng)
    bias = np.full((3, *fixed.shape), 1.5, np.float32)
    assert run(lambda a, b: bias, fixed, fixed + 0, 3) is None
    estimate = shifting(0.9)
    found = run(lambda a, b: bias + estimate(a, b), fixed, shifted(fixed, (2, 1, -1)), 3)
    np.testing.assert_allclose(found[:, 20, 18, 16], (2, 1, -1), atol=0.25)


def test_contrast_does_not_matter(rng):
    """The negative of an image is followed as the image is."""
    fixed = textured((40, 36, 32), rng)
    moved = shifted(fixed, (2, 1, -1))
    by = shifting(1.0)

    def estimate(a, b):
        return by(*(np.where(one > 0, 1, 0).astype(np.float32) for one in (a, b)))

    negative = np.where(moved > 0.05, 1.05 - moved, 0).astype(np.float32)
    found = run(estimate, fixed, negative, 3)
    np.testing.assert_allclose(found[:, 20, 18, 16], (2, 1, -1), atol=0.3)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_images_of_one_value_move_nothing(value):
    flat = np.full((16, 16, 16), value, np.float32)
    push = np.full((3, 16, 16, 16), 0.5, np.float32)
    assert run(lambda a, b: push if a is flat else -push, flat, flat + 0, 2) is None
