"""NIfTI-1 and NIfTI-2 images."""

from __future__ import annotations

import logging
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError, GeometryError, Grid, Image, LabelImage, parallel_for
from regista.io._files import check_exists, check_memory, reading, suffix_of, write_bytes
from regista.io._gzip import compress, decompress

_log = logging.getLogger(__name__)

INTENT_VECTOR, INTENT_DISPLACEMENT = 1007, 1006
_MARKS = {2: b"regista 2-D", 3: b"regista 3-D"}  # where NIfTI's sizes alone cannot tell
_DEFLATE_RATIO = 1032  # no gzip file holds more bytes than this for each of its own
_UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
_UNITS_S = {0: 1.0, 8: 1.0, 16: 1e-3, 24: 1e-6}  # without a unit, seconds are meant
_UNIT_SECOND = 8


def read_nifti(path: Path, space: str | None) -> Image:
    """Read an image of any NIfTI kind."""
    with reading(path, "a NIfTI"):
        header, data = load(path)
        return _to_image(header, data, space, path)


def load(path: Path) -> tuple[Any, NDArray[Any]]:
    """Return the header and the voxels as stored (axes x, y, z, t, …), scaled by the header's slope."""
    check_exists(path, "a NIfTI")
    if suffix_of(path).startswith((".hdr", ".img")):
        return _load_pair(path)
    _foresee(path)
    raw = _raw(path)
    header = _header(raw)
    return header, _voxels(header, raw, int(header["vox_offset"]) or len(header.binaryblock) + 4)


def _foresee(path: Path) -> None:
    """Refuse, by its first bytes, a file that is too large for memory; what else is wrong is told later."""
    with open(path, "rb") as stream:
        head = stream.read(4096)
    if head[:2] == b"\x1f\x8b":
        with suppress(zlib.error):
            head = zlib.decompressobj(31).decompress(head, 544)
    if len(head) < 544:
        return
    header = _header(head)
    shape = tuple(int(n) for n in header.get_data_shape())
    need = int(np.prod(shape, dtype=object)) * int(header.get_data_dtype().itemsize)
    if 0 < need <= path.stat().st_size * _DEFLATE_RATIO:  # otherwise it is truncated
        check_memory(path, need, shape)


def _raw(path: Path) -> bytes:
    raw = path.read_bytes()
    return decompress(raw) if raw[:2] == b"\x1f\x8b" else raw


def _load_pair(path: Path) -> tuple[Any, NDArray[Any]]:
    gz = ".gz" if path.name.lower().endswith(".gz") else ""
    base = path.name[: len(path.name) - len(suffix_of(path))]
    header_path, data_path = path.with_name(f"{base}.hdr{gz}"), path.with_name(f"{base}.img{gz}")
    check_exists(header_path, "the NIfTI header")
    check_exists(data_path, "the NIfTI voxel")
    header = _header(_raw(header_path))
    return header, _voxels(header, _raw(data_path), int(header["vox_offset"]))


def _header(raw: bytes) -> Any:
    from nibabel import Nifti1Header, Nifti2Header
    from nibabel.nifti1 import Nifti1PairHeader

    size = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big")
    if 540 in size and len(raw) >= 540:
        return Nifti2Header(raw[:540], check=True)
    if 348 in size and len(raw) >= 348:
        single = raw[344:347] == b"n+1"
        return (Nifti1Header if single else Nifti1PairHeader)(raw[:348], check=True)
    raise FormatError("this is not NIfTI: it does not begin with a NIfTI-1 or NIfTI-2 header")


def _voxels(header: Any, raw: bytes, offset: int) -> NDArray[Any]:
    dtype, shape = header.get_data_dtype(), header.get_data_shape()
    count = int(np.prod([int(n) for n in shape], dtype=object)) if shape else 0
    if count <= 0:
        raise FormatError(f"the header gives an empty image, size {tuple(shape)}")
    need = count * dtype.itemsize
    if len(raw) - offset < need or offset < 0:
        raise FormatError(
            f"the file is truncated: a {dtype.name} image of {'×'.join(map(str, shape))} needs {need} bytes of "
            f"voxels, got {max(0, len(raw) - offset)}; copy it again"
        )
    data = np.frombuffer(raw, dtype, count, offset).reshape(shape, order="F")
    slope, inter = header.get_slope_inter()
    return (
        data if slope in (None, 1.0) and inter in (None, 0.0) else _scaled(data, float(slope), float(inter))
    )


def _scaled(data: NDArray[Any], slope: float, inter: float) -> NDArray[Any]:
    if not (np.isfinite(slope) and np.isfinite(inter)):
        raise FormatError(f"the header's intensity scaling is not finite (slope {slope}, offset {inter})")
    wide = np.float64 if data.dtype.itemsize > (2 if data.dtype.kind in "iu" else 4) else np.float32
    out: NDArray[Any] = data.astype(wide)
    out *= slope
    out += inter
    return out


