"""Pipelines: files, records, and transforms that apply to the native images unchanged."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from regista import register
from regista.cli import app
from regista.core import FormatError, Grid, Image, LabelImage, PlanError
from regista.io import read, write
from regista.preprocessing import STEPS, CropPad, Pipeline, Reorient, Resample, ZScore, list_steps, run

ALL = [
    {"step": "reorient", "orientation": "PSL"},
    {"step": "foreground-mask", "closing_mm": 1.0},
    {"step": "crop-pad", "margin_mm": 3, "multiple": 4},
    {"step": "n4", "shrink": 2, "iterations": [5, 5]},
    {"step": "denoise", "strength": 1},
    {"step": "resample", "spacing_mm": 1.3},
    {"step": "clip", "percentiles": [1, 99]},
    {"step": "zscore"},
]


def blobs(grid: Grid, places, shift_mm=(0.0, 0.0, 0.0)) -> Image:
    """Return Gaussian blobs at world positions, moved by a shift."""
    at = grid.coordinates_mm().reshape(3, -1).T
    data = np.zeros(len(at))
    for height, place in places:
        data += height * np.exp(-((at - place - shift_mm) ** 2).sum(1) / (2 * 3.5**2))
    return Image((100 * data).reshape(grid.shape).astype(np.float32), grid)


@pytest.fixture
def pair():
    """Return two oblique images of blobs 4, -3 and 2.5 mm apart, and the blobs' places."""

    def grid(shape, spacing, angles, origin):
        matrix = np.eye(4)
        turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
        matrix[:3, :3] = turn @ np.diag([-1.0, 1.0, 1.0]) @ np.diag(spacing)
        matrix[:3, 3] = origin
        return Grid(shape, matrix)

    fixed = grid((34, 38, 20), (1.0, 0.9, 1.9), (9, -7, 12), (20.0, -10.0, 5.0))
    moving = grid((40, 36, 24), (0.9, 1.1, 1.6), (5, 4, -6), (22.0, -16.0, 4.0))
    rng = np.random.default_rng(3)
    places = [(1 - 0.5 * rng.random(), fixed.center_mm + rng.uniform(-8, 8, 3)) for _ in range(9)]
    return blobs(fixed, places), blobs(moving, places, (4.0, -3.0, 2.5)), places


def test_a_transform_of_preprocessed_images_serves_the_native_ones(pair) -> None:
    fixed, moving, places = pair
    pipeline = Pipeline.from_dict(ALL)
    ready = [pipeline(image) for image in (fixed, moving)]
    assert ready[0].grid != fixed.grid
    transform = register(*ready, "translation").transform
    points = np.array([place for _, place in places])
    np.testing.assert_allclose(transform.map_points(points), points + np.array([4.0, -3.0, 2.5]), atol=0.15)
    native = register(fixed, moving, "translation").transform
    np.testing.assert_allclose(transform.map_points(points), native.map_points(points), atol=0.15)


def test_landmarks_stay_where_they_are(pair) -> None:
    fixed, _, _ = pair
    steps = [step for step in ALL if step["step"] in ("reorient", "foreground-mask", "crop-pad", "resample")]
    ready = Pipeline.from_dict(steps)(fixed)

    def peak(image):
        smooth = gaussian_filter(image.data, 0.5)
        return image.grid.index2world(np.unravel_index(smooth.argmax(), smooth.shape))

    assert np.linalg.norm(peak(ready) - peak(fixed)) < 1.5  # within a voxel
    mass = [
        np.average(image.grid.coordinates_mm().reshape(3, -1).T, axis=0, weights=image.data.ravel())
        for image in (fixed, ready)
    ]
    np.testing.assert_allclose(mass[0], mass[1], atol=0.05)


def test_labels_are_carried_onto_the_result(pair) -> None:
    fixed, _, _ = pair
    labels = LabelImage((fixed.data > 40).astype(np.uint8) * 5, fixed.grid)
    done = Pipeline.from_dict(ALL).apply(fixed)
    carried = done.carry_labels(labels)
    assert carried.grid == done.image.grid
    voxel = [abs(np.linalg.det(i.grid.grid2world)) for i in (labels, carried)]
    volumes = [np.count_nonzero(i.data) * v for i, v in zip((labels, carried), voxel, strict=True)]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.05)


