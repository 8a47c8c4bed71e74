"""Images through SimpleITK: MetaImage, NRRD, DICOM series, PNG, JPEG, TIFF and what else it knows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from regista.core import FormatError, Grid, Image
from regista.io._files import (
    check_exists,
    check_memory,
    full_disk,
    has_room,
    reading,
    replacing,
    reserve,
    suffix_of,
)

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
VOLUMES = (".mha", ".mhd", ".nrrd", ".nhdr", ".gipl", ".vtk")
_DICOM_ORIENTATION, _NRRD_SPACE, _FORMAT = "0020|0037", "NRRD_space", "ITK_InputFilterName"
_ANATOMICAL = {"anterior", "posterior", "superior", "las", "lps", "ras"}
_META_MATRIX = (b"TransformMatrix", b"Rotation", b"Orientation =")


def read_itk(path: Path, space: str | None, spacing: Sequence[float] | None = None) -> Image:
    """Read one file with its geometry; pictures have square pixels of 1 mm unless `spacing` is given."""
    import SimpleITK as sitk

    check_exists(path, "an image")
    picture = suffix_of(path) in PICTURES
    with reading(path, f"a {suffix_of(path).lstrip('.').upper() or 'n image'}"), _quiet(sitk):
        header = _foresee(sitk, path, str(path))
        image = replace(_from_itk(sitk.ReadImage(str(path)), space), oriented=_oriented(header))
        if picture or spacing is not None:
            image = _with_pixels(image, spacing)
        if picture and image.kind == "channels" and len(image.data) in (2, 4):
            image = _without_alpha(image)
    return image


def _foresee(sitk: Any, path: Path, file: str, count: int = 1) -> Any:
    """Return a reader with a file's header; refuse `count` files like it that are too large for memory together."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    size = [int(n) for n in reader.GetSize()]
    bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()))
    values = int(np.prod(size, dtype=object)) * reader.GetNumberOfComponents() * count
    shape = size if count == 1 else (*size[:2], count)
    check_memory(path, values * (int(bits[1]) if bits else 8) // 8, shape)
    return reader


def _oriented(header: Any) -> bool:
    """Tell whether a header says how the image lies in the patient: DICOM's tag, NRRD's named space, MetaImage's matrix."""
    if header.HasMetaDataKey(_DICOM_ORIENTATION):
        return len(header.GetMetaData(_DICOM_ORIENTATION).split("\\")) == 6
    if header.HasMetaDataKey(_NRRD_SPACE):
        return bool(set(header.GetMetaData(_NRRD_SPACE).lower().split("-")) & _ANATOMICAL)
    if not header.HasMetaDataKey(_FORMAT) or header.GetMetaData(_FORMAT) != "MetaImageIO":
        return False
    with open(header.GetFileName(), "rb") as stream:
        text = stream.read(4096)
    return any(name in text for name in _META_MATRIX)


def read_dicom(folder: Path, space: str | None, series: str | None = None) -> Image:
    """Read the one DICOM series of a folder, or the one named, its slices sorted by position."""
    import SimpleITK as sitk

    with reading(folder, "a DICOM series"), _quiet(sitk):
        reader = sitk.ImageSeriesReader()
        found = {uid: reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in
                 reader.GetGDCMSeriesIDs(str(folder))}  # fmt: skip
        if not found:
            raise FormatError(
                f"{folder} holds no DICOM series: name the folder that holds the slices themselves"
            )
        uid = _choose(sitk, folder, found, series)
        header = _foresee(sitk, folder, found[uid][0], len(found[uid]))
        reader.SetFileNames(found[uid])
        return replace(_from_itk(reader.Execute(), space), oriented=_oriented(header))


def _choose(sitk: Any, folder: Path, found: dict[str, Any], series: str | None) -> str:
    labels = {uid: _description(sitk, files[0]) for uid, files in found.items()}
    listing = "; ".join(f"{labels[u] or 'unnamed'!s}: {u} ({len(f)} files)" for u, f in found.items())
    if series is None:
        if len(found) > 1:
            raise FormatError(
                f"{folder} holds {len(found)} DICOM series, expected one; choose one by its name or UID, "
                f"--fixed-series or --moving-series of `regista register` (in Python series=): {listing}"
            )
        return next(iter(found))
    chosen = [uid for uid in found if series in (uid, labels[uid])]
    if len(chosen) != 1:
        what = "no DICOM series" if not chosen else f"{len(chosen)} DICOM series"
        raise FormatError(f"{folder} holds {what} called {series!r}; choose one by its UID: {listing}")
    return chosen[0]


def _description(sitk: Any, file: str) -> str:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.SetImageIO("GDCMImageIO")
    reader.ReadImageInformation()
    key = "0008|103e"
    return str(reader.GetMetaData(key)).strip() if reader.HasMetaDataKey(key) else ""


def write_itk(path: Path, image: Image, compress: bool = True) -> None:
    """Write an image through SimpleITK."""
    import SimpleITK as sitk

    data = np.asarray(image.data)
    data = data.astype(np.uint8) if data.dtype == np.bool_ else data
    picture = suffix_of(path) in PICTURES
    if picture:
        _check_picture(path, image)
    if suffix_of(path) in (".mhd", ".nhdr"):
        raise FormatError(f"{path}: write {path.with_suffix('.mha').name} or .nrrd: one file, not two")
    if image.kind == "series":
        raise FormatError(f"{path}: a series is written as NIfTI (.nii.gz); or write its frames one by one")
    order = range(image.ndim)[::-1]
    if image.kind == "channels":
        out = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(*(a + 1 for a in order), 0)), True)
    else:
        out = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(*order)))
    spacing, origin, direction = image.grid.to_lps()
    if not picture:
        out.SetSpacing(spacing.tolist())
        out.SetOrigin(origin.tolist())
        out.SetDirection(direction.ravel().tolist())
    with replacing(path) as temporary, _quiet(sitk):
        if suffix_of(path) in (".jpg", ".jpeg"):
            reserve(temporary, data.nbytes + 65536)  # libjpeg ends the process where a disk is full
        try:
            sitk.WriteImage(out, str(temporary), compress and not picture, 1)
        except RuntimeError as error:
            if not has_room(path, data.nbytes):
                raise FormatError(full_disk(path)) from error
            detail = " ".join(str(error).split())[-200:]
            raise FormatError(f"{path} cannot be written ({detail})") from error


