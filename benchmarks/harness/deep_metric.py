"""Cases, known maps and spoilt images for the benchmark of trained metrics."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.ndimage import binary_closing, binary_dilation, binary_fill_holes, gaussian_filter, label
from scipy.spatial.transform import Rotation

from regista.core import Grid, Image, LabelImage
from regista.io import read
from regista.preprocessing import Reorient
from regista.registration import DenseStage, Plan, load_plan, register
from regista.transforms import Affine, Composite, Transform, VelocityField, invert_field, resample

SUBJECTS = ("S1", "S2", "S10", "S11", "S12", "S13", "S14", "S15", "S16", "S17", "S19")
PATIENTS = ("patient07", "patient19")
STAINS = {
    "lesions": ("Izd2-29-041-w35_HE", "Izd2-29-041-w35_proSPC"),
    "rat-kidney": ("Rat-Kidney_HE", "Rat-Kidney_PanCytokeratin"),
}
CORONAL = (0.5, 0.42, 0.58, 0.38, 0.62, 0.46)
"""Where the patients are cut for more pairs of slices, as shares of the axis from back to front."""
AXIAL = (0.47, 0.5, 0.44, 0.53, 0.41, 0.56)
"""The same from below to above, near the level of the slices with anatomical labels."""
CLASSES = 3
SPOILT = ("bias", "noise", "lesions")


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A pair to register and what is known of it: a true map, landmarks, or labels of both images.

    Where the fixed image shows the second contrast of the training, `swapped` says so. `same` are images of both people
    of one contrast, on the grids of the fixed and of the moving image; `start` is where all metrics begin, and `region` a
    part of the fixed image to look at by itself.
    """

    name: str
    fixed: Image
    moving: Image
    fixed_mask: Image | None = None
    moving_mask: Image | None = None
    truth: Transform | None = None
    landmarks: tuple[np.ndarray, np.ndarray] | None = None
    fixed_classes: LabelImage | None = None
    moving_classes: LabelImage | None = None
    same: tuple[Image, Image] | None = None
    start: Transform | None = None
    region: Image | None = None
    swapped: bool = False

    @cached_property
    def silver(self) -> Transform:
        """The map between images of one contrast, by local correlation: what carries labels as a silver standard."""
        plan = dense_stages("brain-t1" if self.fixed.ndim == 3 else "2d")
        start = self.start or Affine(np.eye(self.fixed.ndim + 1))
        return register(*self.same, plan, initial=start).transform


def dense_stages(preset: str) -> Plan:
    """Return the deformable stages of a preset."""
    plan = load_plan(preset)
    return replace(plan, stages=tuple(stage for stage in plan.stages if isinstance(stage, DenseStage)))


def slices(data: Path, subject: str) -> tuple[Image, Image]:
    """Return the T1 and the T2 slice of a subject, on one grid."""
    folder = data / "t1t2_slices_2d"
    first, second = (read(folder / f"{subject}_{name}.nii.gz") for name in ("t1", "t2"))
    return Image(first.data, first.grid), Image(second.data, first.grid)


@cache
def patient_slices(data: Path, plane: str = "coronal") -> list[tuple[str, Image, Image]]:
    """Return T1 and T2 slices of the two patients, those of each in turn.

    Coronal ones have pixels of 0.75 mm as those of `slices`, axial ones of 1 mm as the labelled slices.
    """
    axis, shares, width = {"coronal": (1, CORONAL, 0.75), "axial": (2, AXIAL, 1.0)}[plane]
    turned = {
        name: [Reorient(orientation="RAS").apply(one).image for one in volumes(data, name)]
        for name in PATIENTS
    }
    found = []
    for share in shares:
        for name, pair in turned.items():
            whole = pair[0].grid
            rest = [a for a in range(3) if a != axis]
            grid = Grid([whole.shape[a] for a in rest], np.diag([*whole.spacing[rest], 1.0]))
            place = int(share * whole.shape[axis])
            cut = [Image(np.ascontiguousarray(one.as_float32().take(place, axis=axis)), grid) for one in pair]
            first, second = (resample(one, grid.with_spacing(width)) for one in cut)
            found.append((f"{name} at {place}", first, second))
    return found


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
    return Image(first.data, first.grid), Image(second.data, first.grid)


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


