"""Disks and memories that are too small: a plain message, and nothing left behind."""

from __future__ import annotations

import gzip
import os
from contextlib import contextmanager

import numpy as np
import pytest

from regista.core import FormatError, Grid, Image, Mesh, PointSet
from regista.io import _files, read, write
from regista.transforms import DisplacementField

LIMIT_BYTES = 4000


def _things(grid: Grid, rng):
    big = Grid((24, 25, 26), grid.grid2world)
    image = Image(rng.normal(size=big.shape).astype(np.float32), big)
    picture = Image(rng.integers(0, 255, (90, 110)).astype(np.uint8), Grid((90, 110), np.eye(3)))
    field = DisplacementField(rng.normal(size=(3, *big.shape)).astype(np.float32), big)
    points = PointSet(rng.normal(size=(900, 3)))
    mesh = Mesh(rng.normal(size=(900, 3)), rng.integers(0, 900, (900, 3)))
    return {
        **dict.fromkeys(("a.nii", "a.nii.gz", "a.mha", "a.nrrd", "a.mgz", "a.mgh", "a.npz"), image),
        **dict.fromkeys(("p.png", "p.jpg", "p.tif"), picture),
        **dict.fromkeys(("t.h5", "t.nii.gz", "t.x5"), field),
        **dict.fromkeys(("p.fcsv", "p.mrk.json", "p.txt"), points),
        **dict.fromkeys(("m.gii", "m.vtk", "m.ply"), mesh),
    }


@contextmanager
def small_files():
    """Let the system refuse to write more than a few bytes to a file, as a full disk does.

    Only while a block runs: the limit holds for the whole process, so pytest's own log must not meet it.
    """
    resource = pytest.importorskip("resource", reason="limits on files are a thing of Unix")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_every_writer_leaves_nothing_where_the_disk_refuses(tmp_path, grid, rng, capfd):
    (tmp_path / "a.nii").write_text("the old one", encoding="utf-8")
    for name, thing in _things(grid, rng).items():
        with small_files(), pytest.raises(FormatError, match="cannot be written"):
            write(tmp_path / name, thing, **({"convention": "ras"} if isinstance(thing, Mesh) else {}))
    assert os.listdir(tmp_path) == ["a.nii"]
    assert (tmp_path / "a.nii").read_text(encoding="utf-8") == "the old one"


@pytest.mark.parametrize(
    ("number", "message"), [(28, "disk is full"), (122, "disk is full"), (30, "read-only"), (13, "read-only")]
)
def test_what_the_disk_says_is_told_plainly(tmp_path, number, message):
    def fail() -> None:
        with _files.replacing(tmp_path / "workspace.txt") as path:
            path.write_text("half", encoding="utf-8")
            raise OSError(number, os.strerror(number), "/workspace/of mine")

    with pytest.raises(FormatError, match=message):
        fail()
    assert os.listdir(tmp_path) == []


def test_an_image_too_large_for_memory_is_refused_before_it_is_read(tmp_path, grid, monkeypatch):
    image = Image(np.zeros((40, 50, 60), np.float32), Grid((40, 50, 60), grid.grid2world))
    names = ("a.nii", "a.nii.gz", "a.mha", "a.nrrd")
    for name in names:
        write(tmp_path / name, image)
    monkeypatch.setattr(_files, "available_bytes", lambda: 2 * image.data.nbytes - 1)
    for name in names:
        with pytest.raises(FormatError, match=f"{name} is an image of 40×50×60: reading it needs about"):
            read(tmp_path / name)
    monkeypatch.setattr(_files, "available_bytes", lambda: 2 * image.data.nbytes)
    assert read(tmp_path / "a.nii.gz").grid.shape == (40, 50, 60)
    monkeypatch.setattr(_files, "available_bytes", lambda: None)
    assert read(tmp_path / "a.mha").grid.shape == (40, 50, 60)


def test_a_header_that_promises_too_much_is_truncation_not_size(tmp_path):
    huge = Image(np.zeros((2, 2, 2), np.uint8), Grid((2, 2, 2), np.eye(4)))
    write(tmp_path / "a.nii", huge)
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    (tmp_path / "b.nii").write_bytes(raw + bytes(600))
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(raw + bytes(600))))
    for name in ("b.nii", "b.nii.gz"):
        with pytest.raises(FormatError, match="truncated"):
            read(tmp_path / name)