def _check_picture(path: Path, image: Image) -> None:
    if image.ndim != 2:
        raise FormatError(f"{path}: a {suffix_of(path)} picture is 2-D, got a 3-D image; write .nii.gz")
    kinds = "u1 u2 f4" if suffix_of(path) in (".tif", ".tiff") else "u1 u2"
    if image.data.dtype.str[1:] not in kinds and image.data.dtype != np.bool_:
        raise FormatError(
            f"{path}: a {suffix_of(path)} picture holds 8- or 16-bit whole numbers, got {image.data.dtype}; "
            "convert the image, or write .nii.gz"
        )


def _from_itk(image: Any, space: str | None) -> Image:
    import SimpleITK as sitk

    ndim = image.GetDimension()
    size, spacing, origin = list(image.GetSize()), image.GetSpacing(), image.GetOrigin()
    direction = np.array(image.GetDirection()).reshape(ndim, ndim)
    array = sitk.GetArrayFromImage(image)
    vector = image.GetNumberOfComponentsPerPixel() > 1
    if ndim == 4 and not vector:
        grid = Grid.from_lps(size[:3], spacing[:3], origin[:3], direction[:3, :3])
        frames = array.transpose(0, 3, 2, 1)
        if len(frames) == 1:
            return Image(np.ascontiguousarray(frames[0]), grid, "scalar", space)
        return Image(np.ascontiguousarray(frames), grid, "series", space)
    if ndim not in (2, 3):
        raise FormatError(f"an image of {ndim} dimensions; expected 2, 3, or 3 and time")
    grid = Grid.from_lps(size, spacing, origin, direction)
    order = range(ndim)[::-1]
    if vector:
        return Image(np.ascontiguousarray(array.transpose(ndim, *order)), grid, "channels", space)
    return Image(np.ascontiguousarray(array.transpose(*order)), grid, "scalar", space)


def _with_pixels(image: Image, spacing: Sequence[float] | None) -> Image:
    size = (
        np.ones(image.ndim) if spacing is None else np.broadcast_to(np.asarray(spacing, float), (image.ndim,))
    )
    # as ITK sees a picture: from the origin along +L and +P, so that transforms replay on the file itself
    grid = Grid.from_lps(image.grid.shape, size, np.zeros(image.ndim), np.eye(image.ndim))
    return Image(image.data, grid, image.kind, image.space)


def _without_alpha(image: Image) -> Image:
    """Drop an alpha channel that says nothing; one that does stays a channel."""
    alpha = image.data[-1]
    if alpha.size and np.all(alpha == alpha.flat[0]):
        rest = image.data[:-1]
        if len(rest) == 1:
            return Image(rest[0], image.grid, "scalar", image.space)
        return Image(rest, image.grid, "channels", image.space)
    return image


class _quiet:  # noqa: N801 - reads as a word where it is used
    """Keep ITK's own warnings off the terminal for a while."""

    def __init__(self, sitk: Any) -> None:
        self._kind = sitk.ProcessObject

    def __enter__(self) -> None:
        self._before = self._kind.GetGlobalWarningDisplay()
        self._kind.SetGlobalWarningDisplay(False)

    def __exit__(self, *_: object) -> None:
        self._kind.SetGlobalWarningDisplay(self._before)
