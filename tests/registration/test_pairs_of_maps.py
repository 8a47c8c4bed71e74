"""A map and one back, estimated together: penalties on their loop as plans name them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from phantoms import error_vox, grid_of, pair, smooth_truth

from regista.core import PlanError
from regista.registration import (
    DeformableStage,
    DemonsStage,
    FreeFormStage,
    Plan,
    Start,
    load_plan,
    plan_from_dict,
    plan_to_dict,
    register,
)
from regista.registration._cost import LevelCost
from regista.registration._inputs import prepare
from regista.registration._levels import Level, Scan, levels
from regista.registration._pair_cost import PairCost, loop_error_mm
from regista.regularization import Bending, GradientConsistency, InverseConsistency
from regista.similarity import SSD
from regista.transforms import Affine, BSplineField, DisplacementField, to_displacement_field

STAGE = FreeFormStage(similarity=SSD(), shrink=(4, 2), steps=(25, 15))


def plan(*penalties, **settings) -> Plan:
    return Plan(stages=(replace(STAGE, penalties=penalties, **settings),), start=Start(search="none"))


@pytest.fixture(scope="module")
def known():
    """Return a pair on an oblique, anisotropic grid, and the diffeomorphism between them."""
    grid = grid_of((32, 38, 22), (1.0, 0.8, 2.0))
    truth = smooth_truth(grid, 3.0)
    return truth, *pair(truth, grid)


def test_consistent_maps_undo_each_other_and_find_the_truth(known):
    truth, fixed, moving = known
    free = register(fixed, moving, plan(InverseConsistency(weight=0.0)))
    tied = register(fixed, moving, plan(InverseConsistency(weight=0.05)))
    loops = [run.record.measures["loop_mean_mm"] for run in (free, tied)]
    assert loops[1] < 0.3 * loops[0]
    still = Affine(np.eye(4))
    before, after = (error_vox(t, truth, fixed, moving).mean() for t in (still, tied.transform))
    assert after < 0.4 * before
    assert isinstance(tied.transform.flatten().transforms[0], BSplineField)
    alone = register(fixed, moving, plan())
    assert "loop_mean_mm" not in alone.record.measures
    # two maps with nothing between them: the one there is found as if it were alone, but for shared step lengths
    gap = [to_displacement_field(run.transform, fixed.grid).vectors_mm for run in (free, alone)]
    assert np.abs(gap[0] - gap[1]).mean() < 0.3


def test_a_constant_loop_is_enough_for_gradient_consistency(known):
    truth, fixed, moving = known
    result = register(fixed, moving, plan(GradientConsistency(weight=0.5), Bending(weight=0.05)))
    before, after = (error_vox(t, truth, fixed, moving).mean() for t in (Affine(np.eye(4)), result.transform))
    assert after < 0.5 * before
    assert result.record.measures["folded_percent"] == 0


@pytest.mark.parametrize("shape", [(20, 24, 14), (30, 26)])
def test_the_gradient_is_that_of_the_value(rng, shape):
    spacing = (1.0, 0.7, 2.3)[: len(shape)]
    grid = grid_of(shape, spacing, origin=(31.0, -18.0, 44.0)[: len(shape)])
    fixed, moving = pair(smooth_truth(grid, 2.0), grid)
    whole = plan(InverseConsistency(weight=0.3), GradientConsistency(weight=0.2), Bending(weight=0.1))
    scans = [
        prepare(image, None, whole, role, "error") for role, image in (("fixed", fixed), ("moving", moving))
    ]
    (level,) = levels(*scans, (1,), (1,))
    matrix = np.eye(4)
    matrix[0, 3] = 0.4
    cost = PairCost(level, SSD(), matrix, True, whole.stages[0].penalties)
    waves = [np.sin(np.indices(level.fixed.data.shape).sum(0) / 5 + n) for n in range(6)]
    field = (0.6 * np.stack(waves)).astype(np.float32)
    away = np.stack([np.cos(np.indices(level.fixed.data.shape)[n % 3] / 4 + n) for n in range(6)]).astype(
        np.float32
    )
    flat = np.tile(cost.axis_scale == 0, 2)
    field[flat], away[flat] = 0, 0
    out, spare = np.empty_like(field), np.empty_like(field)
    cost.value_and_gradient(field, out)
    step = 0.02
    values = [cost.value_and_gradient(field + sign * step * away, spare) for sign in (1, -1)]
    slope = (values[0] - values[1]) / (2 * step)
    assert np.vdot(out.astype(np.float64), away) == pytest.approx(slope, rel=0.02)
    halves = [
        float(np.vdot(part.astype(np.float64), way))
        for part, way in zip((out[:3], out[3:]), (away[:3], away[3:]), strict=True)
    ]
    assert min(map(abs, halves)) > 1e-3 * abs(slope)  # both take part


@pytest.mark.parametrize("masked", ["fixed", "moving", "both"])
def test_masks_of_the_exchanged_problem_are_those_of_exchanged_images(rng, masked):
    shape, x = (18, 20, 14), np.indices((18, 20, 14))[0]
    grid = grid_of(shape)
    one, other = (rng.random(shape, np.float32) for _ in range(2))
    here = (x < 11).astype(np.float32) if masked != "moving" else None
    there = (x > 4).astype(np.float32) if masked != "fixed" else None
    level = Level(0, 1, 1, (1, 1, 1), Scan(one, grid, here), Scan(other, grid, there))
    swapped = replace(level, fixed=level.moving, moving=level.fixed)
    field = np.zeros((3, *shape), np.float32)
    field[0], out = -3.0, np.empty((3, *shape), np.float32)
    expected = LevelCost(swapped, SSD(), np.eye(4)).value_and_gradient(field, out)
    exchanged = LevelCost(level, SSD(), np.eye(4)).exchanged()
    assert exchanged.value_and_gradient(field, out) == pytest.approx(expected, rel=1e-6)


def test_the_loop_of_shifts_is_their_sum(make_grid):
    grid = make_grid((8, 9, 10))
    there, back = np.zeros((2, 3, 8, 9, 10), np.float32)
    there[0], back[0] = 1.0, -0.5
    assert loop_error_mm(there, back, grid) == pytest.approx(0.5 * grid.spacing[0], rel=1e-5)
    assert loop_error_mm(there, -there, grid) == pytest.approx(0, abs=1e-6)


def test_in_a_plane(tmp_path):
    grid = grid_of((60, 50), (0.8, 1.3), (25.0,), (-40.0, 12.0))
    truth = smooth_truth(grid, 3.0)
    fixed, moving = pair(truth, grid)
    result = register(fixed, moving, plan(InverseConsistency(weight=0.1)))
    before, after = (error_vox(t, truth, fixed, moving).mean() for t in (Affine(np.eye(3)), result.transform))
    assert after < 0.6 * before
    assert result.record.measures["loop_mean_mm"] < 0.3


def test_plans_say_it_and_other_models_refuse_it(known):
    _, fixed, moving = known
    told = load_plan("bspline-mi", ["stages.bspline.penalties=[{inverse-consistency = {weight = 0.1}}]"])
    assert told.stages[-1].penalties == (InverseConsistency(weight=0.1),)
    assert plan_from_dict(plan_to_dict(told)) == told
    for kind, words in (
        (DeformableStage, "this model estimates one map"),
        (DemonsStage, "estimates one map"),
    ):
        with pytest.raises(PlanError, match=words):
            kind(penalties=(InverseConsistency(),))
    with pytest.raises(PlanError, match="needs both whole maps"):
        FreeFormStage(optimizer="asgd", penalties=(GradientConsistency(),))
    bent = DisplacementField(np.full((3, *fixed.grid.shape), 0.1, np.float32), fixed.grid)
    with pytest.raises(ValueError, match="starts from a linear map"):
        register(fixed, moving, plan(InverseConsistency()), initial=bent)
