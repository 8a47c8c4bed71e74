"""`register_slices`: two stacks registered slice by slice, each slice a 2-D image of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import (
    Cancelled,
    GeometryError,
    Grid,
    Image,
    PlanError,
    Progress,
    ProgressCallback,
    RegistaError,
    RunRecord,
    Status,
    get_threads,
    peak_memory_bytes,
    silent,
    software_versions,
    threads,
)
from regista.evaluation import image_measures
from regista.registration._batch import described, failed, gist, status_of
from regista.registration._channels import Channels, trained_metrics
from regista.registration._inputs import ConstantImageError, check_mask, prepare
from regista.registration._motion_measures import (
    Table,
    displacements,
    parameter_names,
    rigid_parameters,
)
from regista.registration._plan import Plan
from regista.registration._plan_file import load_plan, plan_to_dict
from regista.registration._register import register
from regista.transforms import Affine, Fill, Transform, fill_value, resample

LARGEST_TILT_DEG = 1.0
"""Angle between the planes of both stacks beyond which slices are no images of one plane."""


@dataclass(frozen=True, eq=False)
class SlicesResult:
    """Outcome of `register_slices` for stacks of N slices.

    Parameters
    ----------
    transforms : tuple of Transform
        For each slice the 2-D point map fixed → moving, mm of the plane (see `register_slices`).
    warped : Image
        The moving stack on the grid of the fixed one, each slice sampled once; float32.
    measures : mapping of str to (N,) ndarray
        ``ncc_before``, ``ncc_after`` and ``mi_before``, ``mi_after``: correlation coefficient and mutual information
        (nats) where the headers put the slices, and after; ``x_mm``, ``y_mm``, ``z_deg``: shift of the slice's centre and
        turn about it; ``mean_mm``, ``rms_mm``, ``max_mm``: distances between a pixel and its place in the moving slice;
        ``folded_percent``, ``smallest_jacobian``: of the map that bends (0 and 1 where none does).
    record : RunRecord
        How it went; ``record.measures['slices']`` has an entry for each slice.
    """

    transforms: tuple[Transform, ...]
    warped: Image
    measures: dict[str, Table]
    record: RunRecord

    @cached_property
    def table(self) -> dict[str, NDArray[Any]]:
        """All numbers by the names of their columns, a row for each slice."""
        return {"slice": np.arange(len(self.transforms)), **self.measures}


def register_slices(
    fixed: Image,
    moving: Image,
    plan: Plan | str = "2d",
    *,
    axis: int | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: ProgressCallback = silent,
    non_finite: str = "error",
    fill: Fill = "auto",
) -> SlicesResult:
    """Register every slice of `moving` to the slice of `fixed` of the same number, on its own.

    Parameters
    ----------
    fixed, moving : Image
        Stacks of as many slices: both 3-D, scalar or with channels; or both series of 2-D images.
    plan : Plan or str
        How one slice is registered; a name means a preset.
    axis : int, optional
        Array axis across the slices of 3-D stacks, 0 to 2 (default: the last).
    fixed_mask, moving_mask : Image, optional
        On the grid of their stack; pixels at 0 are not compared.
    threads : int, optional
        Number of threads (default: `regista.core.get_threads`).
    seed : int
        As for `register`.
    progress : callable
        Gets a `Progress` after every step; may raise `Cancelled`.
    non_finite : {'error', 'mask'}
        Refuse NaN and Inf, or leave such pixels out.
    fill : float or {'auto', 'min', 'edge'}
        What the warped stack holds where a moving slice does not reach; see `regista.transforms.resample`.

    Returns
    -------
    SlicesResult
        ``record.status.ok`` tells whether to use all of it.

    Raises
    ------
    GeometryError
        If the numbers of slices differ, the planes of the stacks are not parallel, a mask does not fit, or no slice has
        anything to align.
    PlanError
        If the plan or the axis cannot be used.
    RegistrationError
        If no slice can be registered: none overlaps its partner, or there is too little memory.

    Notes
    -----
    Slices of 3-D stacks lie in one plane, of which both coordinates run along the two world axes nearest to it; those
    of axial slices are the world's x and y. Positions across the slices play no part: the number of a slice says what
    it belongs to. Slices that are constant in either image (or its mask) are left where the headers put them, and
    the record warns of them. So are slices that cannot be registered, as they do not overlap: their status is 'error', the
    reason stands in ``record.measures['slices']``, and the other slices go on.

    Examples
    --------
    >>> blob = np.exp(-((np.indices((24, 24)) - 11.5) ** 2).sum(0) / 30).astype(np.float32)
    >>> fixed = Image(np.stack([blob, blob], -1), Grid((24, 24, 2), np.eye(4)))
    >>> moving = fixed.with_data(np.stack([blob, np.roll(blob, 2, axis=0)], -1))
    >>> found = register_slices(fixed, moving, "translation")
    >>> (found.table["x_mm"].round(1) + 0.0).tolist()
    [0.0, 2.0]
    """
    with _threads(threads):
        loaded = load_plan(plan) if isinstance(plan, str) else plan
        masks = fixed_mask, moving_mask
        return _Run(fixed, moving, loaded, axis, masks, seed, progress, non_finite, fill).result()


_threads = threads


@dataclass
class _Run:
    fixed: Image
    moving: Image
    plan: Plan
    axis: int | None
    masks: tuple[Image | None, Image | None]
    seed: int
    progress: ProgressCallback
    non_finite: str
    fill: Fill
    timings: dict[str, float] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)
    entries: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)
    errors: dict[int, RegistaError] = field(default_factory=dict)

    def result(self) -> SlicesResult:
        began = time.perf_counter()
        pairs, masks = self._pairs()
        empty = [n for n, pair in enumerate(pairs) if not self._has_content(n, pair, masks[n])]
        if len(empty) == len(pairs):
            raise GeometryError(
                "every slice is constant in one of the images (or inside its mask): there is nothing to align; check the "
                "masks, and the axis across the slices, --axis (in Python axis=)"
            )
        if empty:
            named = ", ".join(map(str, empty))
            self.warnings[
                f"slices constant in one of the images (or its mask) are left in place: {named}"
            ] = None
        self.outside: Fill = "edge" if self.fill == "edge" else fill_value(self.moving, self.fill)
        self._time("prepare", began)
        transforms, warped = [], []
        for number, pair in enumerate(pairs):
            if number in empty:
                found, image = self._left(pair, None, {"status": Status.CONVERGED, "constant": True})
            else:
                found, image = self._registered(number, pair, masks[number], len(pairs))
            transforms.append(found)
            warped.append(image.data)
        if len(self.errors) == len(pairs) - len(empty):
            number, error = next(iter(self.errors.items()))
            raise type(error)(
                f"no slice could be registered; slice {number} of the stacks: {error}"
            ) from error
        self._time("registration", began)
        names = list(self.rows[0])
        table = {name: np.array([row[name] for row in self.rows]) for name in names}
        return SlicesResult(tuple(transforms), self._stacked(warped), table, self._record(empty))

    def _pairs(self) -> tuple[list[tuple[Image, Image]], list[tuple[Image | None, Image | None]]]:
        """Return the slices of both stacks, side by side, and those of the masks."""
        axis = check_stacks(self.fixed, self.moving, self.axis)
        frame = np.eye(2, 3) if axis is None else plane_of(self.fixed.grid, axis)
        sides = [slices_of(image, axis, frame) for image in (self.fixed, self.moving)]
        masks: list[list[Image | None]] = []
        for role, mask, image, own in zip(
            ("fixed", "moving"), self.masks, (self.fixed, self.moving), sides, strict=True
        ):
            if mask is None:
                masks.append([None] * len(own))
                continue
            check_mask(mask, image, role)
            shared = axis is None  # one mask for all frames of a series
            masks.append([mask] * len(own) if shared else list(slices_of(mask, axis, frame)))
        return list(zip(*sides, strict=True)), list(zip(*masks, strict=True))

    def _has_content(
        self, number: int, pair: tuple[Image, Image], masks: tuple[Image | None, Image | None]
    ) -> bool:
        averaged = Channels.of(*pair).averaged
        for role, image, mask in zip(("fixed", "moving"), pair, masks, strict=True):
            bad = int(np.count_nonzero(~np.isfinite(image.as_float32())))
            if bad and self.non_finite == "error":
                raise GeometryError(
                    f"slice {number} of the {role} stack has {bad} NaN or Inf values; clean it, or treat them as masked "
                    "out: --non-finite mask (in Python non_finite='mask')"
                )
            try:
                prepare(image, mask, self.plan, role, self.non_finite, averaged == role)
            except ConstantImageError:
                return False
            except GeometryError as error:
                raise GeometryError(f"slice {number} of the stacks: {error}") from None
        return True

    def _registered(
        self,
        number: int,
        pair: tuple[Image, Image],
        masks: tuple[Image | None, Image | None],
        total: int,
    ) -> tuple[Transform, Image]:
        fixed, moving = pair

        def report(inner: Progress) -> None:
            share = (number + inner.fraction) / total
            self.progress(replace(inner, stage=f"slice {number} {inner.stage}", fraction=share))

        try:
            found = register(
                fixed,
                moving,
                self.plan,
                fixed_mask=masks[0],
                moving_mask=masks[1],
                seed=self.seed,
                progress=report,
                non_finite=self.non_finite,
                fill=self.outside,
            )
        except (Cancelled, PlanError):  # the plan is one for all slices
            raise
        except RegistaError as error:
            self.errors[number] = error
            return self._left(pair, masks[0], {"status": Status.ERROR, "error": str(error)})
        self.entries.append(gist(found.record))
        self.warnings |= dict.fromkeys(found.record.warnings)
        self._measure(pair, masks[0], found.transform, found.warped)
        return found.transform, found.warped

    def _left(
        self, pair: tuple[Image, Image], mask: Image | None, entry: dict[str, Any]
    ) -> tuple[Transform, Image]:
        """Return a slice that cannot be registered as it lies."""
        fixed, moving = pair
        still = Affine.identity(2, fixed.space, moving.space)
        warped = resample(moving, fixed.grid, still, fill=self.outside, dtype=np.float32)
        self.entries.append({"steps": 0, "value": None, **entry})
        self._measure(pair, mask, still, warped)
        return still, warped

    def _measure(
        self, pair: tuple[Image, Image], mask: Image | None, transform: Transform, warped: Image
    ) -> None:
        began = time.perf_counter()
        fixed, moving = pair
        still = Affine.identity(2, fixed.space, moving.space)
        before = resample(moving, fixed.grid, still, fill=self.outside, dtype=np.float32)
        here = None if mask is None or not np.any(mask.as_float32() > 0) else mask
        row: dict[str, float] = {}
        for when, image in (("before", before), ("after", warped)):
            row |= {f"{name}_{when}": value for name, value in _likeness(fixed, image, here).items()}
        row = dict(sorted(row.items(), key=lambda item: item[0].startswith("mi")))
        row |= dict(zip(parameter_names(2), rigid_parameters([transform], fixed.grid)[0], strict=True))
        moved = displacements([transform], fixed.grid, here)
        row |= {"mean_mm": moved.mean_mm[0], "rms_mm": moved.rms_mm[0], "max_mm": moved.max_mm[0]}
        last = self.entries[-1]
        row["folded_percent"] = last.get("folded_percent", 0.0)
        row["smallest_jacobian"] = last.get("smallest_jacobian", 1.0)
        self.rows.append(row)
        self._time("measures", began)

    def _stacked(self, slices: list[NDArray[Any]]) -> Image:
        kind = self.moving.kind
        lead = 0 if kind == "series" else slices[0].ndim - 2 + check_axis(self.fixed, self.axis)
        data = np.ascontiguousarray(np.stack(slices, axis=lead), np.float32)
        seconds = self.moving.frame_seconds
        return Image(data, self.fixed.grid, kind, self.fixed.space, seconds)

    def _record(self, empty: list[int]) -> RunRecord:
        roles = ("fixed_mask", "moving_mask")
        return RunRecord(
            status=status_of(self.entries),
            timings=dict(self.timings),
            plan=plan_to_dict(self.plan),
            versions=software_versions(),
            seed=self.seed,
            threads=get_threads(),
            inputs=described(
                {"fixed": self.fixed, "moving": self.moving, **dict(zip(roles, self.masks, strict=True))}
            ),
            measures={
                "axis": None if self.fixed.kind == "series" else check_axis(self.fixed, self.axis),
                "fill": self.outside,
                "failed": failed(self.entries),
                "constant": empty,
                "slices": self.entries,
                **trained_metrics(self.plan),
            },
            warnings=tuple(self.warnings),
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _time(self, name: str, began: float) -> None:
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - began


def _likeness(fixed: Image, warped: Image, mask: Image | None) -> dict[str, float]:
    """Return what the table tells of two slices; NaN where no pixel is finite in both."""
    lead = tuple(range(fixed.data.ndim - 2))
    known = np.isfinite(fixed.as_float32()).all(axis=lead) & np.isfinite(warped.as_float32()).all(axis=lead)
    if mask is not None:
        known &= mask.as_float32() > 0
    if not known.any():
        return {"ncc": np.nan, "mi": np.nan}
    found = image_measures(fixed, warped, mask=mask)
    return {"ncc": float(found.ncc), "mi": float(found.mi)}


def check_axis(image: Image, axis: int | None) -> int:
    """Return the array axis across the slices of a 3-D stack."""
    if axis is None:
        return 2
    if isinstance(axis, bool) or not isinstance(axis, int) or not 0 <= axis <= 2:
        raise PlanError(f"the axis across the slices is 0, 1 or 2, got {axis!r}")
    if image.kind == "series":
        raise PlanError(
            "a series of 2-D images is a stack in time and has no other axis across its slices: leave the axis out"
        )
    return axis


def check_stacks(fixed: Image, moving: Image, axis: int | None) -> int | None:
    """Refuse what are no two stacks of as many slices; return the axis across them, None for a series."""
    for role, image in (("fixed", fixed), ("moving", moving)):
        if not isinstance(image, Image):
            raise GeometryError(
                f"the {role} stack must be a regista.Image (see regista.read), got {type(image)}"
            )
        if (image.ndim == 3) == (image.kind == "series"):
            raise GeometryError(
                f"the {role} image is a {image.ndim}-D {image.kind} image, expected a stack of slices: a 3-D image, or a "
                "series of 2-D images"
            )
    if fixed.ndim != moving.ndim:
        raise GeometryError(
            "one stack is a 3-D image, the other a series of 2-D images; store both in the same way"
        )
    across = check_axis(fixed, axis)
    if fixed.kind == "series":
        counts = len(fixed.data), len(moving.data)
    else:
        counts = fixed.grid.shape[across], moving.grid.shape[across]
    if counts[0] != counts[1]:
        what = "of the series" if fixed.kind == "series" else f"along array axis {across}"
        raise GeometryError(
            f"the fixed stack has {counts[0]} slices and the moving one {counts[1]} {what}; slice N is registered to slice "
            "N, so that both need as many: leave out those without a partner, or choose another axis, --axis "
            "(in Python axis=)"
        )
    if fixed.kind == "series":
        return None
    here, there = (_normal(image.grid, across) for image in (fixed, moving))
    if abs(here @ there) < np.cos(np.radians(LARGEST_TILT_DEG)):
        angle = float(np.degrees(np.arccos(np.clip(abs(here @ there), 0, 1))))
        raise GeometryError(
            f"the slices of the stacks lie in planes {angle:.1f}° apart, at most {LARGEST_TILT_DEG:g}° is allowed; slices "
            "of different orientation are no images of one plane: reorient or resample one stack, or choose another "
            "axis, --axis (in Python axis=)"
        )
    if here @ there < 0:
        raise GeometryError(
            "by their headers the stacks count their slices in opposite directions, so that slices of the same number are "
            "not the same places; store both in one orientation first: regista preprocess STACK --step "
            f"reorient:orientation={fixed.grid.orientation} -o OUT"
        )
    return across


def _normal(grid: Grid, axis: int) -> NDArray[np.float64]:
    """Return the unit vector across the slices, on the side to which their numbers rise."""
    one, other = (grid.grid2world[:3, a] for a in range(3) if a != axis)
    normal = np.cross(one, other)
    normal *= np.sign(normal @ grid.grid2world[:3, axis])
    return np.asarray(normal / np.linalg.norm(normal))


def plane_of(grid: Grid, axis: int) -> NDArray[np.float64]:
    """Return two orthonormal directions ``(2, 3)`` of the slices' plane, along the world axes nearest to it."""
    normal = _normal(grid, axis)
    across = int(np.abs(normal).argmax())
    first, second = (np.eye(3)[a] for a in range(3) if a != across)
    first = first - (first @ normal) * normal
    first /= np.linalg.norm(first)
    second = second - (second @ normal) * normal - (second @ first) * first
    return np.stack([first, second / np.linalg.norm(second)]) + 0.0


def slices_of(image: Image, axis: int | None, frame: NDArray[np.float64]) -> list[Image]:
    """Return the slices of a stack as 2-D images, in mm along the two directions of a plane; frames of a series."""
    if axis is None:
        return image.frames()
    lead = 1 if image.kind == "channels" else 0
    rest = [a for a in range(3) if a != axis]
    shape = (image.grid.shape[rest[0]], image.grid.shape[rest[1]])
    found = []
    for number in range(image.grid.shape[axis]):
        matrix = np.eye(3)
        matrix[:2, :2] = frame @ image.grid.grid2world[:3, rest]
        origin = image.grid.grid2world[:3, 3] + number * image.grid.grid2world[:3, axis]
        matrix[:2, 2] = frame @ origin
        data = np.ascontiguousarray(np.take(image.data, number, axis=lead + axis))
        found.append(image.with_data(data, grid=Grid(shape, matrix)))
    return found
