"""From scans to what a network sees: one grid, one range of intensities, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError, GeometryError, Grid, Image, LabelImage, PlanError
from regista.io import non_finite_count, read, read_labels
from regista.kernels.cpu.filters import gaussian_filter
from regista.learning._config import InputConfig
from regista.learning._data import Dataset, ScanFile
from regista.preprocessing import Reorient
from regista.transforms import Affine, Transform, resample

Volume = NDArray[np.float32]
Codes = NDArray[np.int32]
Align = Callable[[Image, Image], Transform]
"""``align(fixed, moving)``: the linear map that brings a scan near another, before the network."""
_LEAST_ALIKE = 0.2
"""Share of neighbours of one label in a label map: 0.56 and more in maps of tissues at 4 mm, 0.04 in an image of 256 grays."""
_ENOUGH = 1000
"""Neighbours from which on that share tells: a map of a few points has none of one label."""
_ANTIALIAS = 0.42
"""σ of the smoothing before a coarser grid, in its voxels."""


def check_scan(image: Image, name: str) -> None:
    """Refuse what no network takes: several values per voxel, NaN, a constant image."""
    if image.kind != "scalar":
        what = "frames" if image.kind == "series" else "channels"
        raise FormatError(
            f"{name} has {len(image.data)} {what}, and a network sees one value per voxel: take one of them, with "
            "`regista convert IMAGE OUT --frame N`, and give no further contrasts (--fixed-channel, --moving-channel)"
        )
    bad = non_finite_count(image)
    if bad:
        raise FormatError(
            f"{name} has {bad} NaN or Inf voxels, which a network cannot leave out as a plan can: replace them in the "
            "file, by numpy.nan_to_num or the like (--non-finite is for plans)"
        )
    if image.data.size == 0 or image.data.min() == image.data.max():
        raise FormatError(f"{name} is constant: there is nothing to register in it")


def content_extent(image: Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return first and last index, per axis, of what differs from the image's corner."""
    differs = image.data != image.data.flat[0]
    start, stop = [], []
    for axis in range(image.ndim):
        used = np.flatnonzero(differs.any(axis=tuple(a for a in range(image.ndim) if a != axis)))
        start.append(used[0])
        stop.append(used[-1])
    return np.array(start, np.float64), np.array(stop, np.float64)


