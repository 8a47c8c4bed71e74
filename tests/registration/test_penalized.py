"""Penalties in stages: smoother fields, no folds, parts that stay rigid."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import numpy as np
import pytest
from phantoms import error_vox, grid_of, pair, smooth_truth

from regista.core import GeometryError, Grid, Image, PlanError
from regista.kernels.cpu.folds import smallest_corners
from regista.preprocessing import Pipeline, Reorient
from regista.registration import (
    DeformableStage,
    DemonsStage,
    FreeFormStage,
    LinearStage,
    Plan,
    Start,
    VelocityStage,
    load_plan,
    plan_from_dict,
    plan_to_toml,
    register,
)
from regista.regularization import (
    Bending,
    DeformationPrior,
    Elastic,
    Incompressibility,
    InverseConsistency,
    LocalRigidity,
    LogJacobian,
    save_deformation_model,
)
from regista.similarity import LNCC, SSD, DemonsSSD
from regista.transforms import DisplacementField, jacobian_determinant, to_displacement_field

LEVELS = {"shrink": (4, 2, 1), "steps": (30, 25, 12)}
MODELS = {
    "diffeomorphic": DeformableStage(**LEVELS),
    "syn": DeformableStage(model="syn", step_vox=0.7, **LEVELS),
    "svf": VelocityStage(**LEVELS),
    "svf by composition": VelocityStage(gradient="composition", **LEVELS),
    "svf, symmetric": VelocityStage(gradient="composition", symmetric=True, **LEVELS),
    "bspline": FreeFormStage(similarity=LNCC(), **LEVELS),
}
EVERY = pytest.mark.parametrize("name", MODELS)


def plan(stage, *penalties) -> Plan:
    return Plan(stages=(replace(stage, penalties=penalties),), start=Start(search="none"))


def field_of(result, grid) -> DisplacementField:
    return to_displacement_field(result.transform, grid)


def bending_of(result, fixed: Image) -> float:
    linear = np.linalg.inv(fixed.grid.grid2world[:3, :3])
    vectors = np.einsum("ab,bijk->aijk", linear, field_of(result, fixed.grid).vectors_mm).astype(np.float32)
    return Bending().prepare(fixed.grid).value_and_gradient(vectors, np.zeros_like(vectors))


@EVERY
def test_bending_makes_a_field_smoother(smooth_pair, name):
    truth, fixed, moving = smooth_pair
    results = [
        register(fixed, moving, plan(MODELS[name], *penalties))
        for penalties in ((), (Bending(weight=3.0),), (Bending(weight=30.0),))
    ]
    bent = [bending_of(result, fixed) for result in results]
    assert bent[1] < 0.7 * bent[0]
    assert bent[2] < 0.5 * bent[1]
    errors = [error_vox(result.transform, truth, fixed, moving).mean() for result in results]
    assert errors[1] < 1.05 * errors[0]  # the truth is smooth


def test_the_log_jacobian_keeps_a_free_map_from_folding():
    grid = grid_of((30, 38, 24))
    truth = smooth_truth(grid, 4.0)
    fixed, moving = (
        pair(truth, grid)[0],
        pair(truth, grid, seed=4)[1],
    )  # two bodies that have little in common
    free = FreeFormStage(similarity=SSD(), shrink=(2, 1), steps=(60, 30), spacing_vox=(2.0,), tolerance=1e-5)
    folded = register(fixed, moving, plan(free)).record
    assert folded.measures["folded_percent"] > 1
    assert not folded.status.ok
    kept = register(fixed, moving, plan(free, LogJacobian(weight=1e-2))).record
    assert kept.measures["folded_percent"] == 0
    assert kept.measures["smallest_jacobian"] > 0.02
    assert kept.status.ok
    assert kept.history[-1].values[-1] < 0.3 * kept.history[0].values[0]


@pytest.mark.parametrize("penalty", [Bending(weight=1e-3), LogJacobian(weight=1e-3)], ids=lambda p: p.name)
def test_a_start_that_folds_is_mended_where_the_log_jacobian_takes_part(smooth_pair, penalty):
    _, fixed, moving = smooth_pair
    vectors = np.zeros((3, *fixed.grid.shape), np.float32)
    vectors[:, 10, 10, 10] = 4 * fixed.grid.grid2world[:3, 0]  # a single point, pulled past its neighbours
    stage = DeformableStage(shrink=(1,), steps=(0,))
    start = DisplacementField(vectors, fixed.grid)
    record = register(fixed, moving, plan(stage, penalty), initial=start).record
    barred = isinstance(penalty, LogJacobian)
    assert (record.measures["folded_percent"] == 0) == barred
    assert record.measures["folded_percent"] < 1
    assert record.status.ok


@pytest.mark.parametrize("file", ["missing", "planar"])
def test_a_prior_that_cannot_serve_is_refused_before_the_first_stage(smooth_pair, tmp_path, file):
    _, fixed, moving = smooth_pair
    path = tmp_path / "prior.npz"
    if file == "planar":
        fields = np.random.default_rng(0).normal(size=(4, 2, 8, 9)).astype(np.float32)
        save_deformation_model(DeformationPrior.learn(fields, Grid((8, 9), np.eye(3)), rank=1).model, path)
    stages = (
        LinearStage(model="translation"),
        DeformableStage(penalties=(DeformationPrior(model=str(path)),)),
    )
    steps = []
    with pytest.raises(ValueError, match=r"cannot read the deformation model|learned from 2-D fields"):
        register(fixed, moving, Plan(stages=stages), progress=steps.append)
    assert not steps


def block_of(grid) -> Image:
    """Return a region: a block of voxels well inside the body."""
    inside = np.zeros(grid.shape, np.uint8)
    inside[14:26, 18:32, 10:20] = 1
    return Image(inside, grid)


def strain(result, region: Image) -> np.ndarray:
    """Return how far singular values of the Jacobian are from 1 inside a region, worst of each voxel."""
    grid = region.grid
    vectors = field_of(result, grid).vectors_mm.astype(np.float64)
    by_voxel = np.stack([np.stack(np.gradient(v), axis=0) for v in vectors])
    jacobian = (
        np.einsum("abijk,bc->acijk", by_voxel, np.linalg.inv(grid.grid2world[:3, :3]))
        + np.eye(3)[..., None, None, None]
    )
    inner = np.moveaxis(jacobian[:, :, region.data > 0], -1, 0)
    assert (np.linalg.det(inner) > 0).all()
    return np.abs(np.linalg.svd(inner, compute_uv=False) - 1).max(axis=-1)


@EVERY
def test_a_rigid_block_stays_rigid_and_the_rest_deforms(smooth_pair, name):
    truth, fixed, moving = smooth_pair
    region = block_of(fixed.grid)
    free = register(fixed, moving, plan(MODELS[name]))
    held = register(
        fixed, moving, plan(MODELS[name], LocalRigidity(weight=1.0, affinity_mm2=0.2)), region=region
    )
    before, after = strain(free, region), strain(held, region)
    assert before.mean() > 0.08
    assert after.mean() < 0.45 * before.mean()
    assert held.record.status.ok
    assert "region" in held.record.inputs
    start = error_vox(
        DisplacementField(np.zeros((3, *fixed.grid.shape), np.float32), fixed.grid), truth, fixed, moving
    )
    assert error_vox(held.transform, truth, fixed, moving).mean() < 0.6 * start.mean()


def test_a_region_keeps_its_volume(smooth_pair):
    _, fixed, moving = smooth_pair
    region = block_of(fixed.grid)
    stage, weight = MODELS["bspline"], Incompressibility(weight=5.0)
    results = [
        register(fixed, moving, plan(stage)),
        register(fixed, moving, plan(stage, weight), region=region),
        register(fixed, moving, plan(stage, weight)),
    ]
    fields = [field_of(result, fixed.grid) for result in results]
    changes = [np.abs(jacobian_determinant(field, fixed.grid) - 1) for field in fields]
    inside = region.data > 0
    assert changes[1][inside].mean() < 0.3 * changes[0][inside].mean()
    assert changes[1][~inside].mean() > 2 * changes[1][inside].mean()
    assert changes[2].mean() < 0.5 * changes[0].mean()  # without a region: everywhere


def test_a_region_follows_its_image_through_storage_and_preprocessing(smooth_pair):
    _, fixed, moving = smooth_pair
    stage = replace(MODELS["bspline"], shrink=(4, 2), steps=(15, 10))
    whole = plan(stage, LocalRigidity(weight=5.0, affinity_mm2=0.2))
    region = block_of(fixed.grid)
    expected = register(fixed, moving, whole, region=region).transform
    turned = Reorient(orientation="SAL")
    other = register(turned(fixed), moving, whole, region=turned(region)).transform
    points = fixed.grid.index2world(np.argwhere(region.data > 0))
    np.testing.assert_allclose(other.map_points(points), expected.map_points(points), atol=2e-3)
    steps = Pipeline.from_dict({"steps": [{"step": "resample", "spacing_mm": 1.3}]})
    coarse = replace(whole, preprocessing=steps)
    again = register(fixed, moving, coarse, region=region)
    assert strain(again, region).mean() < 0.5 * strain(register(fixed, moving, plan(stage)), region).mean()


def test_a_plan_that_needs_a_region_says_so(smooth_pair):
    _, fixed, moving = smooth_pair
    whole = plan(MODELS["bspline"], LocalRigidity())
    with pytest.raises(
        PlanError, match=r"bspline: local-rigidity needs .*--penalty-mask FILE \(in Python region="
    ):
        register(fixed, moving, whole)
    other = grid_of((30, 50, 30))
    for region, message in (
        (block_of(other), "the penalty mask lies on another grid .* than the fixed image"),
        (Image(np.zeros(fixed.grid.shape, np.uint8), fixed.grid), "the penalty mask is empty"),
    ):
        with pytest.raises(GeometryError, match=message):
            register(fixed, moving, whole, region=region)


TEXT = """
[[stages]]
model = "bspline"
penalties = [{bending = {weight = 0.2}}, {log-jacobian = {weight = 1e-3, threshold = 0.02}}, {local-rigidity = \
{weight = 2, orthonormality = 0.5, properness = 1.5, affinity_mm2 = 0.0}}, "elastic"]
"""


def test_penalties_survive_the_round_trip_and_single_changes(tmp_path):
    (tmp_path / "own.toml").write_text(TEXT, encoding="utf-8")
    own = load_plan(tmp_path / "own.toml")
    expected = (
        Bending(weight=0.2),
        LogJacobian(weight=1e-3, threshold=0.02),
        LocalRigidity(weight=2, orthonormality=0.5, properness=1.5, affinity_mm2=0.0),
        Elastic(),
    )
    assert own.stages[0].penalties == expected
    assert plan_from_dict(tomllib.loads(plan_to_toml(own))) == own
    for preset in ("syn-cc", "svf", "bspline-mi", "convex", "brain-t1"):
        stage = load_plan(preset).stages[-1]
        terms = '[{log-jacobian = {weight = 0.5}}, "bending"]'
        changed = load_plan(preset, [f"stages.{stage.model}.penalties={terms}"])
        assert changed.stages[-1].penalties == (LogJacobian(weight=0.5), Bending())
        assert stage.penalties == load_plan(preset).stages[-1].penalties
        assert plan_from_dict(tomllib.loads(plan_to_toml(changed))) == changed
    with pytest.raises(PlanError, match=r"stages.*no penalty 'bend'; penalties are diffusion, bending"):
        load_plan("svf", ["stages.svf.penalties=['bend']"])
    with pytest.raises(PlanError, match=r"bending.* no setting 'size'"):
        load_plan("svf", ["stages.svf.penalties=[{bending = {size = 2}}]"])
    with pytest.raises(PlanError, match="bending weight is a number at least 0, got -1"):
        load_plan("svf", ["stages.svf.penalties=[{bending = {weight = -1}}]"])
    with pytest.raises(PlanError, match="penalties"):
        load_plan("svf", ["stages.svf.penalties=bending"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: DemonsStage(penalties=(Bending(),)),
        lambda: VelocityStage(similarity=DemonsSSD(), penalties=(Bending(),)),
        lambda: load_plan("demons", ["stages.demons.penalties=['bending']"]),
        lambda: load_plan("log-demons", ["stages.svf.penalties=['bending']"]),
        lambda: load_plan("convex", ["stages.convex.penalties=['bending']"]),
    ],
)
def test_models_that_take_no_penalty_refuse_one(make):
    with pytest.raises(PlanError, match=r"forces are steps, to which no penalty|no setting 'penalties'"):
        make()


ROUGH = {"shrink": (2, 1), "steps": (12, 8)}
FOLDING = {
    "diffeomorphic": DeformableStage(
        similarity=SSD(), step_vox=1.5, update_sigma_vox=(0.4,), field_sigma_vox=(0.2,), **ROUGH
    ),
    "syn": DeformableStage(
        model="syn", similarity=SSD(), step_vox=1.5, update_sigma_vox=(0.4,), field_sigma_vox=(0.2,), **ROUGH
    ),
    "demons": DemonsStage(update="additive", field_sigma_vox=(0.3,), **ROUGH),
    "svf": VelocityStage(similarity=SSD(), step_vox=2.0, update_sigma_vox=(0.4,), squarings=3, **ROUGH),
    "bspline": FreeFormStage(similarity=SSD(), spacing_vox=(2.0,), max_step_vox=4.0, **ROUGH),
    "bspline, pair": FreeFormStage(
        similarity=SSD(),
        spacing_vox=(2.0,),
        max_step_vox=4.0,
        penalties=(InverseConsistency(weight=1e-6),),
        **ROUGH,
    ),
    "bspline, asgd": FreeFormStage(
        similarity=SSD(),
        optimizer="asgd",
        spacing_vox=(2.0,),
        first_step_vox=2.0,
        max_step_vox=4.0,
        samples=3000,
        shrink=(2, 1),
        steps=(60, 60),
    ),
}


@pytest.mark.parametrize("ndim", [3, 2])
@pytest.mark.parametrize("name", FOLDING)
def test_no_voxel_folds_where_the_barrier_is_on(name, ndim):
    grid = grid_of((24, 28, 15), (1.0, 0.7, 1.9)) if ndim == 3 else grid_of((40, 36), (0.8, 1.1))
    fixed, moving = (pair(smooth_truth(grid, 3.0), grid, seed=seed)[side] for side, seed in ((0, 0), (1, 4)))
    stage = FOLDING[name]
    if ndim == 2 and name in (
        "demons",
        "svf",
    ):  # which fold here; that the other solvers can is in test_folds.py
        free = register(fixed, moving, plan(stage, *stage.penalties)).record
        assert free.measures["folded_percent"] > 0, "the test must ask for folds"
    # too weak to push, for the guard to do it alone
    barrier = LogJacobian(weight=1e-7, threshold=0.0 if ndim == 3 else 0.01)
    result = register(fixed, moving, plan(stage, *stage.penalties, barrier))
    assert result.record.measures["folded_percent"] == 0
    assert result.record.status.ok
    assert smallest_corners(_voxels(field_of(result, grid))).min() > 0


def _voxels(field: DisplacementField) -> np.ndarray:
    vectors = np.einsum("ab,b...->a...", field.grid.world2grid[:-1, :-1], field.vectors_mm)
    return vectors if field.ndim == 3 else np.concatenate([vectors, 0 * vectors[:1]])[..., None]


def test_the_barrier_alone_may_be_given_to_demons_and_adds_no_force(smooth_pair):
    _, fixed, moving = smooth_pair
    stage = DemonsStage(shrink=(4, 2), steps=(6, 6), field_sigma_vox=(1.5,))
    free, guarded = (register(fixed, moving, plan(stage, *more)) for more in ((), (LogJacobian(),)))
    np.testing.assert_array_equal(free.warped.data, guarded.warped.data)  # nothing folded, nothing changed
    assert guarded.record.history[-1].values == free.record.history[-1].values
    with pytest.raises(PlanError, match="log-jacobian alone may be given"):
        DemonsStage(penalties=(LogJacobian(), Bending()))
