"""What can be told of a registration without any truth: numbers that the verdict is made from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, map_coordinates

from regista.core import Grid, Image
from regista.evaluation._likeness import (
    Likeness,
    Mask,
    Volume,
    coded,
    log_ratio,
    rims_of,
    shared_information,
)
from regista.registration import Result
from regista.reporting._scene import LEAST_VOXELS, Scene, nameless, work_grid
from regista.transforms import Affine, Transform, resample

_MIRROR_POINTS = 4_000
"""Places at which mirror images are compared while they are aligned."""
_SHIFT = 0.06
"""Share of the extent of what is shown by which the warped image is moved for comparison."""
_NUDGE = 0.03
"""Share of that extent by which the map is pushed, or turned at the rim, to see whether it could do better."""


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
    likeness = Likeness(scene.fixed)
    region = _region(scene, scene.seen_warped, scene.inside)
    base = likeness.measured(scene.warped, region)
    return {
        **_alike(scene, likeness, base, region),
        "nudged": _nudged(scene, likeness, base),
        **_coverage(scene, result.inverse, fixed, moving),
        **_shape(scene, result, fixed),
        "oriented": float(fixed.oriented and moving.oriented),
    }


def _alike(scene: Scene, likeness: Likeness, base: dict[str, float], region: Mask) -> dict[str, float]:
    """Return how alike the images are, and how much more so than when one is moved or mirrored.

    A bending map can make almost anything alike. So the images are also compared through its linear part alone.
    """
    before = likeness.measured(scene.before, _region(scene, scene.seen_before, scene.inside_before))
    straight_region = _region(scene, scene.seen_straight, scene.inside_straight)
    straight = likeness.measured(scene.straight, straight_region)
    moved = [Likeness(f).measured(w, r) for f, w, r in _shifted(scene, region)] or [dict.fromkeys(base, 0.0)]
    over_mirror = _over_mirror(scene, likeness, straight)
    out = dict(base)
    out["mirrors_tried"] = float(over_mirror is not None)
    for name, value in base.items():
        others = [m[name] for m in moved]
        out[f"{name}_over_shifts"] = value - float(np.max(others))
        out[f"{name}_ratio"] = log_ratio(value, float(np.mean(others)))
        out[f"{name}_gain"] = value - before[name]
        out[f"{name}_straight"] = straight[name]
        out[f"{name}_straight_share"] = log_ratio(straight[name], value)
        out[f"{name}_over_mirror"] = 0.0 if over_mirror is None else over_mirror[name]
    return out


def _region(scene: Scene, seen: Mask, inside: Mask) -> Mask:
    """Return where images are compared: around what either shows, or where they were when they were registered."""
    region = binary_dilation(scene.seen | seen, iterations=1) if scene.compared is None else scene.compared
    region = region & inside
    return region if region.sum() >= LEAST_VOXELS else inside | scene.seen


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


def _nudged(scene: Scene, likeness: Likeness, base: dict[str, float]) -> float:
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
        data = resample(scene.there, scene.grid, nameless(mapped, scene.places_mm, scene.grid)).as_float32()
        region = _region(scene, scene.content.of(data) & inside, inside)
        best = max(best, likeness.least_gain(data, region, base, best))
    return best if np.isfinite(best) else 0.0


def _over_mirror(scene: Scene, likeness: Likeness, straight: dict[str, float]) -> dict[str, float] | None:
    """Return log ratios of the likeness through the linear part to that of the best mirror image; None if there is none.

    Both are first aligned by a small rigid map: a mirror image that lies a little off would look worse for that alone.
    """
    frame, information = _Frame(scene), _Information(scene)
    mirrors = [frame.mirror(axis) for axis in frame.axes if scene.grid.shape[axis] >= 8]
    tried = [(_climbed(frame, information, mirror, (_NUDGE,)), mirror) for mirror in mirrors]
    tried = [(start, mirror) for start, mirror in tried if start[1] > 0]
    if not tried:
        return None
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
    return {name: log_ratio(found[0][name], found[1][name]) for name in straight}


class _Information:
    """What the images share through the linear part after another map, at some thousand places; −1 if few are left.

    Parameters
    ----------
    scene : Scene
        The pair.
    """

    def __init__(self, scene: Scene) -> None:
        region = binary_dilation(scene.seen) if scene.seen.any() else np.ones_like(scene.seen)
        region = region if scene.compared is None else scene.compared
        kept = np.flatnonzero(region)
        kept = kept[:: max(1, len(kept) // _MIRROR_POINTS)]
        self._places = np.concatenate([scene.places_mm[kept].T, np.ones((1, len(kept)))])
        self._to_index = scene.there.grid.world2grid @ scene.linear.matrix
        self._there = scene.there.data
        self._last = np.array(self._there.shape)[:, None] - 0.5
        self._least = max(64, int(0.8 * scene.inside_straight.ravel()[kept].sum()))
        values, other = scene.fixed.ravel()[kept], scene.straight.ravel()[kept]
        self._codes, self._rims = coded(values, rims_of(values)), rims_of(other)

    def __call__(self, first: NDArray[np.float64]) -> float:
        index = (self._to_index @ first @ self._places)[:-1]
        inside = ((index >= -0.5) & (index <= self._last)).all(axis=0)
        if inside.sum() < self._least:
            return -1.0
        found = map_coordinates(self._there, index[:, inside], output=np.float32, order=1, mode="nearest")
        return shared_information(self._codes[inside], coded(found, self._rims))


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
        "turned_unasked_deg": _turned_unasked(linear, result),
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


def _turned_unasked(linear: Affine, result: Result) -> float:
    """Return the turn against the headers, or against the start that was given: the smaller."""
    matrices = [linear.matrix]
    given = result.record.measures.get("initial_fixed2moving")
    if (
        given is None and "--initial" in result.record.command
    ):  # an older record, which does not tell what was given
        return 0.0
    if given is not None:
        matrices.append(linear.matrix @ np.linalg.inv(np.asarray(given, np.float64)))
    return min(_turn_degrees(matrix[:-1, :-1]) for matrix in matrices)


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
