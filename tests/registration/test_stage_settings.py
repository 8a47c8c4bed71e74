"""Settings of stages: what each model takes, refuses, and tells to be without effect."""

from __future__ import annotations

import tomllib

import pytest

from regista.core import PlanError
from regista.registration import (
    ConvexStage,
    DeformableStage,
    DemonsStage,
    FreeFormStage,
    LinearStage,
    Plan,
    Start,
    VelocityStage,
    list_presets,
    load_plan,
    plan_from_dict,
    plan_to_toml,
)
from regista.registration._inputs import unused_warnings
from regista.similarity import LNCC, MI

PRIOR = {"deformation-prior": {"model": "prior.npz", "weight": 0.1}}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearStage(model="rigid", shrink=(4, 2), steps=(10,)), "one entry per level"),
        (lambda: LinearStage(model="rigid", shrink=(0,), steps=(10,)), "between 1 and 64"),
        (lambda: LinearStage(model="rigid", shrink=(2, 4), steps=(10, 10)), "coarse to fine"),
        (lambda: LinearStage(model="rigid", shrink=(2,), steps=(-1,)), "at least 0"),
        (lambda: LinearStage(model="rigid", tolerance_vox=0), "tolerance_vox"),
        (lambda: DeformableStage(window=1), "window"),
        (lambda: DeformableStage(update_sigma_vox=(-1.0,) * 4), "update_sigma_vox"),
        (lambda: LNCC(radius=40), "radius"),
        (lambda: MI(bins=2), "bins"),
        (lambda: Start(candidates=0), "candidates"),
    ],
)
def test_stages_check_themselves(make, message):
    with pytest.raises(PlanError, match=message):
        make()


NEW_STAGES = {
    "syn": DeformableStage,
    "demons": DemonsStage,
    "svf": VelocityStage,
    "bspline": FreeFormStage,
    "convex": ConvexStage,
}


def one_stage(model, **settings) -> Plan:
    return plan_from_dict({"stages": [{"model": model, **settings}]})


@pytest.mark.parametrize("model", NEW_STAGES)
def test_every_model_has_a_stage_of_its_own_with_defaults(model):
    plan = one_stage(model)
    assert type(plan.stages[0]) is NEW_STAGES[model]
    assert plan.stages[0].model == model
    assert plan_from_dict(tomllib.loads(plan_to_toml(plan))) == plan
    with pytest.raises(PlanError, match=r"stages.0 has no setting 'speed'; its settings are .*shrink, "):
        one_stage(model, speed=2)


@pytest.mark.parametrize(
    ("model", "name", "values"),
    [
        ("syn", "update_sigma_vox", [3.0, 2.5, 2.0]),
        ("syn", "saturation", [3.0, 2.0, 0.0]),
        ("demons", "field_sigma_vox", [2.0, 1.5, 1.0]),
        ("svf", "update_sigma_vox", [3.0, 2.5, 2.0]),
        ("bspline", "spacing_vox", [8.0, 6.0, 4.0]),
        ("bspline", "spacing_mm", [32.0, 16.0, 8.0]),
        ("convex", "stride", [3, 2, 1]),
        ("convex", "search", [5, 4, 2]),
    ],
)
def test_a_setting_has_one_value_or_one_per_level(model, name, values):
    levels = {"shrink": [8, 4, 2], "steps": [9, 8, 7]}
    if model == "convex":
        levels |= {"stride": [2], "search": [3]}
    stage = one_stage(model, **{**levels, name: values}).stages[0]
    assert [stage.at(n, name) for n in range(3)] == values
    alike = one_stage(model, **{**levels, name: values[:1]}).stages[0]
    assert [alike.at(n, name) for n in range(3)] == values[:1] * 3
    plain = one_stage(model, **{**levels, name: values[0]}).stages[0]
    assert plain == alike
    with pytest.raises(PlanError, match=rf"{model}: {name} has one value or one per level \(3\)"):
        one_stage(model, **{**levels, name: values[:2]})


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("syn", {"step_vox": 3}, "step_vox is above 0 and at most 2 voxels, got 3"),
        ("syn", {"saturation": [101.0]}, "saturation is between 0 and 100"),
        ("demons", {"update": "multiplicative"}, "update.*multiplicative"),
        ("demons", {"step_vox": 1.5}, "step_vox is above 0 and at most 1 voxel, got 1.5"),
        ("demons", {"field_sigma_vox": -1}, "field_sigma_vox is between 0 and 20 voxels"),
        (
            "demons",
            {"similarity": {"demons": {"normalization_vox": 0}}},
            "normalization_vox is between 0 and 20",
        ),
        ("demons", {"similarity": {"demons": {"gradient": "both"}}}, "gradient.*both"),
        ("svf", {"gradient": "numeric"}, "gradient.*numeric"),
        ("svf", {"symmetric": True}, "symmetric velocity field takes gradient = 'composition'"),
        ("svf", {"squarings": 13}, "squarings is between 2 and 12, got 13"),
        ("svf", {"step_decay": 0}, "step_decay is above 0 and at most 1"),
        ("bspline", {"spacing_vox": 0.5}, "spacing_vox is between 1 and 200 voxels, got 0.5"),
        ("bspline", {"spacing_vox": [4, 4, 0]}, "spacing_vox is between 1 and 200 voxels, got 0"),
        ("bspline", {"spacing_mm": -8.0}, "spacing_mm is above 0 mm, got -8"),
        (
            "bspline",
            {"spacing_mm": 8, "spacing_vox": 4},
            r"in voxels \(.*4.*\) and in mm \(.*8.*\); give one",
        ),
        ("bspline", {"max_step_vox": 21}, "max_step_vox is above 0 and at most 20 voxels, got 21"),
        ("bspline", {"memory": 0}, "memory is between 1 and 50 steps, got 0"),
        ("bspline", {"optimizer": "adam"}, "optimizer.*adam"),
        (
            "bspline",
            {"optimizer": "asgd", "samples": 10},
            "samples is between 100 and 10000000 voxels, got 10",
        ),
        ("bspline", {"decay_steps": 0}, "decay_steps is between 1 and 10000 steps, got 0"),
        ("bspline", {"decay_power": 2}, "decay_power is between 0 and 1, got 2"),
        ("bspline", {"optimizer": "asgd", "similarity": "lncc"}, "asgd.*lncc compares.*optimizer = 'lbfgs'"),
        ("convex", {"stride": [0]}, "convex: stride is between 1 and 32"),
        ("convex", {"search": [13]}, "convex: search is between 1 and 12"),
        ("convex", {"radius": 9}, "convex: radius is between 0 and 8 voxels, got 9"),
        ("convex", {"dilation": 0}, "convex: dilation is between 1 and 16 voxels, got 0"),
        ("convex", {"cost_sigma": -1}, "convex: cost_sigma is between 0 and 20"),
        ("convex", {"similarity": "mi"}, "no setting 'similarity'"),
        ("convex", {"shrink": [2, 4, 4]}, "coarse to fine"),
        ("bspline", {"steps": [1, 2]}, "one entry per level"),
        ("syn", {"penalties": [PRIOR]}, "syn: deformation-prior is learned from whole maps one way"),
        (
            "svf",
            {"penalties": [PRIOR], "symmetric": True, "gradient": "composition"},
            "svf: deformation-prior is learned from whole maps one way",
        ),
        (
            "bspline",
            {"penalties": [PRIOR, {"inverse-consistency": {"weight": 0.1}}]},
            "bspline: deformation-prior is learned from whole maps one way",
        ),
    ],
)
def test_settings_of_models_out_of_range(model, settings, message):
    with pytest.raises(PlanError, match=message):
        one_stage(model, **settings)