def grid_of(header: Any, ndim: int, path: Path) -> Grid:
    """Return the grid of the header's first `ndim` axes, in mm."""
    shape = (*header.get_data_shape(), 1, 1)[:3]
    matrix = _world(header, path)
    units = int(header["xyzt_units"]) & 7
    matrix[:3] *= _UNITS_MM.get(units, 1.0)
    if ndim == 3:
        return Grid(shape, matrix)
    return Grid(shape[:2], _planar(matrix, path))


def _world(header: Any, path: Path) -> NDArray[np.float64]:
    spacing = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    ndim = int(header["dim"][0])
    if int(header["sform_code"]) > 0:
        matrix = np.array(header.get_sform(), dtype=np.float64)
        if np.isfinite(matrix).all() and np.linalg.norm(matrix[:3, : min(ndim, 3)], axis=0).min() > 0:
            return _fill_missing_axes(matrix, ndim)
        if int(header["qform_code"]) == 0:
            raise GeometryError(
                f"{path}: the header's sform is singular or not finite and there is no qform: "
                "set the affine again (for instance with nibabel or fslorient)"
            )
        _log.warning("%s: the header's sform is singular; its qform is used instead", path)
    if int(header["qform_code"]) > 0:
        if not (np.isfinite(spacing).all() and spacing[: min(ndim, 3)].min() > 0):
            raise GeometryError(f"{path}: the header's voxel size is {spacing.tolist()}; set pixdim again")
        matrix = np.array(header.get_qform(), dtype=np.float64)
        return _fill_missing_axes(matrix, ndim)
    spacing = np.where(np.isfinite(spacing) & (spacing > 0), spacing, 1.0)
    _log.warning(
        "%s: the header has neither sform nor qform; assumed, as ITK does, axes along L, P, S from the "
        "origin with voxels of %s mm. If left and right matter, set the header's affine",
        path,
        "×".join(f"{s:.4g}" for s in spacing),
    )
    return np.asarray(np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]))


def _fill_missing_axes(matrix: NDArray[np.float64], ndim: int) -> NDArray[np.float64]:
    """Give an axis that a 2-D image does not have, and some writers leave zero, a direction of its own."""
    if ndim < 3 and not np.linalg.norm(matrix[:3, 2]) > 0:
        matrix[:3, 2] = np.cross(matrix[:3, 0], matrix[:3, 1])
    return matrix