def known_map(
    grid: Grid, seed: int, largest: float, smoothness: float, linear: float = 1.0
) -> tuple[Transform, Transform]:
    """Return a smooth diffeomorphism followed by a small affine map, fixed to moving, and its inverse.

    The field reaches `largest` mm and comes from noise smoothed by `smoothness` mm; the affine map turns by up to 6°,
    stretches by up to a twentieth and shifts by up to a twentieth of the image, or by the share `linear` of all that.
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
        turn = Rotation.from_euler("z", linear * rng.uniform(-6, 6), degrees=True).as_matrix()[:2, :2]
    else:
        turn = Rotation.from_euler("xyz", linear * rng.uniform(-6, 6, 3), degrees=True).as_matrix()
    stretch = 1 + linear * (rng.uniform(0.95, 1.05, grid.ndim) - 1)
    extent = np.array(grid.shape) * grid.spacing
    matrix = np.eye(grid.ndim + 1)
    matrix[:-1, :-1] = turn @ np.diag(stretch)
    shift = linear * rng.uniform(-0.05, 0.05, grid.ndim) * extent
    matrix[:-1, -1] = center + shift - matrix[:-1, :-1] @ center
    back = Affine(np.linalg.inv(matrix))
    return Composite((warp, Affine(matrix))), Composite((back, inverse))


def moved_case(
    name: str, first: Image, second: Image, seed: int, largest: float, smoothness: float, linear: float = 1.0
) -> Case:
    """Return a case of one pair whose second image went through a known map."""
    truth, back = known_map(first.grid, seed, largest, smoothness, linear)
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
                    same=(images[one][0], images[other][0]),
                )


def labelled_cases(data: Path, patient: str) -> Iterator[Case]:
    """Yield the T2 of a patient with the T1 of each labelled person, moved onto it by the affine map of the two T1s.

    Tissues (CSF, grey and white matter) are the person's; where they belong in the patient, the map from T1 to T1 says.
    """
    first, second = volumes(data, patient)
    for file in sorted((data / "brain_t1").glob("*_t1.nii.gz")):
        person = file.name.removesuffix("_t1.nii.gz")
        moving, tissues, mask = (
            read(data / "brain_t1" / f"{person}_{name}.nii.gz") for name in ("t1", "tissues", "mask")
        )
        moving = Image(moving.data, moving.grid)
        affine = register(first, moving, "affine").transform
        yield Case(
            name=f"{person}_{patient}",
            fixed=second,
            moving=moving,
            fixed_mask=Image((first.as_float32() > 0).astype(np.uint8), first.grid),
            moving_mask=Image((mask.data > 0).astype(np.uint8), mask.grid),
            moving_classes=LabelImage(tissues.data, tissues.grid),
            same=(first, moving),
            start=affine,
            swapped=True,
        )


def stained(data: Path, name: str) -> tuple[list[Image], list[np.ndarray]]:
    """Return both stains of a section, grey, and their landmarks in world coordinates, row by row."""
    images, tables = [], []
    for stain in STAINS[name]:
        picture = read(data / "histology" / name / f"{stain}.jpg")
        values = picture.as_float32()
        grey = values if picture.kind == "scalar" else values.mean(axis=0)
        images.append(Image(np.ascontiguousarray(grey), picture.grid))
        path = data / "histology" / name / f"{stain}.csv"
        with path.open(encoding="utf-8", newline="") as stream:
            tables.append({row[""]: (float(row["X"]), float(row["Y"])) for row in csv.DictReader(stream)})
    shared = [number for number in tables[0] if number in tables[1]]
    points = [
        image.grid.index2world(np.array([table[number] for number in shared]))
        for image, table in zip(images, tables, strict=True)
    ]
    return images, points


def stained_cases(data: Path, name: str) -> Iterator[Case]:
    """Yield a pair of stains both ways round, from where rigid and affine stages by mutual information leave it."""
    images, points = stained(data, name)
    plan = load_plan("histology")
    linear = replace(plan, stages=tuple(stage for stage in plan.stages if not isinstance(stage, DenseStage)))
    for here, there in ((0, 1), (1, 0)):
        yield Case(
            name=f"{name}_{STAINS[name][here].rpartition('_')[2]}",
            fixed=images[here],
            moving=images[there],
            landmarks=(points[here], points[there]),
            start=register(images[here], images[there], linear).transform,
            swapped=here == 1,
        )


def aligned_stains(data: Path, name: str) -> tuple[Image, Image]:
    """Return both stains of a section on the first one's grid, brought together by the preset 'histology'."""
    (first, second), _ = stained(data, name)
    found = register(first, second, "histology").transform
    return first, Image(resample(second, first.grid, found, fill="edge").data, first.grid)


