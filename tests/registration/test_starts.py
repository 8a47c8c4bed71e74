"""Starts that bend: wherever in the chain the bending stands, and wherever its lattice ends."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import error_mm, grid_of, linear_truth, pair, points_of, smooth_truth

from regista.core import Grid
from regista.registration import DeformableStage, Plan, Start, register
from regista.registration._bases import base_from, to_voxels
from regista.similarity import LNCC
from regista.transforms import (
    Affine,
    BSplineField,
    Composite,
    DisplacementField,
    Transform,
    VelocityField,
    jacobian_determinant,
    to_displacement_field,
)

IDLE = Plan(stages=(DeformableStage(shrink=(1,), steps=(0,)),), start=Start(search="none"))
FINE = Plan(
    stages=(DeformableStage(similarity=LNCC(), shrink=(4, 2, 1), steps=(30, 20, 8)),),
    start=Start(search="none"),
)


def affine_about(grid: Grid, rotation_deg=(8, -6, 10), shift_mm=(2.5, -2.0, 3.0), strain=None) -> Affine:
    move, ndim = linear_truth(grid, rotation_deg, shift_mm, strain), grid.ndim
    matrix, origin = np.eye(ndim + 1), move(np.zeros((1, ndim)))[0]
    matrix[:ndim, :ndim], matrix[:ndim, ndim] = (move(np.eye(ndim)) - origin).T, origin
    return Affine(matrix)


def waves_on(grid: Grid, size_mm: float = 3.0) -> np.ndarray:
    """Return smooth displacements, far from zero at the faces of the grid."""
    points = points_of(grid)
    return np.moveaxis(smooth_truth(grid, size_mm)(points) - points, -1, 0)


def bending_on(kind: type[Transform], grid: Grid) -> Transform:
    if kind is BSplineField:
        grid = grid.shrink([4, 5, 3][: grid.ndim])
    return kind(waves_on(grid), grid)


def grids(ndim: int) -> tuple[Grid, Grid]:
    """Return a phantom's oblique, anisotropic grid, and one that ends within it."""
    if ndim == 3:
        return grid_of(), grid_of().crop((4, 5, 3), (36, 44, 27))
    grid = grid_of((40, 50), (1.0, 0.7), origin=(31.0, -18.0))
    return grid, grid.crop((4, 5), (36, 44))


def folded(transform: Transform, grid: Grid) -> int:
    return int(np.sum(jacobian_determinant(transform, grid) <= 0))


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("kind", [DisplacementField, VelocityField, BSplineField])
@pytest.mark.parametrize("order", ["ab", "aba", "ba", "b"])
def test_a_start_is_its_linear_parts_after_a_bending_without_an_end(ndim, kind, order):
    grid, small = grids(ndim)
    linear, bending = affine_about(grid), bending_on(kind, small)
    start = Composite(tuple({"a": linear, "b": bending}[part] for part in order))
    fixed, moving = pair(lambda points: points, grid)
    result = register(fixed, moving, IDLE, initial=start)
    product = np.linalg.matrix_power(linear.matrix, order.count("a"))
    np.testing.assert_allclose(result.record.measures["linear_fixed2moving"], product, atol=1e-9)
    assert folded(start, grid) > 0
    assert result.record.measures["folded_percent"] == 0
    points = points_of(grid).reshape(-1, ndim)
    reached = linear.map_points(points) if order[0] == "a" else points
    inside = bending.contains(reached) if kind is BSplineField else small.contains(reached)
    assert 0 < inside.sum() < len(points)
    np.testing.assert_allclose(
        result.transform.map_points(points)[inside], start.map_points(points)[inside], atol=1e-4
    )


def test_a_field_that_covers_the_levels_is_taken_bit_for_bit():
    grid = grid_of()
    field, linear = DisplacementField(waves_on(grid), grid), affine_about(grid)
    base = base_from(Composite((field, linear)), linear.matrix)
    for level in (grid.shrink([4, 4, 1]), grid.shrink([2, 2, 1]), grid):
        plain = to_displacement_field(Composite((field, linear, linear.inverse())), level)
        assert base(level).tobytes() == to_voxels(plain.vectors_mm, level).tobytes()


@pytest.mark.parametrize("turn_deg", [10, 120])
def test_bending_last_is_as_good_a_start_as_bending_first(turn_deg):
    there = grid_of()
    linear = affine_about(there, (5, -8, turn_deg), (4.0, -3.0, 2.0), np.diag([0.05, -0.08, 0.04]))
    larger = there.crop((-4, -3, -2), (43, 54, 31))
    here = Grid(larger.shape, linear.inverse().matrix @ larger.grid2world)
    bend = smooth_truth(there, 5.0)
    fixed, moving = pair(lambda p: bend(linear.map_points(p.reshape(-1, 3)).reshape(p.shape)), here, there)
    truth = Composite((linear, DisplacementField(waves_on(there, 5.0), there)))
    last = Composite((linear, DisplacementField(waves_on(there, 3.0), there)))
    apart = Composite((linear, DisplacementField(waves_on(larger, 3.0), larger), linear.inverse()))
    first = Composite((to_displacement_field(apart, here), linear))
    errors = []
    for start in (last, first):
        result = register(fixed, moving, FINE, initial=start)
        assert result.record.measures["folded_percent"] == 0
        assert result.record.measures["inverse_folded_percent"] == 0
        errors.append(error_mm(result.transform, truth.map_points, fixed).mean())
        loop = error_mm(Composite((result.transform, result.inverse)), lambda points: points, fixed)
        assert loop.max() < 0.1
    assert errors[0] < 0.5 * error_mm(last, truth.map_points, fixed).mean()
    assert abs(errors[0] - errors[1]) < 0.05


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        (
            {"steps": (6, 6), "field_sigma_vox": (4.0,)},
            "(field_sigma_vox smooths that map too, at every step)",
        ),
        ({"steps": (0, 0)}, "their levels take no steps"),
        ({"steps": (20, 8), "field_sigma_vox": (0.0,)}, None),
    ],
)
def test_stages_that_change_nothing_of_a_start_say_so(smooth_pair, settings, cause):
    _, fixed, moving = smooth_pair
    share = 1.0 if cause else 0.5  # of the true displacement
    start = DisplacementField(share * waves_on(fixed.grid, 4.0), fixed.grid)
    stages = tuple(DeformableStage(similarity=LNCC(), shrink=(2, 1), **settings) for _ in range(2))
    record = register(fixed, moving, Plan(stages=stages, start=Start(search="none")), initial=start).record
    told = [warning for warning in record.warnings if "changed nothing" in warning]
    assert len(told) == (cause is not None)
    assert all(cause in warning for warning in told)


@pytest.mark.parametrize("bent", [False, True])
def test_a_start_that_does_not_bend_was_not_kept(smooth_pair, bent):
    """The same image twice: a start of nothing needs no word, one that has to go is not kept."""
    _, fixed, _ = smooth_pair
    start = DisplacementField(bent * waves_on(fixed.grid, 2.0), fixed.grid)
    plan = Plan(
        stages=(DeformableStage(similarity=LNCC(), shrink=(1,), steps=(5,)),), start=Start(search="none")
    )
    record = register(fixed, fixed, plan, initial=start).record
    assert not [warning for warning in record.warnings if "changed nothing" in warning]
