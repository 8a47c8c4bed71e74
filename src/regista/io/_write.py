"""`write`: anything to the format its extension names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from regista.core import FormatError, Image, Mesh, PointSet
from regista.io._files import PathLike, suffix_of
from regista.io._images import MGH
from regista.io._meshes import write_mesh
from regista.io._nifti import write_nifti
from regista.io._other_images import write_mgh, write_npz
from regista.io._points import write_points
from regista.io._sitk_images import PICTURES, VOLUMES, write_itk
from regista.io._transforms import write_transform
from regista.transforms import Transform


def write(path: PathLike, thing: Image | PointSet | Mesh | Transform, **options: Any) -> None:
    """Write an image, labels, points, a surface or a transform; the extension names the format.

    The file is replaced as a whole or not at all.

    Parameters
    ----------
    path : path
        The file.
    thing : Image, LabelImage, PointSet, Mesh or Transform
        What to write.
    **options
        ``convention`` of points and surfaces (see `write_points`, `write_mesh`); ``format``, ``fixed`` and
        ``moving`` of transforms (see `write_transform`).

    Raises
    ------
    FormatError
        If the format cannot hold the thing, the option is not known, or the disk refuses.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from regista.core import Grid
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/points.mrk.json", PointSet(np.zeros((2, 3))))
    """
    path = Path(path)
    writers: tuple[tuple[type, Callable[..., None]], ...] = (
        (PointSet, write_points),
        (Mesh, write_mesh),
        (Transform, write_transform),
    )
    for kind, writer in writers:
        if isinstance(thing, kind):
            allowed = {"convention"} if kind is not Transform else {"format", "fixed", "moving"}
            _check_options(options, allowed, kind.__name__)
            writer(path, thing, **options)
            return
    if not isinstance(thing, Image):
        raise FormatError(
            f"cannot write a {type(thing).__name__}: expected an image, points, mesh or transform"
        )
    _check_options(options, set(), type(thing).__name__)
    _write_image(path, thing)


def _check_options(options: dict[str, Any], allowed: set[str], what: str) -> None:
    unknown = sorted(set(options) - allowed)
    if unknown:
        expected = ", ".join(sorted(allowed)) or "none"
        raise FormatError(f"writing a {what} has no option {unknown[0]!r}; its options: {expected}")


def _write_image(path: Path, image: Image) -> None:
    suffix = suffix_of(path)
    if suffix in (".nii", ".nii.gz"):
        write_nifti(path, image)
    elif suffix in MGH:
        write_mgh(path, image)
    elif suffix == ".npz":
        write_npz(path, image)
    elif suffix in (*VOLUMES, *PICTURES):
        write_itk(path, image)
    else:
        raise FormatError(
            f"{path}: {suffix!r} is no image format Regista writes; expected .nii.gz, .nii, .mha, .nrrd, .mgz, "
            ".npz, or for pictures .png, .jpg, .tif"
        )
