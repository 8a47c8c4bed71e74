"""Every peer finds a known shift, and what it leaves is read in the right direction, on grids unlike each other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from regista.benchmarking import Setup, find_methods, read_cases, run_benchmark

pytestmark = pytest.mark.skipif(not hasattr(os, "wait4"), reason="benchmarks run on Unix")
OTHERS = ("ants:syn-mi", "greedy", "dipy:syn")
# elastix's own settings are slow, and its affine and B-spline lose themselves in images as small and bare as these
ELASTIX = """
["elastix:translation"]
tool = "elastix"
settings = { linear = ["translation"], deformable = [], resolutions = 2, grid_spacing_vox = 10 }
"""
TABLE = "fixed,moving,fixed_points,moving_points\n{0}/fixed.{1},{0}/moving.{1},{0}/fixed.csv,{0}/moving.csv\n"


def installed(folder, *names):
    """Return the peers that are installed; skip where none is."""
    (folder / "own.toml").write_text(ELASTIX, encoding="utf-8")
    found = find_methods([*OTHERS, *names], folder / "own.toml")
    methods = [method for method in found if method.lacking() is None]
    if not methods:
        pytest.skip("no peer is installed: pip install 'regista[peers]'")
    return methods


def errors_of(tally):
    assert tally.failures == ()
    return {row["method"]: row["tre_max"] for row in tally.rows if row["kind"] == "landmarks"}


def test_peers_find_a_shift_between_oblique_grids(tmp_path, make_pair, make_grid, monkeypatch):
    methods = installed(tmp_path, "sitk:diffeomorphic-demons", "elastix:translation")
    grids = make_grid((42, 46, 38), (1.0, 0.9, 1.2)), make_grid((44, 40, 41), (0.9, 1.0, 1.1), (-9, 14, 6))
    make_pair(tmp_path / "pair", *grids)
    (tmp_path / "pairs.csv").write_text(TABLE.format("pair", "nii.gz"), encoding="utf-8")
    setup = Setup(output=Path("out"), threads=2, limit_s=120, surface=None)
    monkeypatch.chdir(tmp_path)
    tally = run_benchmark(read_cases("pairs.csv", convention="ras"), methods, setup)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "own.toml", "pair", "pairs.csv"]
    errors = errors_of(tally)
    assert errors.pop("unregistered") > 5
    assert {name: error for name, error in errors.items() if not error < 1.2} == {}
    inverse = {row["method"]: row["inverse_p95_mm"] for row in tally.rows if row.get("inverse_voxels")}
    assert {name: error for name, error in inverse.items() if not error < 0.3} == {}
    assert set(inverse) == {"ants:syn-mi"} & {method.name for method in methods}
    for row in tally.rows:
        if row["kind"] == "run":
            assert 0 < row["seconds_stage"] < row["seconds_process"]
            assert row["threads"] == 2


def test_peers_start_from_a_given_affine_and_run_in_2d(tmp_path, make_pair, make_grid):
    methods = installed(tmp_path, "sitk:demons")
    grids = make_grid((60, 52), (1.0, 0.8)), make_grid((56, 58), (0.9, 1.0), (-9, 14, 6))
    make_pair(tmp_path / "pair", *grids)
    (tmp_path / "pairs.csv").write_text(TABLE.format("pair", "mha"), encoding="utf-8")
    shared = find_methods(["translation"])[0]
    setup = Setup(output=tmp_path / "out", threads=2, limit_s=120, surface=None, equal_affine=shared)
    tally = run_benchmark(read_cases(tmp_path / "pairs.csv", convention="ras"), methods, setup)
    errors = errors_of(tally)
    assert errors.pop("unregistered") > 4
    inverse = [row["inverse_p95_mm"] for row in tally.rows if row.get("inverse_voxels")]
    assert all(error < 0.3 for error in inverse)
    assert {name: error for name, error in errors.items() if not error < 0.5} == {}
