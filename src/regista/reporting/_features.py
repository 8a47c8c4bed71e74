"""What can be told of a registration without any truth: numbers that the verdict is made from."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, uniform_filter

from regista.core import Grid, Image
from regista.kernels.cpu.filters import gaussian_filter
from regista.registration import Result
from regista.reporting._deformation import linear_part
from regista.transforms import Affine, DisplacementField, Transform, resample

WORK_VOXELS = 60_000
"""Voxels of the lattice that features are measured on."""
_BINS = 24
_CONTENT = 0.6
"""Content begins at this share of the way from the background to the intensity that splits the image."""
_SHIFT = 0.06
"""Share of the extent of what is shown by which the warped image is moved for comparison."""
_NUDGE = 0.03
"""Share of that extent by which the map is pushed, or turned at the rim, to see whether it could do better."""
Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A pair on a coarse lattice of the fixed image.

    Parameters
    ----------
    grid : Grid
        The lattice.
    fixed, warped, before, straight : ndarray of float32
        Images on it; `before` is the moving one where its header puts it, or with centres aligned; `straight` through
        the linear part of the map alone.
    inside : ndarray of bool
        Where the map leads into the moving image.
    inside_before, inside_straight : ndarray of bool
        The same of `before` and `straight`.
    seen, seen_warped, seen_before, seen_straight : ndarray of bool
        What is not background.
    linear : Affine
        The affine map nearest to the transform.
    centred : bool
        Whether `before` has the centres aligned, since the headers leave too little in common.
    places_mm : (N, ndim) ndarray
        World positions of the lattice's voxels.
    mapped_mm : (N, ndim) ndarray
        Where the map leads them.
    transform : Transform
        The map.
    there : Image
        The moving image, smoothed for this lattice.
    """

    grid: Grid
    fixed: Volume
    warped: Volume
    before: Volume
    straight: Volume
    inside: Mask
    inside_before: Mask
    inside_straight: Mask
    seen: Mask
    seen_warped: Mask
    seen_before: Mask
    seen_straight: Mask
    linear: Affine
    centred: bool
    places_mm: NDArray[np.float64]
    mapped_mm: NDArray[np.float64]
    transform: Transform
    there: Image


def coarse_image(image: Image, spacing_mm: NDArray[np.float64]) -> Image:
    """Return a scalar image, channels averaged, smoothed so that it may be sampled this coarsely."""
    data = image.as_float32() if image.kind == "scalar" else image.as_float32().mean(axis=0)
    if not np.isfinite(data).all():
        data = np.nan_to_num(data, posinf=0.0, neginf=0.0)
    sigma = 0.4 * np.maximum(spacing_mm / image.grid.spacing - 1, 0)
    if sigma.max() > 0:
        volume = data.reshape(1, *image.grid.as_3d().shape)
        taps = [*sigma, *[0.0] * (3 - len(sigma))]
        data = gaussian_filter(np.ascontiguousarray(volume), taps, border="nearest").reshape(data.shape)
    return Image(data, image.grid)


def work_grid(grid: Grid, voxels: int = WORK_VOXELS) -> Grid:
    """Return a lattice over an image's extent with at most about so many voxels."""
    if grid.size <= voxels:
        return grid
    low, high = float(grid.spacing.min()), float((grid.spacing * grid.shape).max())
    for _ in range(40):
        middle = np.sqrt(low * high)
        size = grid.with_spacing(np.maximum(grid.spacing, middle)).size
        low, high = (middle, high) if size > voxels else (low, middle)
    return grid.with_spacing(np.maximum(grid.spacing, high))