def _planar(matrix: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    keep = np.ix_([0, 1, 3], [0, 1, 3])
    planar = matrix[keep].copy()
    spacing = np.linalg.norm(matrix[:3, :2], axis=0)
    if not _is_axial(matrix):
        _log.warning(
            "%s: a 2-D image whose plane is not the world's x-y plane; its own axes are taken as x and y, with "
            "pixels of %.4g×%.4g mm from the origin",
            path,
            *spacing,
        )
        planar = np.diag([*spacing, 1.0])
    return np.asarray(planar)


def _is_axial(matrix: NDArray[np.float64]) -> bool:
    """Tell whether the first two axes lie in the world's x-y plane."""
    spacing = np.linalg.norm(matrix[:3, :2], axis=0)
    return bool(np.abs(matrix[2, :2]).max() <= 1e-3 * spacing.min())


def _to_image(header: Any, data: NDArray[Any], space: str | None, path: Path) -> Image:
    if data.dtype.names:  # RGB and RGBA voxels
        data = np.stack([data[name] for name in data.dtype.names], axis=-1)
        data = data.reshape(*(*data.shape[:-1], 1, 1, 1)[:4], data.shape[-1])
    if data.dtype.kind == "c":
        raise FormatError(f"{path} holds complex numbers; take the magnitude or the phase first")
    axes = min(int(header["dim"][0]), 3)
    ndim = 2 if axes <= 2 else 3
    grid = grid_of(header, ndim, path)
    native = np.asarray(data, dtype=data.dtype.newbyteorder("="))
    full = native.reshape(*(*native.shape, 1, 1, 1, 1)[: max(5, native.ndim)])
    if int(np.prod(full.shape[5:], dtype=np.int64)) != 1 or (full.shape[3] > 1 and full.shape[4] > 1):
        raise FormatError(f"{path} has size {native.shape}: both time and vector axes; split it first")
    mark = bytes(header["intent_name"]).rstrip(b"\0")
    plane = full.shape[2] == 1 and full.shape[4] > 1 and mark != _MARKS[3]
    if ndim == 3 and (plane or (mark == _MARKS[2] and full.shape[2] == 1)):
        ndim, grid = 2, grid_of(header, 2, path)  # vectors, or frames, of a plane
    kind = "channels" if full.shape[4] > 1 else "series" if full.shape[3] > 1 else "scalar"
    frames = np.moveaxis(full.reshape(*full.shape[:3], -1), -1, 0)
    if ndim == 2:
        frames = frames[..., 0]
    out = c_ordered(frames[0]) if kind == "scalar" else np.stack([c_ordered(frame) for frame in frames])
    seconds = _frame_seconds(header) if kind == "series" else None
    oriented = max(int(header["sform_code"]), int(header["qform_code"])) > 0
    oriented = oriented and (
        ndim == 3 or _is_axial(_world(header, path))
    )  # other planes lose their directions
    return Image(out, grid, kind, space, seconds, oriented)  # type: ignore[arg-type]


def _frame_seconds(header: Any) -> float | None:
    """Return the time between frames, where the fourth axis is time and the header tells it."""
    unit, step = int(header["xyzt_units"]) & 56, float(header["pixdim"][4])
    default = unit == 0 and step == 1.0  # what libraries leave in a header that nobody filled in
    if default or unit not in _UNITS_S or not 0 < step < np.inf:
        return None
    return float(f"{step * _UNITS_S[unit]:.7g}")  # the header's float32: 0.8, not 0.800000012


def c_ordered(data: NDArray[Any]) -> NDArray[Any]:
    """Return a writable C-contiguous copy, made on all threads."""
    out = np.empty(data.shape, data.dtype)

    def body(start: int, stop: int) -> None:
        out[start:stop] = data[start:stop]

    parallel_for(body, len(data), grain=16)
    return out


def write_nifti(path: Path, image: Image, level: int = 1) -> None:
    """Write an image as NIfTI-1 (NIfTI-2 where a size does not fit), with sform and qform."""
    data = np.asarray(image.data)
    data = data.astype(np.uint8) if data.dtype == np.bool_ else data
    if data.dtype == np.float16:
        data = data.astype(np.float32)
    intent = 1002 if isinstance(image, LabelImage) else INTENT_VECTOR if image.kind == "channels" else 0
    if image.kind != "scalar":
        axes = 3 if image.kind == "series" else 4
        fill = [1] * (axes - image.ndim)
        data = np.moveaxis(data, 0, -1).reshape(*image.grid.shape, *fill, len(data))
    save(path, data, image.grid, intent, level, image.frame_seconds)


def save(
    path: Path,
    data: NDArray[Any],
    grid: Grid,
    intent: int = 0,
    level: int = 1,
    frame_seconds: float | None = None,
) -> None:
    """Write voxels (axes x, y, z, t, …) with the geometry of a grid."""
    if data.dtype.kind not in "iuf":
        raise FormatError(f"NIfTI holds numbers, got voxels of type {data.dtype}")
    data = data.astype(data.dtype.newbyteorder("="), copy=False)
    header = _make_header(data, grid, intent)
    if frame_seconds is not None:
        header["pixdim"][4] = frame_seconds
        header["xyzt_units"] = int(header["xyzt_units"]) | _UNIT_SECOND
    flat = data.T  # Fortran order of the file is C order of the transposed array
    body = flat if flat.flags.c_contiguous else c_ordered(flat)
    head = header.binaryblock + b"\0" * (int(header["vox_offset"]) - len(header.binaryblock))
    view = np.ascontiguousarray(body).reshape(-1).view(np.uint8).data
    if str(path).lower().endswith(".gz"):
        write_bytes(path, *compress(b"".join([head, view]), level))
    else:
        write_bytes(path, head, view)


def _make_header(data: NDArray[Any], grid: Grid, intent: int) -> Any:
    from nibabel import Nifti1Header, Nifti2Header

    header: Any = Nifti1Header() if max(data.shape) < 2**15 else Nifti2Header()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    matrix = grid.as_3d().grid2world
    zooms = np.linalg.norm(matrix[:3, :3], axis=0)
    header["pixdim"][1:4] = zooms
    header["xyzt_units"] = 2
    header.set_sform(matrix, code=1)
    turn = matrix[:3, :3] / zooms
    # a qform cannot hold a shear, nor can it say so
    orthogonal = np.abs(turn.T @ turn - np.eye(3)).max() < 1e-5
    if orthogonal:
        header.set_qform(matrix, code=1, strip_shears=True)
    header["intent_code"] = intent
    header["intent_name"] = _MARKS[grid.ndim] if data.ndim > 3 else b""
    header["vox_offset"] = 352 if header["sizeof_hdr"] == 348 else 544
    header["magic"] = b"n+1" if header["sizeof_hdr"] == 348 else header["magic"]
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    return header
