"""Metrics along a parameter: the optimum, the capture range and the commands that draw them."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from phantoms import Body, grid_of, points_of
from typer.testing import CliRunner

from regista.cli import app
from regista.core import Image, PlanError
from regista.io import write
from regista.registration import Landscape, metric_landscape
from regista.similarity import MI, NCC, Sum
from regista.transforms import Affine


@pytest.fixture(scope="module")
def pair():
    """Return a body, and the same 3 mm along y and turned by 4° about z, darker where it was brighter."""
    grid = grid_of((40, 50, 24), (1.0, 0.7, 2.0))
    body, center = Body(grid), grid.center_mm
    turn = np.eye(4)
    angle = np.deg2rad(4.0)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = center - turn[:3, :3] @ center + [0, 3.0, 0]
    points = points_of(grid)
    fixed = body(points).astype(np.float32)
    back = np.linalg.inv(turn)
    moving = body(points @ back[:3, :3].T + back[:3, 3]).astype(np.float32)
    return Image(fixed, grid), Image(moving, grid), turn


def test_the_best_value_is_where_the_images_are_aligned(pair):
    fixed, moving, turn = pair
    metrics = {"ncc": NCC(), "both": Sum(terms=((1.0, NCC()), (0.1, MI())))}
    found = metric_landscape(
        fixed, moving, metrics, ["tx", "ty", "rz"], reach=6, points=13, initial=Affine(turn)
    )
    assert [(one.parameter, one.metric) for one in found[:2]] == [("tx", "ncc"), ("tx", "both")]
    assert len(found) == 6
    for one in found:
        assert abs(one.optimum) < 0.3
        assert min(one.capture_range) >= 3


def test_a_shift_is_read_off_in_mm(pair):
    fixed, moving, turn = pair
    only_turned = turn.copy()
    only_turned[1, 3] -= 3.0
    (one,) = metric_landscape(
        fixed, moving, {"mi": MI()}, ["ty"], reach=8, points=17, initial=Affine(only_turned)
    )
    assert one.unit == "mm"
    assert one.optimum == pytest.approx(3.0, abs=0.4)


def test_figures_of_a_landscape():
    offsets = np.linspace(-4, 4, 9)
    values = np.array([3.0, 4, 2, 1, 0, 1, 2, 1.5, 3])
    one = Landscape(metric="m", parameter="rx", offsets=offsets, values=values)
    assert one.optimum == 0
    assert one.capture_range == (3, 2)
    assert one.minima == 2
    assert one.summary()["unit"] == "deg"


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"along": ["tq"]}, "tx, ty, tz"),
        ({"along": []}, "at least one"),
        ({"along": ["tx"], "points": 8}, "odd"),
        ({"along": ["tx"], "reach": 0}, "reach"),
        ({"along": ["tx"], "shrink": 0}, "shrink"),
    ],
)
def test_bad_settings_are_refused(pair, settings, word):
    with pytest.raises(PlanError, match=word):
        metric_landscape(pair[0], pair[1], {"mi": MI()}, **settings)


def test_the_command_writes_a_table_a_summary_and_a_picture(pair, tmp_path):
    pytest.importorskip("matplotlib", reason="the picture needs Matplotlib")
    for name, image in (("f", pair[0]), ("m", pair[1])):
        write(tmp_path / f"{name}.nii.gz", image)
    words = [
        "metric-landscape",
        tmp_path / "f.nii.gz",
        tmp_path / "m.nii.gz",
        "-o",
        tmp_path / "out",
        "--json",
    ]
    words += [
        "--along",
        "ty",
        "--metric",
        "mi",
        "--metric",
        "{lncc = {radius = 3}}",
        "--points",
        "7",
        "--reach",
        "6",
    ]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert {row["metric"] for row in json.loads(done.stdout)["landscapes"]} == {"mi", "{lncc = {radius = 3}}"}
    with (tmp_path / "out" / "landscape.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 14
    assert {row["parameter"] for row in rows} == {"ty"}
    assert (tmp_path / "out" / "landscape.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "summary.csv").exists()
    words[6:] = ["--along", "ty", "--metric", "nothing"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 2
