"""What can be told of a registration without any truth: numbers that the verdict is made from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, map_coordinates, uniform_filter

from regista.core import Grid, Image
from regista.kernels.cpu.filters import gaussian_filter
from regista.registration import Result
from regista.reporting._deformation import linear_part
from regista.transforms import Affine, DisplacementField, Transform, resample

WORK_VOXELS = 60_000
"""Voxels of the lattice that features are measured on."""
_BINS = 24
_SAMPLES = 200_000
"""Voxels that an image's intensities are told from."""
_RIM = 33
"""Percentile of the outermost voxels that must be bright for a bright background: a crop cuts through what it shows."""
_CONTENT = 0.6
"""Content begins at this share of the way from the background to the intensity that splits the image."""
_MIRROR_POINTS = 4_000
"""Places at which mirror images are compared while they are aligned."""
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
    content : Content
        What of the moving image is not background.
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
    content: Content


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
        content=content,
    )


def _nameless(mapped: NDArray[np.float64], places: NDArray[np.float64], grid: Grid) -> Transform:
    """Return a map, known at the voxels of a lattice, as a field without names of spaces."""
    vectors = (mapped - places).T.reshape(grid.ndim, *grid.shape)
    return DisplacementField(np.ascontiguousarray(vectors, np.float32), grid)


