"""Surfaces of masks: where an analytic body has them, whatever the voxels."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import grid_of, points_of

from regista.core import Grid, Image
from regista.kernels.cpu.points import value_and_slope
from regista.registration._guides import _surface
from regista.registration._surfaces import surface_of

RADIUS = 14.0
CENTER = (3.0, -2.0, 5.0)
GRIDS = {
    "fine": ((56, 50, 54), (0.7, 0.8, 0.75), (17.0, -11.0, 23.0)),
    "thick": ((40, 52, 18), (1.0, 0.7, 2.3), (-8.0, 14.0, 31.0)),
    "coarse": ((15, 16, 14), (3.0, 2.8, 3.1), (5.0, 25.0, -12.0)),
}


def around_center(name: str) -> Grid:
    """Return a grid whose middle is near the centre of the body, and on no voxel of it."""
    grid = grid_of(*GRIDS[name])
    matrix = grid.grid2world.copy()
    matrix[:3, 3] += np.array(CENTER) - grid.center_mm + [0.21, -0.13, 0.34]
    return Grid(grid.shape, matrix)


def ball(grid: Grid, radius: float = RADIUS) -> Image:
    away = np.linalg.norm(points_of(grid) - np.array(CENTER)[: grid.ndim], axis=-1)
    return Image((away < radius).astype(np.uint8), grid)


@pytest.mark.parametrize("name", GRIDS)
def test_places_lie_on_the_sphere_and_the_distance_is_that_from_it(name):
    grid = around_center(name)
    distance, places = surface_of(ball(grid).data > 0, grid.spacing)
    radii = np.linalg.norm(grid.index2world(places) - CENTER, axis=1)
    spacing = grid.spacing.max()
    assert abs(radii.mean() - RADIUS) < 0.08 * spacing
    assert radii.std() < 0.25 * spacing
    truth = np.linalg.norm(points_of(grid) - CENTER, axis=-1) - RADIUS
    near = np.abs(truth) < 4 * spacing
    assert abs((distance - truth)[near].mean()) < 0.15 * spacing
    assert (distance * truth >= 0).all()
    # the surface the guide sees is where the interpolated distance is 0
    directions = np.random.default_rng(0).normal(size=(500, 3))
    shell = CENTER + RADIUS * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    value, _ = value_and_slope(distance, np.ascontiguousarray(grid.world2index(shell)))
    assert abs(value.mean()) < 0.08 * spacing


@pytest.mark.parametrize(("one", "other"), [("fine", "coarse"), ("coarse", "fine"), ("thick", "coarse")])
def test_balls_on_different_grids_meet_at_the_truth(one, other):
    fixed, moving = around_center(one), around_center(other)
    sides = [_surface(ball(grid), 20.0) for grid in (fixed, moving)]
    scales = np.linspace(0.9, 1.1, 41)
    costs = [sides[1].cost(np.array(CENTER) + s * (sides[0].points_mm - CENTER))[0] for s in scales]
    assert abs(scales[np.argmin(costs)] - 1) * RADIUS < 0.1 * max(fixed.spacing.max(), moving.spacing.max())
    assert costs[20] < 0.25 * costs[0]


def test_the_edge_of_the_image_is_no_surface_and_a_plane_works():
    grid = Grid((12, 9), np.diag([2.0, 1.0, 1.0]))
    inside = np.zeros(grid.shape, bool)
    inside[:5] = True  # goes on beyond three edges
    distance, places = surface_of(inside, grid.spacing)
    np.testing.assert_allclose(places[:, 0], 4.5, atol=1e-6)
    assert len(places) == 9
    np.testing.assert_allclose(distance, (2.0 * (np.arange(12) - 4.5))[:, None] * np.ones((1, 9)), atol=1e-5)
    side = _surface(Image(inside.astype(np.uint8), grid), 20.0)
    assert side.cost(side.points_mm)[0] == pytest.approx(0, abs=1e-8)


def test_sheets_and_single_voxels_stay_where_they_are():
    inside = np.zeros((9, 8, 7), bool)
    inside[4, 3, 3] = inside[1] = True
    distance, places = surface_of(inside, (1.0, 1.5, 2.0))
    assert np.isfinite(distance).all()
    assert np.abs(places - np.argwhere(inside)).max() <= 0.5 + 1e-9
    assert (distance[inside] <= 0).all()
    assert (distance[~inside] >= 0).all()
