"""Surfaces: GIFTI, and VTK, PLY, STL and OBJ through meshio."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from regista.core import FormatError, Mesh
from regista.io._files import PathLike, check_exists, reading, replacing, stem_of, suffix_of
from regista.io._points import Convention
from regista.io._vtk import is_polydata, read_polydata

MESHES = (".gii", ".surf.gii", ".vtk", ".vtp", ".ply", ".stl", ".obj", ".vtu")
_SIGNS = np.array([-1.0, -1.0, 1.0])


def read_mesh(path: PathLike, *, convention: Convention | None = None, space: str | None = None) -> Mesh:
    """Read a surface of triangles.

    Parameters
    ----------
    path : path
        GIFTI (``.gii``), VTK, PLY, STL, OBJ.
    convention : {'ras', 'lps'}, optional
        Handedness of the coordinates, mm. GIFTI is RAS, and Slicer's files say theirs; others need it.
    space : str, optional
        Name of the space (default: the file's name without extension).

    Raises
    ------
    FormatError
        If the file is missing or damaged, is no surface of triangles, or its handedness is not known.
    """
    path = check_exists(path, "a surface")
    suffix = suffix_of(path)
    if suffix not in MESHES:
        raise FormatError(
            f"{path}: {suffix!r} is no surface format Regista knows; expected {', '.join(MESHES)}"
        )
    with reading(path, "a surface"):
        if suffix.endswith(".gii"):
            vertices, faces, convention = *_read_gifti(path), "ras"
        else:
            vertices, faces = _read_meshio(path)
            convention = _handedness(path, convention)
        if convention == "lps":
            vertices = vertices * _SIGNS
        return Mesh(vertices, faces, space or stem_of(path))


def write_mesh(path: PathLike, mesh: Mesh, *, convention: Convention | None = None) -> None:
    """Write a surface; see `read_mesh`. Formats other than GIFTI need a `convention`."""
    path, suffix = Path(path), suffix_of(path)
    if suffix.endswith(".gii"):
        with replacing(path) as temporary:
            temporary.write_bytes(_gifti_bytes(mesh))
        return
    if suffix not in MESHES:
        raise FormatError(f"{path}: surfaces are written as {', '.join(MESHES)}, not {suffix!r}")
    if convention not in ("lps", "ras"):
        raise FormatError(
            f"{path}: {suffix} does not hold the handedness of coordinates: say --convention ras or lps (in Python convention=); or "
            "write GIFTI (.surf.gii)"
        )
    import meshio

    vertices = mesh.vertices_mm * (_SIGNS if convention == "lps" else 1.0)
    with replacing(path) as temporary, contextlib.redirect_stdout(io.StringIO()):
        extra = {"binary": True} if suffix in (".vtk", ".ply", ".stl", ".vtu") else {}
        meshio.Mesh(vertices, [("triangle", mesh.faces.astype(np.int32))]).write(temporary, **extra)


def _read_gifti(path: Path) -> tuple[Any, Any]:
    from nibabel.gifti import GiftiImage

    image = GiftiImage.from_filename(str(path))
    points = image.get_arrays_from_intent("NIFTI_INTENT_POINTSET")
    faces = image.get_arrays_from_intent("NIFTI_INTENT_TRIANGLE")
    if len(points) != 1 or len(faces) != 1:
        raise FormatError("it is GIFTI but no surface: expected one set of points and one of triangles")
    return points[0].data, faces[0].data


def _gifti_bytes(mesh: Mesh) -> bytes:
    from nibabel.gifti import GiftiDataArray, GiftiImage

    image = GiftiImage(
        darrays=[
            GiftiDataArray(mesh.vertices_mm.astype(np.float32), intent="NIFTI_INTENT_POINTSET"),
            GiftiDataArray(mesh.faces.astype(np.int32), intent="NIFTI_INTENT_TRIANGLE"),
        ]
    )
    return bytes(image.to_bytes())


class _Ending(io.BytesIO):
    """A file that says when it has ended, to readers that would wait for more lines for ever."""

    _ended = False

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the next line; once at the end nothing, after that an error."""
        line = super().readline(size)
        if not line and self._ended:
            raise FormatError("it ends too early")
        self._ended = not line
        return line


def _read_meshio(path: Path) -> tuple[Any, Any]:
    raw = path.read_bytes()
    if is_polydata(raw):
        return read_polydata(raw)
    import meshio

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            ply = suffix_of(path) == ".ply"
            mesh = meshio.read(_Ending(raw) if ply else path, file_format="ply" if ply else None)
    except SystemExit:  # meshio leaves the program on files it cannot read
        raise FormatError("meshio cannot read it") from None
    faces = [block.data for block in mesh.cells if block.type == "triangle"]
    if not faces:
        raise FormatError("it has no triangles; triangulate the surface first")
    return np.asarray(mesh.points)[:, :3], np.concatenate(faces)


def _handedness(path: Path, convention: Convention | None) -> Convention:
    head = path.read_bytes()[:600].upper()
    said: Convention | None = "lps" if b"SPACE=LPS" in head else "ras" if b"SPACE=RAS" in head else None
    if convention is None and said is None:
        raise FormatError(
            "it does not tell whether its coordinates are LPS or RAS: say --convention lps (ITK, Slicer) or ras (in Python convention=) "
            "(FreeSurfer scanner coordinates)"
        )
    if said and convention and said != convention:
        raise FormatError(
            f"it says its coordinates are {said.upper()}, not {convention}: leave the convention out"
        )
    return convention or said  # type: ignore[return-value]
