"""Damaged files of every kind give a message of ours, never a library's traceback."""

from __future__ import annotations

import numpy as np
import pytest

from regista.core import Image, Mesh, PointSet, RegistaError
from regista.io import read, read_labels, read_mesh, read_points, read_transform, write
from regista.transforms import Affine, Composite, DisplacementField, VelocityField

ROUNDS = 60


def _things(grid):
    field = DisplacementField(np.full((3, *grid.shape), 0.5), grid)
    chain = Composite((field, Affine(np.eye(4))))
    image = Image(np.arange(grid.size, dtype=np.float32).reshape(grid.shape), grid)
    points = PointSet(np.arange(12.0).reshape(4, 3))
    mesh = Mesh(np.arange(12.0).reshape(4, 3), np.array([[0, 1, 2], [1, 2, 3]]))
    whole = Image(image.data.astype(np.int16), grid)
    linear = {"fixed": grid, "moving": grid}
    yield from (
        (name, image, {}, read, {})
        for name in ("i.nii", "i.nii.gz", "i.mha", "i.nrrd", "i.mgz", "i.mgh", "i.npz")
    )
    yield "l.nii", whole, {}, read_labels, {}
    yield "p.csv", points, {"convention": "lps"}, read_points, {"convention": "lps"}
    yield from ((name, points, {}, read_points, {}) for name in ("p.txt", "p.fcsv", "p.mrk.json"))
    yield "m.surf.gii", mesh, {}, read_mesh, {}
    yield from (
        (n, mesh, {"convention": "ras"}, read_mesh, {"convention": "ras"}) for n in ("m.ply", "m.vtk")
    )
    yield from ((name, chain, {}, read_transform, {}) for name in ("t.h5", "t.nii.gz", "t.nii", "t.x5"))
    yield "v.h5", VelocityField(field.vectors_mm, grid), {}, read_transform, {}
    yield from (
        (name, Affine(np.eye(4)), linear, read_transform, linear) for name in ("t.tfm", "t.mat", "t.lta")
    )
    yield "t.1D", Affine(np.eye(4)), {}, read_transform, {}
    fsl = {"format": "fsl", **linear}
    yield "f.mat", Affine(np.eye(4)), fsl, read_transform, fsl


def _damage(raw: bytes, rng) -> bytes:
    kind = rng.integers(4)
    if kind == 0:
        return raw[: rng.integers(len(raw))]
    data = bytearray(raw)
    # most of the damage goes to the beginning, where headers are
    reach = len(data) if kind == 1 else min(len(data), 600)
    for _ in range(rng.integers(1, 12)):
        at = int(rng.integers(reach))
        if kind == 3:
            del data[at : at + int(rng.integers(1, 9))]
            reach = max(1, min(reach, len(data)))
        elif data:
            data[at] = int(rng.integers(256))
    return bytes(data)


def test_readers_raise_nothing_but_our_errors(tmp_path, grid, rng, capfd):
    messages = []
    for name, thing, how, reader, options in _things(grid):
        path = tmp_path / name
        write(path, thing, **how)
        raw = path.read_bytes()
        assert reader(path, **options) is not None
        for _ in range(ROUNDS):
            path.write_bytes(_damage(raw, rng))
            try:
                reader(path, **options)
            except RegistaError as error:
                messages.append((name, str(error)))
    assert len(messages) > 10 * ROUNDS  # most damage is noticed
    assert [(n, text) for n, text in messages if n not in text] == []
    capfd.readouterr()


@pytest.mark.parametrize("reader", [read, read_labels, read_points, read_mesh, read_transform])
def test_noise_under_any_name(tmp_path, rng, reader, capfd):
    names = [
        "a.nii",
        "a.nii.gz",
        "a.mha",
        "a.nrrd",
        "a.mgz",
        "a.npz",
        "a.png",
        "a.tif",
        "a",
        "a.dcm",
        "a.csv",
    ]
    names += ["a.txt", "a.pts", "a.fcsv", "a.mrk.json", "a.gii", "a.vtk", "a.ply", "a.stl", "a.obj", "a.vtu"]
    names += ["a.h5", "a.mat", "a.tfm", "a.lta", "a.1D", "a.x5", "a.xyz", "a.hdr"]
    for name in names:
        (tmp_path / name).write_bytes(rng.integers(0, 256, 2000).astype(np.uint8).tobytes())
        with pytest.raises(RegistaError, match=name.replace(".", r"\.")):
            reader(tmp_path / name)
    capfd.readouterr()