def make_scene(fixed: Image, moving: Image, transform: Transform) -> Scene:
    """Put a pair on a coarse lattice.

    Parameters
    ----------
    fixed, moving : Image
        The pair; channels are averaged.
    transform : Transform
        Map fixed → moving.
    """
    grid = work_grid(fixed.grid)
    here = coarse_image(fixed, grid.spacing)
    there = coarse_image(moving, np.full(grid.ndim, float(grid.spacing.min())))
    places = np.moveaxis(grid.coordinates_mm(), 0, -1).reshape(-1, grid.ndim)
    mapped = transform.map_points(places)
    inside = moving.grid.contains(mapped).reshape(grid.shape)
    start: Transform | None = None
    inside_before = moving.grid.contains(places).reshape(grid.shape)
    centred = bool(inside_before.mean() < 0.25)
    if centred:
        matrix = np.eye(grid.ndim + 1)
        matrix[:-1, -1] = moving.grid.center_mm - fixed.grid.center_mm
        start = Affine(matrix)
        inside_before = moving.grid.contains(start.map_points(places)).reshape(grid.shape)
    linear = linear_part(transform, fixed.grid)
    inside_straight = moving.grid.contains(linear.map_points(places)).reshape(grid.shape)
    images = [
        resample(here, grid).data,
        resample(there, grid, _nameless(mapped, places, grid)).data,
        resample(there, grid, start).data,
        resample(there, grid, linear).data,
    ]
    fixed_data, warped, before, straight = (np.asarray(x, np.float32) for x in images)
    content = Content(there.as_float32())
    return Scene(
        grid=grid,
        fixed=fixed_data,
        warped=warped,
        before=before,
        straight=straight,
        inside=inside,
        inside_before=inside_before,
        inside_straight=inside_straight,
        seen=Content(here.as_float32()).of(fixed_data),
        seen_warped=content.of(warped) & inside,
        seen_before=content.of(before) & inside_before,
        seen_straight=content.of(straight) & inside_straight,
        linear=linear,
        centred=centred,
        places_mm=places,
        mapped_mm=mapped,
        transform=transform,
        there=there,
    )


def _nameless(mapped: NDArray[np.float64], places: NDArray[np.float64], grid: Grid) -> Transform:
    """Return a map, known at the voxels of a lattice, as a field without names of spaces."""
    vectors = (mapped - places).T.reshape(grid.ndim, *grid.shape)
    return DisplacementField(np.ascontiguousarray(vectors, np.float32), grid)


