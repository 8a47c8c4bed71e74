"""Masks and weights: what is hidden does not count, on either side, and what is wrong with a mask is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from phantoms import error_mm, grid_of, inside, pair, points_of, smooth_truth

from regista.core import GeometryError, Image, RegistrationError
from regista.registration import (
    DeformableStage,
    FreeFormStage,
    LinearStage,
    Plan,
    Start,
    VelocityStage,
    _register,
    metric_landscape,
    register,
)
from regista.registration._cost import LevelCost
from regista.registration._inputs import check_mask, hide, prepare
from regista.registration._levels import Level, Scan, check_overlap, levels, usable_voxels
from regista.similarity import LNCC, MI, MIND, NGF, SSD

STILL = Start(search="none")
SMALL = grid_of((22, 26, 17), (1.8, 1.3, 3.9))
PLANE = grid_of((60, 50), (0.8, 1.3), (25.0,), (-40.0, 12.0))
SHORT = {"shrink": (2, 1), "steps": (12, 8)}
STAGES = {
    "greedy": DeformableStage(**SHORT),
    "syn": DeformableStage(model="syn", **SHORT),
    "svf": VelocityStage(**SHORT),
    "bspline": FreeFormStage(similarity=LNCC(), **SHORT),
    "rigid": LinearStage(model="rigid", similarity=LNCC(), **SHORT),
    "mi": LinearStage(model="affine", similarity=MI(), **SHORT),
    "mind": DeformableStage(similarity=MIND(), **SHORT),
    "ngf": DeformableStage(similarity=NGF(), **SHORT),
}


def plan_of(stage, **settings) -> Plan:
    return Plan(stages=(stage,), start=STILL, **settings)


def ball(grid, center, radius_mm: float) -> np.ndarray:
    """Return which voxels lie within a radius of an index."""
    middle = grid.index2world(np.array(center, float))
    return np.linalg.norm(points_of(grid) - middle, axis=-1) < radius_mm


def with_lesion(image: Image, where: np.ndarray, value: float = 2.0) -> tuple[Image, Image]:
    """Return an image with a bright lesion, and the mask that leaves it out."""
    data = np.where(where, np.float32(value), image.data)
    return Image(data, image.grid, space=image.space), Image((~where).astype(np.uint8), image.grid)


@pytest.fixture(scope="module")
def small_pair():
    truth = smooth_truth(SMALL, 4.0)
    return truth, *pair(truth, SMALL)


def far_points(image: Image) -> np.ndarray:
    return image.grid.index2world(np.argwhere(image.data > 0.1)[::7])


@pytest.mark.parametrize("masked", ["fixed", "both"])
@pytest.mark.parametrize("name", STAGES)
def test_what_a_fixed_mask_hides_does_not_count(small_pair, name, masked):
    """To the last bit, whatever the image shows there: through no window, patch, gradient or smoothing."""
    _, fixed, moving = small_pair
    where = ball(SMALL, (10, 13, 8), 9.0)
    masks = {} if masked == "fixed" else {"moving_mask": Image(np.ones(SMALL.shape, np.uint8), SMALL)}
    found = []
    for value in (0.0, 2.0):
        spoilt, mask = with_lesion(fixed, where, value)
        result = register(spoilt, moving, plan_of(STAGES[name]), fixed_mask=mask, **masks)
        found.append(result.transform.map_points(far_points(fixed)))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - far_points(fixed)).max() > 0.3  # something was found


@pytest.mark.parametrize("name", ["greedy", "syn"])
def test_what_a_moving_mask_hides_does_not_count(small_pair, name):
    _, fixed, moving = small_pair
    found = []
    for value in (0.0, 2.0):
        spoilt, mask = with_lesion(moving, ball(SMALL, (10, 13, 8), 9.0), value)
        result = register(fixed, spoilt, plan_of(STAGES[name]), moving_mask=mask)
        found.append(result.transform.map_points(far_points(fixed)))
    np.testing.assert_array_equal(found[0], found[1])


def test_a_plan_may_keep_the_surround(small_pair):
    _, fixed, moving = small_pair
    plan, found = plan_of(STAGES["greedy"], fixed_surround="keep"), []
    for value in (0.0, 2.0):
        spoilt, mask = with_lesion(fixed, ball(SMALL, (10, 13, 8), 9.0), value)
        found.append(register(spoilt, moving, plan, fixed_mask=mask).transform.map_points(far_points(fixed)))
    assert np.abs(found[0] - found[1]).max() > 0.1


def near_errors(truth, fixed, moving, where, around, plan) -> dict[str, float]:
    """Return the mean error, mm, around a lesion: of the pair without it, with it, and with it masked out."""
    spoilt, mask = with_lesion(fixed, where)
    points = points_of(fixed.grid)[around & ~where & (fixed.data > 0.2)]
    runs = {
        "clean": register(fixed, moving, plan),
        "spoilt": register(spoilt, moving, plan),
        "masked": register(spoilt, moving, plan, fixed_mask=mask),
    }
    return {
        name: float(np.linalg.norm(run.transform.map_points(points) - truth(points), axis=1).mean())
        for name, run in runs.items()
    }


@pytest.mark.parametrize(
    ("model", "similarity", "most", "share"),
    [("diffeomorphic", LNCC(), 1.2, 0.1), ("syn", LNCC(), 1.2, 0.1), ("diffeomorphic", MIND(), 1.4, 0.5)],
)
def test_around_a_masked_lesion_the_map_is_as_without_one(smooth_pair, model, similarity, most, share):
    """The error is near that of the pair without a lesion, and has little of what the lesion would add."""
    truth, fixed, moving = smooth_pair
    where, around = (ball(fixed.grid, (20, 25, 15), radius) for radius in (7.0, 13.0))
    stage = DeformableStage(model=model, similarity=similarity, shrink=(4, 2), steps=(40, 30))
    error = near_errors(truth, fixed, moving, where, around, plan_of(stage))
    assert error["spoilt"] > 1.5 * error["clean"]
    assert error["masked"] < most * error["clean"]
    assert error["masked"] - error["clean"] < share * (error["spoilt"] - error["clean"])


def test_around_a_masked_lesion_in_a_plane():
    truth = smooth_truth(PLANE, 3.0)
    fixed, moving = pair(truth, PLANE)
    where, around = (ball(PLANE, (30, 26), radius) for radius in (6.0, 12.0))
    stage = DeformableStage(shrink=(4, 2, 1), steps=(40, 30, 20))
    error = near_errors(truth, fixed, moving, where, around, plan_of(stage))
    assert error["masked"] < 1.3 * error["clean"]
    assert error["masked"] < 0.3 * error["spoilt"]


def test_masks_of_everything_hide_nothing(small_pair):
    """Weighted windows in which all voxels count alike are those without weights."""
    _, fixed, moving = small_pair
    masks = dict.fromkeys(("fixed_mask", "moving_mask"), Image(np.ones(SMALL.shape, np.uint8), SMALL))
    plan = plan_of(replace(STAGES["greedy"], steps=(6, 3)))
    weighted, plain = (
        register(fixed, moving, one, **masks).transform.map_points(far_points(fixed))
        for one in (plan, replace(plan, fixed_surround="keep"))
    )
    np.testing.assert_allclose(weighted, plain, atol=1e-3)


def test_exchanged_images_with_their_masks_give_the_inverse(small_pair):
    _, fixed, moving = small_pair
    here, first = with_lesion(fixed, ball(SMALL, (10, 13, 8), 7.0))
    there, second = with_lesion(moving, ball(SMALL, (14, 16, 10), 6.0))
    plan = plan_of(replace(STAGES["syn"], steps=(25, 12)))
    ahead = register(here, there, plan, fixed_mask=first, moving_mask=second)
    back = register(there, here, plan, fixed_mask=second, moving_mask=first)
    points = inside(fixed)[::5]
    apart = np.linalg.norm(back.inverse.map_points(points) - ahead.transform.map_points(points), axis=1)
    moved = np.linalg.norm(ahead.transform.map_points(points) - points, axis=1)
    assert moved.mean() > 1
    assert apart.mean() < 0.03 * moved.mean()


def test_fractions_are_weights(small_pair):
    _, fixed, _ = small_pair
    plan = plan_of(STAGES["greedy"])
    values = np.full(SMALL.shape, 0.5, np.float32)
    values[:4], values[4:8] = 0, 0.25

    def weight_of(data):
        return prepare(fixed, check_mask(Image(data, SMALL), fixed, "fixed"), plan, "fixed", "error").weight

    np.testing.assert_array_equal(weight_of(values), 2 * values)  # the largest counts as 1
    np.testing.assert_array_equal(weight_of((4 * values).astype(np.int16)), values > 0)
    np.testing.assert_array_equal(weight_of(4 * values), values > 0)  # labels in a file of float32
    rounded = np.float32(1.000001) * 2 * values
    np.testing.assert_allclose(weight_of(rounded), 2 * values, rtol=1e-5)
    wide = replace(plan, mask_margin_mm=2.0)
    grown = prepare(fixed, Image(values, SMALL), wide, "fixed", "error").weight
    assert (grown[3] == 0.5).all()
    assert (grown[:3] == 0).all()
    np.testing.assert_array_equal(grown[4:], 2 * values[4:])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (1.5, r"the moving mask has fractions, which are weights from 0 to 1, and its values go from 0\.5 to 1\.5"),
        (-0.25, r"values go from -0\.25 to 0\.5; divide them"),
        (np.nan, "the moving mask has 1 NaN or Inf voxels"),
        (np.inf, "1 NaN or Inf"),
    ],
)  # fmt: skip
def test_masks_that_are_no_weights_are_refused(small_pair, spoil, words):
    _, fixed, moving = small_pair
    values = np.full(SMALL.shape, 0.5, np.float32)
    values[3, 4, 5] = spoil
    with pytest.raises(GeometryError, match=words):
        register(fixed, moving, plan_of(STAGES["rigid"]), moving_mask=Image(values, SMALL))


@pytest.mark.parametrize("similarity", [SSD(), LNCC(), MIND()])
def test_the_less_a_lesion_weighs_the_less_it_pulls(small_pair, similarity):
    truth, fixed, moving = small_pair
    where = ball(SMALL, (10, 13, 8), 9.0)
    spoilt, _ = with_lesion(fixed, where)
    stage = DeformableStage(similarity=similarity, shrink=(2, 1), steps=(25, 12))
    errors = []
    for weight in (0.9, 0.1, 0.01):
        mask = Image(np.where(where, weight, 1).astype(np.float32), SMALL)
        result = register(spoilt, moving, plan_of(stage), fixed_mask=mask)
        errors.append(error_mm(result.transform, truth, fixed).mean())
    assert errors[0] > errors[1] > 0.98 * errors[2]
    assert errors[2] < 0.85 * errors[0]


def test_images_that_lie_on_each_other_overlap_whatever_they_weigh():
    grid = grid_of((20, 22, 18))
    weight = np.full(grid.shape, 0.05, np.float32)
    weight[9:11, 9:12, 8:10] = 1  # a small region of interest
    scan = Scan(np.zeros(grid.shape, np.float32), grid, weight)
    level = Level(0, 1, 5, (1, 1, 1), scan, scan)
    check_overlap(weight * weight, level)
    assert usable_voxels(level) == pytest.approx(float((weight.astype(float) ** 2).sum()))
    one = Level(0, 1, 5, (1, 1, 1), scan, replace(scan, weight=None))
    assert usable_voxels(one) == pytest.approx(float(weight.sum(dtype=float)))


def test_what_counts_little_does_not_come_back_by_smoothing():
    image = np.full((16, 18, 20), 0.4, np.float32)
    image[:8] = 1.0
    weight = np.ones(image.shape, np.float32)
    weight[:8] = 0.01
    scans = Scan(image, grid_of(image.shape), weight), Scan(image, grid_of(image.shape), None)
    fixed, _ = hide(*scans, plan_of(STAGES["greedy"]))
    smooth = fixed.smoothed(1.5)
    assert np.abs(smooth.data[9:] - 0.4).max() < 0.06
    level = next(iter(levels(fixed, fixed, (4,), (1,))))
    assert np.abs(level.fixed.data[level.fixed.weight > 0.1] - 0.4).max() < 0.06
    plain = next(iter(levels(*scans, (4,), (1,))))
    assert np.abs(plain.fixed.data[level.fixed.weight > 0.1] - 0.4).max() > 0.1


def test_a_landscape_hides_too(small_pair):
    _, fixed, moving = small_pair
    where, found = ball(SMALL, (10, 13, 8), 9.0), []
    for value in (0.0, 2.0):
        spoilt, mask = with_lesion(fixed, where, value)
        rows = metric_landscape(
            spoilt, moving, {"lncc": LNCC()}, ["tx"], reach=4, points=5, fixed_mask=mask, shrink=2
        )
        found.append(rows[0].values)
    np.testing.assert_array_equal(found[0], found[1])


THIN = {  # masks of so many voxels along each axis show a metric nothing, and with one more along the first enough
    "mind": (MIND(), (2, 26, 17)),
    "ngf": (NGF(), (2, 26, 17)),
    "lncc": (LNCC(), (1, 3, 17)),
}


@pytest.mark.parametrize("stage", ["dense", "syn", "linear"])
@pytest.mark.parametrize("name", THIN)
def test_masks_that_show_a_metric_nothing_are_refused(small_pair, name, stage):
    _, fixed, moving = small_pair
    metric, size = THIN[name]
    common = {"similarity": metric, "shrink": (1,), "steps": (2,)}
    made = {"linear": LinearStage, "dense": DeformableStage, "syn": DeformableStage}[stage]
    model = {"linear": "translation", "dense": "diffeomorphic", "syn": "syn"}[stage]

    def run(thickness: int):
        mask = np.zeros(SMALL.shape, np.uint8)
        mask[10 : 10 + thickness, : size[1], : size[2]] = 1
        plan = plan_of(made(model=model, **common))
        return register(fixed, moving, plan, fixed_mask=Image(np.roll(mask, (26 - size[1]) // 2, 1), SMALL))

    words = rf"^{model}: the metric {name} sees nothing on level 1 of 1: .*mask_margin_mm"
    with pytest.raises(RegistrationError, match=words):
        run(size[0])
    assert np.isfinite(run(size[0] + 1).record.history[0].values).all()


def apart(index: int, after: str, masked: bool) -> Level:
    """Return a level of images of which 2 % overlap, and the weight that says so."""
    grid = grid_of((10, 10, 10))
    weight = np.ones(grid.shape, np.float32) if masked else None
    image = np.zeros(grid.shape, np.float32)
    return Level(index, 3, 1, (1, 1, 1), Scan(image, grid, weight), Scan(image, grid), "syn", after)


@pytest.mark.parametrize(
    ("index", "after", "masked", "words", "not_said"),
    [
        (0, "", False, "^syn: only 2 % .* at the start.*: check the headers", "blame"),
        (0, "rigid", False, "^syn: only 2 % .*: the headers are not to blame, 'rigid' moved them", "mask_margin"),
        (2, "rigid", True, "^syn: only 2 % .* after level 2 of 3, .*'syn' moved them apart; .*mask_margin_mm", "'rigid'"),
    ],
)  # fmt: skip
def test_images_that_came_apart_are_told_from_those_that_were(index, after, masked, words, not_said):
    weight = np.zeros((10, 10, 10), np.float32)
    weight[:2, :, 0] = 1
    with pytest.raises(RegistrationError, match=words) as raised:
        check_overlap(weight, apart(index, after, masked))
    assert not_said not in str(raised.value)


def test_both_halves_of_a_map_tell_whether_images_overlap(small_pair):
    """Halves that each keep half of the images leave nothing where they meet."""
    _, fixed, moving = small_pair
    plan = plan_of(STAGES["syn"])
    scans = [prepare(image, None, plan, "fixed", "error") for image in (fixed, moving)]
    level = next(iter(levels(*scans, (1,), (1,), "syn")))
    cost, halves = LevelCost(level, LNCC(), np.eye(4)), np.zeros((2, 3, *level.fixed.data.shape), np.float32)
    cost.begin(list(halves), 1)
    halves[0, 0], halves[1, 0] = 12.0, -12.0
    with pytest.raises(RegistrationError, match="syn: only 0 %"):
        cost.begin(list(halves), 1)


def test_a_stage_that_runs_away_is_named(small_pair, monkeypatch):
    """The start is good; what the first stage makes of it is not, and the second cannot begin there."""
    _, fixed, moving = small_pair
    plan = Plan(stages=(replace(STAGES["rigid"], steps=(1, 1)), STAGES["greedy"]), start=STILL)
    run_linear = _register.run_linear

    def run_off(*given):
        matrix, history = run_linear(*given)
        matrix = matrix.copy()
        matrix[1, 3] += 500
        return matrix, history

    monkeypatch.setattr(_register, "run_linear", run_off)
    with pytest.raises(
        RegistrationError, match=r"^diffeomorphic: only 0 % .*: the headers are not to blame, 'rigid'"
    ):
        register(fixed, moving, plan)