def spoilt(case: Case, kind: str, data: Path, seed: int) -> Case:
    """Return a case of slices with shading, noise or lesions.

    'bias': either image times a smooth field of its own, from about 0.6 to 1.7. 'noise': Rician noise of a tenth of the
    bright intensities on both. 'lesions': the moving image with 12 bright spots that the fixed one lacks, of the shapes
    of the patients' lesions.
    """
    rng = np.random.default_rng([seed, SPOILT.index(kind)])
    if kind == "lesions":
        return replace(case, moving=_with_lesions(case.moving, case.moving_mask, data, rng))
    change = {"bias": _shaded, "noise": _noisy}[kind]
    return replace(case, fixed=change(case.fixed, rng), moving=change(case.moving, rng))


def _shaded(image: Image, rng: np.random.Generator) -> Image:
    field = gaussian_filter(rng.standard_normal(image.data.shape), 40.0 / image.grid.spacing)
    field = np.exp(0.5 * field / np.abs(field).max())
    return Image((image.as_float32() * field).astype(np.float32), image.grid)


def _noisy(image: Image, rng: np.random.Generator) -> Image:
    values = image.as_float32()
    sigma = 0.1 * np.percentile(values[values > 0], 95)
    real, other = rng.normal(0, sigma, (2, *values.shape))
    return Image(np.hypot(values + real, other).astype(np.float32), image.grid)


def _with_lesions(image: Image, mask: Image, data: Path, rng: np.random.Generator) -> Image:
    values = image.as_float32().copy()
    bright = np.percentile(values[mask.data > 0], 98)
    shapes = _lesion_shapes(data, image.grid.spacing)
    inside = np.argwhere(mask.data > 0)
    for place in inside[rng.integers(len(inside), size=12)]:
        shape = shapes[rng.integers(len(shapes))]
        start = np.clip(place - np.array(shape.shape) // 2, 0, np.array(values.shape) - shape.shape)
        part = tuple(slice(a, a + n) for a, n in zip(start, shape.shape, strict=True))
        values[part][shape] = bright
    return Image(values, image.grid)


def _lesion_shapes(data: Path, spacing: np.ndarray, least_mm2: float = 30.0) -> list[np.ndarray]:
    """Return the patients' larger lesions as they look in coronal slices, in pixels of a spacing."""
    shapes = []
    for name in PATIENTS:
        mask = read(data / "brain_multicontrast" / f"{name}_lesions.nii.gz")
        mask = Reorient(orientation="RAS").apply(Image(mask.data, mask.grid)).image
        sizes = mask.grid.spacing[[0, 2]]
        cuts = np.moveaxis(mask.data > 0, 1, 0)
        for cut in cuts[cuts.any(axis=(1, 2))]:
            pieces, count = label(cut)
            for number in range(1, count + 1):
                piece = pieces == number
                if piece.sum() * sizes.prod() < least_mm2:
                    continue
                rows, columns = (np.flatnonzero(piece.any(axis=axis)) for axis in (1, 0))
                small = piece[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                index = [
                    np.arange(int(n * s / p)) * p / s
                    for n, s, p in zip(small.shape, sizes, spacing, strict=True)
                ]
                shapes.append(small[np.ix_(*(one.astype(int) for one in index))])
    return shapes


def near_lesions(data: Path, patient: str, voxels: int = 5) -> Image:
    """Return where a patient's lesions are, and so many voxels around them."""
    mask = read(data / "brain_multicontrast" / f"{patient}_lesions.nii.gz")
    return Image(binary_dilation(mask.data > 0, iterations=voxels).astype(np.uint8), mask.grid)
