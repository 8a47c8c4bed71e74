"""Slices are where they say, turned as they say."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from regista.core import Grid, Image, PointSet
from regista.reporting._mosaic import mosaic, sample_tiles
from regista.reporting._outlines import landmark_reach, landmarks_near
from regista.reporting._pictures import _check_side
from regista.reporting._slices import choose_slices

WAYS = {"L": (-1, 0, 0), "R": (1, 0, 0), "P": (0, -1, 0), "A": (0, 1, 0), "I": (0, 0, -1), "S": (0, 0, 1)}
ORDERS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((-1, 1), repeat=3)
]


@pytest.mark.parametrize(("order", "signs"), ORDERS[::5])
def test_letters_tell_where_pixels_lie_in_the_world(order, signs) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, list(order)] * np.array(signs) * np.array([1.0, 0.7, 2.3])
    grid = Grid((11, 14, 9), matrix)
    layout = choose_slices(Image(np.random.default_rng(0).normal(size=grid.shape).astype(np.float32), grid))
    assert [row[0].name for row in layout.rows] == ["axial", "coronal", "sagittal"]
    for tile in layout.tiles:
        left, right, top, bottom = tile.letters
        across, down = tile.grid.direction[:, 0], tile.grid.direction[:, 1]
        assert across @ WAYS[right] > 0.99
        assert across @ WAYS[left] < -0.99
        assert down @ WAYS[bottom] > 0.99
        assert down @ WAYS[top] < -0.99
    assert {tile.letters for tile in layout.tiles} == {"RLAP", "RLSI", "APSI"}


def test_a_picture_has_letters_only_where_its_file_states_an_orientation() -> None:
    image = Image(np.zeros((70, 90), np.float32), Grid((70, 90), np.diag([1.0, -1.0, 1.0])))
    assert choose_slices(image).tiles[0].letters == ""
    tile = choose_slices(replace(image, oriented=True)).tiles[0]
    assert tile.letters == "RLAP"
    corner, right, down = tile.grid.index2world(np.array([[0, 0], [1, 0], [0, 1]]))
    assert right[0] < corner[0]  # towards the person's left, and back
    assert down[1] < corner[1]


def test_values_are_those_of_the_image_there(pair) -> None:
    grid = pair.fixed.grid
    height = grid.coordinates_mm()  # an image that holds its own world positions
    layout = choose_slices(pair.fixed)
    for axis in range(3):
        shown = sample_tiles(Image(height[axis].astype(np.float32), grid), layout)
        for tile, plane in zip(layout.tiles, shown, strict=True):
            there = tile.plane(tile.grid.coordinates_mm()[axis])
            inner = (slice(3, -3), slice(3, -3))
            assert np.abs(plane - there)[inner].max() < 0.02
            assert plane.shape == tile.size[::-1]


def test_a_pixel_of_many_voxels_is_their_mean() -> None:
    grid = Grid((96, 80, 64), np.diag([0.25, 0.25, 0.25, 1.0]))
    place = grid.coordinates_mm()
    checks = (np.indices(grid.shape).sum(0) % 2).astype(np.float32)  # texture of the finest size
    layout = choose_slices(Image(checks, grid), pixels=40)
    assert layout.shown_fraction < 0.6
    for plane in sample_tiles(Image(checks, grid), layout):
        assert np.abs(plane[2:-2, 2:-2] - 0.5).max() < 0.26  # single voxels would be 0 or 1
    for tile, plane in zip(
        layout.tiles, sample_tiles(Image(place[1].astype(np.float32), grid), layout), strict=True
    ):
        there = tile.plane(tile.grid.coordinates_mm()[1])  # and it lies where it did
        assert np.abs(plane - there)[2:-2, 2:-2].max() < 0.02


def test_pixels_are_square_and_cover_the_slice(pair) -> None:
    for tile in choose_slices(pair.fixed).tiles:
        size = np.array(tile.size) * tile.grid.spacing[:2]
        assert tile.grid.spacing[0] == pytest.approx(tile.grid.spacing[1], rel=0.05)
        codes = [pair.fixed.grid.orientation.index(c) for c in pair.fixed.grid.orientation]
        extents = (np.array(pair.fixed.grid.shape) * pair.fixed.grid.spacing)[codes]
        assert min(abs(extents - size[0])) < 1e-6


def test_slices_go_through_what_there_is() -> None:
    data = np.zeros((60, 50, 40), np.float32)
    data[40:56, 30:46, 4:12] = np.random.default_rng(1).uniform(1, 2, (16, 16, 8))
    layout = choose_slices(Image(data, Grid(data.shape, np.eye(4))))
    for axis, row in zip((2, 1, 0), layout.rows, strict=True):
        places = [tile.grid.index2world([0, 0, 0])[axis] for tile in row]
        low, high = [(40, 56), (30, 46), (4, 12)][axis]
        assert all(low - 1 <= place <= high for place in places)


def test_large_images_are_shown_with_fewer_pixels_and_it_is_said() -> None:
    image = Image(
        np.random.default_rng(0).integers(0, 9, (3000, 2000), dtype=np.uint8), Grid((3000, 2000), np.eye(3))
    )
    layout = choose_slices(image, pixels=600)
    assert layout.shown_fraction == pytest.approx(0.2)
    assert layout.tiles[0].size[0] == 600 or layout.tiles[0].size[1] == 600
    picture = sample_tiles(image, layout)[0]
    assert picture.std() < 1.2  # averaged: fine noise does not show in full


def test_a_stack_of_few_slices_and_a_single_slice_are_shown() -> None:
    for shape in ((40, 40, 1), (40, 1, 30), (30, 20, 3)):
        image = Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), Grid(shape, np.eye(4)))
        layout = choose_slices(image)
        assert 1 <= len(layout.rows) <= 3
        pictures = [np.zeros((*tile.size[::-1], 3), np.uint8) for tile in layout.tiles]
        assert mosaic(layout, pictures).shape[-1] == 3


def test_landmarks_far_from_every_slice_are_not_shown(pair) -> None:
    layout = choose_slices(pair.fixed)
    reach = landmark_reach(layout)
    grid = pair.fixed.grid
    assert float(grid.spacing.max()) <= reach < 0.05 * float((grid.spacing * grid.shape).max())
    row = layout.rows[0]  # place points above the middle of its second slice
    through = row[1].grid.direction[:, 2]
    middle = row[1].grid.center_mm
    away = np.array([0.0, 0.9, -0.9, 1.1, 8.0]) * reach
    near = landmarks_near(PointSet(middle + away[:, None] * through), layout)
    which, pixels = near[1]
    assert which.tolist() == [0, 1, 2]
    np.testing.assert_allclose(pixels, np.tile((np.array(row[1].size) - 1) / 2, (3, 1)), atol=1e-6)
    flat = choose_slices(Image(np.ones((20, 30), np.float32), Grid((20, 30), np.eye(3))))
    ((all_of_them, _),) = landmarks_near(PointSet(np.array([[3.0, 4.0], [900.0, 4.0]])), flat)
    assert all_of_them.tolist() == [0, 1]


def test_fields_of_a_checkerboard_are_a_part_of_what_is_seen() -> None:
    small, large = (np.zeros((200, 300), bool) for _ in range(2))
    small[90:111, 100:171] = True
    large[5:195, 10:290] = True
    assert _check_side([small]) == 70 // 7
    assert 270 // 7 <= _check_side([small, large]) <= 280 // 7
    assert _check_side([np.zeros((200, 300), bool)]) == 300 // 7


def test_the_letter_below_a_narrow_slice_stands_beside_its_place() -> None:
    image = Image(np.ones((100, 110, 12), np.float32), Grid((100, 110, 12), np.diag([1.0, 1, 9, 1])))
    matrix = image.grid.grid2world.copy()
    matrix[2, 3] = -1195.0
    layout = choose_slices(Image(image.data, Grid(image.grid.shape, matrix)), pixels=3 * 110)
    tile = layout.rows[0][0]
    pictures = [np.zeros((*each.size[::-1], 3), np.uint8) for each in layout.tiles]
    below = mosaic(layout, pictures)[tile.size[1] - 22 : tile.size[1]]
    left = (below.shape[1] - 3 * tile.size[0] - 12) // 2
    columns = (below[:, left : left + tile.size[0]] > 128).any(axis=(0, 2))
    assert np.diff(np.flatnonzero(columns)).max() >= 7  # more than between two words
