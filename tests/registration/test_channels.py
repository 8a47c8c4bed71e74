"""Images of several channels: what is compared, by which metric, and what is said about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from phantoms import error_mm, grid_of, linear_truth, pair, points_of, smooth_truth
from scipy.spatial.transform import Rotation

from regista import read, register
from regista.core import GeometryError, Grid, Image, PlanError, stack_channels
from regista.registration import load_plan, plan_from_dict, plan_to_dict, plan_to_toml
from regista.registration._channels import in_use, metric_volumes
from regista.registration._cost import LevelCost
from regista.registration._inputs import prepare
from regista.registration._levels import content_box, levels
from regista.registration._linear import LinearCost, basis_for
from regista.similarity import (
    LNCC,
    MI,
    NCC,
    SIMILARITIES,
    SSD,
    DeepMetric,
    Sum,
    channel_terms,
    prepare_channels,
)
from regista.transforms import Affine

SMALL = grid_of((22, 27, 15), (1.6, 1.1, 3.9))


def channels_of(*images: Image) -> Image:
    return stack_channels(images)


def plan_of(model="translation", similarity="ncc", shrink=(2, 1), steps=(30, 20), start="none", **more):
    stage = {"model": model, "shrink": list(shrink), "steps": list(steps), **more}
    stage |= {} if similarity is None else {"similarity": similarity}
    return plan_from_dict({"stages": [stage], "start": {"search": start}})


def stripes(grid: Grid, axis: int, shift_mm: np.ndarray) -> Image:
    """Return waves along one of the grid's axes only, all of them within the grid's middle."""
    step = grid.direction[:, axis]
    place = (points_of(grid) - grid.center_mm - shift_mm) @ step
    extent = grid.shape[axis] * grid.spacing[axis]
    wave = np.exp(-((place / (0.12 * extent)) ** 2)) + 0.5 * np.exp(
        -(((place - 0.27 * extent) / (0.05 * extent)) ** 2)
    )
    return Image(wave.astype(np.float32), grid)


@pytest.fixture(scope="module")
def stripes_pair():
    """Return shift (mm), its parts along the first two axes, and a pair of which each channel shows one part."""
    parts = [SMALL.direction[:, axis] * size for axis, size in ((0, 3.1), (1, -2.3))]
    shift = parts[0] + parts[1]
    fixed = channels_of(*(stripes(SMALL, axis, np.zeros(3)) for axis in (0, 1)))
    moving = channels_of(*(stripes(SMALL, axis, shift) for axis in (0, 1)))
    return shift, parts, fixed, moving


def test_each_channel_determines_one_direction_and_both_the_whole(stripes_pair):
    shift, parts, fixed, moving = stripes_pair
    moved = register(fixed, moving, plan_of()).transform.matrix[:3, 3]
    assert np.allclose(moved, shift, atol=0.05)
    for number, part in enumerate(parts):
        term = [{"weight": 1.0, "channel": number, "ncc": {}}]
        alone = register(fixed, moving, plan_of(similarity=term)).transform.matrix[:3, 3]
        assert np.allclose(alone, part, atol=0.05)


def test_a_dense_stage_follows_both_channels(stripes_pair):
    shift, _, fixed, moving = stripes_pair
    middle = SMALL.center_mm[None]
    plan = plan_of("diffeomorphic", "ssd", (2, 1), (60, 30))
    both = (register(fixed, moving, plan).transform.map_points(middle) - middle)[0]
    assert np.linalg.norm(both - shift) < 0.35 * np.linalg.norm(shift)
    one = replace(plan.stages[0], similarity=Sum(terms=((1.0, SSD()),), channels=(0,)))
    alone = (register(fixed, moving, replace(plan, stages=(one,))).transform.map_points(middle) - middle)[0]
    assert abs(alone @ SMALL.direction[:, 1]) < 1e-3  # the second channel's direction is unknown to the first
    assert abs(both @ SMALL.direction[:, 1]) > 1.5


def scans_of(*images: Image):
    return [prepare(one, None, plan_of(), "fixed", "error") for one in images]


@pytest.fixture(scope="module")
def level():
    """Return a level of a pair of two unlike channels."""
    truth = smooth_truth(SMALL, 3.0)
    pairs = [pair(truth, SMALL, seed=seed) for seed in (0, 5)]
    fixed, moving = scans_of(*(channels_of(*side) for side in zip(*pairs, strict=True)))
    return next(iter(levels(fixed, moving, (2,), (1,))))


def single(level, number):
    """Return the level of one channel."""
    fixed, moving = (scan.with_channels([scan.channels[number]]) for scan in (level.fixed, level.moving))
    return replace(level, fixed=fixed, moving=moving)


def random_field(level, size=0.4, seed=1):
    return np.random.default_rng(seed).uniform(-size, size, (3, *level.fixed.data.shape)).astype(np.float32)


WEIGHTED = Sum(terms=((0.7, LNCC(radius=1)), (0.4, MI())), channels=(0, 1))


def test_a_linear_cost_adds_values_and_gradients(level):
    basis, matrix = basis_for("affine", level.fixed), np.eye(4)
    matrix[:3, 3] = 0.7, -0.4, 0.9
    parts = [LinearCost(single(level, n), m, basis)(matrix) for n, m in enumerate((LNCC(radius=1), MI()))]
    value, gradient = LinearCost(level, WEIGHTED, basis)(matrix)
    assert value == pytest.approx(0.7 * parts[0][0] + 0.4 * parts[1][0], rel=1e-6)
    assert np.allclose(gradient, 0.7 * parts[0][1] + 0.4 * parts[1][1], rtol=1e-4, atol=1e-7)


WAYS = ("force", "exchanged_force", "value_and_gradient", "forces")


def ask(way, level, metric, symmetric=True):
    """Return value and force, or gradient, of a level's cost."""
    cost, field = LevelCost(level, metric, np.eye(4), symmetric), random_field(level)
    cost.begin([field], 1)
    out, other, scratch = (np.zeros_like(field) for _ in range(3))
    if way == "value_and_gradient":
        return cost.value_and_gradient(field, out), out
    if way == "forces":
        value = cost.forces(0.5 * field, field, scratch, out, other)
        return value, np.concatenate([out, other])
    return getattr(cost, way)(field, scratch, out), out


