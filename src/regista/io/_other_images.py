"""FreeSurfer's MGH and arrays in NumPy's ``.npz``."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError, Grid, Image
from regista.io._files import check_exists, reading, replacing, suffix_of
from regista.io._nifti import c_ordered

NPZ_KEYS = ("vol", "vol_data", "image", "data", "arr_0")
NPZ_LABEL_KEYS = ("seg", "labels", "label", "vol", "vol_data", "data", "arr_0")


def read_mgh(path: Path, space: str | None) -> Image:
    """Read ``.mgh`` or ``.mgz``."""
    check_exists(path, "an MGH")
    with reading(path, "an MGH"):
        from nibabel.freesurfer.mghformat import MGHImage

        raw = path.read_bytes()
        image = MGHImage.from_bytes(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
        data = np.asarray(image.dataobj)
        grid = Grid(data.shape[:3], image.affine)
        oriented = int(image.header["goodRASFlag"]) > 0  # else the format's default, coronal
        data = data.astype(data.dtype.newbyteorder("="), copy=False)
        if data.ndim == 4 and data.shape[3] > 1:
            return Image(
                np.stack([c_ordered(data[..., n]) for n in range(data.shape[3])]),
                grid,
                "series",
                space,
                None,
                oriented,
            )
        return Image(c_ordered(data.reshape(grid.shape)), grid, "scalar", space, None, oriented)


def write_mgh(path: Path, image: Image) -> None:
    """Write a 3-D image or series as ``.mgh`` or ``.mgz``."""
    if image.ndim != 3 or image.kind == "channels":
        raise FormatError(f"{path}: MGH holds 3-D images and series, got a {image.ndim}-D {image.kind} image")
    from nibabel.freesurfer.mghformat import MGHImage

    data = np.asarray(image.data)
    small = {"b1": "u1", "i1": "i2", "u2": "i4", "f8": "f4", "f2": "f4", "i8": "i4", "u4": "i4", "u8": "i4"}
    target = np.dtype(small.get(data.dtype.str[1:], data.dtype))
    if (
        target.kind in "iu"
        and data.size
        and (data.max() > np.iinfo(target).max or data.min() < np.iinfo(target).min)
    ):
        raise FormatError(f"{path}: MGH holds whole numbers up to 32 bits signed; the image has larger ones")
    data = data.astype(target)
    if image.kind == "series":
        data = np.moveaxis(data, 0, -1)
    raw = MGHImage(data, image.grid.grid2world).to_bytes()
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(raw, 1, mtime=0) if suffix_of(path) != ".mgh" else raw)


def read_npz(path: Path, space: str | None, key: str | None, labels: bool = False) -> Image:
    """Read one array of an ``.npz`` (VoxelMorph's ``vol``, or the one named): voxels of 1 mm, axes as stored."""
    check_exists(path, "an .npz")
    with reading(path, "an .npz"), np.load(path, allow_pickle=False) as archive:
        chosen = key or _npz_key(archive, NPZ_LABEL_KEYS if labels else NPZ_KEYS)
        if chosen not in archive.files:
            raise FormatError(
                f"has no array {chosen!r}; it holds {', '.join(archive.files)}: name one with key="
            )
        data: NDArray[Any] = archive[chosen]
        if data.dtype.kind not in "biuf":
            raise FormatError(f"array {chosen!r} is of type {data.dtype}, expected numbers")
        if data.ndim > 3:  # VoxelMorph's batch and channel axes of length 1
            data = data.reshape([n for n in data.shape if n != 1])
        if data.ndim not in (2, 3):
            raise FormatError(f"array {chosen!r} has shape {data.shape}, expected 2 or 3 axes")
        return Image(np.ascontiguousarray(data), Grid(data.shape, np.eye(data.ndim + 1)), "scalar", space)


def _npz_key(archive: Any, preferred: tuple[str, ...]) -> str:
    for name in preferred:
        if name in archive.files:
            return name
    if len(archive.files) == 1:
        return str(archive.files[0])
    raise FormatError(f"holds several arrays ({', '.join(archive.files)}): name one with key=")


def write_npz(path: Path, image: Image) -> None:
    """Write the voxels as VoxelMorph's ``vol`` (it keeps no geometry)."""
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, vol=image.data)
