"""Several passes: how far answers are followed, by networks whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import regista.learning._passes as passes_module
from regista.learning._passes import follow, way

SPACING = (2.0, 1.5, 2.5)


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


def turning(shape, degrees):
    """Return the displacement of a turn about the middle in the plane of the first two axes."""
    index = np.indices(shape) - np.reshape([(n - 1) / 2 for n in shape], (3, 1, 1, 1))
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turned = [(c - 1) * index[0] - s * index[1], s * index[0] + (c - 1) * index[1], 0 * index[2]]
    return np.stack(turned).astype(np.float32)


def follow_in_passes(estimate, displacement, fixed, *more, **settings):
    return follow(way(estimate, displacement, fixed, *more, **settings), fixed.shape)


def run(estimate, fixed, moving, passes):
    return follow_in_passes(estimate, lambda field: field, fixed, moving, SPACING[: fixed.ndim], passes)


@pytest.fixture
def all_is_followed(monkeypatch):
    """Follow every answer to its end."""
    for name in ("GAIN_PER_MM", "GAIN_IN_ALL"):
        monkeypatch.setattr(passes_module, name, -np.inf)


@pytest.mark.parametrize("shape", [(40, 36, 32), (64, 60)])
def test_each_pass_goes_on_from_the_one_before(shape, rng, all_is_followed):
    fixed, by = textured(shape, rng), np.array([3.0, -2.0, 1.0][: len(shape)])
    moving = shifted(fixed, by)
    left = []
    for passes in (1, 2, 3):
        found = run(shifting(0.6), fixed, moving, passes)
        assert found.passes == passes
        assert found.displacement.shape == (len(shape), *shape)
        middle = tuple(n // 2 for n in shape)
        left.append(np.linalg.norm(found.displacement[(slice(None), *middle)] - by) / np.linalg.norm(by))
    np.testing.assert_allclose(left, [0.4, 0.16, 0.064], atol=0.02)


def test_a_later_pass_moves_places_first(rng, all_is_followed):
    """A shift, then a turn, which do not commute: the turned place is shifted, the same everywhere."""
    shape = (19, 16, 21)
    fixed, moving = rng.random((2, *shape), np.float32)
    shift, turn = np.zeros((3, *shape), np.float32), turning(shape, 20)
    shift[0] = 2
    answers = iter([shift, -shift, turn, -turn])
    found = run(lambda a, b: next(answers), fixed, moving, 2)
    np.testing.assert_allclose(found.displacement, turn + shift, atol=1e-5)


def test_an_answer_that_goes_too_far_is_followed_half_the_way(rng):
    fixed = textured((40, 36, 32), rng)
    by = np.array([2.0, 1.5, -1.0])
    found = run(shifting(2.0), fixed, shifted(fixed, by), 3)
    assert found.passes == 0.5
    assert all(found.after[name] > found.before[name] + 0.1 for name in ("nmi", "lncc", "edges"))
    np.testing.assert_allclose(found.displacement[:, 20, 18, 16], by, atol=0.1)


def test_an_answer_that_goes_astray_is_not_followed(rng):
    fixed = textured((40, 36, 32), rng)
    found = run(shifting(-1.0), fixed, shifted(fixed, (2.0, 1.5, -1.0)), 3)
    assert (found.displacement, found.passes) == (None, 0)
    assert found.before == found.after


def test_images_that_lie_well_stay_whatever_the_network_says_of_them(rng):
    fixed = textured((40, 36, 32), rng)
    noise = np.stack([ndimage.gaussian_filter(rng.standard_normal(fixed.shape), 3) for _ in range(3)])
    noise = (0.5 * noise / noise.std()).astype(np.float32)
    assert run(lambda a, b: noise if a is fixed else -noise, fixed, fixed + 0, 3).displacement is None


def test_a_small_move_of_images_nearly_alike_is_followed(rng):
    """Near 1 a measure cannot gain much of itself."""
    fixed = ndimage.gaussian_filter(textured((40, 36, 32), rng), 1)
    found = run(shifting(1.0), fixed, shifted(fixed, (0.3, 0.2, -0.2)), 3)
    np.testing.assert_allclose(found.displacement[:, 20, 18, 16], (0.3, 0.2, -0.2), atol=0.12)


def test_what_is_said_both_ways_round_alike_cancels(rng):
    """A bias of the network alone, of 1.5 voxels, moves nothing; with it, the shift is found all the same."""
    fixed = textured((40, 36, 32), rng)
    bias = np.full((3, *fixed.shape), 1.5, np.float32)
    assert run(lambda a, b: bias, fixed, fixed + 0, 3).displacement is None
    estimate = shifting(0.9)
    found = run(lambda a, b: bias + estimate(a, b), fixed, shifted(fixed, (2, 1, -1)), 3)
    np.testing.assert_allclose(found.displacement[:, 20, 18, 16], (2, 1, -1), atol=0.25)


def test_contrast_does_not_matter(rng):
    """The negative of an image is followed as the image is."""
    fixed = textured((40, 36, 32), rng)
    moved = shifted(fixed, (2, 1, -1))
    by = shifting(1.0)

    def estimate(a, b):
        return by(*((one > 0.05).astype(np.float32) for one in (a, b)))

    inside = ndimage.gaussian_filter((moved > 0.25).astype(np.float32), 0.7)
    negative = (inside * (1.1 - moved)).astype(np.float32)
    found = run(estimate, fixed, negative, 3)
    np.testing.assert_allclose(found.displacement[:, 20, 18, 16], (2, 1, -1), atol=0.3)


@pytest.mark.parametrize(
    ("spacing", "follows"), [((2.0, 2.0, 2.0), True), ((60.0, 2.0, 2.0), False), ((2.0, 2.0, 60.0), True)]
)
def test_the_gain_is_asked_for_each_mm(rng, spacing, follows):
    """A shift along the first axis is far where voxels are long along it."""
    fixed = textured((40, 36, 32), rng)
    moving = shifted(fixed, (2.0, 0.0, 0.0))
    found = follow_in_passes(shifting(1.0), lambda field: field, fixed, moving, spacing, 2)
    assert (found.displacement is not None) == follows


@pytest.mark.parametrize(
    ("gains", "kept"),
    [
        ([(0.12, 0.12, 0.12), (0.1, 0.1, 0.1)], 0.64),
        ([(0.12, 0.12, 0.12), (0.5, 0.5, 0.04)], 0.16),  # one measure gains less than .09 × .48 mm
        ([(0.5, 0.5, 0.01)], None),  # less than .09 × .16 mm
        ([(0.06, 0.1, 0.1), (0.06, 0.1, 0.1)], 0.64),
        ([(0.03, 0.1, 0.1), (0.0, 0.1, 0.1)], None),  # worth its way, too little in all
        ([(np.nan, 0.1, 0.1)], None),
    ],
)
def test_each_measure_must_gain_by_each_mm_and_in_all(monkeypatch, gains, kept):
    """Voxels of 1 mm; the displacement is the square of the answer, so halves of it are quarters: .16 and .64 mm."""
    odds = 0.2 + np.cumsum([(0, 0, 0), *gains], 0)
    rows = iter((1.005 * np.exp(odds) - 0.005) / (1 + np.exp(odds)))
    monkeypatch.setattr(
        passes_module.Likeness, "measured", lambda *_: dict(zip("abc", next(rows), strict=True))
    )
    flat = np.full((6, 7, 8), 0.5, np.float32)
    answer = np.zeros((3, 6, 7, 8), np.float32)
    answer[1] = 0.8
    found = follow_in_passes(
        lambda a, b: answer if a is flat else -answer, np.square, flat, flat + 0, (1.0, 1.0, 1.0), 1
    )
    assert (found.displacement is None) == (kept is None)
    if kept is not None:
        np.testing.assert_allclose(found.displacement[1], kept, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_images_of_one_value_move_nothing(value):
    flat = np.full((16, 16, 16), value, np.float32)
    push = np.full((3, 16, 16, 16), 0.5, np.float32)
    assert run(lambda a, b: push if a is flat else -push, flat, flat + 0, 2).displacement is None


@pytest.mark.parametrize("coarser", [1, 2])
@pytest.mark.parametrize("shape", [(24, 20, 16), (30, 26)])
def test_the_linear_part_of_an_answer_is_left_out_over_what_is_shown(shape, coarser, rng):
    lattice = tuple(n // coarser for n in shape)
    sides = (1,) * (3 - len(shape)) + shape
    shown = np.zeros(sides, bool)
    shown[..., 4:-6, 2:-4] = True
    nodes = np.stack(np.meshgrid(*(np.arange(n) for n in lattice), indexing="ij"))
    matrix, shift = rng.standard_normal((len(shape), len(shape))), rng.standard_normal(len(shape))
    linear = np.tensordot(matrix, nodes, 1) + shift.reshape(-1, *[1] * len(shape))
    assert np.abs(passes_module._without_linear_part(linear.astype(np.float32), shown)).max() < 1e-4
    bend = np.stack([ndimage.gaussian_filter(rng.standard_normal(lattice), 2) for _ in shape])
    left = passes_module._without_linear_part((linear + bend).astype(np.float32), shown)
    again = passes_module._without_linear_part(bend.astype(np.float32), shown)
    np.testing.assert_allclose(left, again, atol=1e-4)
    at = (slice(None), *(np.s_[::coarser] for _ in shape))
    seen = shown.reshape(shape)[at[1:]][tuple(slice(n) for n in lattice)]
    assert np.abs(left[:, seen].mean(axis=1)).max() < 1e-4
    nothing = passes_module._without_linear_part(bend.astype(np.float32), np.zeros(sides, bool))
    np.testing.assert_allclose(nothing, bend, atol=1e-6)


def test_only_the_first_pass_is_without_its_linear_part(rng, all_is_followed):
    shape = (20, 18, 22)
    fixed, moving = rng.random((2, *shape), np.float32) * 0.5 + 0.3
    shift, bend = np.zeros((2, 3, *shape), np.float32)
    shift[0] = 2.0
    index = np.indices(shape)[0] - (shape[0] - 1) / 2
    bend[1] = 0.01 * index**2

    def run_bending(passes):
        answers = iter([shift + bend, -shift - bend, shift, -shift])
        return follow_in_passes(
            lambda a, b: next(answers), lambda v: v, fixed, moving, (1.0, 1.0, 1.0), passes, bend_first=True
        ).displacement

    one, two = run_bending(1), run_bending(2)
    np.testing.assert_allclose(one[1], bend[1] - bend[1].mean(), atol=1e-4)
    assert np.abs(one[0]).max() < 1e-4
    np.testing.assert_allclose(two[0][:-4], 2.0, atol=1e-3)
