"""What `register` promises: masks, starts, inverses, records, repeatability, and errors that help."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from phantoms import error_mm, error_vox, grid_of, inside, linear_truth, pair, points_of

from regista.core import (
    Cancelled,
    GeometryError,
    Grid,
    Image,
    LabelImage,
    PlanError,
    RegistrationError,
    Status,
)
from regista.preprocessing import Pipeline
from regista.registration import DeformableStage, LinearStage, Plan, Start, _inputs, load_plan, register
from regista.similarity import LNCC, MIND, NCC, NGF, SSD, Sum
from regista.transforms import Affine, Composite, DisplacementField, to_displacement_field

SHIFT = Plan(
    stages=(LinearStage(model="translation", similarity=SSD(), shrink=(4, 2, 1), steps=(40, 20, 10)),),
    start=Start(search="centers"),
)
RIGID = Plan(
    stages=(LinearStage(model="rigid", similarity=NCC(), shrink=(4, 2, 1), steps=(60, 40, 15)),),
    start=Start(search="none"),
)
FIELD = Plan(
    stages=(DeformableStage(shrink=(4, 2, 1), steps=(40, 30, 10)),), start=Start(search="none"), name="field"
)


def dropped(image: Image, low, high, value: float) -> tuple[Image, Image]:
    """Return the image with a bright box dropped in, and the mask that leaves the box out."""
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    data, keep = image.data.copy(), np.ones(image.data.shape, np.uint8)
    data[box], keep[box] = value, 0
    return Image(data, image.grid, space=image.space), Image(keep, image.grid)


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_masks_leave_out_what_does_not_belong(shifted_pair, role):
    truth, fixed, moving = shifted_pair
    box = ((3, 5, 4), (30, 16, 24)) if role == "fixed" else ((8, 30, 4), (34, 47, 22))
    images = {"fixed": fixed, "moving": moving}
    images[role], mask = dropped(images[role], *box, 4.0)
    plan = replace(SHIFT, start=Start(search="none"))
    plain = register(images["fixed"], images["moving"], plan)
    masked = register(images["fixed"], images["moving"], plan, **{f"{role}_mask": mask})
    assert error_vox(plain.transform, truth, fixed, moving).mean() > 1
    assert error_vox(masked.transform, truth, fixed, moving).max() < 0.3
    assert f"{role}_mask" in masked.record.inputs


def test_a_margin_widens_masks_by_millimetres():
    data = np.random.default_rng(1).random((9, 11, 15)).astype(np.float32)
    data[4, 5, 9] = np.nan
    grid = Grid(data.shape, np.diag([3.0, -2.0, 1.0, 1.0]))
    inside = np.zeros(data.shape, np.uint8)
    ends = [4, 5, 6], [4, 5, 7]
    inside[4, 5, 6:8] = 1
    far = np.min([np.linalg.norm(points_of(grid) - grid.index2world(end), axis=-1) for end in ends], axis=0)
    for margin in (0.0, 3.0, 4.1):
        plan = replace(SHIFT, mask_margin_mm=margin)
        weight = _inputs.prepare(Image(data, grid), Image(inside, grid), plan, "fixed", "mask").weight
        assert np.array_equal(weight > 0, (far <= margin) & np.isfinite(data))


def test_masks_hold_for_fields_too(smooth_pair):
    truth, fixed, moving = smooth_pair
    spoilt, mask = dropped(fixed, (15, 20, 10), (25, 30, 20), 2.0)
    plain, masked = register(spoilt, moving, FIELD), register(spoilt, moving, FIELD, fixed_mask=mask)
    near = np.zeros(fixed.data.shape, bool)
    near[12:28, 17:33, 8:22] = True
    points = points_of(fixed.grid)[near & (mask.data > 0) & (fixed.data > 0.2)]
    whole = LabelImage(np.ones(moving.data.shape, np.uint8), moving.grid)
    both = register(spoilt, moving, FIELD, fixed_mask=mask, moving_mask=whole)
    kept = register(spoilt, moving, replace(FIELD, fixed_surround="keep"), fixed_mask=mask, moving_mask=whole)
    plain_error, masked_error, both_error, kept_error = (
        np.linalg.norm(r.transform.map_points(points) - truth(points), axis=1).mean()
        for r in (plain, masked, both, kept)
    )
    assert kept_error < 0.7 * plain_error
    assert masked_error < 0.7 * kept_error  # what is masked is hidden from windows too
    assert both_error == pytest.approx(masked_error, rel=0.05)


def test_bad_voxels_are_refused_and_can_be_masked(shifted_pair):
    truth, fixed, moving = shifted_pair
    data = fixed.data.copy()
    data[18:22, 20:26, 12:16], data[25, 25, 15] = np.nan, np.inf
    broken = Image(data, fixed.grid)
    with pytest.raises(
        GeometryError, match=r"97 NaN or Inf voxels.*--non-finite mask \(in Python non_finite='mask'\)"
    ):
        register(broken, moving, SHIFT)
    result = register(broken, moving, SHIFT, non_finite="mask")
    assert error_vox(result.transform, truth, fixed, moving).max() < 0.3
    with pytest.raises(PlanError, match="non_finite"):
        register(fixed, moving, SHIFT, non_finite="ignore")


def test_an_initial_affine_is_where_it_starts():
    truth = linear_truth(grid_of(), (170, 10, 20), (2.5, -2.0, 3.0))
    fixed, moving = pair(truth)
    lost = register(fixed, moving, RIGID)
    near = linear_truth(grid_of(), (162, 12, 15))
    matrix, origin = np.eye(4), near(np.zeros((1, 3)))[0]
    matrix[:3, :3], matrix[:3, 3] = (near(np.eye(3)) - origin).T, origin
    result = register(fixed, moving, RIGID, initial=Affine(matrix, "here", "there"))
    assert error_vox(lost.transform, truth, fixed, moving).mean() > 2
    assert error_vox(result.transform, truth, fixed, moving).max() < 0.2


def test_an_initial_field_is_kept_and_refined(smooth_pair):
    truth, fixed, moving = smooth_pair
    half = lambda points: points + 0.5 * (truth(points) - points)  # noqa: E731
    vectors = np.moveaxis(half(points_of(fixed.grid)) - points_of(fixed.grid), -1, 0).astype(np.float32)
    initial = Composite((DisplacementField(vectors, fixed.grid), Affine(np.eye(4))))
    idle = replace(FIELD, stages=(DeformableStage(shrink=(1,), steps=(0,)),))
    kept = register(fixed, moving, idle, initial=initial).transform
    assert error_mm(kept, half, fixed).max() < 0.05
    fine = replace(FIELD, stages=(DeformableStage(similarity=LNCC(), shrink=(2, 1), steps=(40, 10)),))
    refined = register(fixed, moving, fine, initial=initial).transform
    assert error_mm(refined, truth, fixed).mean() < 0.6 * error_mm(kept, truth, fixed).mean()
    assert (
        error_mm(register(fixed, moving, "deformable", initial=initial).transform, truth, fixed).mean() < 0.6
    )
    with pytest.raises(GeometryError, match="linear stages would undo"):
        register(fixed, moving, RIGID, initial=initial)
    with pytest.raises(GeometryError, match="2-D"):
        register(fixed, moving, RIGID, initial=Affine(np.eye(3)))


def test_the_inverse_undoes_the_transform(smooth_pair, rigid_pair):
    for (_, fixed, moving), plan in ((smooth_pair, FIELD), (rigid_pair, "fast")):
        result = register(fixed, moving, plan)
        points = inside(fixed)
        back = result.inverse.map_points(result.transform.map_points(points))
        # the inverse is sampled between the voxels at which it was solved, hence more than its residual
        gap = np.linalg.norm(back - points, axis=1)
        assert gap.mean() < 0.03
        assert gap.max() < 0.2
        assert result.record.measures["inverse_residual_vox"] < 0.05
        assert result.inverse.fixed_space == "there"
        assert result.inverse.moving_space == "here"
        spaces = result.transform.fixed_space, result.transform.moving_space
        assert spaces == ("here", "there")


def test_the_field_is_nothing_but_a_field(smooth_pair):
    _, fixed, moving = smooth_pair
    result = register(fixed, moving, FIELD)
    whole = to_displacement_field(result.transform, fixed.grid)
    again = whole.map_points(inside(fixed))
    np.testing.assert_allclose(again, result.transform.map_points(inside(fixed)), atol=1e-3)


def fingerprint(result) -> bytes:
    fields = [p for p in result.transform.flatten().transforms if isinstance(p, DisplacementField)]
    return b"".join([result.warped.data.tobytes(), *(f.vectors_mm.tobytes() for f in fields)])


def test_the_same_run_gives_the_same_bytes(smooth_pair):
    _, fixed, moving = smooth_pair
    first, second = (register(fixed, moving, "fast", threads=2, seed=5) for _ in range(2))
    assert fingerprint(first) == fingerprint(second)
    np.testing.assert_array_equal(
        first.record.measures["linear_fixed2moving"], second.record.measures["linear_fixed2moving"]
    )


def test_the_number_of_threads_does_not_matter(smooth_pair):
    _, fixed, moving = smooth_pair
    results = [register(fixed, moving, "fast", threads=n) for n in (1, 2, 3)]
    for other in results[1:]:
        assert error_mm(other.transform, results[0].transform.map_points, fixed).max() < 1e-3
    assert [r.record.threads for r in results] == [1, 2, 3]


def test_inputs_are_left_alone(smooth_pair):
    _, fixed, moving = smooth_pair
    before = fixed.data.tobytes(), moving.data.tobytes()
    register(fixed, moving, FIELD)
    assert (fixed.data.tobytes(), moving.data.tobytes()) == before


def test_the_record_tells_everything(smooth_pair):
    _, fixed, moving = smooth_pair
    record = register(fixed, moving, "fast", threads=1, seed=7).record
    tree = json.loads(record.to_json())
    assert tree["seed"] == 7
    assert tree["threads"] == 1
    assert tree["status"] in [s.value for s in Status]
    assert tree["plan"]["name"] == "fast"
    assert set(tree["inputs"]) == {"fixed", "moving"}
    assert all(len(entry["sha256"]) >= 16 for entry in tree["inputs"].values())
    assert {"prepare", "start", "affine", "diffeomorphic", "registration"} <= set(tree["timings"])
    assert (
        sum(v for k, v in tree["timings"].items() if k != "registration") <= tree["timings"]["registration"]
    )
    assert {"numpy", "numba", "regista", "python"} <= set(tree["versions"])
    stages = [(level["stage"], level["level"]) for level in tree["history"]]
    assert stages == [("affine", 0), ("diffeomorphic", 0), ("diffeomorphic", 1), ("diffeomorphic", 2)]
    assert all(np.isfinite(level["values"]).all() for level in tree["history"])
    assert tree["measures"]["inverse_residual_vox"] < 0.05
    assert tree["measures"]["smallest_jacobian"] > 0
    assert tree["peak_memory_bytes"] > 0


def test_progress_comes_after_every_step_and_can_stop_the_run(smooth_pair):
    _, fixed, moving = smooth_pair
    seen = []
    register(fixed, moving, "fast", progress=seen.append)
    assert {p.stage for p in seen} == {"affine", "diffeomorphic"}
    fractions = [p.fraction for p in seen]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < fractions[-1] <= 1
    assert all(1 <= p.step <= p.steps and 0 <= p.level < p.levels for p in seen)

    def stop(report):
        if report.stage == "diffeomorphic":
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        register(fixed, moving, "fast", progress=stop)


def scaled(image: Image, factor: float, offset: float) -> Image:
    return Image(image.data * np.float32(factor) + np.float32(offset), image.grid, space=image.space)


def test_the_unit_of_intensity_does_not_matter(rigid_pair):
    _, fixed, moving = rigid_pair
    expected = register(fixed, moving, RIGID).transform
    got = register(scaled(fixed, 1000, 0), scaled(moving, 0.01, 0), RIGID).transform
    assert error_mm(got, expected.map_points, fixed).max() < 0.02


def blank(shape=(11, 14, 9), value=0.0, shift=0.0) -> Image:
    grid = grid_of(shape, (1.0, 0.7, 2.3)[: len(shape)])
    matrix = grid.grid2world.copy()
    matrix[:-1, -1] += shift
    data = np.full(shape, value, np.float32)
    return Image(data, Grid(shape, matrix))


def textured(shape=(11, 14, 9), shift=0.0) -> Image:
    image = blank(shape, 0.0, shift)
    place = np.indices(shape, dtype=np.float32)
    centers = ((np.array(shape) - 1) / 2).reshape(-1, *[1] * len(shape))
    return image.with_data(np.exp(-(((place - centers) / 3) ** 2).sum(0)).astype(np.float32))


@pytest.mark.parametrize(
    ("fixed", "moving", "options", "message"),
    [
        (blank(value=3.0), textured(), {}, "fixed image is constant"),
        (textured(), blank(), {}, "moving image is constant"),
        (textured(), textured((13, 10)), {}, "fixed image is 3-D and the moving image is 2-D"),
        (textured(), textured(), {"fixed_mask": blank()}, "fixed mask is empty"),
        (
            textured(),
            textured(),
            {"moving_mask": blank(shift=4.0, value=1)},
            "moving mask lies on another grid",
        ),
        (textured(), textured(), {"fixed_mask": blank((11, 14, 8), 1.0)}, "fixed mask lies on another grid"),
        (textured(), textured(shift=400.0), {}, "do not overlap in world space"),
        (np.zeros((3, 4, 5)), textured(), {}, "fixed image must be a regista.Image"),
    ],
)
def test_what_cannot_be_registered_is_refused_with_a_reason(fixed, moving, options, message):
    with pytest.raises(GeometryError, match=message):
        register(fixed, moving, RIGID, **options)


def test_a_series_is_refused_and_channels_are_averaged(rigid_pair):
    truth, fixed, moving = rigid_pair
    series = Image(np.stack([moving.data] * 2), moving.grid, "series")
    with pytest.raises(GeometryError, match=r"series of 2 frames.*frames\(\)\[n\]"):
        register(fixed, series, RIGID)
    channels = Image(np.stack([moving.data, 0.5 * moving.data]), moving.grid, "channels")
    result = register(fixed, channels, RIGID)
    assert error_vox(result.transform, truth, fixed, moving).max() < 0.2
    assert any("averaged" in warning for warning in result.record.warnings)
    assert result.warped.data.shape == (2, *fixed.grid.shape)


def test_too_large_for_memory_is_told_before_the_run(smooth_pair, monkeypatch):
    _, fixed, moving = smooth_pair
    monkeypatch.setattr(_inputs, "available_bytes", lambda: 150_000_000)
    with pytest.raises(RegistrationError, match=r"needs about 0\.\d GB of memory and 0\.\d GB are free"):
        register(fixed, moving, FIELD)
    monkeypatch.setattr(_inputs, "available_bytes", lambda: None)
    assert register(fixed, moving, SHIFT).record.measures["predicted_memory_bytes"] > 0


def test_the_memory_of_a_metric_is_foreseen(smooth_pair):
    _, fixed, moving = smooth_pair
    predicted = []
    for metric in (LNCC(), NGF(), Sum(terms=((1, NGF()), (1, LNCC()))), MIND()):
        plan = Plan(stages=(LinearStage(model="rigid", similarity=metric, shrink=(1,), steps=(0,)),))
        predicted.append(register(fixed, moving, plan).record.measures["predicted_memory_bytes"])
    assert predicted == sorted(set(predicted))


def test_a_plan_by_name(rigid_pair):
    truth, fixed, moving = rigid_pair
    result = register(fixed, moving, "rigid")
    assert error_vox(result.transform, truth, fixed, moving).max() < 0.3
    assert result.record.plan["name"] == load_plan("rigid").name
    with pytest.raises(PlanError, match="no preset 'nosuch'"):
        register(fixed, moving, "nosuch")


@pytest.mark.parametrize("metric", [SSD(), LNCC()], ids=lambda m: m.name)
def test_no_level_ends_worse_than_it_began(smooth_pair, metric):
    _, fixed, moving = smooth_pair
    plan = replace(FIELD, stages=(DeformableStage(similarity=metric),))
    record = register(fixed, moving, plan).record
    assert record.status.ok
    assert all(level.values[-1] <= level.values[0] for level in record.history)


def test_preprocessing_leaves_the_world_as_it_is(smooth_pair):
    truth, fixed, moving = smooth_pair
    steps = [
        {"step": "reorient", "orientation": "PIR"},
        {"step": "crop-pad", "margin_mm": 6.0},
        {"step": "percentile-normalize"},
    ]
    plan = replace(FIELD, preprocessing=Pipeline.from_dict(steps))
    plain, done = register(fixed, moving, FIELD), register(fixed, moving, plan)
    assert done.warped.grid.same_as(fixed.grid)
    assert done.warped.data.max() > 0.9 * moving.data.max()  # native intensities
    assert [s["step"] for s in done.record.measures["preprocessing"]["moving"]["steps"]] == [
        "reorient", "crop-pad", "percentile-normalize",
    ]  # fmt: skip
    limit = error_vox(plain.transform, truth, fixed, moving).mean() + 0.1
    assert error_vox(done.transform, truth, fixed, moving).mean() < limit
    json.loads(done.record.to_json())
