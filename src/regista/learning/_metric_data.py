"""Aligned pairs of images of two contrasts: read, checked, and brought to the levels of a registration."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.spatial.transform import Rotation

from regista.core import FormatError, GeometryError, Grid, Image, PlanError
from regista.io import read
from regista.kernels.cpu.filters import gaussian_filter
from regista.kernels.cpu.warp import warp
from regista.learning._data import subject_of
from regista.learning._metric_config import MetricConfig
from regista.learning._prepare import check_scan
from regista.preprocessing import Reorient, unit_range
from regista.similarity import MI

Volume = NDArray[np.float32]
Matrix = NDArray[np.float64]
COLUMNS = ("fixed", "moving", "mask", "subject", "split")
_SHIFTS_VOX = (2, 4, 8)
_TURN_DEG = 6.0
_DARK = 0.05
"""Intensity, of 0 … 1, above which a voxel of either image counts as tissue."""


@dataclass(frozen=True, kw_only=True)
class PairFile:
    """A row of a table of aligned pairs.

    Parameters
    ----------
    fixed, moving : Path
        Images of the two contrasts on one grid, aligned.
    mask : Path or None
        Where to draw patches; by default where either image is not dark.
    subject : str
        Whose they are.
    split : {'', 'train', 'validation'}
        Which part the pair is of, where the table says so.
    """

    fixed: Path
    moving: Path
    mask: Path | None = None
    subject: str = ""
    split: str = ""


def read_pairs(table: Path) -> tuple[PairFile, ...]:
    """Read a table of aligned pairs: CSV with the columns fixed and moving, and if wanted mask, subject and split.

    Paths count from the table's folder.

    Raises
    ------
    FormatError
        If the table has no pairs, lacks columns, or names files that do not exist.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"cannot read the table of pairs {table}: {error}") from None
    if not rows:
        raise FormatError(
            f"{table} has no pairs: a metric learns from aligned pairs, one a row below the header fixed,moving[,mask]"
            "[,subject][,split]"
        )
    columns = {name for name in rows[0] if name}
    if not {"fixed", "moving"} <= columns or columns - set(COLUMNS):
        raise FormatError(
            f"{table} has the columns {', '.join(sorted(columns)) or 'none'}; expected fixed,moving[,mask][,subject][,split]; "
            "split is train or validation"
        )
    return tuple(_row(table, line, row) for line, row in enumerate(rows, 2))


def _row(table: Path, line: int, row: dict[str, str | None]) -> PairFile:
    values = {name: (row.get(name) or "").strip() for name in COLUMNS}
    files = {}
    for name in ("fixed", "moving", "mask"):
        if not values[name] and name != "mask":
            raise FormatError(f"{table}, line {line}: the column {name} is empty")
        files[name] = table.parent / values[name] if values[name] else None
        if files[name] is not None and not files[name].is_file():  # type: ignore[union-attr]
            raise FormatError(
                f"{table}, line {line}: {files[name]} does not exist; paths count from the table's folder"
            )
    if values["split"] not in ("", "train", "validation"):
        raise FormatError(
            f"{table}, line {line}: split is train or validation, or empty in all rows; got {values['split']!r}"
        )
    fixed, moving = files["fixed"], files["moving"]
    assert fixed is not None
    assert moving is not None
    subject = values["subject"] or subject_of(fixed)
    return PairFile(fixed=fixed, moving=moving, mask=files["mask"], subject=subject, split=values["split"])


def split_pairs(pairs: Sequence[PairFile], validation: float = 0.2, seed: int = 0) -> dict[str, list[int]]:
    """Divide pairs by subject into those to train on and those held out.

    Parameters
    ----------
    pairs : sequence of PairFile
        Where any says its part, all must, and are taken at their word.
    validation : float
        Share of the subjects (below 1) or their number; with one subject none is held out.
    seed : int
        Of the draw.

    Raises
    ------
    PlanError
        If there are no pairs to train on, or one person is in both parts.
    """
    if not pairs:
        raise PlanError("a metric learns from aligned pairs, and there are none (k = 0): list one at least")
    said = [pair.split for pair in pairs]
    subjects = sorted({pair.subject for pair in pairs})
    if any(said):
        if not all(said):
            raise PlanError(
                "the column split is filled for some pairs only: fill it for all, or leave it out"
            )
        held = {pair.subject for pair in pairs if pair.split == "validation"}
        torn = sorted(held & {pair.subject for pair in pairs if pair.split == "train"})
        if torn:
            raise PlanError(
                f"subject {torn[0]} is in both parts of the data: one person's images belong together"
            )
    else:
        count = round(validation) if validation >= 1 else round(validation * len(subjects))
        if validation > 0 and len(subjects) > 1:
            count = max(count, 1)
        order = np.random.default_rng(seed).permutation(len(subjects))
        held = {subjects[n] for n in order[: min(count, len(subjects) - 1)]}
    parts: dict[str, list[int]] = {"train": [], "validation": []}
    for number, pair in enumerate(pairs):
        parts["validation" if pair.subject in held else "train"].append(number)
    if not parts["train"]:
        raise PlanError("no pair is left to train on: the column split names 'train' nowhere")
    return parts