def background_level(data: Volume) -> float:
    """Return the intensity that best splits an image into dark and bright (Otsu, IEEE SMC 1979)."""
    values = data.ravel()[:: max(1, data.size // 200_000)]
    low, high = np.percentile(values, [0.5, 99.5])
    counts, rims = np.histogram(np.clip(values, low, high), 128)
    middles = (rims[1:] + rims[:-1]) / 2
    weight = np.cumsum(counts)
    mass = np.cumsum(counts * middles)
    rest, total = weight[-1] - weight, mass[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (total * weight / weight[-1] - mass) ** 2 / (weight * rest)
    best = int(np.nanargmax(np.where(np.isfinite(between), between, -1)))
    return float(middles[best])


class Content:
    """What of an image is not background: the brighter part, or the darker one of an image with a bright border.

    Parameters
    ----------
    data : ndarray of float32
        The whole image.
    """

    def __init__(self, data: Volume) -> None:
        split = background_level(data)
        rims = [np.take(data, (0, -1), axis=a).ravel() for a, n in enumerate(data.shape) if n > 2]
        self._sign = -1 if rims and float(np.median(np.concatenate(rims))) > split else 1
        background = float(np.percentile(data, 0.5 if self._sign > 0 else 99.5))
        self._level = background + _CONTENT * (split - background)

    def of(self, data: Volume) -> Mask:
        """Tell where values of the image are content."""
        return np.asarray(self._sign * (data - np.float32(self._level)) > 0)


def measure_features(scene: Scene, result: Result, fixed: Image, moving: Image) -> dict[str, float]:
    """Measure what the verdict looks at.

    Parameters
    ----------
    scene : Scene
        The pair on a coarse lattice.
    result : Result
        What a registration gave.
    fixed, moving : Image
        The pair.

    Returns
    -------
    dict of str to float
        See *The verdict* in the documentation for each.
    """
    return {
        **_likeness(scene),
        "nudged": _nudged(scene),
        **_coverage(scene, result.inverse, fixed, moving),
        **_shape(scene, result, fixed),
    }


def _likeness(scene: Scene) -> dict[str, float]:
    """Return how alike the images are, and how much more so than when one is moved or mirrored.

    A bending map can make almost anything alike. So the images are also compared through its linear part alone.
    """
    region = _region(scene, scene.seen_warped, scene.inside)
    base = _measures(scene.fixed, scene.warped, region)
    before = _measures(scene.fixed, scene.before, _region(scene, scene.seen_before, scene.inside_before))
    straight_region = _region(scene, scene.seen_straight, scene.inside_straight)
    straight = _measures(scene.fixed, scene.straight, straight_region)
    moved = [_measures(f, w, r) for f, w, r in _shifted(scene, region)] or [dict.fromkeys(base, 0.0)]
    turned = [_measures(scene.fixed, *pair) for pair in _mirrored(scene, straight_region)]
    out = dict(base)
    for name, value in base.items():
        others = [m[name] for m in moved]
        out[f"{name}_over_shifts"] = value - float(np.max(others))
        out[f"{name}_ratio"] = _ratio(value, float(np.mean(others)))
        out[f"{name}_gain"] = value - before[name]
        out[f"{name}_straight"] = straight[name]
        out[f"{name}_straight_share"] = _ratio(straight[name], value)
        out[f"{name}_over_mirror"] = _ratio(straight[name], max(m[name] for m in turned))
    return out


def _region(scene: Scene, seen: Mask, inside: Mask) -> Mask:
    region = binary_dilation(scene.seen | seen, iterations=1) & inside
    return region if region.sum() >= 64 else inside | scene.seen


def _ratio(value: float, other: float) -> float:
    return float(np.log((max(value, 0) + 0.005) / (max(other, 0) + 0.005)))


def _measures(fixed: Volume, warped: Volume, region: Mask) -> dict[str, float]:
    if region.sum() < 64:
        return {"nmi": 0.0, "lncc": 0.0, "edges": 0.0}
    return {
        "nmi": _information(fixed[region], warped[region]),
        "lncc": _local_correlation(fixed, warped, region),
        "edges": _edge_agreement(fixed, warped, region),
    }


def _information(a: Volume, b: Volume) -> float:
    """Return mutual information as a share of the smaller entropy, less what chance gives."""
    codes = []
    for values in (a, b):
        rims = np.percentile(values, np.linspace(0, 100, _BINS + 1)[1:-1])
        codes.append(np.searchsorted(np.unique(rims), values, side="right"))
    joint = np.bincount(codes[0] * _BINS + codes[1], minlength=_BINS * _BINS).astype(float)
    joint /= joint.sum()
    table = joint.reshape(_BINS, _BINS)
    entropies = [_entropy(table.sum(axis=0)), _entropy(table.sum(axis=1))]
    found = sum(entropies) - _entropy(joint)
    chance = (np.count_nonzero(table.sum(0)) - 1) * (np.count_nonzero(table.sum(1)) - 1) / (2 * a.size)
    return float(max(found - chance, 0.0) / max(min(entropies), 1e-6))


def _entropy(shares: NDArray[np.float64]) -> float:
    kept = shares[shares > 0]
    return float(-(kept * np.log(kept)).sum())


def _local_correlation(fixed: Volume, warped: Volume, region: Mask) -> float:
    """Return the mean squared correlation over windows of 5 voxels."""
    size = [min(5, n) for n in fixed.shape]
    f, w = (x.astype(np.float64) - float(x[region].mean()) for x in (fixed, warped))
    mf, mw = uniform_filter(f, size), uniform_filter(w, size)
    vf, vw = uniform_filter(f * f, size) - mf * mf, uniform_filter(w * w, size) - mw * mw
    cov = uniform_filter(f * w, size) - mf * mw
    enough = region & (vf > 1e-3 * f[region].var()) & (vw > 0)
    if enough.sum() < 32:
        return 0.0
    squares = cov[enough] ** 2 / (vf[enough] * np.maximum(vw[enough], 1e-3 * w[region].var() + 1e-12))
    return float(np.minimum(squares, 1).mean())


def _edge_agreement(fixed: Volume, warped: Volume, region: Mask) -> float:
    """Return how parallel the gradients are where both are steep: 0 for chance, 1 for all (NGF)."""
    axes = [a for a, n in enumerate(fixed.shape) if n > 2]
    if not axes:
        return 0.0
    one, other = (np.stack([np.gradient(x, axis=a)[region] for a in axes]) for x in (fixed, warped))
    size, size_other = np.linalg.norm(one, axis=0), np.linalg.norm(other, axis=0)
    weight = size * size_other
    if weight.sum() <= 0:
        return 0.0
    cosine2 = (one * other).sum(axis=0) ** 2 / np.maximum(weight**2, 1e-20)
    chance = 1 / len(axes)
    aligned = (float((weight * cosine2).sum() / weight.sum()) - chance) / (1 - chance)
    # steep places must also coincide: their product against what independence would give
    together = float(weight.mean() / max(np.sqrt((size**2).mean() * (size_other**2).mean()), 1e-12))
    return float(max(aligned, 0.0) * together)


def _shifted(scene: Scene, region: Mask) -> list[tuple[Volume, Volume, Mask]]:
    """Return the images with the warped one moved to and fro along each axis."""
    found = []
    box = np.argwhere(scene.seen)
    spans = np.ptp(box, axis=0) + 1 if len(box) else np.array(scene.fixed.shape)
    for axis, sign in itertools.product(range(scene.fixed.ndim), (-1, 1)):
        count = max(1, round(_SHIFT * float((spans * scene.grid.spacing).max() / scene.grid.spacing[axis])))
        if scene.fixed.shape[axis] < 4 * count:
            continue
        one, other = slice(count, None), slice(None, -count)
        a = tuple(one if n == axis else slice(None) for n in range(scene.fixed.ndim))
        b = tuple(other if n == axis else slice(None) for n in range(scene.fixed.ndim))
        a, b = (a, b) if sign > 0 else (b, a)
        found.append((scene.fixed[a], scene.warped[b], region[a] & scene.inside[b]))
    return found


def _nudged(scene: Scene) -> float:
    """Return how much better the images match when the map is pushed or turned a little.

    It is what the best push adds to the measure that gains least (logarithm of the ratio). Where the map is right
    every push makes things worse: below 0.
    """
    base = _measures(scene.fixed, scene.warped, _region(scene, scene.seen_warped, scene.inside))
    held = int((scene.inside & scene.seen).sum())
    content = Content(scene.there.as_float32())
    found = []
    for push in _pushes(scene):
        mapped = scene.transform.map_points(push.map_points(scene.places_mm))
        inside = scene.there.grid.contains(mapped).reshape(scene.grid.shape)
        if (inside & scene.seen).sum() < 0.8 * held:
            continue
        warped = resample(scene.there, scene.grid, _nameless(mapped, scene.places_mm, scene.grid))
        data = warped.as_float32()
        there = _measures(scene.fixed, data, _region(scene, content.of(data) & inside, inside))
        found.append(min(_ratio(there[name], value) for name, value in base.items()))
    return max(found, default=0.0)


def _pushes(scene: Scene) -> list[Affine]:
    """Return small rigid maps: to and fro along, and about, the axes of the lattice."""
    n, long = scene.grid.ndim, [a for a, size in enumerate(scene.grid.shape) if size > 2]
    seen = scene.seen if scene.seen.any() else np.ones_like(scene.seen)
    box = np.argwhere(seen)
    center = scene.grid.index2world((box.min(axis=0) + box.max(axis=0)) / 2)
    extent = float(((np.ptp(box, axis=0) + 1) * scene.grid.spacing).max())
    found = []
    for sign in (-1.0, 1.0):
        for axis in long:
            matrix = np.eye(n + 1)
            matrix[:-1, -1] = sign * _NUDGE * extent * scene.grid.direction[:, axis]
            found.append(Affine(matrix))
        for one, other in itertools.combinations(long, 2):
            angle = sign * 2 * _NUDGE  # moves the rim by that share of the extent
            plane = np.eye(n)
            plane[one, one] = plane[other, other] = np.cos(angle)
            plane[one, other], plane[other, one] = -np.sin(angle), np.sin(angle)
            matrix = np.eye(n + 1)
            matrix[:-1, :-1] = scene.grid.direction @ plane @ scene.grid.direction.T
            matrix[:-1, -1] = center - matrix[:-1, :-1] @ center
            found.append(Affine(matrix))
    return found


def _mirrored(scene: Scene, region: Mask) -> list[tuple[Volume, Mask]]:
    """Return the linearly aligned image mirrored in the middle of what is seen of the fixed one, for each long axis."""
    found = []
    box = np.argwhere(scene.seen)
    for axis, size in enumerate(scene.fixed.shape):
        if size < 8:
            continue
        centre = box[:, axis].mean() if len(box) else (size - 1) / 2
        index = np.rint(2 * centre - np.arange(size)).astype(int)
        valid = (index >= 0) & (index < size)
        take = np.clip(index, 0, size - 1)
        mask = np.take(scene.inside_straight, take, axis) & region
        mask &= valid.reshape([-1 if a == axis else 1 for a in range(scene.fixed.ndim)])
        found.append((np.take(scene.straight, take, axis), mask))
    return found or [(scene.straight, region)]


def _coverage(scene: Scene, inverse: Transform, fixed: Image, moving: Image) -> dict[str, float]:
    """Return how much of each image's content the other's field of view holds, and how far the contents agree."""
    seen = scene.seen if scene.seen.any() else np.ones_like(scene.seen)
    covered = float((scene.inside & seen).sum() / seen.sum())
    grid = work_grid(moving.grid, 20_000)
    there = coarse_image(moving, grid.spacing)
    bright = Content(there.as_float32()).of(resample(there, grid).as_float32())
    places = grid.index2world(np.argwhere(bright if bright.any() else np.ones_like(bright)))
    back = fixed.grid.contains(inverse.map_points(places))
    return {
        "before_covered": float((scene.inside_before & seen).sum() / seen.sum()),
        "fixed_covered": covered,
        "moving_covered": float(back.mean()),
        "content_dice": _overlap(scene.seen & scene.inside, scene.seen_warped),
        "content_straight": _overlap(scene.seen & scene.inside_straight, scene.seen_straight),
    }


def _overlap(one: Mask, other: Mask) -> float:
    total = int(one.sum() + other.sum())
    return float(2 * (one & other).sum() / total) if total else 0.0


def _shape(scene: Scene, result: Result, fixed: Image) -> dict[str, float]:
    """Return how far the map turns, scales and bends space."""
    linear = scene.linear
    # of one slice, or one row, the scale across it is not known
    long = [axis for axis, n in enumerate(fixed.grid.shape) if n > 1]
    known = linear.matrix[:-1, :-1] @ fixed.grid.direction[:, long or slice(None)]
    scales = np.maximum(np.linalg.svd(known, compute_uv=False), 1e-6)
    back = np.linalg.inv(linear.matrix)
    straight = scene.mapped_mm @ back[:-1, :-1].T + back[:-1, -1]
    bent = np.linalg.norm(straight - scene.places_mm, axis=1).reshape(scene.grid.shape)
    seen = scene.seen if scene.seen.any() else np.ones_like(scene.seen)
    extent = float(np.linalg.norm(np.ptp(scene.places_mm, axis=0)))
    logs = np.log(np.maximum(_determinant(scene), 1e-3)) - np.log(max(abs(np.linalg.det(back)) ** -1, 1e-9))
    misfit = float(np.percentile(_misfit(scene, result, fixed.grid, straight, seen), 95))
    voxel = float(np.exp(np.log(fixed.grid.spacing[long]).mean())) if long else 1.0
    folded = result.record.measures.get("folded_percent")
    return {
        "largest_scale": float(scales.max()),
        "smallest_scale": float(scales.min()),
        "log_scale": float(np.abs(np.log(scales)).max()),
        "log_stretch": float(np.log(scales.max() / scales.min())),
        "turned_deg": _turn_degrees(linear.matrix[:-1, :-1]),
        "mirrored": float(np.linalg.det(linear.matrix[:-1, :-1]) < 0),
        "bent": float(np.percentile(bent[seen], 95)) / extent,
        "sd_log_jacobian": float(logs[seen].std()),
        "folded_percent": float(100 * np.mean(_determinant(scene) <= 0) if folded is None else folded),
        "inverse_p95": misfit / extent,
        "inverse_voxels": misfit / voxel,
        "moved": _moved(scene, fixed.grid, seen) / extent,
    }


def _moved(scene: Scene, grid: Grid, seen: Mask) -> float:
    """Return how far the map leads from the start, mm: from where the headers, or the centres, lay the images."""
    there, here = scene.mapped_mm[seen.ravel()], scene.places_mm[seen.ravel()]
    starts = [np.zeros(scene.grid.ndim), scene.there.grid.center_mm - grid.center_mm]
    away = [np.percentile(np.linalg.norm(there - here - shift, axis=1), 95) for shift in starts]
    return float(min(away))


def _misfit(
    scene: Scene, result: Result, grid: Grid, straight: NDArray[np.float64], seen: Mask
) -> NDArray[np.float64]:
    """Return how far the inverse misses, where both maps stay on their lattices: beyond them it is not defined."""
    known = seen.ravel() & scene.inside.ravel() & grid.contains(straight)
    kept = np.flatnonzero(known)[:: max(1, int(known.sum() // 20_000))]
    if not len(kept):
        return np.zeros(1)
    back = result.inverse.map_points(scene.mapped_mm[kept])
    return np.asarray(np.linalg.norm(back - scene.places_mm[kept], axis=1))


def _turn_degrees(matrix: NDArray[np.float64]) -> float:
    """Return the angle of the rotation nearest to a linear map."""
    left, _, right = np.linalg.svd(matrix)
    turn = left @ right
    cosine = (np.trace(turn) - (len(turn) - 2)) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _determinant(scene: Scene) -> Volume:
    axes = [a for a, n in enumerate(scene.grid.shape) if n > 1]
    there = scene.mapped_mm.reshape(*scene.grid.shape, -1)
    here = scene.places_mm.reshape(*scene.grid.shape, -1)
    columns = [
        np.gradient(there, axis=a) if a in axes else np.broadcast_to(scene.grid.direction[:, a], there.shape)
        for a in range(scene.grid.ndim)
    ]
    steps = [
        np.gradient(here, axis=a) if a in axes else np.broadcast_to(scene.grid.direction[:, a], here.shape)
        for a in range(scene.grid.ndim)
    ]
    return np.asarray(
        np.linalg.det(np.stack(columns, -1)) / np.linalg.det(np.stack(steps, -1)), dtype=np.float32
    )
