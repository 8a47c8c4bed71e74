"""Pairs with a truth, of several anatomies, and the ways in which their registration is made to fail."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from pairs import cardiac_cine, histology, lung_ct
from regista.core import Grid, Image, LabelImage, PointSet, RunRecord, Status
from regista.io import read, read_labels, read_points
from regista.registration import Result
from regista.transforms import Affine, Composite, DisplacementField, Transform, resample, resample_labels

HALVES = ("fit", "test")
FRESH = "fresh"
"""People added after the rules were made, whom nobody looked at while making them: a third part, to measure only."""


@dataclass(frozen=True)
class Case:
    """A pair, what is known of it, and the half it belongs to: no person is in both halves."""

    family: str
    name: str
    half: str
    preset: str
    fixed: Image
    moving: Image
    labels: tuple[LabelImage, LabelImage] | None = None
    points: tuple[PointSet, PointSet] | None = None
    truth: Transform | None = None
    masks: tuple[Image, Image] | None = None
    world: np.ndarray | None = None
    """Matrix from the moving image's world as it was to what the header says now."""
    aligned: bool = False
    """Whether the images lie on each other as they are."""
    partial: bool = False
    """Whether the moving image was made to show a part alone: what lies beyond its rim says nothing of the map."""


def half_of(number: int, count: int) -> str:
    """Return the half of a person: the first half of them fits."""
    return HALVES[int(number >= (count + 1) // 2)]


def coarser(image: Image, spacing: float) -> Image:
    """Return an image, smoothed, on a grid of at least this spacing."""
    grid = image.grid.with_spacing(np.maximum(image.grid.spacing, spacing))
    if isinstance(image, LabelImage):
        return resample_labels(image, grid)
    if grid.shape == image.grid.shape:
        return image
    sigma = 0.4 * np.maximum(grid.spacing / image.grid.spacing - 1, 0)
    lead = (0,) * (image.kind != "scalar")
    smooth = gaussian_filter(image.data.astype(np.float32), (*lead, *sigma))
    return replace(resample(image.with_data(smooth), grid), space=image.space)


def random_map(grid: Grid, seed: int, size: float = 1.0) -> Composite:
    """Return a map of moderate size: up to 15°, 8 % of the extent, 6 % of scale, and a smooth field."""
    rng, n = np.random.default_rng(seed), grid.ndim
    extent = np.array(grid.shape) * grid.spacing
    reach = 0.03 * size * float(extent[extent > 3 * grid.spacing].min())
    sigma = 0.1 * extent.max() / grid.spacing
    noise = np.stack([gaussian_filter(rng.normal(size=grid.shape), sigma) for _ in range(n)])
    field = (noise / np.abs(noise).max() * reach).astype(np.float32)
    turn = np.eye(n)
    angles = rng.uniform(-15, 15, 3) * size
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() if n == 3 else _turn(angles[0])
    linear = turn @ np.diag(1 + rng.uniform(-0.06, 0.06, n) * size)
    return Composite(
        (
            DisplacementField(field, grid),
            _about(linear, grid.center_mm, rng.uniform(-0.08, 0.08, n) * size * extent.min()),
        )
    )


def _turn(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


def _about(linear: np.ndarray, center: np.ndarray, shift: np.ndarray) -> Affine:
    matrix = np.eye(len(center) + 1)
    matrix[:-1, :-1] = linear
    matrix[:-1, -1] = center + shift - linear @ center
    return Affine(matrix)


@cache
def _scan(path: Path, spacing: float) -> Image:
    return coarser(replace(read(path), space=None), spacing)


@cache
def _labels(path: Path, spacing: float) -> LabelImage:
    return coarser(replace(read_labels(path), space=None), spacing)


def _people(
    family: str, folder: Path, names: list[str], parts: tuple[str, str], spacing: float, preset: str
) -> Iterator[Case]:
    """Return each person with the next of the same half."""
    for half in HALVES:
        here = [name for n, name in enumerate(names) if half_of(n, len(names)) == half]
        pairs = list(itertools.permutations(here, 2)) if len(here) < 4 else zip(here, [*here[1:], here[0]])
        for pair in pairs:
            scans = [_scan(folder / f"{name}_{parts[0]}.nii.gz", spacing) for name in pair]
            labels = [_labels(folder / f"{name}_{parts[1]}.nii.gz", spacing) for name in pair]
            yield Case(family, "-".join(pair), half, preset, *scans, labels=tuple(labels))


def _moved(
    family: str, name: str, half: str, preset: str, fixed: Image, other: Image, seed: int, size: float = 1.0
) -> Case:
    """Return a pair whose moving image is moved by a known map."""
    away = random_map(fixed.grid, seed, size)  # moving → where the moving image was
    return Case(family, name, half, preset, fixed, resample(other, other.grid, away), truth=away.inverse())


def _brains(data: Path, folder: Path) -> Iterator[Case]:
    people = sorted({p.name.split("_")[0] for p in (data / "brain_t1").glob("*_t1.nii.gz")})
    return _people("brain", data / "brain_t1", people, ("t1", "labels"), 2.5, "brain-t1")


def _slices(data: Path, folder: Path) -> Iterator[Case]:
    people = [f"{n:02d}" for n in range(1, 13)]
    return _people("brain slice", data / "brain_slices_2d", people, ("t1", "labels"), 1.0, "2d")


def _mice(data: Path, folder: Path) -> Iterator[Case]:
    return _people("mouse", data / "mouse_brain", list("1234"), ("mri", "labels"), 0.25, "mouse-brain")


def _lung_mri(data: Path, folder: Path) -> Iterator[Case]:
    """Return four pairs of three people, who cannot be halved: all for fitting."""
    for pair in list(itertools.permutations(("0004", "0006", "0007"), 2))[:4]:
        scans = [_scan(data / "lung_mri" / f"{name}_h1.nii.gz", 4.5) for name in pair]
        lobes, masks = (
            [_labels(data / "lung_mri" / f"{name}_{kind}.nii.gz", 4.5) for name in pair]
            for kind in ("lobes", "mask")
        )
        yield Case(
            "lung MRI", "-".join(pair), "fit", "lung-mri", *scans, labels=tuple(lobes), masks=tuple(masks)
        )


def _hearts(data: Path, folder: Path) -> Iterator[Case]:
    """Return hearts with pixels of twice the size; slices count as three times as thick, as the preset has it.

    Of every three people the second is of a half, and the third is fresh.
    """
    rows = cardiac_cine(data, folder)
    for number, row in enumerate(rows):
        if number % 3 == 0:
            continue
        images = []
        for part in ("", "_labels"):
            for role in ("fixed", "moving"):
                image = (read_labels if part else read)(row[f"{role}{part}"])
                grid = image.grid.with_spacing((2.0, 2.0, 1.0))
                small = resample_labels(image, grid) if part else resample(image, grid)
                images.append(
                    replace(small, grid=Grid(grid.shape, np.diag([2.0, 2.0, 6.0, 1.0])), space=None)
                )
        half = FRESH if number % 3 == 2 else half_of(number, len(rows))
        labels = (images[2], images[3])
        yield Case("heart", row["case"], half, "cardiac-cine", *images[:2], labels=labels)


def _contrast_slices(data: Path, folder: Path) -> Iterator[Case]:
    people = sorted({p.name.split("_")[0] for p in (data / "t1t2_slices_2d").glob("*_t1.nii.gz")})
    people = [p for p in people if (data / "t1t2_slices_2d" / f"{p}_t2.nii.gz").exists()]
    for number, name in enumerate(people):
        t1, t2 = (_scan(data / "t1t2_slices_2d" / f"{name}_{c}.nii.gz", 0.75) for c in ("t1", "t2"))
        half = half_of(number, len(people))
        yield _moved("T1-T2 slice", name, half, "2d-multimodal", t1, replace(t2, grid=t1.grid), number)


def _aligned_slices(data: Path, folder: Path) -> Iterator[Case]:
    """Return the two contrasts of a person as they are: aligned, so that the identity is the truth."""
    for case in _contrast_slices(data, folder):
        t2 = _scan(data / "t1t2_slices_2d" / f"{case.name}_t2.nii.gz", 0.75)
        moving = replace(t2, grid=case.fixed.grid)
        yield replace(case, family="T1-T2 aligned", moving=moving, truth=Affine.identity(2), aligned=True)


def _contrast_brains(data: Path, folder: Path) -> Iterator[Case]:
    for half, patient in zip(HALVES, ("patient07", "patient19"), strict=True):
        t1, t2 = (_scan(data / "brain_multicontrast" / f"{patient}_{c}.nii.gz", 2.5) for c in ("t1", "t2"))
        for seed in range(3):
            pair = (t1, t2) if seed % 2 else (t2, t1)
            yield _moved("T1-T2 brain", f"{patient}-{seed}", half, "brain-multimodal", *pair, 50 + seed)


def _lungs(data: Path, folder: Path) -> Iterator[Case]:
    for row in lung_ct(data, folder):
        scans = [_scan(row[role], 3.0) for role in ("fixed", "moving")]
        masks = [_labels(row[f"{role}_mask"], 1.0) for role in ("fixed", "moving")]
        masks = [resample_labels(m, s.grid) for m, s in zip(masks, scans, strict=True)]
        points = [
            replace(read_points(row[f"{role}_points"], convention="lps"), space=None)
            for role in ("fixed", "moving")
        ]
        yield Case(
            "lung CT", row["case"], "test", "lung-ct", *scans, points=tuple(points), masks=tuple(masks)
        )


def _sections(data: Path, folder: Path) -> Iterator[Case]:
    for row in histology(data, folder):
        scans = [_scan(row[role], 2.0) for role in ("fixed", "moving")]
        points = [
            replace(read_points(row[f"{role}_points"], convention="lps", ndim=2), space=None)
            for role in ("fixed", "moving")
        ]
        half = HALVES["rat" in row["case"]]
        yield Case("histology", row["case"], half, "histology", *scans, points=tuple(points))


FAMILIES: dict[str, Callable[[Path, Path], Iterator[Case]]] = {
    "brain": _brains,
    "brain slice": _slices,
    "mouse": _mice,
    "lung MRI": _lung_mri,
    "T1-T2 slice": _contrast_slices,
    "T1-T2 aligned": _aligned_slices,
    "histology": _sections,
    "lung CT": _lungs,
    "T1-T2 brain": _contrast_brains,
    "heart": _hearts,
}


def ordinary(data: Path, folder: Path, families: Sequence[str] = tuple(FAMILIES)) -> Iterator[Case]:
    """Return all pairs of some families as they should be registered."""
    for name in families:
        yield from FAMILIES[name](data, folder)


def flipped(case: Case, axis: int) -> Case:
    """Return the case with the moving voxels in reverse order along an axis, the header as it was."""
    grid, n = case.moving.grid, case.moving.ndim
    flip = np.eye(n + 1)
    flip[axis, axis], flip[axis, -1] = -1, grid.shape[axis] - 1
    world = grid.grid2world @ flip @ grid.world2grid
    lead = case.moving.kind != "scalar"
    moving = case.moving.with_data(np.ascontiguousarray(np.flip(case.moving.data, axis + lead)))
    return _changed(case, moving, world, lambda x: np.ascontiguousarray(np.flip(x, axis)), grid)


def transposed(case: Case) -> Case:
    """Return the case with the first two axes of the moving voxels exchanged, the header as it was but for the sizes."""
    grid, n = case.moving.grid, case.moving.ndim
    swap = np.eye(n + 1)[[1, 0, *range(2, n + 1)]]
    there = Grid((grid.shape[1], grid.shape[0], *grid.shape[2:]), grid.grid2world)
    world = there.grid2world @ swap @ grid.world2grid
    lead = case.moving.kind != "scalar"
    moving = case.moving.with_data(
        np.ascontiguousarray(np.swapaxes(case.moving.data, lead, lead + 1)), grid=there
    )
    return _changed(case, moving, world, lambda x: np.ascontiguousarray(np.swapaxes(x, 0, 1)), there)


def cropped(case: Case, rng: np.random.Generator) -> Case:
    """Return the case with a corner of the moving image alone, its header's origin lost."""
    grid = case.moving.grid
    size = [n if n < 20 else int(0.42 * n) for n in grid.shape]
    start = [int(rng.integers(0, 2)) * (n - s) for n, s in zip(grid.shape, size, strict=True)]
    at = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
    moving_grid = Grid(tuple(size), grid.grid2world)
    shift = np.eye(grid.ndim + 1)
    shift[:-1, -1] = -np.array(start)
    world = grid.grid2world @ shift @ grid.world2grid
    lead = (slice(None),) * (case.moving.kind != "scalar")
    moving = replace(case.moving, data=np.ascontiguousarray(case.moving.data[lead + at]), grid=moving_grid)
    part = _changed(case, moving, world, lambda x: np.ascontiguousarray(x[at]), moving_grid)
    return replace(part, partial=True)


def _changed(case: Case, moving: Image, world: np.ndarray, change: Callable[[Any], Any], grid: Grid) -> Case:
    labels = case.labels and (
        case.labels[0],
        replace(case.labels[1], data=change(case.labels[1].data), grid=grid),
    )
    masks = case.masks and (case.masks[0], replace(case.masks[1], data=change(case.masks[1].data), grid=grid))
    points = case.points
    if points is not None:
        there = points[1].points_mm @ world[:-1, :-1].T + world[:-1, -1]
        points = (points[0], replace(points[1], points_mm=there))
    return replace(case, moving=moving, labels=labels, masks=masks, points=points, world=world)


def pushed(case: Case, result: Result, share: float, rng: np.random.Generator) -> Result:
    """Return a result off by a share of the fixed image's longest extent, in a random direction."""
    grid = case.fixed.grid
    long = np.array([n > 1 for n in grid.shape])
    way = np.where(long, rng.normal(size=grid.ndim), 0.0)
    shift = grid.direction @ (way / np.linalg.norm(way)) * share * float((grid.spacing * grid.shape).max())
    return _after(case, result, _about(np.eye(grid.ndim), grid.center_mm, shift))


def turned(case: Case, result: Result, degrees: float, rng: np.random.Generator) -> Result:
    """Return a result off by a turn about the middle of the fixed image."""
    grid = case.fixed.grid
    axis = rng.normal(size=3)
    angle = degrees * float(rng.choice([-1, 1]))
    turn = (
        Rotation.from_rotvec(np.radians(angle) * axis / np.linalg.norm(axis)).as_matrix()
        if grid.ndim == 3
        else _turn(angle)
    )
    return _after(case, result, _about(turn, grid.center_mm, np.zeros(grid.ndim)))


def _after(case: Case, result: Result, push: Affine) -> Result:
    """Return a result whose points are pushed before they are mapped."""
    map_, back = Composite((push, result.transform)), Composite((result.inverse, push.inverse()))
    return made(case, map_, back, result)


def made(case: Case, transform: Transform, inverse: Transform, result: Result | None = None) -> Result:
    """Return the result that a tool with this map would have given, status and folds as in another if given."""
    warped = resample(case.moving, case.fixed.grid, transform, dtype=np.float32)
    status = result.record.status if result else Status.CONVERGED
    measures = {k: v for k, v in (result.record.measures if result else {}).items() if k == "folded_percent"}
    return Result(transform, inverse, warped, RunRecord(status=status, measures=measures))


def displaced(case: Case, rng: np.random.Generator) -> Case:
    """Return the case with the moving image's header 10 … 25° and 3 … 10 % of the extent off."""
    grid, n = case.moving.grid, case.moving.ndim
    axis = rng.normal(size=3)
    angle = float(rng.uniform(10, 25) * rng.choice([-1, 1]))
    turn = (
        Rotation.from_rotvec(np.radians(angle) * axis / np.linalg.norm(axis)).as_matrix()
        if n == 3
        else _turn(angle)
    )
    way = rng.normal(size=n)
    shift = way / np.linalg.norm(way) * rng.uniform(0.03, 0.1) * float((grid.spacing * grid.shape).max())
    world = _about(turn, grid.center_mm, shift).matrix
    moved = Grid(grid.shape, world @ grid.grid2world)
    moving = replace(case.moving, grid=moved)
    return replace(_changed(case, moving, world, lambda x: x, moved), aligned=False)


def slab(case: Case, rng: np.random.Generator) -> Case:
    """Return the case with a slab of 25 … 40 % of the moving image along its longest axis, the header right."""
    grid = case.moving.grid
    axis = int(np.argmax(grid.shape))
    count = max(4, int(rng.uniform(0.25, 0.4) * grid.shape[axis]))
    first = (grid.shape[axis] - count) // 2
    at = tuple(slice(first, first + count) if a == axis else slice(None) for a in range(grid.ndim))
    start = np.zeros(grid.ndim)
    start[axis] = first
    matrix = grid.grid2world.copy()
    matrix[:-1, -1] = grid.index2world(start)
    lead = (slice(None),) * (case.moving.kind != "scalar")
    data = np.ascontiguousarray(case.moving.data[lead + at])
    return replace(case, moving=replace(case.moving, data=data, grid=Grid(data.shape[-grid.ndim :], matrix)))


def magnified(case: Case, factor: float) -> tuple[Case, Affine]:
    """Return the case with the moving image's voxel size off by a factor, and the map from its world as it was."""
    grid = case.moving.grid
    scale = np.diag([*[factor] * grid.ndim, 1.0])
    moving = replace(case.moving, grid=Grid(grid.shape, scale @ grid.grid2world))
    return replace(case, moving=moving), Affine(scale)


def half_turned(case: Case) -> tuple[Case, Affine]:
    """Return the case with a moving image whose header is wrong by a half turn (prone for supine), and the turn."""
    grid, n = case.moving.grid, case.moving.ndim
    turn = _about(np.diag([-1.0, -1.0, 1.0][:n]), grid.center_mm, np.zeros(n))
    return replace(
        case, moving=replace(case.moving, grid=Grid(grid.shape, turn.matrix @ grid.grid2world))
    ), turn


def noisy(case: Case, rng: np.random.Generator) -> Case:
    """Return the case with the moving image drowned in noise."""
    data = case.moving.as_float32()
    return replace(
        case,
        moving=case.moving.with_data(
            (data * 0.05 + rng.normal(0, data.std(), data.shape) + data.mean()).astype(np.float32)
        ),
    )


def wrong_start(case: Case, rng: np.random.Generator) -> Affine:
    """Return a start 60 … 150° and up to a sixth of the extent off."""
    fixed, moving, n = case.fixed.grid, case.moving.grid, case.fixed.ndim
    angle = float(rng.uniform(60, 150) * rng.choice([-1, 1]))
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    turn = Rotation.from_rotvec(np.radians(angle) * axis).as_matrix() if n == 3 else _turn(angle)
    shift = rng.uniform(-1, 1, n) / 6 * np.array(moving.shape) * moving.spacing
    matrix = np.eye(n + 1)
    matrix[:-1, :-1] = turn
    matrix[:-1, -1] = moving.center_mm + shift - turn @ fixed.center_mm
    return Affine(matrix)