def model_grid(
    image: Image, inputs: InputConfig, shape: Sequence[int] | None = None, multiple: int = 1
) -> Grid:
    """Return the grid on which a network sees a fixed image.

    Parameters
    ----------
    image : Image
        Scalar image with any axes.
    inputs : InputConfig
        Voxel size and margin.
    shape : sequence of int, optional
        Size of the grid (default: what the content needs), around the content's middle.
    multiple : int
        What sizes are rounded up to multiples of.

    Returns
    -------
    Grid
        Its axes are the image's own, ordered and turned to run right, front and up.

    Examples
    --------
    >>> data = np.zeros((20, 30), np.float32)
    >>> data[5:15, 5:25] = 1
    >>> model_grid(Image(data, Grid((20, 30), np.diag([-1.0, 1.0, 1.0]))), InputConfig(spacing_mm=(2.0, 2.0))).shape
    (13, 18)
    """
    turned = Reorient(orientation="RAS"[: image.ndim]).apply(image).image
    start, stop = content_extent(turned)
    spacing = np.asarray(inputs.spacing_mm, np.float64)
    if shape is None:
        need = np.ceil((stop - start + 1) * turned.grid.spacing / spacing - 1e-6) + 2 * inputs.margin_vox
        shape = [int(-(-n // multiple) * multiple) for n in need]
    matrix = np.eye(image.ndim + 1)
    matrix[:-1, :-1] = turned.grid.direction * spacing
    center = turned.grid.index2world((start + stop) / 2)
    matrix[:-1, -1] = center - matrix[:-1, :-1] @ ((np.array(shape) - 1) / 2)
    return Grid(tuple(int(n) for n in shape), matrix)


def normalized(image: Image, inputs: InputConfig) -> Image:
    """Scale intensities to 0 … 1 as the model's configuration says."""
    data = image.as_float32()
    low = float(np.percentile(data, inputs.percentiles[0]))
    content = data[data != data.flat[0]]
    high = float(np.percentile(content, inputs.percentiles[1]))
    if not high > low:
        raise GeometryError(
            f"both percentiles {list(inputs.percentiles)} of {image.space or 'the image'} are {low:g}: it is nearly "
            "constant"
        )
    scaled = np.clip((data - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return Image(scaled, image.grid, space=image.space)


def seen_by_network(
    image: Image, grid: Grid, inputs: InputConfig, transform: Transform | None = None
) -> Volume:
    """Return an image as a network sees it, ``(*grid.shape)`` float32 from 0 to 1.

    Parameters
    ----------
    image : Image
        Scalar image on its own grid.
    grid : Grid
        From `model_grid` of the fixed image.
    inputs : InputConfig
        Range of intensities.
    transform : Transform, optional
        Map from `grid`'s space to the image's.
    """
    scaled = normalized(image, inputs)
    linear = transform.matrix if isinstance(transform, Affine) else np.eye(image.ndim + 1)
    steps = np.abs((image.grid.world2grid @ linear @ grid.grid2world)[:-1, :-1]).max(axis=1)
    along = [_ANTIALIAS * float(step) if step > 1.05 else 0.0 for step in steps]
    if any(along):
        stack = scaled.data.reshape(1, *image.grid.as_3d().shape)
        smooth = gaussian_filter(stack, [*along, *[0.0] * (3 - len(along))], border="nearest")
        scaled = Image(np.asarray(smooth).reshape(image.data.shape), image.grid, space=image.space)
    return resample(scaled, grid, transform, fill="edge", dtype=np.float32).as_float32()


@dataclass(frozen=True, eq=False)
class PreparedScans:
    """Scans on the grid of a network, in memory.

    Parameters
    ----------
    images : list of (*shape) float32 ndarray
        Intensities.
    codes : list of (*shape) int32 ndarray, or None
        Places of the labels in `values`, 0 the background.
    values : tuple of int
        Labels by code.
    subjects : tuple of str
        Whose scans they are.
    pairs : tuple of (int, int)
        Fixed and moving scan of each pair.
    """

    images: list[Volume]
    codes: list[Codes] | None
    values: tuple[int, ...]
    subjects: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of the images."""
        return tuple(self.images[0].shape)


def read_scan(file: ScanFile, ndim: int | None = None) -> tuple[Image, LabelImage | None]:
    """Read a scan and its labels, and refuse what no network takes."""
    image = read(file.image)
    check_scan(image, str(file.image))
    if ndim is not None and image.ndim != ndim:
        raise GeometryError(f"{file.image} is {image.ndim}-D, the network is for {ndim}-D images")
    labels = None if file.labels is None else read_labels(file.labels)
    if labels is not None and not labels.grid.same_as(image.grid):
        raise GeometryError(
            f"{file.labels} lies on another grid than its image {file.image}: resample it first"
        )
    if labels is not None:
        _check_label_map(labels, file.labels)
    return image, labels


def _check_label_map(labels: LabelImage, path: Path | None) -> None:
    """Refuse an image of whole numbers in the place of a label map: next to each other its values rarely are the same."""
    pairs = same = 0
    for axis in range(labels.ndim):
        values = np.moveaxis(labels.data, axis, 0)
        inside = (values[1:] != 0) & (values[:-1] != 0)
        pairs += int(inside.sum())
        same += int((inside & (values[1:] == values[:-1])).sum())
    if pairs >= _ENOUGH and same < _LEAST_ALIKE * pairs:
        raise FormatError(
            f"{path} is no label map but an image, it seems: {100 * same / pairs:.2g} % of neighbouring voxels above 0 have the "
            "same value, in label maps most have; list files whose whole numbers each stand for a structure"
        )


def reference_grid(dataset: Dataset, inputs: InputConfig, multiple: int) -> tuple[Image | None, Grid]:
    """Return the scan all others are aligned to, with its grid; for listed pairs, only the size that holds them all.

    Parameters
    ----------
    dataset : Dataset
        The scans to train on.
    inputs : InputConfig
        Voxel size; a shape given there is kept.
    multiple : int
        What sizes are rounded up to multiples of.
    """
    shape = inputs.shape or None
    if dataset.pairs is None:
        image, _ = read_scan(dataset.scans[0], len(inputs.spacing_mm))
        return image, model_grid(image, inputs, shape, multiple)
    grids = []
    for fixed, _ in dataset.pairs:
        image, _ = read_scan(dataset.scans[fixed], len(inputs.spacing_mm))
        grids.append(model_grid(image, inputs, shape, multiple))
    largest = tuple(int(n) for n in np.max([grid.shape for grid in grids], axis=0))
    return None, Grid(largest, grids[0].grid2world)


def prepare_scans(
    dataset: Dataset,
    inputs: InputConfig,
    reference: Image | None,
    align: Align | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> PreparedScans:
    """Bring scans, and their labels, to the grid of a network.

    Parameters
    ----------
    dataset : Dataset
        Scans of one part of the data.
    inputs : InputConfig
        With the shape settled.
    reference : Image or None
        Scan all are aligned to; None where pairs are listed: each moving scan is then aligned to its fixed one.
    align : callable, optional
        Finds the linear map; without it the headers are taken at their word.
    report : callable
        Gets the number of scans done and of all.

    Raises
    ------
    FormatError, GeometryError
        If a scan is damaged, has NaN, several frames, or another number of axes.
    """
    total, ndim = len(dataset.scans), len(inputs.spacing_mm)
    images: list[Volume] = []
    labels: list[NDArray[Any] | None] = []

    def add(scan: tuple[Image, LabelImage | None], grid: Grid, transform: Transform | None) -> None:
        image, drawn = scan
        images.append(seen_by_network(image, grid, inputs, transform))
        there = None if drawn is None else resample(drawn, grid, transform, interpolation="nearest").data
        labels.append(there)
        report(len(images), total)

    if dataset.pairs is None:
        if reference is None:
            raise PlanError("scans without listed pairs are aligned to a reference, got none")
        grid = model_grid(reference, inputs, inputs.shape)
        for file in dataset.scans:
            scan = read_scan(file, ndim)
            add(scan, grid, None if align is None else align(reference, scan[0]))
        pairs = tuple(
            (a, b)
            for a, one in enumerate(dataset.scans)
            for b, other in enumerate(dataset.scans)
            if one.subject != other.subject
        )
    else:
        for fixed, moving in dataset.pairs:
            here, there = read_scan(dataset.scans[fixed], ndim), read_scan(dataset.scans[moving], ndim)
            grid = model_grid(here[0], inputs, inputs.shape)
            add(here, grid, None)
            add(there, grid, None if align is None else align(here[0], there[0]))
        pairs = tuple((2 * n, 2 * n + 1) for n in range(len(dataset.pairs)))
    order = range(total) if dataset.pairs is None else [n for pair in dataset.pairs for n in pair]
    values, codes = _encoded(labels)
    return PreparedScans(images, codes, values, tuple(dataset.scans[n].subject for n in order), pairs)


def _encoded(labels: list[NDArray[Any] | None]) -> tuple[tuple[int, ...], list[Codes] | None]:
    """Return the labels present anywhere, and each scan's places among them; None where some scan has no labels."""
    known = [one for one in labels if one is not None]
    if not known or len(known) < len(labels):
        return (), None
    found = {int(v) for one in known for v in np.unique(one)} - {0}
    values = np.array([0, *sorted(found)])
    order = np.argsort(values)
    codes = [order[np.searchsorted(values[order], one)].astype(np.int32) for one in known]
    return tuple(int(v) for v in values), codes
