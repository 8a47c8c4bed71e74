"""Levels: both images at a coarser resolution, in voxel arrays with their maps to the world."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid, RegistrationError
from regista.kernels.cpu.filters import gaussian_filter
from regista.kernels.cpu.warp import warp
from regista.similarity import PreparedChannels

Volume = NDArray[np.float32]
Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scan:
    """One image made ready: intensities 0 … 1 on a 3-D grid, with an optional weight per voxel.

    With `hides`, voxels of weight 0 are left out of windows and patches too, not only of what is compared.
    `region` tells where regional penalties hold, 0 … 1. `others` are the channels after the first, which is `data`.
    `thickness` is how many times longer a voxel counts along
    each axis than the grid says, where the grid does not know.
    """

    data: Volume
    grid: Grid
    weight: Volume | None = None
    region: Volume | None = None
    thickness: tuple[float, float, float] = (1.0, 1.0, 1.0)
    others: tuple[Volume, ...] = ()
    hides: bool = False

    @property
    def channels(self) -> tuple[Volume, ...]:
        """All channels: arrays of one shape."""
        return (self.data, *self.others)

    def with_channels(self, channels: Sequence[Volume]) -> Scan:
        """Return the scan with other channels."""
        return replace(self, data=channels[0], others=tuple(channels[1:]))

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Scan:
        """Return the voxels ``start <= index < stop``."""
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        data, *others = (np.ascontiguousarray(one[box]) for one in self.channels)
        weight, region = (
            None if one is None else np.ascontiguousarray(one[box]) for one in (self.weight, self.region)
        )
        cut = replace(self, grid=self.grid.crop(start, stop), weight=weight, region=region)
        return cut.with_channels([data, *others])

    @property
    def spacing(self) -> Matrix:
        """Spacing along each axis as it counts, mm."""
        return np.asarray(self.grid.spacing * self.thickness)

    @property
    def graded(self) -> bool:
        """Whether some weight lies between 0 and 1."""
        return self.weight is not None and bool(np.any((self.weight > 0) & (self.weight < 1)))

    @property
    def finest_mm(self) -> float:
        """Spacing of the finest axis, axes of one voxel aside."""
        return float(min(s for s, n in zip(self.spacing, self.grid.shape, strict=True) if n > 1))

    def shrink_factors(self, target_mm: float) -> list[int]:
        """Return the whole factor that brings each axis towards voxels of `target_mm`."""
        return [
            min(max(1, int(target_mm / s + 0.25)), max(1, n // 4)) if n > 1 else 1
            for n, s in zip(self.grid.shape, self.spacing, strict=True)
        ]

    def filled(self) -> Scan:
        """Return the scan with smooth values, grown from those in use, where the weight is 0.

        What a mask leaves out must not come back through smoothing, gradients and windows. Known values are
        averaged down to half the size again and again, and the gaps of each size filled from the next.
        """
        if self.weight is None:
            return self
        known = self.weight > 0
        if known.all() or not known.any():
            return self
        if self.others:
            return self.with_channels([Scan(c, self.grid, self.weight).filled().data for c in self.channels])
        if max(self.data.shape) <= 4:
            return replace(self, data=np.where(known, self.data, self.data[known].mean()))
        factors = [2 if n > 1 else 1 for n in self.data.shape]
        grid = self.grid.shrink(factors)
        pair = np.stack([np.where(known, self.data, 0), known]).astype(np.float32)
        pair = gaussian_filter(pair, [0.5 * f if f > 1 else 0.0 for f in factors])
        to_fine = (self.grid.world2grid @ grid.grid2world)[:3]
        total, share = (warp(volume, to_fine, shape=grid.shape) for volume in pair)
        coarse = Scan(total / np.maximum(share, 1e-3), grid, (share > 1e-3).astype(np.float32)).filled()
        smooth = warp(coarse.data, (grid.world2grid @ self.grid.grid2world)[:3], shape=self.data.shape)
        return replace(self, data=np.where(known, self.data, smooth))

    def smoothed(self, sigma_vox: float) -> Scan:
        """Return the scan smoothed by a Gaussian, the same number of voxels along each axis."""
        sigma = [sigma_vox if n > 1 else 0.0 for n in self.data.shape]
        return self._filtered(lambda volume: gaussian_filter(volume[None], sigma, border="nearest")[0])

    def grid_at(self, target_mm: float) -> Grid:
        """Return the grid of `at_spacing`."""
        factors = self.shrink_factors(target_mm)
        return self.grid if max(factors) == 1 else self.grid.shrink(factors)

    def at_spacing(self, target_mm: float) -> Scan:
        """Return the scan smoothed and shrunk towards voxels of `target_mm`, each axis by a whole factor."""
        factors, grid = self.shrink_factors(target_mm), self.grid_at(target_mm)
        if max(factors) == 1:
            return self
        sigma = [0.5 * f if f > 1 else 0.0 for f in factors]
        to_fine = (self.grid.world2grid @ grid.grid2world)[:3]

        def shrink(volume: Volume) -> Volume:
            smooth = gaussian_filter(volume[None], sigma, border="nearest")[0]
            shrunk: Volume = warp(smooth, to_fine, shape=grid.shape)
            return shrunk

        weight, region = (None if one is None else shrink(one) for one in (self.weight, self.region))
        channels = self._filtered(shrink).channels
        return replace(self, grid=grid, weight=weight, region=region).with_channels(channels)

    def _filtered(self, smooth: Callable[[Volume], Volume]) -> Scan:
        """Return the scan with every channel smoothed; what counts little must not come back by that."""
        channels = [smooth(one) for one in self.channels]
        own = self.weight
        if self.hides and own is not None and self.graded:
            share = smooth(own)
            weighted = [smooth(one * own) / np.maximum(share, 1e-3) for one in self.channels]
            pairs = zip(weighted, channels, strict=True)
            channels = [np.where(share > 1e-3, one, plain) for one, plain in pairs]
        return self.with_channels(channels)


@dataclass(frozen=True, eq=False)
class Level:
    """Both scans at one resolution; `stage` names whose level it is, and `after` the stage before it."""

    index: int
    count: int
    steps: int
    shrink: tuple[int, ...]
    fixed: Scan
    moving: Scan
    stage: str = ""
    after: str = ""

    def voxel_map(self, fixed2moving: Matrix) -> Matrix:
        """Return the (3, 4) map from fixed to moving voxels for a world matrix."""
        return np.asarray((self.moving.grid.world2grid @ fixed2moving @ self.fixed.grid.grid2world)[:3])


def levels(
    fixed: Scan,
    moving: Scan,
    shrink: Sequence[int],
    steps: Sequence[int],
    stage: str = "",
    after: str = "",
) -> Iterator[Level]:
    """Yield the levels of a stage, coarse to fine; `stage` names it, and `after` the one before."""
    finest = fixed.finest_mm
    for index, (factor, count) in enumerate(zip(shrink, steps, strict=True)):
        coarse = fixed.at_spacing(factor * finest)
        ratio = coarse.grid.spacing / fixed.grid.spacing
        yield Level(
            index,
            len(shrink),
            count,
            tuple(round(float(r)) for r in ratio),
            coarse,
            moving.at_spacing(factor * finest),
            stage,
            after,
        )


class Warper:
    """Pulls a level's moving channels through a linear map and a field, with the weight that goes with them.

    The weight is 1 inside the moving image, times the fixed weight, times the warped moving weight.
    """

    def __init__(self, level: Level) -> None:
        self._level = level
        shape = level.fixed.data.shape
        self.warped = tuple(np.empty(shape, np.float32) for _ in level.moving.channels)
        self.weight = np.empty(shape, np.float32)
        self._moved = None if level.moving.weight is None else np.empty(shape, np.float32)

    def __call__(
        self, affine: Matrix, field: Volume | None = None, rows: NDArray[np.int32] | None = None
    ) -> tuple[tuple[Volume, ...], Volume]:
        """Return ``(warped channels, weight)``; all are reused by the next call, which may be for some rows only."""
        level, shape = self._level, self.weight.shape
        if level.fixed.weight is not None or self._moved is not None:
            rows = None  # the weight is built up in place, so it must start anew everywhere
        first, *others = self.warped
        warp(level.moving.data, affine, field, shape=shape, out=first, inside=self.weight, rows=rows)
        for channel, out in zip(level.moving.others, others, strict=True):
            warp(channel, affine, field, shape=shape, out=out, rows=rows)
        if level.fixed.weight is not None:
            np.multiply(self.weight, level.fixed.weight, out=self.weight)
        if self._moved is not None:
            warp(level.moving.weight, affine, field, shape=shape, out=self._moved)
            np.multiply(self.weight, self._moved, out=self.weight)
        return self.warped, self.weight


MIN_OVERLAP = 0.1
"""Share that must overlap: of the fixed image's volume in use, or of the moving one's where that is smaller."""


_SMALL_MASKS = (
    "out of sight of small masks a worse match can count as a better one, so widen them (plan key mask_margin_mm) or give "
    "none; else "
)


def usable_voxels(level: Level) -> float:
    """Return the volume in use of the smaller image, in voxels of the fixed one.

    It is what the product of both weights comes to where the images lie on each other: of two images with weights the
    sum of their squares.
    """
    scans = level.fixed, level.moving
    power = 2 if all(scan.weight is not None for scan in scans) else 1
    volumes = [
        float(scan.data.size if scan.weight is None else np.sum(scan.weight**power, dtype=np.float64))
        * abs(float(np.linalg.det(scan.grid.grid2world[:3, :3])))
        for scan in scans
    ]
    return min(volumes) / abs(float(np.linalg.det(level.fixed.grid.grid2world[:3, :3])))


def check_overlap(weight: Volume, level: Level) -> None:
    """Refuse to begin a level where the images hardly overlap, saying what brought them there."""
    share = float(weight.sum(dtype=np.float64)) / max(usable_voxels(level), 1e-30)
    if share >= MIN_OVERLAP:
        return
    stage = f"{level.stage}: " if level.stage else ""
    begun = f"{100 * share:.2g} % of the images (of their masks, where given) overlap"
    least = f"and at least {100 * MIN_OVERLAP:g} % must"
    if level.index == 0 and not level.after:
        raise RegistrationError(
            f"{stage}only {begun} at the start, {least}: check the headers, the masks and the initial transform, if there "
            "is one, or let the plan search for a start (start.search = 'rotations')"
        )
    if level.index == 0:
        culprit, when = level.after, "at the start, where the stage before it left them"
    else:
        culprit, when = level.stage, f"after level {level.index} of {level.count}"
    masked = level.fixed.weight is not None or level.moving.weight is not None
    raise RegistrationError(
        f"{stage}only {begun} {when}, {least}: the headers are not to blame, {culprit!r} moved them apart; "
        f"{_SMALL_MASKS if masked else ''}keep {culprit!r} nearer to its start (a map with fewer parameters, smoother "
        "updates, fewer steps at coarse levels), or begin nearer (--initial, where the command "
        "has it)"
    )


def check_sight(metric: PreparedChannels, weight: Volume, level: Level) -> None:
    """Refuse to begin a level where a metric finds nothing that it could compare, though the images overlap."""
    blind = metric.blind(weight)
    if not blind:
        return
    stage = f"{level.stage}: " if level.stage else ""
    raise RegistrationError(
        f"{stage}the metric {' and '.join(blind)} sees nothing on level {level.index + 1} of {level.count}: it compares neighbourhoods "
        "of voxels, and nowhere do the masks of both images show enough of one. Widen the masks (plan key mask_margin_mm) to "
        "three voxels of the level or more, leave levels out (shrink), or take a metric that compares single voxels (ncc, mi)"
    )


Report = Callable[[int, float], None]
"""``report(step, value)`` after each step of a level."""


def content_box(scan: Scan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first and last+1 index of what differs from a constant surround (all, where it is not constant)."""
    start, stop = np.zeros(3, np.int64), np.array(scan.data.shape, np.int64)
    for axis in range(3):
        rest = tuple(a for a in range(3) if a != axis)
        differs = [
            (data.max(axis=rest) != data.flat[0]) | (data.min(axis=rest) != data.flat[0])
            for data in scan.channels
        ]
        used = np.flatnonzero(np.any(differs, axis=0))
        if used.size:
            start[axis], stop[axis] = used[0], used[-1] + 1
    return start, stop


def content(scan: Scan, margin: float) -> Scan:
    """Crop a scan to what differs from a constant surround, and a margin: a share of the size of what is left.

    Skull-stripped scans are half empty, and linear stages need not visit what is.
    """
    start, stop = content_box(scan)
    pad = np.maximum(4, np.ceil(margin * (stop - start))).astype(np.int64)
    shape = np.array(scan.data.shape)
    start, stop = np.clip(start - pad, 0, shape - 1), np.clip(stop + pad, 1, shape)
    return scan.crop([int(a) for a in start], [int(b) for b in stop])
