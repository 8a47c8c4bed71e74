"""Surfaces in VTK's legacy files of the kind POLYDATA, which meshio does not read."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError

_TYPES = {
    "float": ">f4",
    "double": ">f8",
    "int": ">i4",
    "vtktypeint64": ">i8",
    "vtkidtype": ">i8",
    "long": ">i8",
}


def is_polydata(raw: bytes) -> bool:
    """Tell whether a file is a legacy VTK surface."""
    return raw[:20].lower().startswith(b"# vtk datafile") and b"DATASET POLYDATA" in raw[:1000].upper()


def read_polydata(raw: bytes) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the points and triangles of a legacy VTK surface, ASCII or binary, old or new layout."""
    stream = io.BytesIO(raw)
    version = float(stream.readline().split()[-1])
    stream.readline()  # title
    binary = stream.readline().strip().upper() == b"BINARY"
    points: NDArray[Any] | None = None
    faces: NDArray[Any] | None = None
    while (line := stream.readline()) and (points is None or faces is None):
        words = line.decode("ascii", "replace").split()
        if len(words) < 3:
            continue
        if words[0].upper() == "POINTS":
            points = _numbers(stream, words[2].lower(), 3 * int(words[1]), binary).reshape(-1, 3)
        elif words[0].upper() == "POLYGONS":
            counts = int(words[1]), int(words[2])
            faces = (
                _new_faces(stream, *counts, binary) if version >= 5 else _old_faces(stream, *counts, binary)
            )
    if points is None or faces is None:
        raise FormatError("it has no points or no polygons")
    return points, faces


def _old_faces(stream: io.BytesIO, count: int, size: int, binary: bool) -> NDArray[Any]:
    values = _numbers(stream, "int", size, binary)
    if size != 4 * count or np.any(values.reshape(-1, 4)[:, 0] != 3):
        raise FormatError("its polygons are not all triangles; triangulate the surface first")
    return values.reshape(-1, 4)[:, 1:]


def _new_faces(stream: io.BytesIO, offsets: int, size: int, binary: bool) -> NDArray[Any]:
    starts = _numbers(stream, _section(stream, "OFFSETS"), offsets, binary)
    if np.any(np.diff(starts) != 3) or size != 3 * (offsets - 1):
        raise FormatError("its polygons are not all triangles; triangulate the surface first")
    return _numbers(stream, _section(stream, "CONNECTIVITY"), size, binary).reshape(-1, 3)


def _section(stream: io.BytesIO, name: str) -> str:
    while line := stream.readline():
        words = line.decode("ascii", "replace").split()
        if len(words) == 2 and words[0].upper() == name:
            return words[1].lower()
    raise FormatError(f"it has no section {name}")


def _numbers(stream: io.BytesIO, kind: str, count: int, binary: bool) -> NDArray[Any]:
    if kind not in _TYPES:
        raise FormatError(f"it holds numbers of type {kind!r}, expected {', '.join(_TYPES)}")
    if count < 0:
        raise FormatError("it announces fewer than no numbers")
    dtype = np.dtype(_TYPES[kind])
    if binary:
        raw = stream.read(count * dtype.itemsize)
        if len(raw) != count * dtype.itemsize:
            raise FormatError("it is truncated")
        return np.frombuffer(raw, dtype).astype(dtype.newbyteorder("="))
    words: list[bytes] = []
    while len(words) < count:
        line = stream.readline()
        if not line:
            raise FormatError("it is truncated")
        words += line.split()
    return np.array(words[:count], dtype=np.float64).astype(dtype.newbyteorder("="))
