"""What a file holds, by its extension and, where several kinds share one, its beginning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regista.core import FormatError

if TYPE_CHECKING:
    from regista.core import Image

Kind = Literal["image", "labels", "points", "mesh", "transform"]
KINDS: tuple[Kind, ...] = ("image", "labels", "points", "mesh", "transform")
_TRANSFORMS = (".h5", ".hdf5", ".mat", ".tfm", ".lta", ".x5", ".1d", ".aff12.1d")
_POINTS = (".csv", ".fcsv", ".mrk.json", ".json", ".pts")
_MESHES = (".gii", ".surf.gii", ".ply", ".stl", ".obj", ".vtp", ".vtu", ".vtk")


def kind_of(path: Path) -> Kind:
    """Return what a file most likely holds."""
    from regista.io import suffix_of

    suffix = suffix_of(path)
    if suffix in _TRANSFORMS:
        return "transform"
    if suffix in _POINTS:
        return "points"
    if suffix in _MESHES:
        return "mesh"
    if suffix == ".txt":
        return _kind_of_text(path)
    if suffix in (".nii", ".nii.gz") and path.is_file():
        return "transform" if _is_field(path) else "image"
    return "image"


def _kind_of_text(path: Path) -> Kind:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "points"
    if lines and lines[0].startswith("#Insight"):
        return "transform"
    rows = [line.split() for line in lines]
    square = len(rows) in (3, 4) and all(len(row) == len(rows) for row in rows)
    affine = square and [*rows[-1]][-1] in ("1", "1.0") and all(_zero(v) for v in rows[-1][:-1])
    return "transform" if affine else "points"


def _zero(text: str) -> bool:
    try:
        return float(text) == 0
    except ValueError:
        return False


def _is_field(path: Path) -> bool:
    import gzip
    import struct
    import zlib

    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as stream:
            head = stream.read(348)
    except (OSError, EOFError, zlib.error):
        return False
    if len(head) < 348 or struct.unpack("<i", head[:4])[0] != 348:
        return False
    dim = struct.unpack("<8h", head[40:56])
    intent = struct.unpack("<h", head[68:70])[0]
    fsl = 2006 <= intent <= 2018  # its fields and coefficients; `read_transform` says how they are read
    return fsl or (dim[0] == 5 and dim[4] == 1 and dim[5] in (2, 3) and intent in (1006, 1007))


def load(
    path: Path,
    kind: str | None = None,
    *,
    format: str | None = None,
    convention: str | None = None,
    fixed: Image | None = None,
    moving: Image | None = None,
) -> tuple[Kind, Any]:
    """Read a file of any kind."""
    from regista import io

    if kind is not None and kind not in KINDS:
        raise FormatError(f"--kind is {', '.join(KINDS)}, got {kind!r}")
    found: Any = kind or ("transform" if format else kind_of(path))
    if found == "transform":
        return "transform", io.read_transform(path, format=format, fixed=fixed, moving=moving)
    if found == "points":
        grid = None if fixed is None else fixed.grid
        return "points", io.read_points(path, convention=convention, grid=grid)  # type: ignore[arg-type]
    if found == "mesh":
        return "mesh", io.read_mesh(path, convention=convention)  # type: ignore[arg-type]
    if found == "labels":
        return "labels", io.read_labels(path)
    return "image", io.read(path)
