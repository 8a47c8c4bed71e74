"""What the verdict's benchmark makes is off, or right, by what it says; runs of one pair count as one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from regista.core import Grid, Image, LabelImage, PointSet, RunRecord, Status
from regista.registration import Result
from regista.transforms import Affine, Composite, resample


@pytest.fixture
def cases(script):
    return script("harness.verdict_cases")


@pytest.fixture
def case(cases):
    matrix = np.diag([-1.5, 1.0, 2.0, 1.0])
    matrix[:3, 3] = (20.0, -10.0, 5.0)
    grid = Grid((20, 24, 12), matrix)
    data = np.random.default_rng(0).random(grid.shape).astype(np.float32)
    image = Image(data, grid)
    return cases.Case("organ", "a-b", "fit", "affine", image, image, truth=Affine.identity(3))


def ordinary(case) -> Result:
    same = Affine.identity(3)
    warped = resample(case.moving, case.fixed.grid, same)
    return Result(same, same, warped, RunRecord(status=Status.CONVERGED))


def test_a_result_is_moved_off_by_the_share_and_its_inverse_goes_with_it(cases, case):
    off = cases.pushed(case, ordinary(case), 0.08, np.random.default_rng(1))
    places = case.fixed.grid.center_mm + np.random.default_rng(2).normal(size=(50, 3)) * 8
    there = off.transform.map_points(places)
    np.testing.assert_allclose(np.linalg.norm(there - places, axis=1), 0.08 * 30, rtol=1e-9)
    np.testing.assert_allclose(off.inverse.map_points(there), places, atol=1e-9)


def test_a_result_is_turned_off_about_the_middle(cases, case):
    off = cases.turned(case, ordinary(case), 20, np.random.default_rng(1))
    middle = case.fixed.grid.center_mm
    np.testing.assert_allclose(off.transform.map_points(middle[None])[0], middle, atol=1e-9)
    matrix = off.transform.map_points(np.eye(3) + middle) - middle
    assert np.degrees(np.arccos((np.trace(matrix) - 1) / 2)) == pytest.approx(20)


def test_a_slab_keeps_its_place_and_a_magnified_image_its_content(cases, case):
    part = cases.slab(case, np.random.default_rng(0)).moving
    assert part.grid.shape[1] < 0.45 * 24
    place = part.grid.index2world([[3, 2, 4]])
    index = np.rint(case.moving.grid.world2index(place)).astype(int)[0]
    assert part.data[3, 2, 4] == case.moving.data[tuple(index)]
    large, scale = cases.magnified(case, 3.0)
    again = resample(large.moving, case.fixed.grid, Composite((Affine.identity(3), scale)))
    np.testing.assert_allclose(again.data, case.moving.data, atol=1e-5)


def test_a_displaced_header_leaves_a_known_error(cases, case, script):
    away = cases.displaced(case, np.random.default_rng(3))
    stays = Affine.identity(3)
    what, error = script("harness.verdict_runs").error_by_truth(away, cases.made(away, stays, stays))
    assert what == "map error"
    assert error > 1.0
    right = Affine(away.world)
    assert script("harness.verdict_runs").error_by_truth(away, cases.made(away, right, right))[1] < 1e-9


def test_intervals_count_runs_of_one_pair_as_one(script):
    interval = script("verdict").interval
    rows = [{"run": f"brain_{pair}_{kind}", "pair": pair} for pair in range(20) for kind in range(6)]
    spread = interval(rows, lambda row: not row["run"].startswith(("brain_1_", "brain_2_")))
    assert "18 of 20 pairs" in spread
    low, high = (float(x) for x in spread.split("by pairs ")[1].split(")")[0].split(" … "))
    single = 1.96 * np.sqrt(0.9 * 0.1 / 120)
    assert low < 0.9 - 1.5 * single
    assert high <= 1
    assert "(1.000 … 1.000)" not in interval([], lambda row: True)
    assert "20 of 20 pairs without a mistake (0.83 … 1.00)" in interval(rows, lambda row: True)


def test_a_crop_that_is_put_where_it_belongs_is_right(cases, case, script):
    error = script("harness.verdict_runs").error_by_truth
    i, j, _ = np.indices(case.fixed.grid.shape)
    labels = LabelImage((1 + i // 5 + 4 * (j // 6)).astype(np.uint8), case.fixed.grid)
    points = PointSet(case.fixed.grid.index2world(np.argwhere(labels.data)[::7]))
    for known in ({"labels": (labels, labels)}, {"points": (points, points)}, {}):
        part = cases.cropped(replace(case, **known), np.random.default_rng(3))
        right, stays = Affine(part.world), Affine.identity(3)
        assert not np.allclose(part.world, np.eye(4))  # not the corner where the lattice begins
        assert part.moving.grid.shape == (8, 10, 12)
        assert error(part, cases.made(part, right, right.inverse()))[1] == pytest.approx(0, abs=1e-9)
        assert error(part, cases.made(part, stays, stays))[1] > 0.9


def test_what_was_measured_by_other_code_and_what_was_refused_is_left_out(script, tmp_path):
    runs = script("harness.verdict_runs")
    for name, row in (
        ("a", {"run": "a", "features of": runs._code()}),
        ("b", {"run": "b", "features of": 1}),
        ("c", {"refused": "no overlap", "features of": runs._code()}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(row), encoding="utf-8")
    assert runs.kept_runs(tmp_path) == [{"run": "a"}]
