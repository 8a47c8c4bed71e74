"""Every peer finds a known shift, and what it leaves is read in the right direction, on grids unlike each other."""

from __future__ import annotations

import os

import pytest

from regista.benchmarking import Setup, find_methods, read_cases, run_benchmark

pytestmark = pytest.mark.skipif(not hasattr(os, "wait4"), reason="benchmarks run on Unix")
PEERS = ("ants:affine", "ants:syn-mi", "greedy", "elastix:bspline", "sitk:diffeomorphic-demons", "dipy:syn")
TABLE = "fixed,moving,fixed_points,moving_points\n{0}/fixed.{1},{0}/moving.{1},{0}/fixed.csv,{0}/moving.csv\n"


def installed(names=PEERS):
    """Return the peers that are installed; skip where none is."""
    methods = [method for method in find_methods(names) if method.lacking() is None]
    if not methods:
        pytest.skip("no peer is installed: pip install 'regista[peers]'")
    return methods


def errors_of(tally):
    assert tally.failures == ()
    return {row["method"]: row["tre_max"] for row in tally.rows if row["kind"] == "landmarks"}


def test_peers_find_a_shift_between_oblique_grids(tmp_path, make_pair, make_grid):
    methods = installed()
    grids = make_grid((42, 46, 38), (1.0, 0.9, 1.2)), make_grid((44, 40, 41), (0.9, 1.0, 1.1), (-9, 14, 6))
    make_pair(tmp_path / "pair", *grids)
    (tmp_path / "pairs.csv").write_text(TABLE.format("pair", "nii.gz"))
    setup = Setup(output=tmp_path / "out", threads=2, limit_s=120, surface=None)
    tally = run_benchmark(read_cases(tmp_path / "pairs.csv", convention="ras"), methods, setup)
    errors = errors_of(tally)
    assert errors.pop("unregistered") > 5
    assert {name: error for name, error in errors.items() if not error < 1.2} == {}
    for row in tally.rows:
        if row["kind"] == "run":
            assert 0 < row["seconds_stage"] < row["seconds_process"]
            assert row["threads"] == 2


def test_peers_start_from_a_given_affine_and_run_in_2d(tmp_path, make_pair, make_grid):
    names = ("greedy", "elastix:bspline", "sitk:demons", "dipy:syn", "ants:syn-mi")
    methods = installed(names)
    grids = make_grid((60, 52), (1.0, 0.8)), make_grid((56, 58), (0.9, 1.0), (-9, 14, 6))
    make_pair(tmp_path / "pair", *grids)
    (tmp_path / "pairs.csv").write_text(TABLE.format("pair", "mha"))
    shared = find_methods(["translation"])[0]
    setup = Setup(output=tmp_path / "out", threads=2, limit_s=120, surface=None, equal_affine=shared)
    tally = run_benchmark(read_cases(tmp_path / "pairs.csv", convention="ras"), methods, setup)
    errors = errors_of(tally)
    assert errors.pop("unregistered") > 4
    assert {name: error for name, error in errors.items() if not error < 1.0} == {}
