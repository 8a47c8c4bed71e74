"""What a file holds, by its extension and, where several kinds share one, its beginning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regista.core import FormatError

if TYPE_CHECKING:
    from regista.core import Image

Kind = Literal["image", "labels", "points", "mesh", "transform"]
KINDS: tuple[Kind, ...] = ("image", "labels", "points", "mesh", "transform")
_TRANSFORMS = (".m3z", ".h5", ".hdf5", ".mat", ".tfm", ".lta", ".x5", ".1d", ".aff12.1d")
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
    found = _size_and_intent(path)
    if found is None:
        return False
    size, intent = found
    fsl = fsl_field(path) is not None
    return fsl or (len(size) == 5 and size[3] == 1 and size[4] in (2, 3) and intent in (1006, 1007))


def fsl_field(path: Path) -> str | None:
    """Return what a warp that FSL marked as its own is, and what it takes to read it; None for other files."""
    found = _size_and_intent(path)
    if found is None or not 2006 <= found[1] <= 2018:
        return None
    if found[1] == 2006:
        return (
            "FSL warp: displacements or coordinates in FSL's mm of the moving image, which its file does not tell. To "
            "see the map, add --format fsl (displacements) or --format fsl-absolute, and --moving MOVING"
        )
    return (
        "FSL spline coefficients, which are no field yet: make one with FSL's fnirtfileutils --in=COEFFICIENTS "
        "--ref=FIXED --out=WARP --withaff"
    )


def _size_and_intent(path: Path) -> tuple[tuple[int, ...], int] | None:
    """Return what the header of a NIfTI-1 file says, or None."""
    import gzip
    import struct
    import zlib

    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as stream:
            head = stream.read(348)
    except (OSError, EOFError, zlib.error):
        return None
    order = next((o for o in "<>" if head[:4] == struct.pack(f"{o}i", 348)), None)
    if len(head) < 348 or order is None:
        return None
    dim = struct.unpack(f"{order}8h", head[40:56])
    return dim[1 : 1 + dim[0]], struct.unpack(f"{order}h", head[68:70])[0]


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


def looks_like_labels(image: Image) -> bool:
    """Tell whether an image is most likely a label map or a mask: whole numbers in patches of one value.

    Of neighbours along the first axis at least 60 % are equal, background (0, or what the first voxel holds, as in
    CT) left out; in images, even of 8 bits, noise and shading keep it well below.
    """
    import numpy as np

    data = image.data
    if image.kind != "scalar" or data.dtype.kind not in "biuf":
        return False
    if data.dtype.kind == "f" and not (np.isfinite(data).all() and np.array_equal(data, np.rint(data))):
        return False
    one, other = data[1:], data[:-1]
    inside = (one != 0) & (other != 0) & (one != data.flat[0])
    return bool(inside.any() and np.mean((one == other)[inside]) >= 0.6)