@dataclass(frozen=True, eq=False)
class PairLevel:
    """Both images of a pair at one resolution, ``(I, J, K)`` from 0 to 1, and voxels that patches may be centred on."""

    first: Volume
    second: Volume
    centres: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class AlignedPair:
    """An aligned pair at the levels that patches are drawn from; its voxels were `spacing_mm` wide."""

    subject: str
    levels: tuple[PairLevel, ...]
    spacing_mm: tuple[float, ...] = ()


def prepare_pair(
    first: Image,
    second: Image,
    config: MetricConfig,
    mask: Image | None = None,
    *,
    subject: str = "",
    check_alignment: bool = True,
) -> AlignedPair:
    """Check an aligned pair and bring it to the levels of a registration.

    Parameters
    ----------
    first, second : Image
        The two contrasts on one grid.
    config : MetricConfig
        Says the levels and how intensities are scaled.
    mask : Image, optional
        Where patches are centred, on the same grid.
    subject : str
        Whose they are, for messages.
    check_alignment : bool
        Refuse a pair whose mutual information grows when one image is shifted or turned.

    Raises
    ------
    GeometryError
        If grids or dimensions do not fit, the mask is empty, or the images are not aligned.
    FormatError
        If an image is constant, or has channels or NaN.
    """
    told = f"the pair of {subject or 'images'}"
    for name, image in (("first", first), ("second", second)):
        check_scan(image, f"{told}: its {name} image")
        if image.ndim != config.ndim:
            raise GeometryError(
                f"{told}: its {name} image is {image.ndim}-D and the metric is for {config.ndim}-D images"
            )
    for name, other in (("second image", second), ("mask", mask)):
        if other is not None and not other.grid.same_as(first.grid):
            raise GeometryError(
                f"{told}: its {name} lies on another grid ({other.grid.describe()}) than its first image "
                f"({first.grid.describe()}); resample it: regista apply IMAGE --like FIRST -o OUT"
            )
    steps = [Reorient(orientation="RAS"[: first.ndim]).apply(one, mask) for one in (first, second)]
    turned = steps[0].mask
    use = np.ones(steps[0].image.data.shape, bool) if turned is None else turned.as_float32() > 0
    scaled = [
        unit_range(one.image.as_float32(), config.percentiles, use, masked=mask is not None) for one in steps
    ]
    a, b = scaled
    if a is None or b is None:
        raise FormatError(f"{told}: an image is constant where patches are drawn: there is nothing to learn")
    tissue = use if mask is not None else binary_dilation((a > _DARK) | (b > _DARK), iterations=2)
    if not tissue.any():
        raise GeometryError(f"{told}: no voxel is left to draw patches from: its mask is empty")
    grid = steps[0].image.grid
    volumes = [_volume(one) for one in (a, b, tissue.astype(np.float32))]
    found = tuple(_levels(volumes, grid, config.patches.shrinks))
    if not found:
        raise GeometryError(
            f"{told}: at the levels {list(config.patches.shrinks)} too little is left of {grid.shape} voxels to draw patches from: "
            "8 along each axis, and some of the mask; take finer levels (--shrinks), or leave the pair out"
        )
    if check_alignment:
        _check_aligned(volumes[0], volumes[1], volumes[2], _turns(grid), told)
    return AlignedPair(subject, found, tuple(float(step) for step in grid.spacing))