def background_level(data: Volume) -> float:
    """Return the intensity that best splits an image into dark and bright (Otsu, IEEE SMC 1979)."""
    values = data.ravel()[:: max(1, data.size // _SAMPLES)]
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
        some = data.ravel()[:: max(1, data.size // _SAMPLES)]
        rims = [np.take(data, (0, -1), axis=a).ravel() for a, n in enumerate(data.shape) if n > 2]
        self._sign = -1 if rims and float(np.percentile(np.concatenate(rims), _RIM)) > split else 1
        background = float(np.percentile(some, 0.5 if self._sign > 0 else 99.5))
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
    likeness = _Likeness(scene.fixed)
    region = _region(scene, scene.seen_warped, scene.inside)
    base = likeness.measured(scene.warped, region)
    return {
        **_alike(scene, likeness, base, region),
        "nudged": _nudged(scene, likeness, base),
        **_coverage(scene, result.inverse, fixed, moving),
        **_shape(scene, result, fixed),
    }


def _alike(scene: Scene, likeness: _Likeness, base: dict[str, float], region: Mask) -> dict[str, float]:
    """Return how alike the images are, and how much more so than when one is moved or mirrored.

    A bending map can make almost anything alike. So the images are also compared through its linear part alone.
    """
    before = likeness.measured(scene.before, _region(scene, scene.seen_before, scene.inside_before))
    straight_region = _region(scene, scene.seen_straight, scene.inside_straight)
    straight = likeness.measured(scene.straight, straight_region)
    moved = [_Likeness(f).measured(w, r) for f, w, r in _shifted(scene, region)] or [dict.fromkeys(base, 0.0)]
    over_mirror = _over_mirror(scene, likeness, straight)
    out = dict(base)
    for name, value in base.items():
        others = [m[name] for m in moved]
        out[f"{name}_over_shifts"] = value - float(np.max(others))
        out[f"{name}_ratio"] = _ratio(value, float(np.mean(others)))
        out[f"{name}_gain"] = value - before[name]
        out[f"{name}_straight"] = straight[name]
        out[f"{name}_straight_share"] = _ratio(straight[name], value)
        out[f"{name}_over_mirror"] = over_mirror[name]
    return out


def _region(scene: Scene, seen: Mask, inside: Mask) -> Mask:
    region = binary_dilation(scene.seen | seen, iterations=1) & inside
    return region if region.sum() >= 64 else inside | scene.seen


def _ratio(value: float, other: float) -> float:
    return float(np.log((max(value, 0) + 0.005) / (max(other, 0) + 0.005)))


class _Likeness:
    """How alike other images are to one; what depends on that one alone is computed once.

    Parameters
    ----------
    fixed : ndarray of float32
        The one.
    """

    def __init__(self, fixed: Volume) -> None:
        self._fixed = fixed
        self._axes = [a for a, n in enumerate(fixed.shape) if n > 2]
        self._window = [min(5, n) for n in fixed.shape]
        self.measures: dict[str, Callable[[Volume, Mask], float]] = {  # the quickest first
            "nmi": lambda warped, region: _information(fixed[region], warped[region]),
            "edges": self._edge_agreement,
            "lncc": self._local_correlation,
        }

    def measured(self, warped: Volume, region: Mask) -> dict[str, float]:
        """Return all measures over a region; zeros where it is next to nothing."""
        enough = region.sum() >= 64
        return {name: measure(warped, region) if enough else 0.0 for name, measure in self.measures.items()}

    def least_gain(self, warped: Volume, region: Mask, base: dict[str, float], floor: float) -> float:
        """Return the log ratio to `base` of the measure that gains least; anything below `floor` is as good as it."""
        least = np.inf
        for name, measure in self.measures.items():
            least = min(least, _ratio(measure(warped, region) if region.sum() >= 64 else 0.0, base[name]))
            if least <= floor:
                break
        return least

    @cached_property
    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The image less its mean, and mean and variance of that in each window."""
        f = self._fixed.astype(np.float64) - float(self._fixed.mean())
        mean = uniform_filter(f, self._window)
        return f, mean, uniform_filter(f * f, self._window) - mean * mean

    @cached_property
    def _slopes(self) -> list[Volume]:
        return [np.gradient(self._fixed, axis=a) for a in self._axes]

    def _local_correlation(self, warped: Volume, region: Mask) -> float:
        """Return the mean squared correlation over windows of 5 voxels."""
        f, mf, vf = self._moments
        w = warped.astype(np.float64) - float(warped[region].mean())
        mw = uniform_filter(w, self._window)
        vw = uniform_filter(w * w, self._window) - mw * mw
        cov = uniform_filter(f * w, self._window) - mf * mw
        enough = region & (vf > 1e-3 * f[region].var()) & (vw > 0)
        if enough.sum() < 32:
            return 0.0
        squares = cov[enough] ** 2 / (vf[enough] * np.maximum(vw[enough], 1e-3 * w[region].var() + 1e-12))
        return float(np.minimum(squares, 1).mean())

    def _edge_agreement(self, warped: Volume, region: Mask) -> float:
        """Return how parallel the gradients are where both are steep: 0 for chance, 1 for all (NGF)."""
        if not self._axes:
            return 0.0
        one = np.stack([slope[region] for slope in self._slopes])
        other = np.stack([np.gradient(warped, axis=a)[region] for a in self._axes])
        size, size_other = np.linalg.norm(one, axis=0), np.linalg.norm(other, axis=0)
        weight = size * size_other
        if weight.sum() <= 0:
            return 0.0
        cosine2 = (one * other).sum(axis=0) ** 2 / np.maximum(weight**2, 1e-20)
        chance = 1 / len(self._axes)
        aligned = (float((weight * cosine2).sum() / weight.sum()) - chance) / (1 - chance)
        # steep places must also coincide: their product against what independence would give
        together = float(weight.mean() / max(np.sqrt((size**2).mean() * (size_other**2).mean()), 1e-12))
        return float(max(aligned, 0.0) * together)


def _information(a: Volume, b: Volume) -> float:
    """Return mutual information as a share of the smaller entropy, less what chance gives."""
    return _shared(_coded(a, _rims(a)), _coded(b, _rims(b)))


def _rims(values: Volume) -> NDArray[np.float32]:
    """Return the borders between bins that hold as many values each."""
    return np.unique(np.percentile(values, np.linspace(0, 100, _BINS + 1)[1:-1]).astype(np.float32))


def _coded(values: Volume, rims: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.asarray(np.searchsorted(rims, values, side="right"))


def _shared(one: NDArray[np.intp], other: NDArray[np.intp]) -> float:
    joint = np.bincount(one * _BINS + other, minlength=_BINS * _BINS).astype(float)
    joint /= joint.sum()
    table = joint.reshape(_BINS, _BINS)
    entropies = [_entropy(table.sum(axis=0)), _entropy(table.sum(axis=1))]
    found = sum(entropies) - _entropy(joint)
    chance = (np.count_nonzero(table.sum(0)) - 1) * (np.count_nonzero(table.sum(1)) - 1) / (2 * one.size)
    return float(max(found - chance, 0.0) / max(min(entropies), 1e-6))


def _entropy(shares: NDArray[np.float64]) -> float:
    kept = shares[shares > 0]
    return float(-(kept * np.log(kept)).sum())


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


class _Frame:
    """Small rigid maps, and mirrors, about the middle of what is seen, along the axes of the lattice.

    Parameters
    ----------
    scene : Scene
        The pair.
    """

    def __init__(self, scene: Scene) -> None:
        self.axes = [a for a, size in enumerate(scene.grid.shape) if size > 2]
        self.planes = list(itertools.combinations(self.axes, 2))
        self._direction = scene.grid.direction
        self._back = np.linalg.inv(self._direction)
        box = np.argwhere(scene.seen if scene.seen.any() else np.ones_like(scene.seen))
        self._center = scene.grid.index2world((box.min(axis=0) + box.max(axis=0)) / 2)
        self._extent = float(((np.ptp(box, axis=0) + 1) * scene.grid.spacing).max())

    @property
    def count(self) -> int:
        """Number of amounts of `push`."""
        return len(self.axes) + len(self.planes)

    def push(self, amounts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the matrix of a rigid map: shifts, and turns by how far they move the rim, as shares of the extent."""
        n = len(self._center)
        turn = np.eye(n)
        for (one, other), amount in zip(self.planes, amounts[len(self.axes) :], strict=True):
            angle = 2 * amount
            plane = np.eye(n)
            plane[one, one] = plane[other, other] = np.cos(angle)
            plane[one, other], plane[other, one] = -np.sin(angle), np.sin(angle)
            turn = plane @ turn
        shift = np.zeros(n)
        shift[self.axes] = amounts[: len(self.axes)] * self._extent
        return self._about(turn, shift)

    def pushes(self, amount: float) -> Iterator[Affine]:
        """Return the maps of one amount alone, to and fro."""
        for sign, unit in itertools.product((-1.0, 1.0), np.eye(self.count)):
            yield Affine(self.push(sign * amount * unit))

    def mirror(self, axis: int) -> NDArray[np.float64]:
        """Return the matrix of the mirror across an axis of the lattice."""
        n = len(self._center)
        flip = np.eye(n)
        flip[axis, axis] = -1
        return self._about(flip, np.zeros(n))

    def _about(self, linear: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the matrix of a map in the lattice's directions about the middle."""
        matrix = np.eye(len(linear) + 1)
        matrix[:-1, :-1] = self._direction @ linear @ self._back
        matrix[:-1, -1] = self._center + self._direction @ shift - matrix[:-1, :-1] @ self._center
        return matrix


def _nudged(scene: Scene, likeness: _Likeness, base: dict[str, float]) -> float:
    """Return how much better the images match when the map is pushed or turned a little.

    It is what the best push adds to the measure that gains least (logarithm of the ratio). Where the map is right
    every push makes things worse: below 0.
    """
    held = int((scene.inside & scene.seen).sum())
    best = -np.inf
    for push in _Frame(scene).pushes(_NUDGE):
        mapped = scene.transform.map_points(push.map_points(scene.places_mm))
        inside = scene.there.grid.contains(mapped).reshape(scene.grid.shape)
        if (inside & scene.seen).sum() < 0.8 * held:
            continue
        data = resample(scene.there, scene.grid, _nameless(mapped, scene.places_mm, scene.grid)).as_float32()
        region = _region(scene, scene.content.of(data) & inside, inside)
        best = max(best, likeness.least_gain(data, region, base, best))
    return best if np.isfinite(best) else 0.0


def _over_mirror(scene: Scene, likeness: _Likeness, straight: dict[str, float]) -> dict[str, float]:
    """Return log ratios of the likeness through the linear part to that of the best mirror image; 0 if there is none.

    Both are first aligned by a small rigid map: a mirror image that lies a little off would look worse for that alone.
    """
    frame, information = _Frame(scene), _Information(scene)
    mirrors = [frame.mirror(axis) for axis in frame.axes if scene.grid.shape[axis] >= 8]
    tried = [(_climbed(frame, information, mirror, (_NUDGE,)), mirror) for mirror in mirrors]
    tried = [(start, mirror) for start, mirror in tried if start[1] > 0]
    if not tried:
        return dict.fromkeys(straight, 0.0)
    start, mirror = max(tried, key=lambda found: found[0][1])
    steps = (_NUDGE, _NUDGE / 2, _NUDGE / 4)
    same = np.eye(scene.grid.ndim + 1)
    found = []
    for side, first in ((same, np.zeros(frame.count)), (mirror, start[0])):
        amounts, _ = _climbed(frame, information, side, steps, first)
        if side is same and not amounts.any():
            found.append(straight)
            continue
        map_ = Affine(scene.linear.matrix @ frame.push(amounts) @ side)
        inside = scene.there.grid.contains(map_.map_points(scene.places_mm)).reshape(scene.grid.shape)
        data = resample(scene.there, scene.grid, map_).as_float32()
        found.append(likeness.measured(data, _region(scene, scene.content.of(data) & inside, inside)))
    return {name: _ratio(found[0][name], found[1][name]) for name in straight}


class _Information:
    """What the images share through the linear part after another map, at some thousand places; −1 if few are left.

    Parameters
    ----------
    scene : Scene
        The pair.
    """

    def __init__(self, scene: Scene) -> None:
        region = binary_dilation(scene.seen) if scene.seen.any() else np.ones_like(scene.seen)
        kept = np.flatnonzero(region)
        kept = kept[:: max(1, len(kept) // _MIRROR_POINTS)]
        self._places = np.concatenate([scene.places_mm[kept].T, np.ones((1, len(kept)))])
        self._to_index = scene.there.grid.world2grid @ scene.linear.matrix
        self._there = scene.there.data
        self._last = np.array(self._there.shape)[:, None] - 0.5
        self._least = max(64, int(0.8 * scene.inside_straight.ravel()[kept].sum()))
        values, other = scene.fixed.ravel()[kept], scene.straight.ravel()[kept]
        self._codes, self._rims = _coded(values, _rims(values)), _rims(other)

    def __call__(self, first: NDArray[np.float64]) -> float:
        index = (self._to_index @ first @ self._places)[:-1]
        inside = ((index >= -0.5) & (index <= self._last)).all(axis=0)
        if inside.sum() < self._least:
            return -1.0
        found = map_coordinates(self._there, index[:, inside], output=np.float32, order=1, mode="nearest")
        return _shared(self._codes[inside], _coded(found, self._rims))


def _climbed(
    frame: _Frame,
    score: Callable[[NDArray[np.float64]], float],
    side: NDArray[np.float64],
    steps: Sequence[float],
    first: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], float]:
    """Return the amounts of the push that scores best after a mirror, and the score, by steps along one at a time."""
    found = np.zeros(frame.count) if first is None else first
    best = score(frame.push(found) @ side)
    for step in steps:
        for _ in range(2):
            before = best
            for sign, unit in itertools.product((-1.0, 1.0), np.eye(frame.count)):
                trial = found + sign * step * unit
                value = score(frame.push(trial) @ side)
                if value > best:
                    found, best = trial, value
            if best == before:
                break
    return found, best


def _coverage(scene: Scene, inverse: Transform, fixed: Image, moving: Image) -> dict[str, float]:
    """Return how much of each image's content the other's field of view holds, and how far the contents agree."""
    seen = scene.seen if scene.seen.any() else np.ones_like(scene.seen)
    covered = float((scene.inside & seen).sum() / seen.sum())
    grid = work_grid(moving.grid, 20_000)
    bright = scene.content.of(resample(scene.there, grid).as_float32())
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
    determinant = _determinant(scene)
    logs = np.log(np.maximum(determinant, 1e-3)) - np.log(max(abs(np.linalg.det(back)) ** -1, 1e-9))
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
        "folded_percent": float(100 * np.mean(determinant <= 0) if folded is None else folded),
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