def test_record_says_what_was_done(pair) -> None:
    done = run(pair[0], Pipeline.from_dict({"name": "mine", "steps": ALL}))
    record = json.loads(json.dumps(done.record))  # plain JSON
    assert [entry["step"] for entry in record["steps"]] == [step["step"] for step in ALL]
    assert record["steps"][1]["measured"]["threshold"] > 0
    assert record["steps"][6]["measured"]["low"] < record["steps"][6]["measured"]["high"]
    assert record["output"]["grid2world"] == done.image.grid.grid2world.tolist()
    assert (
        Pipeline.from_dict(
            [
                {k: v for k, v in e.items() if k not in ("measured", "grid", "seconds")}
                for e in record["steps"]
            ]
        )(pair[0]).data.tobytes()
        == done.image.data.tobytes()
    )  # a record is a recipe


def test_toml_and_words_and_dictionaries_agree(tmp_path) -> None:
    pipeline = Pipeline.from_dict({"name": "mine", "steps": ALL})
    (tmp_path / "mine.toml").write_text(pipeline.to_toml(), encoding="utf-8")
    assert Pipeline.from_toml(tmp_path / "mine.toml") == pipeline
    assert Pipeline.from_dict(pipeline.to_dict()) == pipeline
    words = [
        "reorient:orientation=LPS",
        "resample:spacing_mm=[1, 2, 3]",
        "crop-pad:margin_mm=3,multiple=8",
        "zscore",
    ]
    assert Pipeline.from_words(words).steps == (
        Reorient(orientation="LPS"),
        Resample(spacing_mm=(1, 2, 3)),
        CropPad(margin_mm=3, multiple=8),
        ZScore(),
    )


@pytest.mark.parametrize(
    "tree",
    [
        {"stages": []},
        {"steps": "n4"},
        ["n5"],
        [{"shrink": 4}],
        [{"step": "n4", "shrink": "four"}],
        [{"step": "n4", "shrinks": 4}],
        [{"step": "clip"}],
        [{"step": "histogram-match"}],
        [3],
    ],
)
def test_what_a_plan_cannot_say_is_refused(tree) -> None:
    with pytest.raises(PlanError):
        Pipeline.from_dict(tree)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["n4:shrink=0.5"], r"step 1 \(n4\), shrink: expected a whole number, got 0\.5"),
        (["reorient", "n4:shrink=x"], r"step 2 \(n4\), shrink: expected a whole number, got 'x'"),
        (["crop-pad:margin_mm=x"], r"step 1 \(crop-pad\), margin_mm: expected a number, got 'x'"),
        (["clip:percentiles=5"], r"percentiles: expected a list, got 5"),
        (["clip:percentiles=[1]"], r"percentiles: the list is too short, got \[1\]"),
        (["zscor"], r"step 1: there is no step 'zscor'; did you mean 'zscore'\?; steps are"),
        (["clip:hgih=3"], r"no setting 'hgih'; did you mean 'high'\?"),
        (["histogram-match"], r"step 1 \(histogram-match\), reference must be given"),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(words, said) -> None:
    with pytest.raises(PlanError, match=said):
        Pipeline.from_words(words)


def test_taking_off_too_much_says_how_much_there_is(pair) -> None:
    with pytest.raises(PlanError, match=r"the image is only .* mm large; take less than"):
        CropPad(content=False, margin_mm=-500.0)(pair[0])


def test_a_record_is_described(pair, tmp_path) -> None:
    write(tmp_path / "scan.nii.gz", pair[0])
    words = [
        str(tmp_path / "scan.nii.gz"),
        "-o",
        str(tmp_path / "out.nii.gz"),
        "--step",
        "reorient",
        "--step",
        "zscore",
    ]
    assert CliRunner().invoke(app, ["preprocess", *words]).exit_code == 0
    done = CliRunner().invoke(app, ["info", str(tmp_path / "out.preprocess.json")])
    assert done.exit_code == 0, done.output
    assert "program: preprocess" in done.stdout
    assert "step 1: reorient (orientation RAS)" in done.stdout
    assert "step 2: zscore: mean" in done.stdout
    (tmp_path / "other.json").write_text('{"program": "preprocess"}', encoding="utf-8")
    assert CliRunner().invoke(app, ["info", str(tmp_path / "other.json")]).exit_code == 2


def test_files_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(FormatError, match=r"none\.toml"):
        Pipeline.from_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("steps = [", encoding="utf-8")
    with pytest.raises(PlanError, match="TOML"):
        Pipeline.from_toml(tmp_path / "bad.toml")
    (tmp_path / "word.toml").write_text("", encoding="utf-8")
    assert Pipeline.from_toml(tmp_path / "word.toml").steps == ()
    for word in ("n4:shrink", "n4:=3"):
        with pytest.raises(PlanError, match="key=value"):
            Pipeline.from_words([word])


def test_every_step_is_listed_with_its_settings() -> None:
    found = list_steps()
    assert set(found) == set(STEPS)
    assert found["n4"][1]["shrink"] == 4
    json.dumps(found)


