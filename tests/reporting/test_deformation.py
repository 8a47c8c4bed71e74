"""What is shown of the map is what the map does."""

from __future__ import annotations

import numpy as np
import pytest
from scenes import bend, oblique, organ, turned

from regista.core import Grid, Image
from regista.reporting._colours import FOLD_COLOUR
from regista.reporting._deformation import _Slice, draw_deformation, linear_part
from regista.reporting._slices import choose_slices
from regista.transforms import Affine, Composite, DisplacementField


def test_the_linear_part_of_an_affine_map_is_the_map() -> None:
    grid = oblique()
    matrix = turned(20, (3, 4, 5), grid.center_mm).matrix @ np.diag([1.1, 0.9, 1.05, 1])
    assert np.allclose(linear_part(Affine(matrix), grid).matrix, matrix, atol=1e-8)
    flat = Grid((9, 1, 12), oblique().grid2world)
    assert np.allclose(linear_part(Affine(np.eye(4)), flat).matrix, np.eye(4), atol=1e-8)


def test_determinant_and_magnitude_are_those_of_a_known_map() -> None:
    grid = Grid((40, 30, 20), np.diag([1.0, 1.5, 2.0, 1.0]))
    place = grid.coordinates_mm()
    vectors = np.zeros((3, *grid.shape), np.float32)
    vectors[0] = 0.3 * place[0]  # stretched by 1.3 along x
    field = DisplacementField(vectors, grid)
    layout = choose_slices(Image(np.random.default_rng(0).normal(size=grid.shape).astype(np.float32), grid))
    part = _Slice(layout.tiles[0], field, None, np.eye(4), grid, None)
    inner = (slice(8, -8), slice(8, -8))
    assert np.abs(part.determinant[inner] - 1.3).max() < 0.01
    across = layout.tiles[0].plane(layout.tiles[0].grid.coordinates_mm()[0])
    assert np.abs(part.bent - 0.3 * across)[inner].max() < 0.05


def test_folds_are_marked_and_counted_and_a_smooth_map_has_none() -> None:
    grid = oblique()
    fixed = organ(grid)
    layout = choose_slices(fixed)
    smooth = bend(grid)
    shown = draw_deformation(smooth, smooth.inverse(), layout, grid)
    assert shown.folded_pixels == 0
    assert len(shown.inverse) == len(layout.tiles)
    assert shown.inverse_mm < 0.2
    folded = draw_deformation(bend(grid, 60.0), None, layout, grid)
    assert folded.folded_pixels > 0
    assert folded.inverse == []
    assert any((picture == FOLD_COLOUR).all(axis=-1).any() for picture in folded.jacobian)


def test_the_inverse_is_not_accused_where_the_map_leaves_its_lattice() -> None:
    grid = oblique()
    vectors = np.zeros((3, *grid.shape), np.float32)
    vectors[0] = 6.0  # a shift as a field, which ends at the faces of the grid
    there, back = DisplacementField(vectors, grid), DisplacementField(-vectors, grid)
    layout = choose_slices(organ(grid))
    shown = draw_deformation(there, back, layout, grid, grid)
    assert shown.inverse_mm == pytest.approx(0.1 * grid.spacing.min())  # the least scale: nothing is wrong
    known = np.concatenate([picture[(picture != 225).any(axis=-1)] for picture in shown.inverse])
    assert (known == known[0]).all()
    assert known[0].tolist() == [68, 1, 84]  # all of it 0
    gray = [(picture == 225).all(axis=-1) for picture in shown.inverse]
    assert any(one.any() for one in gray)
    assert not all(one.all() for one in gray)
    wrong = draw_deformation(there, DisplacementField(-0.5 * vectors, grid), layout, grid, grid)
    assert wrong.inverse_mm >= 3


def test_a_linear_map_shows_its_own_displacement() -> None:
    grid = oblique()
    turn = turned(10, (4.0, 0, 0), grid.center_mm)
    layout = choose_slices(organ(grid))
    shown = draw_deformation(turn, turn.inverse(), layout, grid)
    assert 4 < shown.largest_mm < 30
    assert shown.linear_only
    again = draw_deformation(Composite((bend(grid, 1.0), turn)), None, layout, grid)
    assert again.largest_mm < 4  # the linear part is left out


def test_ends_of_scales_say_where_values_lie_beyond() -> None:
    grid = oblique()
    layout = choose_slices(organ(grid))
    smooth = draw_deformation(Affine.identity(3), Affine.identity(3), layout, grid)
    assert smooth.beyond == frozenset()
    tile = layout.tiles[0].grid
    middle = grid.world2index(tile.index2world(np.array([[(n - 1) / 2 for n in tile.shape]])))[0]
    vectors = np.zeros((3, *grid.shape), np.float32)
    vectors[(0, *middle.round().astype(int))] = 3.0  # on few pixels of a slice
    spiked = draw_deformation(DisplacementField(vectors, grid), Affine.identity(3), layout, grid)
    assert spiked.beyond == {"magnitude", "inverse", "shrunk", "grown"}
    assert spiked.largest_mm < 1