def test_halfway_each_metric_is_prepared_once(level, monkeypatch):
    """What it takes from the first look, such as the range of a histogram, holds for all steps of a level."""
    prepared, real = [], MI.prepare
    monkeypatch.setattr(MI, "prepare", lambda self, *images: prepared.append(self) or real(self, *images))
    cost, field = LevelCost(single(level, 0), MI(), np.eye(4)), random_field(level)
    begun = len(prepared)
    scratch, *forces = (np.zeros_like(field) for _ in range(3))
    values = [cost.forces(share * field, field, scratch, *forces) for share in (0.0, 0.5, 0.0)]
    assert len(prepared) == begun + 2  # there and back
    assert values[0] == values[2] != values[1]


@pytest.mark.parametrize("way", WAYS)
def test_a_dense_cost_adds_values_and_forces(level, way):
    parts = [ask(way, single(level, n), m) for n, m in enumerate((LNCC(radius=1), MI()))]
    value, force = ask(way, level, WEIGHTED)
    expected = 0.7 * parts[0][1] + 0.4 * parts[1][1]
    assert value == pytest.approx(0.7 * parts[0][0] + 0.4 * parts[1][0], rel=1e-5)
    assert np.abs(expected).max() > 0
    assert np.allclose(force, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("way", WAYS)
def test_a_metric_without_a_channel_is_the_mean(level, way):
    parts = [ask(way, single(level, n), NCC()) for n in (0, 1)]
    value, force = ask(way, level, NCC())
    assert value == pytest.approx((parts[0][0] + parts[1][0]) / 2, rel=1e-5)
    expected = (parts[0][1] + parts[1][1]) / 2
    assert np.allclose(force, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_the_gradient_by_displacements_is_that_of_the_value(level):
    field, direction = random_field(level), random_field(level, 1.0, seed=2)
    cost, out = LevelCost(level, WEIGHTED, np.eye(4), False), np.zeros_like(field)
    cost.begin([field], 1)
    cost.value_and_gradient(field, out)
    step, spare = np.float32(5e-4), np.zeros_like(field)
    ahead, back = (cost.value_and_gradient(field + s * direction, spare) for s in (step, -step))
    expected = float((out.astype(np.float64) * direction).sum())
    assert (ahead - back) / (2 * float(step)) == pytest.approx(expected, rel=0.03)


def test_several_terms_on_one_channel_add_and_one_without_terms_gets_nothing():
    rng = np.random.default_rng(0)
    fixed, warped = (tuple(rng.random((7, 8, 5), np.float32) for _ in range(2)) for _ in range(2))
    both = Sum(terms=((0.5, SSD()), (2.0, NCC())), channels=(1, 1))
    out = [np.full((7, 8, 5), np.nan, np.float32) for _ in range(2)]
    value = prepare_channels(both, fixed, None).value_and_gradient(warped, None, out)
    one, other = np.empty_like(out[0]), np.empty_like(out[0])
    ssd = SSD().prepare(fixed[1], None).value_and_gradient(warped[1], None, one)
    ncc = NCC().prepare(fixed[1], None).value_and_gradient(warped[1], None, other)
    assert value == pytest.approx(0.5 * ssd + 2 * ncc)
    assert np.allclose(out[1], 0.5 * one + 2 * other, atol=1e-7)
    assert not out[0].any()


MODELS = {
    "affine": {"similarity": "mi"},
    "diffeomorphic": {"similarity": {"lncc": {"radius": 2}}, "penalties": [{"bending": {"weight": 0.01}}]},
    "syn": {"similarity": {"lncc": {"radius": 2}}},
    "demons": {"similarity": None},
    "svf": {"similarity": "ncc", "symmetric": True, "gradient": "composition"},
    "bspline": {"similarity": "ssd"},
}


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("model", MODELS)
def test_two_equal_channels_are_as_one_to_the_last_bit(model, masked):
    fixed, moving = pair(smooth_truth(SMALL, 2.0), SMALL)
    masks = {}
    if masked:
        masks = {
            f"{role}_mask": Image((one.data > 0.05).astype(np.uint8), one.grid)
            for role, one in (("fixed", fixed), ("moving", moving))
        }
    plan = plan_of(model, shrink=(4, 2), steps=(3, 3), **MODELS[model])
    one = register(fixed, moving, plan, **masks)
    two = register(channels_of(fixed, fixed), channels_of(moving, moving), plan, **masks)
    as_channel = register(channels_of(fixed), channels_of(moving), plan, **masks)
    for other in (two, as_channel):
        assert [level.values for level in other.record.history] == [
            level.values for level in one.record.history
        ]
        assert all(np.array_equal(channel, one.warped.data) for channel in other.warped.data)
    assert "channels" not in one.record.measures
    assert "channels" not in as_channel.record.measures
    predicted = [run.record.measures["predicted_memory_bytes"] for run in (one, two)]
    assert predicted[1] > predicted[0]


def test_the_convex_search_compares_all_channels(stripes_pair):
    shift, _, fixed, moving = stripes_pair
    plan = plan_of("convex", None, shrink=(1,), steps=(7,), stride=1, search=4, dilation=1)
    middle = SMALL.index2world(np.array([[a, b, 7] for a in (9, 10, 11) for b in (12, 13, 14)]))

    def found(*numbers):
        pair = (Image(one.data[list(numbers)], SMALL, "channels") for one in (fixed, moving))
        return (register(*pair, plan).transform.map_points(middle) - middle).mean(axis=0)

    off = [np.linalg.norm(found(*numbers) - shift) for numbers in ((0, 1), (0,), (1,))]
    assert off[0] < 1.0 < min(off[1:])


def test_the_search_for_a_start_compares_channels_too():
    truth = linear_truth(SMALL, (20, -10, 15), (4.0, -3.0, 5.0))
    pairs = [pair(truth, SMALL, seed=seed) for seed in (0, 5)]
    fixed, moving = (channels_of(*side) for side in zip(*pairs, strict=True))
    result = register(fixed, moving, plan_of("rigid", "ncc", start="rotations"))
    assert error_mm(result.transform, truth, pairs[0][0]).mean() < 0.2
    assert result.record.measures["channels"] == {"fixed": 2, "moving": 2, "compared": [0, 1]}
    assert not any("averaged" in warning for warning in result.record.warnings)
    assert result.warped.data.shape == (2, *SMALL.shape)


def test_masks_hold_for_every_channel(stripes_pair):
    shift, _, fixed, moving = stripes_pair
    here = np.zeros(SMALL.shape, np.uint8)
    here[:, :, 4:] = 1
    spoilt = fixed.data.copy()
    spoilt[1, :, :, :4] = np.random.default_rng(0).random(spoilt[1, :, :, :4].shape) * 3
    mask = Image(here, SMALL)
    result = register(fixed.with_data(spoilt), moving, plan_of(), fixed_mask=mask)
    assert np.allclose(result.transform.matrix[:3, 3], shift, atol=0.1)


def test_a_voxel_that_is_bad_in_one_channel_is_left_out_of_all(stripes_pair):
    shift, _, fixed, moving = stripes_pair
    data = fixed.data.copy()
    data[1, 3:7, 4:9, 5] = np.nan
    with pytest.raises(GeometryError, match=r"20 NaN or Inf voxels"):
        register(fixed.with_data(data), moving, plan_of())
    scan = prepare(fixed.with_data(data), None, plan_of(), "fixed", "mask")
    assert scan.weight is not None
    assert np.array_equal(scan.weight == 0, np.isnan(data[1]))
    assert all(np.isfinite(channel).all() for channel in scan.channels)
    result = register(fixed.with_data(data), moving, plan_of(), non_finite="mask")
    assert np.allclose(result.transform.matrix[:3, 3], shift, atol=0.1)


def test_every_channel_is_scaled_by_its_own_percentiles(stripes_pair):
    fixed = stripes_pair[2]
    louder = fixed.with_data(fixed.data * np.array([1.0, 1000.0], np.float32)[:, None, None, None])
    for channel, like in zip(*(scan.channels for scan in scans_of(louder, fixed)), strict=True):
        assert np.allclose(channel, like, atol=1e-5)
        assert (channel.min(), channel.max()) == pytest.approx((0, 1), abs=1e-6)


@pytest.mark.parametrize(
    "metric", [kind() for kind in SIMILARITIES.values() if kind is not DeepMetric], ids=lambda m: m.name
)
def test_a_constant_channel_is_told_and_does_no_harm(stripes_pair, metric):
    _, _, fixed, moving = stripes_pair
    flat = np.full((1, *SMALL.shape), 7, np.float32)
    fixed, moving = (Image(np.concatenate([one.data, flat]), SMALL, "channels") for one in (fixed, moving))
    plan = plan_of("diffeomorphic", metric.name, (2,), (2,))
    result = register(fixed, moving, plan)
    assert all(np.isfinite(level.values).all() for level in result.record.history)
    told = [w for w in result.record.warnings if "constant" in w]
    assert told == [f"channel 2 of the {r} image is constant and tells nothing" for r in ("fixed", "moving")]
    with pytest.raises(GeometryError, match="is constant: there is nothing"):
        register(fixed.with_data(np.ones_like(fixed.data)), moving, plan)


def test_a_plan_with_channels_comes_back_from_its_text(tmp_path):
    text = """
    [[stages]]
    model = "affine"
    similarity = [{weight = 1, channel = 0, lncc = {radius = 2}}, {weight = 0.5, channel = 1, mi = {}}, {weight = 2, ncc = {}}]
    """
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    plan = load_plan(path)
    metric = plan.stages[0].similarity
    assert metric == Sum(terms=((1.0, LNCC(radius=2)), (0.5, MI()), (2.0, NCC())), channels=(0, 1, None))
    path.write_text(plan_to_toml(plan), encoding="utf-8")
    assert load_plan(path) == plan
    assert plan_from_dict(plan_to_dict(plan)) == plan
    assert "channel" not in plan_to_dict(plan)["stages"][0]["similarity"][2]
    changed = load_plan(path, ["stages.affine.similarity.1.channel=0"]).stages[0].similarity
    assert changed.channels == (0, 0, None)


@pytest.mark.parametrize("channel", [-1, 0.5, True, "first"])
def test_a_channel_that_is_no_number_is_refused(channel):
    with pytest.raises(PlanError, match=r"channel is a whole number from 0"):
        plan_of(similarity=[{"weight": 1, "channel": channel, "ncc": {}}])


def test_a_sum_tells_all_its_channels_or_none():
    with pytest.raises(PlanError, match=r"one channel per term \(2\), got 1"):
        Sum(terms=((1.0, NCC()), (1.0, MI())), channels=(0,))
    assert Sum(terms=((1.0, NCC()),), channels=(None,)) == Sum(terms=((1.0, NCC()),))
    with pytest.raises(
        PlanError, match="ncc is asked for on channel 2, and the images have 2 channels, 0 to 1"
    ):
        channel_terms(Sum(terms=((1.0, NCC()),), channels=(2,)), 2)


def test_a_channel_that_is_not_there_is_refused_with_their_number(stripes_pair):
    _, _, fixed, moving = stripes_pair
    plan = plan_of(similarity=[{"weight": 1, "channel": 2, "ncc": {}}])
    with pytest.raises(
        PlanError, match=r"stages\.0 \(translation\) names channel 2; the fixed image has 2 channels"
    ):
        register(fixed, moving, plan)
    first = [{"weight": 1, "channel": 1, "ncc": {}}]
    with pytest.raises(
        PlanError, match=r"has 1 channel and the moving image has 2 channels \(those of the moving"
    ):
        register(fixed.frames()[0], moving, plan_of(similarity=first))


def test_unequal_numbers_need_a_channel_in_every_term(stripes_pair):
    _, parts, fixed, moving = stripes_pair
    three = Image(np.concatenate([moving.data, moving.data[:1] ** 2]), SMALL, "channels")
    with pytest.raises(
        GeometryError, match=r"has 2 channels and the moving image has 3 channels, and stages\.0"
    ):
        register(fixed, three, plan_of())
    named = [{"weight": 1.0, "channel": 1, "ncc": {}}]
    with pytest.raises(GeometryError, match=r"start\.similarity compares all channels"):
        register(fixed, three, plan_of(similarity=named, start="rotations"))
    with pytest.raises(GeometryError, match=r"stages\.0 \(convex\) compares all channels"):
        register(fixed, three, plan_of("convex", None, stride=2, search=2))
    result = register(fixed, three, plan_of(similarity=named))
    assert np.allclose(result.transform.matrix[:3, 3], parts[1], atol=0.05)
    assert result.record.measures["channels"] == {"fixed": 2, "moving": 3, "compared": [1]}
    assert len(result.warped.data) == 3


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_against_one_channel_the_others_are_averaged_and_said_so(role):
    truth = linear_truth(SMALL, shift_mm=(2.0, -1.5, 2.5))
    fixed, moving = pair(truth, SMALL)
    images = {"fixed": fixed, "moving": moving}
    plain = register(fixed, moving, plan_of())
    images[role] = channels_of(images[role], images[role])
    result = register(**images, plan=plan_of())
    other = "moving" if role == "fixed" else "fixed"
    said = f"the 2 channels of the {role} image were averaged, since the {other} image has one"
    assert said in result.record.warnings
    assert result.record.measures["channels"]["compared"] == "average"
    assert np.array_equal(result.transform.matrix, plain.transform.matrix)


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_content_of_any_channel_is_worked_on(level, role):
    shape = (40, 36, 44)
    empty, grid = np.zeros(shape, np.float32), Grid(shape, np.eye(4))
    near, far = empty.copy(), empty.copy()
    near[3:6, 3:6, 3:6], far[33:36, 30:33, 37:40] = 1, 1
    sides = {"fixed": [near, empty], "moving": [near, empty], role: [near, far]}
    scans = {name: replace(level.fixed, grid=grid).with_channels(parts) for name, parts in sides.items()}
    cost = LevelCost(replace(level, **scans), SSD(), np.eye(4))
    rows = cost.begin([np.zeros((3, *shape), np.float32)], 1)
    for i, j, k in ((4, 4, 4), (34, 31, 38)):
        assert rows[0, i, j] <= k < rows[1, i, j]
    assert rows[0, 20, 18] >= rows[1, 20, 18]
    start, stop = content_box(scans[role])
    assert (list(start), list(stop)) == ([3, 3, 3], [36, 33, 40])


def test_only_the_channels_a_metric_names_are_kept(level):
    metric = Sum(terms=((1.0, NCC()),), channels=(1,))
    fixed, moving, renumbered = in_use(level.fixed, level.moving, metric)
    assert fixed.channels == (level.fixed.others[0],)
    assert moving.channels == (level.moving.others[0],)
    assert renumbered.channels == (0,)
    assert in_use(level.fixed, level.moving, NCC())[0] is level.fixed
    stage = plan_of("diffeomorphic", "ncc").stages[0]
    assert metric_volumes(stage, 1) == stage.volumes < metric_volumes(stage, 2) < metric_volumes(stage, 3)


def test_colour_pictures_keep_their_channels():
    grid = grid_of((60, 70), (1.0, 0.7))
    truth = smooth_truth(grid, 2.5)
    pairs = [pair(truth, grid, seed=seed) for seed in (0, 3, 6)]
    fixed, moving = (
        Image(np.stack([np.clip(160 * one.data, 0, 255) for one in side]).astype(np.uint8), grid, "channels")
        for side in zip(*pairs, strict=True)
    )
    result = register(fixed, moving, "2d")
    assert result.record.status.ok
    assert result.record.warnings == ()
    assert result.warped.data.shape == (3, 60, 70)
    unmoved = error_mm(Affine(np.eye(3)), truth, pairs[0][0]).mean()
    assert error_mm(result.transform, truth, pairs[0][0]).mean() < 0.3 * unmoved


def test_stacked_images_lie_on_one_grid():
    one = Image(np.zeros((5, 6, 7), np.uint8), Grid((5, 6, 7), np.eye(4)), space="t1")
    other = Image(np.ones((5, 6, 7), np.float32), one.grid, space="t2")
    both = stack_channels([one, other])
    assert (both.kind, both.space, both.data.dtype) == ("channels", "t1", np.float32)
    assert np.array_equal(stack_channels([both, one]).data, np.stack([one.data, other.data, one.data]))
    moved = Grid((5, 6, 7), np.diag([2.0, 1, 1, 1]))
    with pytest.raises(GeometryError, match=r"image 1 \(t2\) lies on another grid .* regista apply"):
        stack_channels([one, replace(other, grid=moved)])
    with pytest.raises(GeometryError, match="is a series"):
        stack_channels([one, Image(np.zeros((2, 5, 6, 7)), one.grid, "series")])
    with pytest.raises(GeometryError, match="one image at least"):
        stack_channels([])


@pytest.mark.data
def test_two_contrasts_of_a_patient_that_moved_are_found(data_dir):
    folder = data_dir / "brain_multicontrast"
    scan = stack_channels([read(folder / f"patient07_{name}.nii.gz") for name in ("t1", "t2")])
    center, truth = scan.grid.center_mm, np.eye(4)
    truth[:3, :3] = Rotation.from_euler("xyz", (4, -3, 6), degrees=True).as_matrix()
    truth[:3, 3] = center - truth[:3, :3] @ center + (5.0, -4.0, 6.0)
    moved = Image(scan.data, Grid(scan.grid.shape, truth @ scan.grid.grid2world), "channels")
    terms = [{"weight": 1, "channel": 0, "ncc": {}}, {"weight": 0.5, "channel": 1, "mi": {}}]
    result = register(scan, moved, plan_of("rigid", terms, (4, 2), (60, 30)))
    points = scan.grid.index2world(np.argwhere(scan.data[0] > 0)[::500])
    wrong = np.linalg.norm(result.transform.map_points(points) - Affine(truth).map_points(points), axis=1)
    assert wrong.mean() < 0.06  # of voxels of 2 mm at the last level
    assert result.record.measures["channels"]["compared"] == [0, 1]


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "stains", "limit_px"),
    [
        ("lesions", ("Izd2-29-041-w35_HE", "Izd2-29-041-w35_proSPC"), 12.0),
        ("rat-kidney", ("Rat-Kidney_HE", "Rat-Kidney_PanCytokeratin"), 7.5),
    ],
)
def test_stained_sections_meet_in_colour(data_dir, folder, stains, limit_px):
    images = [read(data_dir / "histology" / folder / f"{stain}.jpg") for stain in stains]
    tables = []
    for stain in stains:
        rows = np.loadtxt(data_dir / "histology" / folder / f"{stain}.csv", delimiter=",", skiprows=1)
        tables.append({int(row[0]): row[1:] for row in rows})
    shared = sorted(tables[0].keys() & tables[1].keys())
    here, there = (np.array([table[n] for n in shared]) for table in tables)
    result = register(*images, "2d")
    assert not any("averaged" in warning for warning in result.record.warnings)
    found = images[1].grid.world2index(result.transform.map_points(images[0].grid.index2world(here)))
    assert np.linalg.norm(found - there, axis=1).mean() < limit_px