def test_command_writes_image_mask_and_record(pair, tmp_path) -> None:
    def call(*words):
        return CliRunner().invoke(app, ["preprocess", *map(str, words)])

    write(tmp_path / "scan.nii.gz", pair[0])
    out = tmp_path / "out.nii.gz"
    words = (tmp_path / "scan.nii.gz", "-o", out, "--step", "foreground-mask", "--step", "zscore")
    done = call(*words, "--mask-out", tmp_path / "mask.nii.gz")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out.preprocess.json").read_text(encoding="utf-8"))
    assert record["files"]["image"].endswith("scan.nii.gz")
    assert read(out).grid.same_as(pair[0].grid)
    assert set(np.unique(read(tmp_path / "mask.nii.gz").data)) == {0, 1}
    like = call(
        tmp_path / "scan.nii.gz", "-o", out, "--step", f"resample:like={tmp_path / 'mask.nii.gz'}", "--json"
    )
    assert json.loads(like.stdout)["steps"][0]["like"]["space"] == "mask"
    listed = call("--list", "--json")
    assert set(json.loads(listed.stdout)) == set(STEPS)
    before = sorted(p.name for p in tmp_path.iterdir())
    for bad in (
        (),
        (tmp_path / "scan.nii.gz",),
        (tmp_path / "scan.nii.gz", "-o", out),
        (tmp_path / "scan.nii.gz", "-o", tmp_path / "scan.nii.gz", "--step", "zscore"),
        (tmp_path / "scan.nii.gz", "-o", tmp_path / "no" / "x.nii.gz", "--step", "zscore"),
        (tmp_path / "scan.nii.gz", "-o", tmp_path / "x.xyz", "--step", "zscore"),
        (tmp_path / "scan.nii.gz", "-o", tmp_path, "--step", "zscore"),
        (tmp_path / "none.nii.gz", "-o", tmp_path / "y.nii.gz", "--step", "zscore"),
        (tmp_path / "scan.nii.gz", "-o", tmp_path / "y.nii.gz", "--step", "n4:shrink=99"),
        (
            tmp_path / "scan.nii.gz",
            "-o",
            tmp_path / "y.nii.gz",
            "--step",
            "zscore",
            "--mask-out",
            tmp_path / "z.nii.gz",
        ),
        (tmp_path / "scan.nii.gz", "-o", tmp_path / "y.nii.gz", "--step", "resample:like=/none.nii.gz"),
    ):
        done = call(*bad)
        assert done.exit_code == 2, (bad, done.output)
        assert "bug" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_json_that_is_not_ours_stays(pair, tmp_path) -> None:
    write(tmp_path / "scan.nii.gz", pair[0])
    (tmp_path / "scan.json").write_text('{"EchoTime": 0.03}', encoding="utf-8")
    words = [
        "preprocess",
        str(tmp_path / "scan.nii.gz"),
        "-o",
        str(tmp_path / "scan.mha"),
        "--step",
        "zscore",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "scan.json").read_text(encoding="utf-8") == '{"EchoTime": 0.03}'
    assert (tmp_path / "scan.preprocess.json").is_file()


def test_nyul_command_trains_and_serves(pair, tmp_path) -> None:
    for number, image in enumerate(pair[:2]):
        write(tmp_path / f"{number}.nii.gz", image)
    files = [str(tmp_path / f"{number}.nii.gz") for number in (0, 1)]
    model = tmp_path / "model.json"
    done = CliRunner().invoke(app, ["train-nyul", *files, "-o", str(model)])
    assert done.exit_code == 0, done.output
    words = ["preprocess", files[0], "-o", str(tmp_path / "o.nii.gz"), "--step", f"nyul:model={model}"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert (
        len(
            json.loads((tmp_path / "o.preprocess.json").read_text(encoding="utf-8"))["steps"][0]["measured"][
                "landmarks"
            ]
        )
        == 11
    )


def test_a_record_is_a_recipe(tmp_path):
    import json

    image = Image(np.random.default_rng(2).random((9, 8, 7)).astype(np.float32), Grid((9, 8, 7), np.eye(4)))
    first = Pipeline.from_words(["zscore", "clip:percentiles=[1, 99]"])
    path = tmp_path / "scan.preprocess.json"
    path.write_text(json.dumps(first.apply(image).record), encoding="utf-8")
    again = Pipeline.from_file(path)
    assert again.steps == first.steps
    for text, message in (("{", "not valid JSON"), ("[1]", "no record"), ('{"a": 1}', "no 'steps'")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(PlanError, match=message):
            Pipeline.from_file(path)
