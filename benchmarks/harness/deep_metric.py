"""Cases and known maps for the benchmark of trained metrics."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.ndimage import binary_closing, binary_fill_holes, gaussian_filter, label
from scipy.spatial.transform import Rotation

from regista.core import Grid, Image, LabelImage
from regista.io import read
from regista.transforms import Affine, Composite, Transform, VelocityField, invert_field, resample

SUBJECTS = ("S1", "S2", "S10", "S11", "S12", "S13", "S14", "S15", "S16", "S17", "S19")
PATIENTS = ("patient07", "patient19")
CLASSES = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pair to register and what is known of it: a true map at points, or classes of both images."""

    name: str
    fixed: Image
    moving: Image
    fixed_mask: Image
    moving_mask: Image
    truth: Transform | None = None
    fixed_classes: LabelImage | None = None
    moving_classes: LabelImage | None = None


def slices(data: Path, subject: str) -> tuple[Image, Image]:
    """Return the T1 and the T2 slice of a subject, on one grid."""
    folder = data / "t1t2_slices_2d"
    first, second = (read(folder / f"{subject}_{name}.nii.gz") for name in ("t1", "t2"))
    return first, Image(second.data, first.grid)


def photographs(data: Path, number: int) -> tuple[Image, Image]:
    """Return a photograph by visible light (grey) and its infrared one, in pixels."""
    folder = data / "visible_infrared"
    file = sorted((folder / "visible").iterdir())[number]
    pair = []
    for place in (folder / "visible", folder / "infrared"):
        values = read(place / file.name).as_float32()
        grey = values if values.ndim == 2 else values.mean(axis=0)
        pair.append(np.ascontiguousarray(grey, np.float32))
    shape = tuple(min(sizes) for sizes in zip(*(one.shape for one in pair), strict=True))
    grid = Grid(shape, np.eye(3))
    first, second = (Image(np.ascontiguousarray(one[: shape[0], : shape[1]]), grid) for one in pair)
    return first, second


def volumes(data: Path, patient: str) -> tuple[Image, Image]:
    """Return the T1 and the T2 of a patient, on one grid."""
    folder = data / "brain_multicontrast"
    first, second = (read(folder / f"{patient}_{name}.nii.gz") for name in ("t1", "t2"))
    return first, Image(second.data, first.grid)


def foreground(image: Image) -> Image:
    """Return where an image shows something: the largest piece above a tenth of its bright values, holes filled."""
    values = image.as_float32()
    bright = values > 0.1 * np.percentile(values[values > 0], 95)
    pieces, count = label(binary_closing(bright, iterations=2))
    if count:
        bright = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return Image(binary_fill_holes(bright).astype(np.uint8), image.grid)


def classes(image: Image, mask: Image) -> LabelImage:
    """Return classes of intensity within a mask, dark to bright from 1: no expert's labels, the same rule for all."""
    inside = mask.data > 0
    values = image.as_float32()[inside].astype(np.float64)
    first = np.percentile(values, np.linspace(0, 100, 2 * CLASSES + 1)[1::2])
    centers, _ = kmeans2(values, first, minit="matrix", iter=30)
    codes = np.zeros(image.data.shape, np.uint8)
    codes[inside] = 1 + np.abs(values[:, None] - np.sort(centers)[None]).argmin(axis=1)
    return LabelImage(codes, image.grid)


def known_map(grid: Grid, seed: int, largest: float, smoothness: float) -> tuple[Transform, Transform]:
    """Return a smooth diffeomorphism followed by a small affine map, fixed to moving, and its inverse.

    The field reaches `largest` mm and comes from noise smoothed by `smoothness` mm; the affine map turns by up to 6°,
    and shifts by up to a twentieth of the image.
    """
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((grid.ndim, *grid.shape)).astype(np.float32)
    velocity = np.stack([gaussian_filter(one, smoothness / grid.spacing) for one in noise])
    for _ in range(3):  # the exponential is not linear in the velocity
        reached = np.linalg.norm(VelocityField(velocity, grid).displacement().vectors_mm, axis=0).max()
        velocity = (velocity * (largest / reached)).astype(np.float32)
    warp = VelocityField(velocity, grid).displacement()
    inverse, _ = invert_field(warp, tolerance_vox=0.01, max_iterations=200)
    center = grid.center_mm[: grid.ndim]
    if grid.ndim == 2:
        turn = Rotation.from_euler("z", rng.uniform(-6, 6), degrees=True).as_matrix()[:2, :2]
    else:
        turn = Rotation.from_euler("xyz", rng.uniform(-6, 6, 3), degrees=True).as_matrix()
    linear = turn @ np.diag(rng.uniform(0.95, 1.05, grid.ndim))
    extent = np.array(grid.shape) * grid.spacing
    matrix = np.eye(grid.ndim + 1)
    matrix[:-1, :-1] = linear
    matrix[:-1, -1] = center + rng.uniform(-0.05, 0.05, grid.ndim) * extent - linear @ center
    back = Affine(np.linalg.inv(matrix))
    return Composite((warp, Affine(matrix))), Composite((back, inverse))


def moved_case(name: str, first: Image, second: Image, seed: int, largest: float, smoothness: float) -> Case:
    """Return a case of one pair whose second image went through a known map."""
    truth, back = known_map(first.grid, seed, largest, smoothness)
    moving = resample(second, second.grid, back)
    moving = Image(moving.data, second.grid)
    return Case(
        name=name,
        fixed=first,
        moving=moving,
        fixed_mask=foreground(first),
        moving_mask=foreground(moving),
        truth=truth,
    )


def people_cases(data: Path, subjects: tuple[str, ...]) -> Iterator[Case]:
    """Yield the T1 of each subject with the T2 of each other one."""
    images = {name: slices(data, name) for name in subjects}
    masks = {name: foreground(pair[0]) for name, pair in images.items()}
    tissue = {name: classes(pair[0], masks[name]) for name, pair in images.items()}
    for one in subjects:
        for other in subjects:
            if one != other:
                yield Case(
                    name=f"{one}_{other}",
                    fixed=images[one][0],
                    moving=images[other][1],
                    fixed_mask=masks[one],
                    moving_mask=masks[other],
                    fixed_classes=tissue[one],
                    moving_classes=tissue[other],
                )
