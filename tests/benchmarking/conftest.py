"""A small pair whose true map is known, and methods that find it, crash, or never end."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from regista.core import Grid, Image, LabelImage, PointSet
from regista.io import write, write_points
from regista.transforms import Affine

SHIFT_MM = np.array([4.0, -3.0, 2.5])
TOOL = """
import os, pathlib, shutil, signal, sys, time
what, out, truth = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
with open(os.environ["REGISTA_TEST_CALLS"], "a") as calls:
    calls.write(f"{what} {os.environ['OMP_NUM_THREADS']} {os.environ['NUMBA_NUM_THREADS']}\\n")
if what == "crash":
    print("about to crash", flush=True)
    os.kill(os.getppid(), signal.SIGSEGV)  # the worker itself dies, as with a faulty library
    time.sleep(60)
if what == "sleep":
    pathlib.Path(os.environ["REGISTA_TEST_CALLS"] + ".pid").write_text(str(os.getpid()))
    time.sleep(120)
if what == "fail":
    sys.exit(3)
if what != "nothing":
    shutil.copy(truth, out / "map.tfm")
"""


def blobs(grid: Grid, centre_mm: np.ndarray) -> np.ndarray:
    """Return a smooth image of three unlike blobs around a point."""
    world = np.moveaxis(grid.coordinates_mm(), 0, -1)
    places = np.array([[0, 0, 0], [9, 4, -6], [-8, 7, 5]], float)[:, : grid.ndim]
    value = np.zeros(grid.shape)
    for n, place in enumerate(places):
        distance = ((world - centre_mm - place) ** 2).sum(-1)
        value += (100 + 40 * n) * np.exp(-distance / (2 * (6 - n) ** 2))
    return value.astype(np.float32)


def centred(grid: Grid, centre_mm: np.ndarray) -> Grid:
    """Return a grid carried to another centre."""
    matrix = grid.grid2world.copy()
    matrix[:-1, -1] += centre_mm - grid.center_mm
    return Grid(grid.shape, matrix)


@pytest.fixture(scope="session")
def make_pair(tmp_path_factory):
    """Return a maker of pairs in a folder: the moving image is the fixed one moved by SHIFT_MM."""

    def make(folder: Path, grid: Grid, other: Grid) -> SimpleNamespace:
        folder.mkdir(parents=True, exist_ok=True)
        shift = SHIFT_MM[: grid.ndim]
        suffix = "nii.gz" if grid.ndim == 3 else "mha"
        other = centred(other, grid.center_mm)
        for name, where, by in (("fixed", grid, 0 * shift), ("moving", other, shift)):
            value = blobs(where, grid.center_mm + by)
            write(folder / f"{name}.{suffix}", Image(value, where))
            labels = np.digitize(value, [30.0, 80.0]).astype(np.int16)
            write(folder / f"{name}_labels.{suffix}", LabelImage(labels, where))
        points = grid.center_mm + np.array([[0.0, 0, 0], [3, 1, 2], [-4, 2, 1]])[:, : grid.ndim]
        write_points(folder / "fixed.csv", PointSet(points), convention="ras")
        write_points(folder / "moving.csv", PointSet(points + shift), convention="ras")
        matrix = np.eye(grid.ndim + 1)
        matrix[: grid.ndim, -1] = shift
        write(folder / "truth.tfm", Affine(matrix))
        return SimpleNamespace(folder=folder, suffix=suffix)

    return make


@pytest.fixture
def workplace(tmp_path, make_pair, make_grid, monkeypatch):
    """Return a folder with a table of two pairs, and a file of methods."""
    for name in ("one", "two"):
        make_pair(
            tmp_path / name,
            make_grid((26, 30, 22), (1.5, 1.3, 1.9)),
            make_grid((28, 27, 24), (1.4, 1.5, 1.8), (-9, 14, 6)),
        )
    head = "case,fixed,moving,fixed_labels,moving_labels,fixed_points,moving_points\n"
    cells = "{0},{0}/fixed.nii.gz,{0}/moving.nii.gz,{0}/fixed_labels.nii.gz,{0}/moving_labels.nii.gz,"
    cells += "{0}/fixed.csv,{0}/moving.csv\n"
    (tmp_path / "pairs.csv").write_text(head + cells.format("one") + cells.format("two"), encoding="utf-8")
    (tmp_path / "tool.py").write_text(TOOL, encoding="utf-8")
    calls = tmp_path / "calls.txt"
    calls.touch()
    monkeypatch.setenv("REGISTA_TEST_CALLS", str(calls))
    names = ("truth", "crash", "sleep", "fail", "nothing")
    tables = [
        f'["my:{name}"]\ntool = "command"\nlinear = true\n[\'my:{name}\'.settings]\n'
        f'command = ["{sys.executable}", "{tmp_path}/tool.py", "{name}", "{{out}}", "{tmp_path}/one/truth.tfm"]\n'
        f'from_affine = ["{sys.executable}", "{tmp_path}/tool.py", "{name}", "{{out}}", "{{affine}}"]\n'
        'transforms = ["map.tfm"]\n'
        for name in names
    ]
    (tmp_path / "own.toml").write_text("\n".join(tables), encoding="utf-8")
    return SimpleNamespace(
        folder=tmp_path,
        table=tmp_path / "pairs.csv",
        own=tmp_path / "own.toml",
        out=tmp_path / "out",
        calls=lambda: [line.split()[0] for line in calls.read_text(encoding="utf-8").splitlines()],
        words=lambda: calls.read_text(encoding="utf-8").splitlines(),
    )


@pytest.fixture
def script(monkeypatch):
    """Return a loader of the scripts of ``benchmarks/`` by name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module