def _volume(image: NDArray[np.float32]) -> Volume:
    """Return an image as a volume; a 2-D one as ``(I, 1, J)``, as the engine has it."""
    three = image if image.ndim == 3 else image[:, None, :]
    return np.ascontiguousarray(three, np.float32)


def _levels(volumes: Sequence[Volume], grid: Grid, shrinks: Sequence[int]) -> Iterable[PairLevel]:
    spacing, flat = grid.spacing, grid.ndim == 2
    for shrink in shrinks:
        target = shrink * float(spacing.min())
        factors = [max(1, int(target / s + 0.25)) for s in spacing]
        if min(n // f for n, f in zip(grid.shape, factors, strict=True)) < 8:
            continue  # nothing left to see
        small = grid.shrink(factors)
        to_fine = (grid.world2grid @ small.grid2world)[:-1]
        if flat:
            to_fine = np.array(
                [[to_fine[0, 0], 0, 0, to_fine[0, 2]], [0, 1, 0, 0], [0, 0, to_fine[1, 1], to_fine[1, 2]]]
            )
        three = [factors[0], 1, factors[1]] if flat else factors
        shape = (small.shape[0], 1, small.shape[1]) if flat else small.shape
        sigma = [0.5 * f if f > 1 else 0.0 for f in three]
        first, second, tissue = (
            one if max(three) == 1 else np.asarray(warp(_smooth(one, sigma), to_fine, shape=shape))
            for one in volumes
        )
        centres = np.flatnonzero(tissue > 0.5)
        if centres.size:
            yield PairLevel(first, second, centres)


def _smooth(volume: Volume, sigma: Sequence[float]) -> Volume:
    smooth: Volume = gaussian_filter(volume[None], sigma, border="nearest")[0]
    return smooth


def _turns(grid: Grid) -> dict[str, Matrix]:
    """Return small turns about the middle of a grid as maps of its voxels, with what to call them."""
    spacing = np.ones(3)
    spacing[[0, 2] if grid.ndim == 2 else [0, 1, 2]] = grid.spacing
    shape = (grid.shape[0], 1, grid.shape[1]) if grid.ndim == 2 else grid.shape
    middle = (np.array(shape) - 1) / 2
    found = {}
    for axis in [1] if grid.ndim == 2 else range(3):
        for degrees in (_TURN_DEG, -_TURN_DEG):
            turn = Rotation.from_rotvec(np.eye(3)[axis] * degrees, degrees=True).as_matrix()
            linear = turn * spacing / spacing[:, None]
            name = "in the plane" if grid.ndim == 2 else f"about axis {axis}"
            found[f"turned by {degrees:+g}° {name}"] = np.column_stack([linear, middle - linear @ middle])
    return found


def _check_aligned(
    first: Volume, second: Volume, weight: Volume, turns: Mapping[str, Matrix], told: str
) -> None:
    """Refuse a pair that is more alike after a shift or a turn: the metric would learn the misalignment."""
    metric, out = MI().prepare(first, weight), np.empty_like(first)

    def shared(image: Volume) -> float:
        return -metric.value_and_gradient(image, weight, out)

    here = shared(second)
    best, where = here, ""
    for axis, n in enumerate(first.shape):
        along = min(axis, 1) if first.shape[1] == 1 else axis
        for shift in (s * sign for s in _SHIFTS_VOX for sign in (1, -1)):
            if n < 4 * abs(shift):
                continue
            there = shared(np.roll(second, shift, axis))
            if there > best:
                best, where = there, f"shifted by {shift:+d} voxels along axis {along}"
    for name, matrix in turns.items():
        there = shared(np.asarray(warp(second, matrix, shape=second.shape)))
        if there > best:
            best, where = there, name
    if best > 1.02 * here:
        raise GeometryError(
            f"{told} is not aligned: {where} its images share {best:.3g} nats of information and as they are "
            f"{here:.3g}; align them first (regista register FIRST SECOND --preset rigid), or leave the check out "
            "(--trust-alignment) where that is no sign of it"
        )


def load_pairs(
    files: Sequence[PairFile], config: MetricConfig, check_alignment: bool = True
) -> list[AlignedPair]:
    """Read and prepare pairs."""
    return [
        prepare_pair(
            read(one.fixed),
            read(one.moving),
            config,
            None if one.mask is None else read(one.mask),
            subject=one.subject,
            check_alignment=check_alignment,
        )
        for one in files
    ]
