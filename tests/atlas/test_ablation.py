"""Ablation: one row for each choice of steps, measured on native labels and landmarks."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from regista.atlas import ablate
from regista.cli import app
from regista.core import GeometryError, Grid, Image, LabelImage, PlanError, PointSet
from regista.io import write
from regista.preprocessing import Pipeline

SHIFT = np.array([3.0, -2.0, 2.5])


@pytest.fixture(scope="module")
def case():
    """Return a pair 3, -2, 2.5 mm apart, labels and points."""
    shape = (28, 32, 20)
    noise = gaussian_filter(np.random.default_rng(5).normal(size=shape), 2.2)
    at = np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2
    ball = (at**2 / np.array([100.0, 120.0, 60.0])[:, None, None, None]).sum(0) < 1
    data = np.where(ball, 50 + 200 * noise, 0).astype(np.float32)
    matrix = np.diag([1.0, 0.9, 1.6, 1.0])
    moved = matrix.copy()
    moved[:3, 3] = SHIFT
    grids = Grid(shape, matrix), Grid(shape, moved)
    images = [Image(data, grid) for grid in grids]
    labels = [LabelImage((ball * (1 + (noise > 0))).astype(np.uint8), grid) for grid in grids]
    places = grids[0].center_mm + np.random.default_rng(6).uniform(-5, 5, (6, 3))
    return images, labels, [PointSet(places), PointSet(places + SHIFT)]


def test_rows_name_what_was_done(case) -> None:
    images, labels, points = case
    pipeline = Pipeline.from_words(["clip:percentiles=[1,99]", "resample:spacing_mm=1.5", "zscore"])
    rows = ablate(*images, pipeline, "translation", labels=tuple(labels), points=tuple(points))
    assert [row["steps"] for row in rows] == [
        "none",
        *("only clip", "only resample", "only zscore"),
        *("all but clip", "all but resample", "all but zscore"),
        "all",
    ]
    for row in rows:
        assert row["dice"] > 0.97  # native labels, whatever the grid of the registration
        assert row["tre_mm"] < 0.2
        assert row["dice_change"] == pytest.approx(row["dice"] - rows[0]["dice"])
    assert len(ablate(*images, pipeline, "translation", points=tuple(points), design="alone")) == 5
    single = Pipeline.from_words(["zscore"])
    assert [r["steps"] for r in ablate(*images, single, "translation", points=tuple(points))] == [
        "none",
        "all",
    ]


def test_leave_out_alone_leaves_each_of_two_out(case) -> None:
    images, _, points = case
    pair = Pipeline.from_words(["clip:low=0", "zscore"])

    def names(design):
        return [r["steps"] for r in ablate(*images, pair, "translation", points=tuple(points), design=design)]

    assert names("leave-out") == ["none", "all but clip", "all but zscore", "all"]
    assert names("both") == ["none", "only clip", "only zscore", "all"]


def test_a_variant_that_fails_leaves_the_others(case) -> None:
    images, labels, points = case
    # all is 0 below -1e6: nothing is left to scale, or to register
    pipeline = Pipeline.from_words(["clip:high=-1000000.0", "zscore"])
    rows = ablate(*images, pipeline, "translation", labels=tuple(labels), points=tuple(points))
    status = {row["steps"]: row["status"] for row in rows}
    assert status["all"].startswith("failed: zscore: all voxels")
    assert status["only clip"].startswith("failed: ")
    assert not any(status[name].startswith("failed") for name in ("none", "only zscore"))
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert np.isnan([rows[-1]["dice"], rows[-1]["tre_change_mm"], rows[-1]["folded_percent"]]).all()
    assert rows[2]["dice_change"] == pytest.approx(rows[2]["dice"] - rows[0]["dice"])


def test_kernels_are_compiled_before_the_clock_starts(case, monkeypatch) -> None:
    from regista.atlas import _ablation

    images, _, points = case
    sizes, real = [], _ablation.register
    monkeypatch.setattr(
        _ablation, "register", lambda a, b, *p, **o: sizes.append(a.grid.size) or real(a, b, *p, **o)
    )
    told = []
    ablate(*images, Pipeline.from_words(["zscore"]), "translation", points=tuple(points), tell=told.append)
    assert told == ["none", "all"]
    assert len(sizes) == 3
    assert sizes[0] < sizes[1] == sizes[2] == images[0].grid.size


def test_labels_that_have_nothing_in_common_are_refused_before_the_first_run(case) -> None:
    images, labels, points = case
    told, foreign = [], labels[1].with_data(np.where(labels[1].data > 0, 9, 0).astype(np.uint8))
    pipeline = Pipeline.from_words(["zscore"])
    with pytest.raises(GeometryError, match="share no label: the fixed one has 1, 2, the moving one 9"):
        ablate(*images, pipeline, "translation", labels=(labels[0], foreign), tell=told.append)
    few = PointSet(points[1].points_mm[:5])
    with pytest.raises(GeometryError, match="5 moving"):
        ablate(*images, pipeline, "translation", points=(points[0], few), tell=told.append)
    assert told == []


def test_what_cannot_be_judged_is_refused(case) -> None:
    images, labels, _ = case
    pipeline = Pipeline.from_words(["zscore"])
    with pytest.raises(PlanError, match="labels or landmarks"):
        ablate(*images, pipeline)
    with pytest.raises(PlanError, match="design"):
        ablate(*images, pipeline, labels=tuple(labels), design="some")
    with pytest.raises(PlanError, match="no preset 'fats'"):
        ablate(*images, pipeline, "fats", labels=tuple(labels))
    with pytest.raises(PlanError, match="no steps"):
        ablate(*images, Pipeline(), labels=tuple(labels))


def test_command_writes_the_table(case, tmp_path) -> None:
    images, labels, _ = case
    for role, image, own in zip(("f", "m"), images, labels, strict=True):
        write(tmp_path / f"{role}.nii.gz", image)
        write(tmp_path / f"{role}_labels.nii.gz", own)
    files = [str(tmp_path / name) for name in ("f.nii.gz", "m.nii.gz")]
    words = ["ablate", *files, "--fixed-labels", str(tmp_path / "f_labels.nii.gz")]
    both = [*words, "--moving-labels", str(tmp_path / "m_labels.nii.gz"), "--preset", "translation"]
    done = CliRunner().invoke(app, [*both, "--step", "zscore", "-o", str(tmp_path / "t.csv"), "--json"])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "t.csv").open(encoding="utf-8")))
    assert [row["steps"] for row in rows] == ["none", "all"]
    assert float(rows[1]["dice"]) == pytest.approx(json.loads(done.stdout)["rows"][1]["dice"])
    assert "none" in CliRunner().invoke(app, [*both, "--step", "zscore"]).stdout
    assert CliRunner().invoke(app, [*words, "--step", "zscore"]).exit_code == 2
    assert CliRunner().invoke(app, both).exit_code == 2
    broken = [
        *both,
        "--step",
        "clip:high=-1000000.0",
        "--step",
        "zscore",
        "-o",
        str(tmp_path / "b.csv"),
        "--json",
    ]
    done = CliRunner().invoke(app, broken)
    assert done.exit_code == 1, done.output
    assert "all failed: zscore" in done.stderr
    assert json.loads(done.stdout)["rows"][-1]["dice"] is None
    rows = list(csv.DictReader((tmp_path / "b.csv").open(encoding="utf-8")))
    assert [row["dice"] == "" for row in rows] == [False, True, False, True]


def test_labels_on_another_grid_are_refused_before_the_first_run(case) -> None:
    images, labels, _ = case
    cut = LabelImage(labels[1].data[:, 3:], Grid((28, 29, 20), labels[1].grid.grid2world))
    with pytest.raises(GeometryError, match="the moving labels lie on another grid"):
        ablate(*images, Pipeline.from_words(["zscore"]), labels=(labels[0], cut))


def test_bad_voxels_fail_a_variant_or_are_left_out(case) -> None:
    images, labels, _ = case
    data = images[0].data.copy()
    data[0, 0, 0] = np.nan
    fixed = images[0].with_data(data)
    pipeline = Pipeline.from_words(["reorient"])
    refused = ablate(fixed, images[1], pipeline, "translation", labels=tuple(labels))
    assert all("NaN" in row["status"] for row in refused)
    rows = ablate(fixed, images[1], pipeline, "translation", labels=tuple(labels), non_finite="mask")
    assert min(row["dice"] for row in rows) > 0.97
    with pytest.raises(PlanError, match="'error' or 'mask'"):
        ablate(fixed, images[1], pipeline, "translation", labels=tuple(labels), non_finite="skip")


def test_undefined_figures_are_dashes_on_the_screen(case, tmp_path) -> None:
    images, labels, _ = case
    data = images[0].data.copy()
    data[0, 0, 0] = np.nan
    write(tmp_path / "fixed.nii.gz", images[0].with_data(data))
    write(tmp_path / "moving.nii.gz", images[1])
    words = ["ablate", str(tmp_path / "fixed.nii.gz"), str(tmp_path / "moving.nii.gz"), "--step", "reorient"]
    for role, own in zip(("fixed", "moving"), labels, strict=True):
        write(tmp_path / f"{role}_labels.nii.gz", own)
        words += [f"--{role}-labels", str(tmp_path / f"{role}_labels.nii.gz")]
    done = CliRunner().invoke(app, [*words, "--preset", "translation"])
    assert done.exit_code == 1
    assert "–" in done.stdout
    assert "nan" not in done.stdout
    masked = CliRunner().invoke(app, [*words, "--preset", "translation", "--non-finite", "mask", "--json"])
    assert masked.exit_code == 0, masked.output
