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
from regista.core import Grid, Image, LabelImage, PlanError, PointSet
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


def test_what_cannot_be_judged_is_refused(case) -> None:
    images, labels, _ = case
    pipeline = Pipeline.from_words(["zscore"])
    with pytest.raises(PlanError, match="labels or landmarks"):
        ablate(*images, pipeline)
    with pytest.raises(PlanError, match="design"):
        ablate(*images, pipeline, labels=tuple(labels), design="some")
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
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [row["steps"] for row in rows] == ["none", "all"]
    assert float(rows[1]["dice"]) == pytest.approx(json.loads(done.stdout)["rows"][1]["dice"])
    assert "none" in CliRunner().invoke(app, [*both, "--step", "zscore"]).stdout
    assert CliRunner().invoke(app, [*words, "--step", "zscore"]).exit_code == 2
    assert CliRunner().invoke(app, both).exit_code == 2
