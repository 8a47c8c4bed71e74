"""The verdict finds what is wrong, says it in words, and leaves good registrations alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scenes import bend, result_of, turned
from scipy.ndimage import binary_dilation

from regista.core import GeometryError, Grid, Image, Status
from regista.io import read
from regista.registration import register
from regista.reporting import Outcome, judge
from regista.reporting._features import measure_features
from regista.reporting._scene import Content, make_scene
from regista.reporting._verdict import WORDS, Model, _worse, beside_truth, conclude, load_model
from regista.transforms import Affine, Composite

LIKE_ITS_MIRROR = {"nmi_over_mirror": 0.01, "lncc_over_mirror": 0.02, "edges_over_mirror": 0.04}
MODEL = Model(
    weights={"nmi": (0.5, 0.1, -1.0)}, intercept=-3.0, look_above=0.5, fail_above=0.9, limits={"nmi": 0.2}
)
NO_RATIO = dict.fromkeys(LIKE_ITS_MIRROR, 0.0)
HALF_TURN = {"turned_deg": 178.0, "turned_unasked_deg": 178.0, "oriented": 1.0} | LIKE_ITS_MIRROR


def test_the_truth_passes(pair, good) -> None:
    verdict = judge(pair.fixed, pair.moving, good)
    assert verdict.outcome is not Outcome.FAIL, verdict.reasons
    assert verdict.probability < load_model().fail_above


def test_a_pair_laid_wrong_fails(pair) -> None:
    wrong = result_of(pair.fixed, pair.moving, turned(70, (9, -6, 4), pair.fixed.grid.center_mm))
    verdict = judge(pair.fixed, pair.moving, wrong)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reasons


def test_noise_fails(pair) -> None:
    noise = np.random.default_rng(0).normal(100, 30, pair.moving.grid.shape).astype(np.float32)
    moving = pair.moving.with_data(noise)
    verdict = judge(pair.fixed, moving, result_of(pair.fixed, moving, pair.truth))
    assert verdict.outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (np.diag([-1.0, 1, 1, 1]), "mirrors"),
        (np.diag([3.0, 1, 1, 1]), "implausible: 3.0 times"),
        (np.array([[1, 0, 0, 500.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "field of view is lost"),
    ],
)
def test_impossible_maps_fail_whatever_the_images_say(pair, change, words) -> None:
    center = np.eye(4)
    center[:3, 3] = pair.fixed.grid.center_mm
    map_ = Affine(center @ change @ np.linalg.inv(center))
    verdict = judge(pair.fixed, pair.moving, result_of(pair.fixed, pair.moving, map_))
    assert verdict.outcome is Outcome.FAIL
    assert any(words in reason for reason in verdict.reasons), verdict.reasons


def test_folds_a_false_inverse_and_a_bad_status_fail(pair, good) -> None:
    folded = replace(good, record=replace(good.record, measures={"folded_percent": 4.0}))
    assert "folds: 4 %" in judge(pair.fixed, pair.moving, folded).reasons[0]
    for shift, outcome, words in (
        (0.4, Outcome.PASS, None),
        (2.0, Outcome.LOOK, "hardly undo"),
        (9.0, Outcome.FAIL, "do not undo"),
    ):
        away = replace(good, inverse=Composite((good.inverse, turned(0, (shift, 0, 0), (0, 0, 0)))))
        verdict = judge(pair.fixed, pair.moving, away)
        assert verdict.outcome is outcome, (shift, verdict.reasons)
        assert words is None or words in verdict.reasons[0]
    broken = replace(good, record=replace(good.record, status=Status.NON_FINITE))
    assert judge(pair.fixed, pair.moving, broken).outcome is Outcome.FAIL


def test_likeness_does_not_ask_for_the_same_contrast(pair) -> None:
    inverted = pair.moving.with_data(
        np.where(pair.moving.data > 5, 255 - pair.moving.data, 0).astype(np.float32)
    )
    verdict = judge(pair.fixed, inverted, result_of(pair.fixed, inverted, pair.truth))
    assert verdict.outcome is not Outcome.FAIL, verdict.reasons


def test_features_do_not_depend_on_where_the_world_begins_or_on_intensity_units(pair, good) -> None:
    shift = np.eye(4)
    shift[:3, 3] = (100, -70, 30)
    moved = [
        Image(image.data * 3.0 + 10, Grid(image.grid.shape, shift @ image.grid.grid2world))
        for image in (pair.fixed, pair.moving)
    ]
    map_ = Composite((Affine(np.linalg.inv(shift)), pair.truth, Affine(shift)))
    one, other = (
        measure_features(make_scene(f, m, r.transform), r, f, m)
        for f, m, r in ((pair.fixed, pair.moving, good), (*moved, result_of(*moved, map_)))
    )
    for name in ("nmi", "lncc", "edges", "fixed_covered", "log_scale", "sd_log_jacobian"):
        assert other[name] == pytest.approx(one[name], abs=0.03), name


def test_identity_returned_is_told_from_identity_that_is_right(pair) -> None:
    same = register(pair.fixed, pair.fixed, "translation")
    assert judge(pair.fixed, pair.fixed, same).outcome is not Outcome.FAIL
    away = Image(
        pair.fixed.data,
        Grid(
            pair.fixed.grid.shape,
            turned(35, (12, 9, 0), pair.fixed.grid.center_mm).matrix @ pair.fixed.grid.grid2world,
        ),
    )
    stayed = result_of(pair.fixed, away, Affine.identity(3))
    assert judge(pair.fixed, away, stayed).outcome is Outcome.FAIL


@pytest.mark.parametrize(("share", "outcome"), [(0.0, "pass"), (0.004, "pass"), (0.3, "look"), (2.0, "fail")])
def test_folds_are_named_however_few(pair, share, outcome) -> None:
    folded = result_of(pair.fixed, pair.fixed, Affine.identity(3), folded_percent=share)
    verdict = judge(pair.fixed, pair.fixed, folded)
    assert verdict.outcome == outcome, verdict.reasons
    assert any(f"{share:.2g} %" in reason for reason in verdict.reasons) == (share > 0)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize(
    ("degrees", "shift", "outcomes"),
    [
        (0, (0, 0, 0), ("pass",)),
        (0, (0.15, 0, 0), ("pass",)),
        (0, (0, 2.5, 0), ("look", "fail")),
        (0, (4, 0, 0), ("fail",)),
        (12, (0, 0, 0), ("look", "fail")),
        (25, (0, 0, 0), ("fail",)),
    ],
)
def test_a_result_worse_than_the_start_is_found(pair, invert, degrees, shift, outcomes) -> None:
    moving = pair.fixed.with_data(
        np.where(pair.fixed.data > 5, 255 - pair.fixed.data, 0).astype(np.float32)
        if invert
        else pair.fixed.data
    )
    off = result_of(pair.fixed, moving, turned(degrees, shift, pair.fixed.grid.center_mm))
    verdict = judge(pair.fixed, moving, off)
    assert verdict.outcome in outcomes, (verdict.outcome, verdict.reasons)
    told = any("less well than at the start" in r or "pushed or turned" in r for r in verdict.reasons)
    assert told == (verdict.outcome is not Outcome.PASS)


def test_a_map_that_is_off_is_found_though_it_is_better_than_the_start(pair) -> None:
    # the header says 12 mm, the map goes 2.5 mm too far
    world = turned(0, (0, 12, 0), (0, 0, 0))
    moving = Image(pair.fixed.data, Grid(pair.fixed.grid.shape, world.matrix @ pair.fixed.grid.grid2world))
    found = {}
    for shift in (12.0, 14.5):
        map_ = turned(0, (0, shift, 0), (0, 0, 0))
        scene = make_scene(pair.fixed, moving, map_)
        found[shift] = measure_features(scene, result_of(pair.fixed, moving, map_), pair.fixed, moving)
    assert found[14.5]["nudged"] > 0.02 > 0 > found[12.0]["nudged"]
    assert found[14.5]["nmi_gain"] > 0


def test_a_start_that_is_wrong_and_returned_is_named_and_one_that_is_right_is_not(pair) -> None:
    wrong = judge(pair.fixed, pair.moving, result_of(pair.fixed, pair.moving, Affine.identity(3)))
    assert wrong.outcome is not Outcome.PASS  # 8° and 2 mm off
    assert wrong.reasons[0].startswith("identity returned: the map leads no further than 0.00%")
    right = judge(pair.fixed, pair.fixed, result_of(pair.fixed, pair.fixed, Affine.identity(3)))
    assert (right.outcome, right.reasons) == (Outcome.PASS, ())
    assert right.features["moved"] == 0
    # with the centres aligned, far from what the headers say
    shift = np.eye(4)
    shift[:3, 3] = (300.0, 0, 0)
    far = Image(pair.fixed.data, Grid(pair.fixed.grid.shape, shift @ pair.fixed.grid.grid2world))
    centred = judge(pair.fixed, far, result_of(pair.fixed, far, Affine(shift)))
    assert centred.features["moved"] == pytest.approx(0, abs=1e-9)
    assert centred.outcome is Outcome.PASS


@pytest.mark.parametrize("swapped", [False, True])
def test_a_slab_with_the_right_map_is_looked_at_and_not_failed(pair, swapped) -> None:
    part = slice(25, 32)
    start = np.eye(4)
    start[:3, 3] = pair.fixed.grid.direction @ (np.array([0, part.start, 0]) * pair.fixed.grid.spacing)
    data = np.ascontiguousarray(pair.fixed.data[:, part])
    slab = Image(data, Grid(data.shape, start @ pair.fixed.grid.grid2world))
    whole = Image(pair.fixed.data, pair.fixed.grid)
    images = (slab, whole) if swapped else (whole, slab)
    verdict = judge(*images, result_of(*images, Affine.identity(3)))
    assert verdict.outcome is Outcome.LOOK, verdict.reasons
    assert verdict.reasons[0].startswith("the fields of view share little")
    assert min(verdict.features["fixed_covered"], verdict.features["moving_covered"]) < 0.3


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_wrong_voxel_size_asks_for_a_look_and_a_stretch_fails(pair, dimension) -> None:
    data = pair.fixed.data if dimension == 3 else np.ascontiguousarray(pair.fixed.data[:, :, 15])
    fixed = Image(data, Grid(data.shape, np.eye(dimension + 1)))
    for scale, outcome, words in (
        ((3.0,) * dimension, Outcome.LOOK, "3.0-fold throughout"),
        ((0.3,) * dimension, Outcome.LOOK, "3.3-fold throughout"),
        ((1.6,) * dimension, Outcome.PASS, None),
        ((3.0, *(1.0,) * (dimension - 1)), Outcome.FAIL, "implausible"),
    ):
        map_ = Affine(np.diag([*scale, 1.0]))
        moving = Image(data, Grid(data.shape, map_.matrix))
        verdict = judge(fixed, moving, result_of(fixed, moving, map_))
        assert verdict.outcome is outcome, (scale, verdict.reasons)
        assert words is None or words in verdict.reasons[0]


def test_an_image_flipped_within_its_header_is_told_where_it_is_not_symmetric(pair) -> None:
    # two halves that are half alike, in a symmetric outline: no push helps a mirrored one
    data = pair.fixed.data
    mirror = data[::-1]
    outline = ((data > 20) & (mirror > 20)).astype(np.float32)
    fixed = pair.fixed.with_data(np.ascontiguousarray(outline * (0.75 * data + 0.25 * mirror)))
    flipped = fixed.with_data(np.ascontiguousarray(fixed.data[::-1]))
    verdict = judge(fixed, flipped, result_of(fixed, flipped, Affine.identity(3)))
    assert verdict.outcome is not Outcome.PASS
    assert any("is an image flipped?" in reason for reason in verdict.reasons), verdict.reasons
    assert not judge(fixed, fixed, result_of(fixed, fixed, Affine.identity(3))).reasons


def test_a_start_that_hardly_shows_the_content_is_nothing_to_compare_with() -> None:
    features = {"nmi": 0.3, "nmi_gain": -0.4, "fixed_covered": 1.0}
    assert _worse({**features, "before_covered": 0.9}) < -0.8
    assert _worse({**features, "before_covered": 0.3}) == 0
    assert _worse({"fixed_covered": 1.0}) == 0


def test_reasons_are_there_for_every_feature_of_the_model() -> None:
    model = load_model()
    assert set(model.weights) <= set(WORDS)
    assert 0 < model.look_above < model.fail_above < 1
    for text in WORDS.values():
        assert text.format(0.5)


def test_conclude_follows_the_model() -> None:
    base = {"folded_percent": 0.0, "mirrored": 0.0, "log_scale": 0.1, "inverse_p95": 0.0}
    base |= {
        "turned_deg": 5.0,
        "fixed_covered": 1.0,
        "moving_covered": 1.0,
        "smallest_scale": 1.0,
        "largest_scale": 1.1,
    }
    model = Model(
        weights={"nmi": (0.5, 0.1, -2.0)}, intercept=0.0, look_above=0.3, fail_above=0.7, limits={"nmi": 0.4}
    )
    outcomes = [str(conclude({**base, "nmi": v}, "converged", model).outcome) for v in (0.9, 0.5, 0.2)]
    assert outcomes == ["pass", "look", "fail"]
    assert conclude({**base, "nmi": 0.2}, "converged", model).reasons[0].startswith("the images share little")
    assert conclude({**base, "nmi": 0.9}, "converged", model).reasons == ()
    folded = conclude({**base, "nmi": 0.9, "folded_percent": 0.01}, "folded", model)
    assert folded.outcome is Outcome.FAIL
    assert "0.01 %" in folded.reasons[0]
    turned_round = conclude({**base, "nmi": 0.9, "turned_deg": 178.0}, "converged", model)
    assert turned_round.outcome is Outcome.LOOK
    assert "178°" in turned_round.reasons[0]


def plain(**changes: float) -> dict[str, float]:
    """Return the features of a registration that nothing speaks against."""
    features = dict.fromkeys(
        ("inverse_p95", "inverse_voxels", "folded_percent", "mirrored", "turned_deg"), 0.0
    )
    features |= dict.fromkeys(("fixed_covered", "moving_covered", "before_covered", "smallest_scale"), 1.0)
    features |= {"largest_scale": 1.0, "moved": 0.1, "nudged": -0.4}
    for name in ("nmi", "lncc", "edges"):
        features |= {name: 0.6, f"{name}_gain": 0.3, f"{name}_over_mirror": 0.5}
    return features | changes


def bent_by(log_ratio: float) -> dict[str, float]:
    """Return features of a map whose bending part changes all three measures by so much."""
    return {f"{n}_straight": plain()[n] * float(np.exp(-log_ratio)) for n in ("nmi", "lncc", "edges")}


@pytest.mark.parametrize(
    ("changes", "outcome", "words"),
    [
        ({}, "pass", None),
        ({"largest_scale": 1.35}, "pass", None),
        ({"largest_scale": 1.5}, "look", "shear is large: 1.5 times"),
        ({"largest_scale": 1.7}, "fail", "shear is implausible: 1.7 times"),
        ({"nudged": -0.01}, "pass", None),
        ({"nudged": 0.0}, "pass", None),  # no push could be measured
        ({"nudged": 0.01}, "look", "the map is off"),
        ({"nudged": 0.03}, "fail", "the map is off"),
        ({"turned_deg": 55.0}, "pass", None),
        ({"turned_deg": 80.0}, "look", "is that meant?"),
        ({"turned_deg": 178.0}, "look", "against how it is stored: is that meant?"),
        ({"turned_deg": 178.0} | LIKE_ITS_MIRROR, "look", "may be swapped"),
        ({"turned_deg": 178.0, "turned_unasked_deg": 178.0, "oriented": 1.0}, "look", "is that meant?"),
        (HALF_TURN | {"oriented": 0.0}, "look", "may be swapped"),
        # an image that is its own mirror image, and one of which no mirror image could be tried
        (HALF_TURN | NO_RATIO | {"mirrors_tried": 1.0}, "fail", "both files state how they lie"),
        (HALF_TURN | NO_RATIO | {"mirrors_tried": 0.0}, "look", "is that meant?"),
        (HALF_TURN | {"turned_unasked_deg": 2.0}, "look", "how it is stored"),
        (HALF_TURN | {"turned_deg": 70.0, "turned_unasked_deg": 70.0}, "look", "how it is stored"),
        (HALF_TURN, "fail", "both files state how they lie"),
        (
            HALF_TURN | {"edges_over_mirror": 0.2},
            "fail",
            "both files state how they lie",
        ),  # one measure alone
        (HALF_TURN | {"edges_over_mirror": 0.2, "nmi_over_mirror": 0.2}, "look", "is that meant?"),
        (LIKE_ITS_MIRROR, "pass", "only the headers tell"),
        (bent_by(-0.2), "look", "the bending part of the map makes the images less alike"),
        (bent_by(-0.4), "fail", "the bending part of the map makes the images less alike"),
        (bent_by(-0.4) | {"lncc_straight": 0.0}, "pass", None),  # one of the three says otherwise
        (bent_by(-0.02), "pass", None),
        ({"nmi_straight": 0.9}, "pass", None),  # of one measure alone, the others unknown
        (
            {f"{n}_over_mirror": -0.04 for n in ("nmi", "lncc", "edges")},
            "look",
            "mirrored, the images match better",
        ),
        (
            {f"{n}_over_mirror": -0.1 for n in ("nmi", "lncc", "edges")},
            "fail",
            "mirrored, the images match better",
        ),
        ({"nmi_over_mirror": -0.1, "lncc_over_mirror": -0.1}, "pass", None),  # the edges say otherwise
    ],
)
def test_each_rule_speaks_from_its_limit_on(changes, outcome, words) -> None:
    verdict = conclude(plain(**changes), "converged", MODEL)
    assert verdict.outcome == outcome, verdict.reasons
    assert (words is None) == (verdict.reasons == ())
    assert words is None or words in verdict.reasons[0]


def test_a_half_turn_against_stated_headers_fails_unless_it_was_asked_for(pair, good) -> None:
    data = pair.fixed.data + pair.fixed.data[::-1]
    symmetric = replace(pair.fixed, data=data, oriented=True)
    for fixed, other, outcome in (
        (symmetric, symmetric, Outcome.FAIL),
        (replace(pair.fixed, oriented=True), replace(pair.fixed, oriented=True), Outcome.LOOK),
        (symmetric, replace(symmetric, oriented=False), Outcome.LOOK),
    ):
        turn = np.eye(4)
        turn[:3, :3] = np.diag([-1.0, -1.0, 1.0])
        turn[:3, 3] = fixed.grid.center_mm - turn[:3, :3] @ fixed.grid.center_mm
        moving = replace(other, grid=Grid(other.grid.shape, turn @ other.grid.grid2world))
        verdict = judge(fixed, moving, result_of(fixed, moving, Affine(turn)))
        assert verdict.outcome is outcome, verdict.reasons
        assert "turns the image by 180°" in verdict.reasons[0]
        asked = result_of(fixed, moving, Affine(turn), initial_fixed2moving=turn.tolist())
        assert judge(fixed, moving, asked).outcome is Outcome.LOOK


def test_two_dimensions_meet_three_nowhere(pair, good) -> None:
    flat = Image(np.zeros((8, 9), np.float32), Grid((8, 9), np.eye(3)))
    with pytest.raises(GeometryError, match="2-D and 3-D do not mix"):
        judge(flat, pair.moving, good)
    series = Image(np.zeros((2, 8, 9), np.float32), Grid((8, 9), np.eye(3)), "series")
    with pytest.raises(GeometryError, match="series of 2 frames"):
        judge(series, pair.moving, good)


@pytest.mark.parametrize("shape", [(8, 9), (7, 6, 5), (30, 25, 1), (2, 60), (60, 1)])
def test_tiny_and_flat_images_are_judged_without_a_crash(shape) -> None:
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    image = Image(data, Grid(shape, np.eye(len(shape) + 1)))
    for pair in ((image, image), (image.with_data(np.zeros_like(data)), image)):
        verdict = judge(*pair, result_of(*pair, Affine.identity(len(shape))))
        assert np.isfinite(list(verdict.features.values())).all()


def test_a_smooth_bend_is_no_failure(pair) -> None:
    bent = result_of(pair.fixed, pair.fixed, bend(pair.fixed.grid, 0.5))
    assert judge(pair.fixed, pair.fixed, bent).outcome is not Outcome.FAIL


def test_only_what_was_compared_is_judged(pair, good) -> None:
    """Beside the fixed mask the moving image may show anything; within it, nothing is forgiven."""
    mask = pair.fixed.with_data((pair.fixed.data > 60).astype(np.uint8))
    half = mask.with_data(mask.data * (np.arange(mask.data.shape[1]) < 24)[:, None])
    noise = np.random.default_rng(0).normal(100, 40, pair.fixed.grid.shape)
    beside = binary_dilation(half.data > 0, iterations=6) == 0
    spoilt = pair.fixed.with_data(np.where(beside, noise, pair.fixed.data).astype(np.float32))
    identity = result_of(pair.fixed, spoilt, Affine.identity(3))
    everywhere = judge(pair.fixed, spoilt, identity).features
    within = judge(pair.fixed, spoilt, replace(identity, fixed_mask=half)).features
    for name in ("nmi", "lncc", "edges"):
        assert everywhere[name] < 0.7 * within[name]
        assert within[name] > 0.95 * judge(pair.fixed, pair.fixed, identity).features[name]
    wrong = result_of(pair.fixed, pair.moving, turned(70, (9, -6, 4), pair.fixed.grid.center_mm))
    assert judge(pair.fixed, pair.moving, replace(wrong, fixed_mask=half)).outcome is Outcome.FAIL
    speck = half.with_data(np.zeros_like(half.data))
    speck.data[20, 20, 15] = 1
    assert judge(pair.fixed, pair.moving, replace(good, fixed_mask=speck)).outcome is not Outcome.FAIL


@pytest.mark.data
@pytest.mark.parametrize("names", [("0004", "0006"), ("0007", "0004")])
def test_lungs_within_their_masks_do_not_fail(data_dir, names) -> None:
    folder = data_dir / "lung_mri"
    fixed, moving = (read(folder / f"{name}_h1.nii.gz") for name in names)
    masks = [read(folder / f"{name}_mask.nii.gz") for name in names]
    result = register(fixed, moving, "lung-mri", fixed_mask=masks[0], moving_mask=masks[1])
    assert judge(fixed, moving, result).outcome is not Outcome.FAIL


@pytest.mark.data
def test_real_slices_and_the_same_flipped(data_dir) -> None:
    folder = data_dir / "brain_slices_2d"
    fixed, moving = (read(folder / f"{n}_t1.nii.gz") for n in ("01", "02"))
    assert judge(fixed, moving, register(fixed, moving, "2d")).outcome is not Outcome.FAIL
    upside = moving.with_data(np.ascontiguousarray(moving.data[:, ::-1]))
    verdict = judge(fixed, upside, register(fixed, upside, "2d"))
    assert verdict.outcome is not Outcome.PASS  # half turned, a mirrored brain is nearly a brain


def test_content_is_found_on_a_dark_and_on_a_bright_background(pair) -> None:
    data = pair.fixed.data
    dark = Content(data).of(data)
    bright = Content(255 - data).of(255 - data)
    assert 0.1 < dark.mean() < 0.6
    assert (dark == bright).mean() > 0.97


def test_a_mirror_image_that_lies_a_little_off_is_aligned_before_it_is_compared(pair) -> None:
    fixed = pair.fixed  # not symmetric
    mirrored = np.ascontiguousarray(fixed.data[::-1])
    found = []
    for data in (fixed.data, mirrored, np.roll(mirrored, (3, -2), (0, 1))):
        moving = fixed.with_data(data)
        result = result_of(fixed, moving, Affine.identity(3))
        features = measure_features(make_scene(fixed, moving, result.transform), result, fixed, moving)
        found.append([features[f"{name}_over_mirror"] for name in ("nmi", "lncc", "edges")])
    assert min(found[0]) > 0.3
    assert max(found[1]) < -0.3
    assert max(found[2]) < -0.3


def test_truth_that_speaks_against_a_verdict_is_said() -> None:
    fine = conclude(plain(), "converged", MODEL)
    assert fine.outcome is Outcome.PASS
    kept = {
        "dice": 0.5,
        "dice_before": 0.51,
        "tre_mean_mm": 2.0,
        "tre_before_mm": 1.95,
        "landmarks_beyond": 0.0,
    }
    assert beside_truth(fine, kept) is fine
    for numbers, words in (
        ({"dice": 0.005, "dice_before": 0.066}, "labels given overlap less"),
        ({"tre_mean_mm": 3.0, "tre_before_mm": 2.0, "landmarks_beyond": 0.0}, "further apart than before"),
        (
            {"tre_mean_mm": 1.0, "tre_before_mm": 2.0, "landmarks_beyond": 0.4},
            "40% of the landmarks lie outside",
        ),
    ):
        said = beside_truth(fine, numbers)
        assert said.outcome is Outcome.LOOK
        assert words in said.reasons[0]
    pixels = {"tre_mean_pixels": 3.0, "tre_before_pixels": 2.0}
    assert "(2 pixels in the mean, now 3)" in beside_truth(fine, pixels, "pixels").reasons[0]
    assert "of this pair, in pixels," in beside_truth(fine, {"landmarks_beyond": 1.0}, "pixels").reasons[0]
    failed = conclude(plain(mirrored=1.0), "converged", MODEL)
    assert beside_truth(failed, {"dice": 0.1, "dice_before": 0.5}).outcome is Outcome.FAIL
