"""Penalties on one field: gradients, known values, millimetres, masks, refusals."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from regista.core import GeometryError, Grid, PlanError
from regista.evaluation import transform_measures
from regista.regularization import (
    PENALTIES,
    Bending,
    Diffusion,
    Elastic,
    Incompressibility,
    LocalRigidity,
    LogJacobian,
    Penalty,
    TotalVariation,
    penalties_from_plan,
)
from regista.transforms import DisplacementField

LOCAL = [
    Diffusion(weight=0.7),
    Bending(weight=3.0),
    Elastic(weight=1.1, mu=0.8, lam=0.6),
    TotalVariation(weight=0.9, epsilon=0.2),
    LogJacobian(weight=1.3),
    LogJacobian(weight=1.3, threshold=0.0),
    Incompressibility(weight=1.2),
    Incompressibility(weight=1.2, measure="logarithm"),
    LocalRigidity(weight=0.8, affinity_mm2=2.0),
]
MATRIX = np.array([[1.1, 0.2, -0.05], [-0.1, 0.9, 0.15], [0.08, -0.12, 1.2]])


def value_of(penalty, grid, field, mask=None):
    if isinstance(penalty, LocalRigidity) and mask is None:
        mask = np.ones(grid.shape)
    return penalty.prepare(grid, mask).value_and_gradient(field, np.zeros_like(field))


def test_they_are_penalties():
    assert all(isinstance(penalty, Penalty) for penalty in LOCAL)
    assert {type(p) for p in LOCAL} | {PENALTIES["deformation-prior"]} == set(PENALTIES.values())


@pytest.mark.parametrize("shape", [(11, 14, 9), (13, 10), (9, 1, 12)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("penalty", LOCAL, ids=str)
def test_gradient_matches_finite_differences(penalty, masked, shape, make_grid, random_field, mismatch, rng):
    grid = make_grid(shape, (1.0, 0.7, 2.3)[: len(shape)])
    field, mask = random_field(shape), np.ones(shape)
    if masked:
        mask = rng.uniform(0, 1, shape) * (rng.random(shape) < 0.8)
    prepared, gradient = penalty.prepare(grid, mask), np.zeros_like(field)
    prepared.value_and_gradient(field, gradient)
    assert np.abs(gradient).max() > 0
    spare = np.zeros_like(field)
    assert mismatch(lambda u: prepared.value_and_gradient(u, spare), field, gradient) < 2e-3
    assert mismatch(lambda u: prepared.value_and_gradient(u, spare), field, 1.01 * gradient) > 5e-3


@pytest.mark.parametrize("sheared", [False, True])
def test_values_of_linear_maps(sheared, grid, linear_field):
    if sheared:
        matrix = grid.grid2world.copy()
        matrix[:3, 0] += 0.4 * matrix[:3, 1] - 0.1 * matrix[:3, 2]
        grid = Grid(grid.shape, matrix)
    field, slope = linear_field(MATRIX, grid), MATRIX - np.eye(3)
    det = np.linalg.det(MATRIX)
    assert value_of(Diffusion(), grid, field) == pytest.approx((slope**2).sum(), rel=1e-4)
    assert value_of(Bending(), grid, field) < 1e-9
    strain, div = slope + slope.T, np.trace(slope)
    expected = 0.8 / 4 * (strain**2).sum() + 0.6 / 2 * div**2
    assert value_of(Elastic(mu=0.8, lam=0.6), grid, field) == pytest.approx(expected, rel=1e-4)
    expected = math.hypot(np.linalg.norm(slope), 0.2) - 0.2
    assert value_of(TotalVariation(epsilon=0.2), grid, field) == pytest.approx(expected, rel=1e-4)
    assert value_of(LogJacobian(), grid, field) == pytest.approx(math.log(det) ** 2, rel=1e-4)
    assert value_of(Incompressibility(), grid, field) == pytest.approx((det - 1) ** 2, rel=1e-3)
    misfit = MATRIX.T @ MATRIX - np.eye(3)
    expected = 2 * (misfit**2).sum() + 3 * (det - 1) ** 2
    rigid = LocalRigidity(orthonormality=2.0, properness=3.0)
    assert value_of(rigid, grid, field) == pytest.approx(expected, rel=1e-4)


def test_a_scaling_by_its_logarithm(grid, linear_field):
    for scale in (0.5, 2.0):
        field = linear_field(scale * np.eye(3), grid)
        expected = (3 * math.log(scale)) ** 2
        assert value_of(LogJacobian(), grid, field) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("degrees", [5.0, 90.0, 170.0])
def test_rotations_are_rigid_and_keep_volume(degrees, grid, linear_field):
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, -0.48, 0.64])).as_matrix()
    field = linear_field(turn, grid)
    for penalty in (LocalRigidity(), Incompressibility(), LogJacobian()):
        assert value_of(penalty, grid, field) < 1e-8
    mirrored = linear_field(np.diag([1.0, 1.0, -1.0]) @ turn, grid)
    assert value_of(LocalRigidity(), grid, mirrored) > 3.9


def test_elastic_energy_does_not_see_a_small_rotation(grid, linear_field):
    energies = []
    for degrees in (1.0, 2.0):
        turn = Rotation.from_rotvec(np.radians([0.6 * degrees, -0.48 * degrees, 0.64 * degrees])).as_matrix()
        energies.append(value_of(Elastic(lam=1.0), grid, linear_field(turn, grid)))
    stretch = value_of(
        Elastic(lam=1.0), grid, linear_field(np.eye(3) + np.radians(1.0) * np.diag([1, 0, 0]), grid)
    )
    assert energies[0] < 1e-3 * stretch
    assert energies[1] == pytest.approx(16 * energies[0], rel=0.05)  # of fourth order in the angle
    skew = np.eye(3) + 0.3 * np.array([[0, 1, -2], [-1, 0, 0.5], [2, -0.5, 0]])
    assert value_of(Elastic(lam=1.0), grid, linear_field(skew, grid)) < 1e-9


def test_shears_keep_volume(grid, linear_field):
    shear = np.eye(3) + 0.5 * np.outer([1, 0, 0], [0, 1, 1])
    for penalty in (Incompressibility(), Incompressibility(measure="logarithm")):
        assert value_of(penalty, grid, linear_field(shear, grid)) < 1e-9
    flow = expm(
        np.array([[0.2, 0.5, 0.1], [0.3, -0.3, 0.2], [0.1, 0.4, 0.1]])
    )  # a velocity without divergence
    assert value_of(Incompressibility(), grid, linear_field(flow, grid)) < 1e-8


@pytest.mark.parametrize("penalty", LOCAL, ids=str)
def test_the_same_field_costs_the_same_on_another_grid(penalty, make_grid, world_field):
    coarse = make_grid((21, 26, 17), (2.0, 1.5, 2.4))
    fine = coarse.with_spacing((1.0, 0.9, 1.1))
    one, two = (value_of(penalty, g, world_field(g)) for g in (coarse, fine))
    assert two == pytest.approx(one, rel=0.04)


@pytest.mark.parametrize("penalty", LOCAL, ids=str)
def test_the_same_field_costs_the_same_on_a_grid_turned_another_way(penalty, make_grid, world_field):
    one = make_grid((34, 40, 36), (1.0, 0.9, 1.1))
    turned = make_grid((36, 33, 40), (1.0, 1.2, 0.9), angles=(-40.0, 25.0, 68.0))
    matrix = turned.grid2world.copy()
    matrix[:3, 3] += one.center_mm - turned.center_mm
    found = []
    for grid in (one, Grid(turned.shape, matrix)):
        away = grid.coordinates_mm() - one.center_mm[:, None, None, None]
        mask = np.exp(-(away**2).sum(axis=0) / (2 * 4.0**2))  # weighs the same piece of the world
        found.append(value_of(penalty, grid, world_field(grid), mask))
    assert found[1] == pytest.approx(found[0], rel=0.015)


def test_bending_is_what_evaluation_reports(grid, world_field):
    field = world_field(grid)
    world = np.einsum("ab,b...->a...", grid.grid2world[:3, :3], field)
    measured = transform_measures(DisplacementField(world, grid), grid).bending_energy_per_mm2
    assert value_of(Bending(), grid, field) == pytest.approx(measured, rel=1e-5)


@pytest.mark.parametrize("penalty", LOCAL, ids=str)
def test_a_shift_costs_nothing(penalty, grid):
    field = (
        np.ones((3, *grid.shape), np.float32) * np.array([1.5, -0.25, 2.0], np.float32)[:, None, None, None]
    )
    gradient = np.zeros_like(field)
    prepared = penalty.prepare(grid, np.ones(grid.shape))
    assert prepared.value_and_gradient(field, gradient) == 0
    assert not gradient.any()


@pytest.mark.parametrize("penalty", LOCAL, ids=str)
def test_one_slice_is_the_plane(penalty, grid_2d, random_field):
    field = random_field(grid_2d.shape)
    field[2] = 0
    matrix = np.eye(4)
    matrix[np.ix_([0, 1, 3], [0, 2, 3])] = grid_2d.grid2world
    matrix[:3, 1], matrix[2, 1] = 0, 5.0  # the slice's thickness does not matter
    matrix[2, 2] = matrix[2, 0] = 0
    other = Grid((grid_2d.shape[0], 1, grid_2d.shape[1]), matrix)
    swapped = np.ascontiguousarray(field[[0, 2, 1]].transpose(0, 1, 3, 2))
    one, two = np.zeros_like(field), np.zeros_like(swapped)
    value = penalty.prepare(grid_2d, np.ones(grid_2d.shape)).value_and_gradient(field, one)
    again = penalty.prepare(other, np.ones(other.shape)).value_and_gradient(swapped, two)
    assert again == pytest.approx(value, rel=1e-5)
    assert value > 0
    np.testing.assert_allclose(two[[0, 2, 1]].transpose(0, 1, 3, 2), one, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("penalty", LOCAL, ids=str)
def test_the_weight_multiplies_and_zero_is_nothing(penalty, grid, random_field):
    field = random_field(grid.shape)
    single, double = np.zeros_like(field), np.zeros_like(field)
    mask = np.ones(grid.shape)
    one = penalty.prepare(grid, mask).value_and_gradient(field, single)
    two = replace(penalty, weight=2 * penalty.weight).prepare(grid, mask).value_and_gradient(field, double)
    assert two == pytest.approx(2 * one)
    np.testing.assert_allclose(double, 2 * single, rtol=1e-5, atol=1e-9)
    nothing = np.zeros_like(field)
    assert replace(penalty, weight=0).prepare(grid, mask).value_and_gradient(field, nothing) == 0
    assert not nothing.any()


@pytest.mark.parametrize("penalty", LOCAL, ids=str)
def test_a_mask_is_where_the_mean_is_taken(penalty, grid, random_field):
    field, mask = random_field(grid.shape), np.zeros(grid.shape)
    mask[2:6, 3:9, 2:7] = 1
    gradient = np.zeros_like(field)
    value = penalty.prepare(grid, mask).value_and_gradient(field, gradient)
    far = np.ones(grid.shape, bool)
    far[1:7, 2:10, 1:8] = False
    assert not gradient[:, far].any()
    changed = field.copy()
    changed[:, far] += 1
    assert value_of(penalty, grid, changed, mask) == pytest.approx(value, rel=1e-6)
    assert value_of(penalty, grid, field, 7 * mask) == pytest.approx(value, rel=1e-5)


def test_folds_are_infinite_without_a_threshold_and_finite_with_one(grid):
    field = np.zeros((3, *grid.shape), np.float32)
    field[1, :, 6:] = -1.2
    assert value_of(LogJacobian(threshold=0.0), grid, field) == math.inf
    assert value_of(Incompressibility(measure="logarithm", threshold=0.0), grid, field) == math.inf
    gradient = np.zeros_like(field)
    value = LogJacobian(threshold=0.05).prepare(grid).value_and_gradient(field, gradient)
    assert math.isfinite(value)
    # descent opens the fold: the far side is moved away from the near one
    assert gradient[1, :, 5].min() > 0
    assert gradient[1, :, 6].max() < 0


def test_the_continuation_below_the_threshold_is_smooth_enough(make_grid):
    grid = make_grid((2, 3, 4))
    prepared = LogJacobian(threshold=0.2).prepare(grid)
    dets = 0.2 + np.array([-1e-3, -1e-4, 1e-4, 1e-3])
    values, slopes = [], []
    for det in dets:
        field, gradient = np.zeros((3, *grid.shape), np.float32), np.zeros((3, *grid.shape), np.float32)
        field[0, 1] = det - 1
        values.append(prepared.value_and_gradient(field, gradient))
        slopes.append(float(gradient[0, 1].sum()))
    expected = 2 * math.log(0.2) / 0.2
    np.testing.assert_allclose(slopes, expected, rtol=0.02)
    np.testing.assert_allclose(values, math.log(0.2) ** 2 + expected * (dets - 0.2), rtol=1e-3)
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-5)


def test_sliding_costs_total_variation_less_than_a_soft_edge_costs_diffusion(make_grid):
    grid = make_grid((24, 20, 4), (1.0, 1.0, 1.0))
    place = np.arange(20, dtype=np.float32) - 9.5
    sharp, soft = np.zeros((3, 24, 20, 4), np.float32), np.zeros((3, 24, 20, 4), np.float32)
    sharp[0] = 3 * np.sign(place)[:, None]
    soft[0] = 3 * np.clip(place / 5, -1, 1)[:, None]
    total, diffusion = TotalVariation(epsilon=1e-4), Diffusion()
    assert value_of(diffusion, grid, sharp) > 4 * value_of(diffusion, grid, soft)
    assert value_of(total, grid, sharp) < 1.5 * value_of(total, grid, soft)


def test_plans_name_penalties_and_their_settings():
    found = penalties_from_plan(
        [{"bending": {"weight": 0.1}}, "diffusion", {"elastic": {"mu": 2, "lam": 0.5}}]
    )
    assert found == (Bending(weight=0.1), Diffusion(), Elastic(mu=2, lam=0.5))
    assert penalties_from_plan([]) == ()


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ("bending", "is a list"),
        ([{"bendy": {}}], "there is no penalty 'bendy'.*total-variation"),
        ([{"bending": 0.1}], "is a table of options"),
        ([{"bending": {}, "elastic": {}}], "reads like"),
        ([{"bending": {"wait": 1}}], "no setting 'wait'.*weight"),
        ([{"bending": {"weight": -1}}], r"penalties\.0: bending weight is a number at least 0, got -1"),
        ([{"bending": {"weight": "much"}}], "is a number"),
        ([{"diffusion": {"weight": True}}], "is a number"),
        ([{"log-jacobian": {"weight": float("nan")}}], "is a number"),
        ([{"log-jacobian": {"weight": float("inf")}}], "finite"),
        ([{"log-jacobian": {"threshold": 0.9}}], "between 0 and 0.5"),
        ([{"log-jacobian": {"threshold": 1e-9}}], "at least 1e-6"),
        ([{"incompressibility": {"measure": "volume"}}], "'determinant' or 'logarithm'"),
        ([{"elastic": {"mu": 0, "lam": 0}}], "both 0"),
        ([{"local-rigidity": {"orthonormality": 0, "properness": 0, "affinity_mm2": 0}}], "all parts"),
        ([{"total-variation": {"epsilon": 0}}], "epsilon"),
        ([{"deformation-prior": {}}], "needs a model"),
    ],
)
def test_wrong_plans_are_refused(specs, words):
    with pytest.raises(PlanError, match=words):
        penalties_from_plan(specs)


@pytest.mark.parametrize("kind", PENALTIES.values(), ids=PENALTIES)
def test_pydantic_builds_them_from_plans(kind):
    from pydantic import TypeAdapter, ValidationError

    options = {"weight": 0.25} | ({"model": "prior.npz"} if "model" in {f.name for f in fields(kind)} else {})
    assert TypeAdapter(kind).validate_python(options) == kind(**options)
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(options | {"wait": 1})


def test_masks_and_fields_must_fit(grid, random_field):
    field = random_field(grid.shape)
    with pytest.raises(GeometryError, match="resample the mask"):
        Diffusion().prepare(grid, np.ones((3, 3, 3)))
    with pytest.raises(GeometryError, match="empty"):
        Diffusion().prepare(grid, np.zeros(grid.shape))
    with pytest.raises(GeometryError, match="below 0"):
        Diffusion().prepare(grid, np.full(grid.shape, -1.0))
    with pytest.raises(PlanError, match="needs a mask"):
        LocalRigidity().prepare(grid)
    prepared = Diffusion().prepare(grid)
    with pytest.raises(GeometryError, match="prepare it for this grid"):
        prepared.value_and_gradient(field[:, 1:], np.zeros_like(field))
