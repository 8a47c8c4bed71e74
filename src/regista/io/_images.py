"""`read` and `read_labels`: an image from any file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from regista.core import FormatError, GeometryError, Image, LabelImage
from regista.io._files import PathLike, check_exists, stem_of, suffix_of
from regista.io._nifti import read_nifti
from regista.io._other_images import read_mgh, read_npz
from regista.io._sitk_images import PICTURES, VOLUMES, read_dicom, read_itk

NIFTI = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")
MGH = (".mgh", ".mgz", ".mgh.gz")


def read(
    path: PathLike,
    *,
    series: str | None = None,
    spacing: Sequence[float] | None = None,
    key: str | None = None,
    space: str | None = None,
) -> Image:
    """Read an image.

    Parameters
    ----------
    path : path
        NIfTI-1/2, MHA/MHD, NRRD, MGH/MGZ, PNG, JPEG, TIFF, ``.npz``, or a folder with a DICOM series.
    series : str, optional
        UID or description of the DICOM series, where a folder holds several.
    spacing : sequence of float, optional
        Pixel size of a picture, mm (default 1).
    key : str, optional
        Name of the array in an ``.npz`` (default: ``vol`` and its like, or the only one).
    space : str, optional
        Name of the image's space (default: the file's name without extension).

    Returns
    -------
    Image
        Voxels as stored (C-contiguous, C, T first for channels and series), grid in RAS+ mm.

    Raises
    ------
    FormatError
        If the file is missing, empty, damaged, truncated or not an image.
    GeometryError
        If its header's geometry cannot be used.

    Examples
    --------
    >>> import tempfile
    >>> from regista.core import Grid
    >>> from regista.io import write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/a.nii.gz", Image(np.ones((3, 4, 5), np.int16), Grid((3, 4, 5), np.eye(4))))
    ...     image = read(f"{folder}/a.nii.gz")
    >>> image.space, image.data.dtype.name, image.grid.shape
    ('a', 'int16', (3, 4, 5))
    """
    return _read(Path(path), series, spacing, key, space, False)


def read_labels(
    path: PathLike,
    names: Mapping[int, str] | None = None,
    *,
    key: str | None = None,
    space: str | None = None,
) -> LabelImage:
    """Read a label image: whole numbers, 0 being background.

    Parameters
    ----------
    path : path
        As for `read`.
    names : mapping of int to str, optional
        Label names.
    key, space : str, optional
        As for `read`; in an ``.npz`` the arrays ``seg`` and ``labels`` come first.

    Raises
    ------
    FormatError
        As for `read`, and if the image has channels or holds fractions.
    """
    image = _read(Path(path), None, None, key, space, True)
    data = image.data
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise FormatError(f"{path} has {non_finite_count(image)} NaN or Inf voxels: it is not a label image")
    try:
        return LabelImage(
            data, image.grid, image.kind, image.space, oriented=image.oriented, names=dict(names or {})
        )
    except GeometryError as error:
        raise FormatError(f"{path}: {error}") from None


def non_finite_count(image: Image) -> int:
    """Return how many voxels are NaN or infinite.

    Examples
    --------
    >>> from regista.core import Grid
    >>> non_finite_count(Image(np.array([[1.0, np.nan], [np.inf, 0.0]]), Grid((2, 2), np.eye(3))))
    2
    """
    if image.data.dtype.kind != "f":
        return 0
    return int(image.data.size - np.count_nonzero(np.isfinite(image.data)))


def _read(
    path: Path,
    series: str | None,
    spacing: Sequence[float] | None,
    key: str | None,
    space: str | None,
    labels: bool,
) -> Image:
    suffix = suffix_of(path)
    space = space or (path.name if path.is_dir() else stem_of(path))
    if path.is_dir():
        return read_dicom(path, space, series)
    if suffix in NIFTI:
        return read_nifti(path, space)
    if suffix in MGH:
        return read_mgh(path, space)
    if suffix == ".npz":
        return read_npz(path, space, key, labels)
    if suffix in (*VOLUMES, *PICTURES, ".dcm", ".ima", ""):
        return read_itk(path, space, spacing)
    check_exists(path, "an image")
    raise FormatError(
        f"{path}: {suffix!r} is no image format Regista knows; expected .nii, .nii.gz, .mha, .mhd, .nrrd, .mgh, "
        ".mgz, .png, .jpg, .tif, .npz or a folder of DICOM slices"
    )
