"""What a dense stage minimizes on one level: the dissimilarity as a function of displacement fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from regista.kernels.cpu.intensity import add_weighted
from regista.kernels.cpu.rows import all_rows, ranges_of, rows_of
from regista.kernels.cpu.update import resist
from regista.kernels.cpu.warp import warp_gradient
from regista.registration._guide_terms import GuideTerm
from regista.registration._levels import (
    Level,
    Matrix,
    Scan,
    Volume,
    Warper,
    check_overlap,
    check_sight,
)
from regista.regularization import Incompressibility, LocalRigidity, Penalty
from regista.similarity import PreparedChannels, Similarity, exchanged, prepare_channels

_SURROUND = 1e-3
"""Intensity difference (of the range 0 … 1) from the corner voxel that still counts as surround."""
_ROOM = 4
"""Voxels of a level around the content, besides the reach of the smoothing, that take part: an update must
have died away where the field is left alone, or it tears there."""
REGIONAL = (LocalRigidity, Incompressibility)
"""Penalties that hold in a region, where one is given."""
_IDENTITY = np.eye(4)[:3]


class LevelCost:
    """Dissimilarity of a level, and the ways solvers ask for it.

    Parameters
    ----------
    level : Level
        Both images, with equally many channels or with all that the metric names.
    similarity : Similarity
        Metric.
    fixed2moving : (4, 4) float64 ndarray
        Linear map that follows the displacement on the fixed grid.
    symmetric_force : bool
        Whether forces use the mean gradient of both images, where the metric can.
    penalties : sequence of Penalty
        What is added to the dissimilarity; regional ones hold in the fixed scan's `region`. Where a force is asked
        for on other fields than the fixed image's (half of a map, the exchanged problem), they hold there as they are.
    guides : sequence of GuideTerm
        What else is added: from data besides the images.
    """

    def __init__(
        self,
        level: Level,
        similarity: Similarity,
        fixed2moving: Matrix,
        symmetric_force: bool = True,
        penalties: Sequence[Penalty] = (),
        guides: Sequence[GuideTerm] = (),
    ) -> None:
        self._level, self._similarity, self._symmetric = level, similarity, symmetric_force
        self._warper = Warper(level)
        fixed = level.fixed
        self._metric = prepare_channels(similarity, fixed.channels, fixed.weight, fixed.hides)
        self._affine = level.voxel_map(fixed2moving)
        self._guides, self._fixed2moving = tuple(guides), fixed2moving
        spacing = level.fixed.spacing
        # steepest descent in mm: a voxel that is long in one axis moves fewer voxels along it
        in_use = np.array(level.fixed.grid.shape) > 1
        self.axis_scale = np.where(in_use, (spacing[in_use].min() / spacing) ** 2, 0).astype(np.float32)
        self._terms = tuple(penalties)
        self._penalties = [
            one.prepare(level.fixed.grid, level.fixed.region if isinstance(one, REGIONAL) else None)
            for one in penalties
        ]
        self._gradients: list[Volume] = []
        self._partial: Volume | None = None
        self._stiffness: Volume | None = None
        self._pulls: tuple[Volume, Volume] | None = None
        self._rows: NDArray[np.int32] | None = None
        self._active: NDArray[np.bool_] | None = None
        self._exchanged: LevelCost | None = None
        self._halves: tuple[Warper, Warper] | None = None
        self._both: tuple[PreparedChannels, PreparedChannels] | None = None

    def begin(self, fields: Sequence[Volume], reach: int) -> NDArray[np.int32]:
        """Check that the images overlap under a solver's fields, and return the rows where anything is to be done.

        They are where either image, in any channel, differs from its surround, with room for it to move
        and for filters that reach `reach` voxels; with guides, which may pull anywhere, all.
        """
        level = self._level
        self.check(fields)
        warped, _ = self._warper(self._affine, fields[-1])
        each = [ranges_of(channel, channel.flat[0], _SURROUND) for channel in level.fixed.channels]
        pairs = zip(warped, level.moving.channels, strict=True)
        each += [ranges_of(there, moving.flat[0], _SURROUND) for there, moving in pairs]
        first, last = zip(*each, strict=True)
        ranges = np.stack([np.minimum.reduce(first), np.maximum.reduce(last)])
        reach, depth = max(reach, self._metric.reach_vox), np.arange(level.fixed.data.shape[2])
        rows = rows_of(ranges, len(depth), reach + _ROOM, max(reach, _ROOM))
        self._rows = rows = all_rows(level.fixed.data.shape) if self._guides else rows
        self._active = (
            (depth >= rows[0, ..., None]) & (depth < rows[1, ..., None]) if self._penalties else None
        )
        return rows

    def check(self, fields: Sequence[Volume]) -> None:
        """Refuse to begin where nothing can be compared under the fields of a solver: a map, or both halves of one."""
        if len(fields) == 1:
            weight = self._warper(self._affine, fields[0])[1]
        else:
            one, other = self._middle(*fields)
            weight = one(_IDENTITY, fields[0])[1] * other(self._affine, fields[1])[1]
        check_overlap(weight, self._level)
        check_sight(self._metric, weight, self._level)

    def _middle(self, to_fixed: Volume, to_moving: Volume) -> tuple[Warper, Warper]:
        """Return what pulls the fixed and the moving image to the grid halfway."""
        if self._halves is None:
            level = self._level
            middle = Scan(level.fixed.data, level.fixed.grid)  # no weights of its own
            self._halves = (
                Warper(replace(level, fixed=middle, moving=level.fixed)),
                Warper(replace(level, fixed=middle)),
            )
            # everywhere once: filters read beyond the rows
            self._halves[0](_IDENTITY, to_fixed), self._halves[1](self._affine, to_moving)
        return self._halves

    def force(self, field: Volume, scratch: Volume, out: Volume) -> float:
        """Return the value at a field and write the descent force on a compositive update."""
        warped, weight = self._warper(self._affine, field, self._rows)
        arguments = (weight, self.axis_scale, self._symmetric, scratch)
        value = self._metric.force(warped, *arguments, out, self._rows)
        return value + self._resist(field, out) + self._pull((field,), (out,))

    def forces(
        self, to_fixed: Volume, to_moving: Volume, scratch: Volume, on_fixed: Volume, on_moving: Volume
    ) -> float:
        """Return the value halfway and write the descent forces on both halves of the map.

        Both images are warped to the grid in the middle; each in turn takes the part of the fixed image.
        """
        halves, hides = self._middle(to_fixed, to_moving), self._level.fixed.hides
        rows = None if hides else self._rows  # windows at the rows' ends weigh what lies beyond
        fixed, fixed_weight = halves[0](_IDENTITY, to_fixed, rows)
        warped, weight = halves[1](self._affine, to_moving, rows)
        np.multiply(weight, fixed_weight, out=weight)
        arguments = (weight, self.axis_scale, self._symmetric, scratch)
        if self._both is None:
            metrics = self._similarity, exchanged(self._similarity)
            ahead, back = (
                prepare_channels(metric, image, weight, hides)
                for metric, image in zip(metrics, (fixed, warped), strict=True)
            )
            self._both = ahead, back
        else:
            ahead, back = self._both
            ahead.rebind(fixed, weight)
            back.rebind(warped, weight)
        value = ahead.force(warped, *arguments, on_moving, self._rows)
        other = back.force(fixed, *arguments, on_fixed, self._rows)
        value = 0.5 * (value + other) + self._pull((to_fixed, to_moving), (on_fixed, on_moving))
        return value + self._resist(to_fixed, on_fixed) + self._resist(to_moving, on_moving)

    def exchanged_force(self, field: Volume, scratch: Volume, out: Volume) -> float:
        """Return the value and write the force where the fixed image is warped to the moving one.

        The moving image takes part as the linear map brings it to the fixed grid.
        """
        return self.exchanged().force(field, scratch, out)

    def exchanged(self) -> LevelCost:
        """Return the cost of the exchanged problem; see `exchanged_force`."""
        if self._exchanged is None:
            level = self._level
            # no fixed mask in the weight here: it comes with the fixed image, wherever that is warped to
            bare = replace(level, fixed=replace(level.fixed, weight=None))
            there, weight = Warper(bare)(self._affine)
            placed = replace(level.fixed.with_channels(there), weight=weight)
            other = replace(level, fixed=placed, moving=level.fixed)
            guides = [one.exchanged(self._fixed2moving) for one in self._guides]
            metric = exchanged(self._similarity)
            self._exchanged = LevelCost(other, metric, np.eye(4), self._symmetric, self._terms, guides)
            self._exchanged._rows, self._exchanged._active = self._rows, self._active
        return self._exchanged

    def value_and_gradient(self, field: Volume, out: Volume) -> float:
        """Return the value at a field and write its derivative by every displacement (in voxels)."""
        moving = self._level.moving
        if not self._gradients:
            self._gradients = [np.empty(field.shape[1:], np.float32) for _ in moving.channels]
            self._partial = np.empty_like(field) if moving.others else None
        warped, weight = self._warper(self._affine, field)
        value = self._metric.value_and_gradient(warped, weight, self._gradients)
        warp_gradient(moving.data, self._affine, field, self._gradients[0], out=out)
        for channel, gradient in zip(moving.others, self._gradients[1:], strict=True):
            add_weighted(
                out, warp_gradient(channel, self._affine, field, gradient, out=self._partial), 1.0, 1.0
            )
        value += sum(one.value_and_gradient(field, out) for one in self._penalties)
        value += sum(one.value_and_gradient(self._fixed2moving, field, out) for one in self._guides)
        out[self.axis_scale == 0] = 0
        return value

    def _resist(self, field: Volume, force: Volume) -> float:
        """Return the penalties' value at a field and take their gradient from a force."""
        if not self._penalties:
            return 0.0
        if self._stiffness is None:
            self._stiffness = np.empty_like(field)
        self._stiffness[...] = 0
        value = sum(one.value_and_gradient(field, self._stiffness) for one in self._penalties)
        self._stiffness *= self.axis_scale[:, None, None, None]
        if self._active is not None:
            self._stiffness[:, ~self._active] = 0
        force -= self._stiffness
        return value

    def _pull(self, fields: tuple[Volume, ...], forces: tuple[Volume, ...]) -> float:
        """Return the guides' value at a field, or at both halves of a map, and add their forces."""
        if not self._guides:
            return 0.0
        if self._pulls is None:
            self._pulls = np.empty_like(fields[0]), np.empty_like(fields[0])
        for gradient in self._pulls[: len(fields)]:
            gradient[...] = 0
        if len(fields) == 2:
            halves = (fields[0], fields[1])
            value = sum(one.halfway(self._fixed2moving, halves, self._pulls) for one in self._guides)
        else:
            value = sum(
                one.value_and_gradient(self._fixed2moving, fields[0], self._pulls[0]) for one in self._guides
            )
        for gradient, field, force in zip(self._pulls, fields, forces, strict=False):
            resist(gradient, field, self.axis_scale, out=force)
        return value