def test_control_points_are_so_far_apart_in_mm():
    stage = one_stage("bspline", shrink=[8, 4, 2], steps=[9, 8, 7], spacing_mm=[32, 16, 8]).stages[0]
    assert stage.spacing_vox == ()
    assert one_stage("bspline").stages[0].spacing_vox == (5.0,)
    assert [stage.control_spacing(n, (8 / 2**n, 4 / 2**n, 4 / 2**n)) for n in range(3)] == [
        (4.0, 8.0, 8.0)
    ] * 3
    assert stage.control_spacing(2, (2.0, 1.0, 10.0)) == (4.0, 8.0, 1.0)  # not closer than voxels
    assert stage.control_spacing(2, (8.0000002,) * 3) == (1.0, 1.0, 1.0)  # as float32 headers have it
    assert stage.solver(2, (2.0, 1.0, 4.0)).spacing_vox == (4.0, 8.0, 2.0)
    for voxels in ((9.0, 8.5, 12.0), (0.03, 0.03, 0.03)):
        with pytest.raises(
            PlanError, match=r"control points 8 mm apart \(spacing_mm\) on level 2, whose voxels are"
        ):
            stage.control_spacing(2, voxels)


def test_mm_take_the_place_of_voxels_in_an_override():
    plan = load_plan("bspline-mi", ["stages.bspline.spacing_mm=[40, 20, 10]"])
    assert plan.stages[-1].spacing_mm == (40.0, 20.0, 10.0)
    assert plan.stages[-1].spacing_vox == ()
    assert plan_from_dict(tomllib.loads(plan_to_toml(plan))) == plan
    number = len(plan.stages) - 1
    for one, other in (("bspline", "bspline"), ("bspline", number), (number, "bspline"), (number, number)):
        with pytest.raises(
            PlanError, match=rf"stages\.{one}\.spacing_mm and stages\.{other}\.spacing_vox are both set"
        ):
            load_plan("bspline-mi", [f"stages.{one}.spacing_mm=20", f"stages.{other}.spacing_vox=4"])


@pytest.mark.parametrize(
    ("model", "settings", "named"),
    [
        ("bspline", {"symmetric_force": False, "samples": 3000}, ["symmetric_force", "samples"]),
        ("bspline", {"optimizer": "asgd", "memory": 9, "tolerance": 0.01}, ["memory", "tolerance"]),
        ("bspline", {"optimizer": "asgd", "samples": 3000, "decay_power": 0.6}, []),
        ("bspline", {"memory": 9, "tolerance": 0.01}, []),
        ("demons", {"symmetric_force": False}, ["symmetric_force"]),
        ("svf", {"symmetric_force": False}, ["symmetric_force"]),
        ("svf", {"symmetric_force": False, "gradient": "composition"}, []),
        (
            "svf",
            {"symmetric_force": False, "gradient": "composition", "similarity": "demons"},
            ["symmetric_force"],
        ),
        ("syn", {"symmetric_force": False}, []),
    ],
)
def test_settings_without_effect_are_told(model, settings, named):
    told = unused_warnings(one_stage(model, **settings))
    assert sorted(told) == sorted(
        next(one for one in told if f"({model}): {name} has no effect, as " in one) for name in named
    )
    assert len(told) == len(named)


def test_presets_set_nothing_without_effect():
    assert [warning for name in list_presets() for warning in unused_warnings(load_plan(name))] == []


def test_a_stage_without_steps_is_said_to_do_nothing():
    plan = load_plan("deformable", ["stages.diffeomorphic.steps=[0,0,0,0]"])
    (told,) = unused_warnings(plan)
    assert "stages.0 (diffeomorphic) does nothing" in told
    assert unused_warnings(load_plan("deformable", ["stages.diffeomorphic.steps=[0,9,0,0]"])) == []
