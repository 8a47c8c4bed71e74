"""The B-spline stage by stochastic gradient descent: maps found again, equal bits, masks, penalties, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from phantoms import error_vox, grid_of, pair, points_of, smooth_truth

from regista.core import Image, LabelImage, PlanError
from regista.registration import FreeFormStage, LabelGuide, Plan, Start, load_plan, plan_from_dict, register
from regista.registration._sampled_cost import block_maximum
from regista.regularization import LocalRigidity, LogJacobian
from regista.similarity import (
    LNCC,
    MI,
    MIND,
    NCC,
    NGF,
    NMI,
    SSD,
    CorrelationRatio,
    DemonsSSD,
    Sum,
    prepare_channels,
)
from regista.transforms import Affine, DisplacementField

STAGE = FreeFormStage(
    optimizer="asgd", shrink=(4, 2, 1), steps=(80, 80, 80), samples=2048, similarity=NCC(), spacing_vox=(6.0,)
)
SHORT = replace(STAGE, shrink=(4, 2), steps=(15, 15))


def plan(stage=STAGE, **settings) -> Plan:
    return Plan(stages=(replace(stage, **settings),), start=Start(search="none"))


def before_and_after(result, truth, fixed, moving):
    still = Affine(np.eye(fixed.ndim + 1))
    return [error_vox(one, truth, fixed, moving).mean() for one in (still, result.transform)]


@pytest.mark.parametrize("similarity", [NCC(), MI(), Sum(terms=((1.0, SSD()), (0.2, CorrelationRatio())))])
def test_a_smooth_deformation_is_found(smooth_pair, similarity):
    truth, fixed, moving = smooth_pair
    result = register(fixed, moving, plan(similarity=similarity))
    before, after = before_and_after(result, truth, fixed, moving)
    assert after < 0.25 * before
    assert result.record.measures["folded_percent"] == 0
    assert [len(level.values) for level in result.record.history] == [81] * 3  # all steps, and the end


def test_two_dimensions():
    grid = grid_of((90, 70), (0.8, 1.3), (25.0,), (-40.0, 12.0))
    truth = smooth_truth(grid, 3.0)
    fixed, moving = pair(truth, grid)
    result = register(fixed, moving, plan())
    before, after = before_and_after(result, truth, fixed, moving)
    assert after < 0.4 * before
    assert result.transform.ndim == 2


def test_what_masks_leave_out_does_not_matter(smooth_pair):
    truth, fixed, moving = smooth_pair
    masks, spoilt = [], []
    for image, box in ((fixed, np.s_[24:30, 20:30, 10:18]), (moving, np.s_[10:15, 20:28, 12:18])):
        inside, data = np.ones(image.grid.shape, np.uint8), image.data.copy()
        inside[box], data[box] = 0, 1.3
        masks.append(Image(inside, image.grid))
        spoilt.append(Image(data, image.grid, space=image.space))
    result = register(*spoilt, plan(), fixed_mask=masks[0], moving_mask=masks[1])
    before, after = before_and_after(result, truth, fixed, moving)
    assert after < 0.3 * before
    free = register(*spoilt, plan())
    assert after < 0.8 * before_and_after(free, truth, fixed, moving)[1]


def test_a_start_that_bends_is_refined(smooth_pair):
    truth, fixed, moving = smooth_pair
    half = 0.6 * np.moveaxis(truth(points_of(fixed.grid)) - points_of(fixed.grid), -1, 0)
    start = DisplacementField(half.astype(np.float32), fixed.grid, fixed_space="here", moving_space="there")
    result = register(fixed, moving, plan(), initial=start)
    assert error_vox(result.transform, truth, fixed, moving).mean() < 0.65 * (
        error_vox(start, truth, fixed, moving).mean()
    )


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_threads(smooth_pair):
    _, fixed, moving = smooth_pair

    def found(seed, threads):
        result = register(fixed, moving, plan(SHORT, penalties=(LogJacobian(),)), threads=threads, seed=seed)
        return result.transform.transforms[0].coefficients_mm.tobytes()

    first = found(4, 2)
    assert found(4, 2) == first
    assert found(4, 1) == first
    assert found(-5, 2) != first


def test_penalties_hold(smooth_pair):
    _, fixed, moving = smooth_pair
    wild = {"spacing_vox": (2.0,), "first_step_vox": 2.0, "samples": 500}
    smallest = [
        register(fixed, moving, plan(SHORT, penalties=penalties, **wild)).record.measures["smallest_jacobian"]
        for penalties in ((), (LogJacobian(weight=1.0),))
    ]
    assert smallest[1] > smallest[0] + 0.05


@pytest.mark.parametrize("metric", [SSD(), NCC(), MI(), NMI(), CorrelationRatio(), DemonsSSD()])
def test_a_metric_at_all_voxels_is_the_metric(rng, metric):
    fixed, warped, weight = (rng.random((7, 6, 5), np.float32) for _ in range(3))
    whole, some = np.empty_like(fixed), np.empty((fixed.size, 1, 1), np.float32)
    both = prepare_channels(Sum(terms=((2.0, metric),)), (fixed,), weight)
    order = rng.permutation(fixed.size)
    expected = both.value_and_gradient((warped,), weight, (whole,))
    few = [one.reshape(-1)[order].reshape(-1, 1, 1) for one in (warped, weight)]
    assert both.at(order).value_and_gradient(few[:1], few[1], (some,)) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(some.ravel(), whole.ravel()[order], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("metric", [LNCC(), MIND(), NGF(), Sum(terms=((1.0, MI()), (1.0, LNCC())))])
def test_metrics_of_neighbourhoods_are_refused(metric):
    with pytest.raises(
        PlanError, match=r"compares their neighbourhoods; take ssd, ncc, .*optimizer = 'lbfgs'"
    ):
        FreeFormStage(optimizer="asgd", similarity=metric)


@pytest.mark.parametrize("shape", [(17, 20, 13), (17, 1, 13)])
def test_no_voxel_of_a_region_is_lost_between_points_of_penalties(shape):
    strides = (3, 5 if shape[1] > 1 else 1, 4)
    points = tuple(len(range(0, n, s)) for n, s in zip(shape, strides, strict=True))
    for flat in range(0, np.prod(shape), 7):
        region = np.zeros(shape, np.float32)
        region.flat[flat] = 0.7
        kept = block_maximum(region, strides)
        assert kept.shape == points
        assert np.count_nonzero(kept) == 1
        assert kept.max() == np.float32(0.7)
        gap = np.argwhere(kept)[0] * strides - np.argwhere(region)[0]
        assert (np.abs(gap) < strides).all()


def test_a_region_of_few_voxels_takes_part(smooth_pair):
    _, fixed, moving = smooth_pair
    inside = np.zeros(fixed.grid.shape, np.uint8)
    inside[13, 17, 11] = 1
    stage = plan(SHORT, shrink=(1,), steps=(2,), penalties=(LocalRigidity(weight=1e3),))
    free = plan(SHORT, shrink=(1,), steps=(2,))
    results = [
        register(fixed, moving, one, region=where).transform
        for one, where in ((free, None), (stage, Image(inside, fixed.grid)))
    ]
    points = points_of(fixed.grid).reshape(-1, 3)
    assert np.abs(results[0].map_points(points) - results[1].map_points(points)).max() > 0.01


def test_guides_are_refused(smooth_pair):
    _, fixed, moving = smooth_pair
    labels = [LabelImage((one.data > 0.3).astype(np.uint8), one.grid) for one in (fixed, moving)]
    with pytest.raises(PlanError, match="guides need the whole map; take optimizer = 'lbfgs'"):
        register(fixed, moving, plan(), guides=[LabelGuide(fixed=labels[0], moving=labels[1])])


def test_a_plan_names_the_optimizer():
    loaded = load_plan("bspline-mi", ["stages.bspline.optimizer=asgd", "stages.bspline.samples=3000"])
    assert (loaded.stages[-1].optimizer, loaded.stages[-1].samples) == ("asgd", 3000)
    assert load_plan("bspline-mi").stages[-1].optimizer == "lbfgs"
    with pytest.raises(PlanError, match="optimizer is 'lbfgs' or 'asgd', got 'adam'"):
        FreeFormStage(optimizer="adam")
    with pytest.raises(PlanError, match=r"stages\.0.*optimizer.*adam"):
        plan_from_dict({"stages": [{"model": "bspline", "optimizer": "adam"}]})
