"""`correct_motion`: the volumes of a series brought onto one of them, or onto their mean."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regista.core import (
    GeometryError,
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
from regista.registration._batch import described, failed, gist, status_of
from regista.registration._channels import trained_metrics
from regista.registration._inputs import check_mask
from regista.registration._motion_measures import (
    Table,
    displacements,
    framewise_displacement,
    last_linear,
    parameter_names,
    rigid_parameters,
)
from regista.registration._plan import Plan
from regista.registration._plan_file import load_plan, plan_to_dict
from regista.registration._register import register
from regista.registration._result import Result
from regista.registration._stages import LinearStage
from regista.transforms import Affine, Fill, Transform, fill_value, resample

Reference = Literal["mean", "median", "first"] | int


@dataclass(frozen=True, eq=False)
class MotionResult:
    """Outcome of `correct_motion` for a series of T volumes.

    Parameters
    ----------
    transforms : tuple of Transform
        For each volume the point map reference → volume, world mm (what resamples the volume).
    corrected : Image
        The volumes on the grid of the reference, each sampled once, by cubic interpolation; float32.
    reference : Image
        What the volumes were registered to.
    parameters : (T, 6) or, in 2-D, (T, 3) ndarray
        Translations of the centre of the grid, mm along R, A, S, and rotations about it, degrees, about the world's
        x, y and z axes (in 2-D z alone); of the nearest rotation where the model is affine or more.
    framewise_mm : (T,) ndarray
        Framewise displacement; see `framewise_displacement`.
    mean_mm, rms_mm, max_mm : (T,) ndarray
        Mean, root mean square and largest distance between a voxel and its image in the volume, over the mask or
        all voxels.
    rms_step_mm : (T,) ndarray
        The same root mean square between one volume and the one before; 0 for the first.
    record : RunRecord
        How it went; ``record.measures['volumes']`` has an entry for each volume.
    """

    transforms: tuple[Transform, ...]
    corrected: Image
    reference: Image
    parameters: Table
    framewise_mm: Table
    mean_mm: Table
    rms_mm: Table
    max_mm: Table
    rms_step_mm: Table
    record: RunRecord

    @cached_property
    def table(self) -> dict[str, NDArray[Any]]:
        """All numbers by the names of their columns, a row for each volume, and ``time_s`` where TR is known."""
        count, step = len(self.transforms), self.corrected.frame_seconds
        columns: dict[str, NDArray[Any]] = {"volume": np.arange(count)}
        if step is not None:
            columns["time_s"] = np.arange(count) * step
        columns |= dict(zip(parameter_names(self.reference.ndim), self.parameters.T, strict=True))
        for name in ("framewise_mm", "mean_mm", "rms_mm", "max_mm", "rms_step_mm"):
            columns[name] = getattr(self, name)
        return columns


def correct_motion(
    series: Image,
    plan: Plan | str = "motion",
    *,
    reference: Reference = "mean",
    passes: int = 2,
    mask: Image | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: ProgressCallback = silent,
    non_finite: str = "error",
    fill: Fill = "auto",
) -> MotionResult:
    """Bring the volumes of a series onto one of them, or onto their mean.

    Parameters
    ----------
    series : Image
        Of kind 'series': volumes, or slices, of one subject on one grid.
    plan : Plan or str
        How one volume is registered; a name means a preset. Where it searches for a start, that is turned off: a
        volume starts from the result of its neighbour on the reference's side, in a later pass from its own.
    reference : {'mean', 'median', 'first'} or int
        What the volumes are registered to: a volume, counted from 0, or the mean or median of all volumes.
    passes : int
        For 'mean' and 'median', how often all volumes are registered, at least 2: first to the middle volume, then
        to the average of the volumes as corrected by the pass before. A volume as the reference takes one pass.
    mask : Image, optional
        On the grid of the series; voxels of the reference at 0 are not compared, and do not count in distances.
    threads : int, optional
        Number of threads (default: `regista.core.get_threads`).
    seed : int
        Recorded; the present stages draw no random numbers.
    progress : callable
        Gets a `Progress` after every step; may raise `Cancelled`.
    non_finite : {'error', 'mask'}
        Refuse NaN and Inf, or leave such voxels out.
    fill : float or {'auto', 'min', 'edge'}
        What a corrected volume holds where its own does not reach; see `regista.transforms.resample`.

    Returns
    -------
    MotionResult
        ``record.status.ok`` tells whether to use it.

    Raises
    ------
    GeometryError
        If it is not a series of two volumes or more, a volume is constant or not finite, or the mask does not fit.
    PlanError
        If the reference, the number of passes or the plan cannot be used.
    RegistrationError
        If a volume does not overlap the reference, or there is too little memory.

    Notes
    -----
    Where volumes do not reach, they do not count in the average. Slices are not moved against each other: motion
    within a volume, and the time at which each slice was taken, are not modelled.

    Examples
    --------
    >>> from regista.core import Grid
    >>> blob = np.exp(-((np.indices((24, 24)) - 11.5) ** 2).sum(0) / 30).astype(np.float32)
    >>> series = Image(np.stack([blob, np.roll(blob, 1, axis=0)]), Grid(blob.shape, np.eye(3)), "series")
    >>> found = correct_motion(series, "translation", reference="first")
    >>> (found.parameters.round(1) + 0.0).tolist()
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    with _threads(threads):
        loaded = load_plan(plan) if isinstance(plan, str) else plan
        loaded = replace(loaded, start=replace(loaded.start, search="none"))
        return _Run(series, loaded, reference, passes, mask, seed, progress, non_finite, fill).result()


_threads = threads


@dataclass
class _Run:
    series: Image
    plan: Plan
    asked: Reference
    passes: int
    mask: Image | None
    seed: int
    progress: ProgressCallback
    non_finite: str
    fill: Fill
    timings: dict[str, float] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)
    volumes: list[dict[str, Any]] = field(default_factory=list)
    _done: int = 0

    def result(self) -> MotionResult:
        began = time.perf_counter()
        self._check()
        anchor = self._anchor()
        self.frames = self.series.frames()
        self.outside: Fill = "edge" if self.fill == "edge" else fill_value(self.series, self.fill)
        self.volumes = [{} for _ in self.frames]
        self.transforms: list[Transform] = [self._identity() for _ in self.frames]
        self.reference = self.frames[anchor].with_data(self.frames[anchor].as_float32())
        self._time("prepare", began)
        self._first_pass(anchor)
        for number in range(2, self._passes + 1):
            self._average(number)
            self._later_pass(number)
        corrected = self._corrected()
        now = time.perf_counter()
        parameters = rigid_parameters(self.transforms, self.series.grid)
        distances = displacements(self.transforms, self.series.grid, self.mask)
        self._time("measures", now)
        self._time("registration", began)
        return MotionResult(
            tuple(self.transforms),
            corrected,
            self.reference,
            parameters,
            framewise_displacement(parameters),
            *(distances.mean_mm, distances.rms_mm, distances.max_mm, distances.rms_step_mm),
            record=self._record(),
        )

    def _check(self) -> None:
        check_series(self.series)
        if self.non_finite not in ("error", "mask"):
            raise PlanError(f"non_finite is 'error' or 'mask', got {self.non_finite!r}")
        if self.mask is not None:
            self.mask = check_mask(self.mask, self.series, "series")
        _check_reference(self.asked, len(self.series.data))
        if not isinstance(self.passes, int) or self.passes < 1 + self._averages:
            least = f"at least {1 + self._averages}"
            why = f", as the {self.asked} is that of corrected volumes" if self._averages else ""
            raise PlanError(f"passes is a whole number of {least}{why}; got {self.passes!r}")
        for number, frame in enumerate(self.series.data):
            finite = np.isfinite(frame)
            bad = int(frame.size - np.count_nonzero(finite))
            if bad and self.non_finite == "error":
                raise GeometryError(
                    f"volume {number} has {bad} NaN or Inf voxels ({100 * bad / frame.size:.3g} %); clean the series, "
                    "or treat them as masked out: --non-finite mask (in Python non_finite='mask')"
                )
            values = frame[finite] if bad else frame
            if values.size == 0 or values.min() == values.max():
                raise GeometryError(
                    f"volume {number} of the series is constant: there is nothing to align; leave it out"
                )

    @property
    def _averages(self) -> bool:
        return self.asked in ("mean", "median")

    @property
    def _passes(self) -> int:
        return self.passes if self._averages else 1

    def _anchor(self) -> int:
        """Return the volume that all are registered to first."""
        if self.asked == "first":
            return 0
        return len(self.series.data) // 2 if isinstance(self.asked, str) else int(self.asked)

    def _identity(self) -> Affine:
        return Affine.identity(self.series.ndim, self.series.space, self.series.space)

    def _first_pass(self, anchor: int) -> None:
        began = time.perf_counter()
        self.volumes[anchor] = {"status": Status.CONVERGED, "steps": 0, "value": None}
        self._done = 1  # the anchor itself
        for path in (range(anchor + 1, len(self.frames)), range(anchor - 1, -1, -1)):
            start: Transform = self._identity()
            for number in path:
                found = self._registered(number, start)
                if found.record.status.ok:  # otherwise the next one starts where this one did
                    start = self._start_from(found.transform)
        self._time("pass 1", began)

    def _later_pass(self, number: int) -> None:
        began = time.perf_counter()
        for volume, transform in enumerate(self.transforms):
            self._registered(volume, self._start_from(transform))
        self._time(f"pass {number}", began)

    def _start_from(self, transform: Transform) -> Transform:
        """Return what can be given to the plan as a start: linear stages refine linear maps alone."""
        if any(isinstance(stage, LinearStage) for stage in self.plan.stages):
            return replace(last_linear(transform), **dict.fromkeys(_SPACES, self.series.space))
        return transform

    def _registered(self, volume: int, start: Transform) -> Result:
        total = self._passes * len(self.frames)

        def report(inner: Progress) -> None:
            share = (self._done + inner.fraction) / total
            self.progress(replace(inner, stage=f"volume {volume} {inner.stage}", fraction=share))

        try:
            found = register(
                self.reference,
                self.frames[volume],
                self.plan,
                initial=start,
                fixed_mask=self.mask,
                seed=self.seed,
                progress=report,
                non_finite=self.non_finite,
                fill=self.outside,
            )
        except RegistaError as error:
            raise type(error)(f"volume {volume} of the series: {error}") from error
        self._done += 1
        self.transforms[volume] = found.transform
        self.volumes[volume] = gist(found.record)
        self.warnings |= dict.fromkeys(found.record.warnings)
        return found

    def _average(self, number: int) -> None:
        """Make the average of the corrected volumes the reference, each counted only where it reaches."""
        began = time.perf_counter()
        stack = np.stack([volume.data for volume in self._resampled()])
        ones = Image(np.ones(self.series.grid.shape, np.uint8), self.series.grid, space=self.series.space)
        for data, transform in zip(stack, self.transforms, strict=True):
            reached = (
                resample(ones, self.reference, transform, interpolation="nearest", fill=0).as_float32() > 0
            )
            data[~(reached & np.isfinite(data))] = np.nan
        known = np.isfinite(stack).any(axis=0)
        average = np.nanmean if self.asked == "mean" else np.nanmedian
        values = self.reference.as_float32().copy()
        values[known] = average(stack[:, known], axis=0)
        self.reference = self.reference.with_data(values)
        self._time(f"average {number - 1}", began)

    def _corrected(self) -> Image:
        began = time.perf_counter()
        data = np.stack([volume.data for volume in self._resampled()])
        corrected = self.series.with_data(data)
        self._time("resampling", began)
        return corrected

    def _resampled(self) -> Iterator[Image]:
        for frame, transform in zip(self.frames, self.transforms, strict=True):
            yield resample(
                frame,
                self.reference,
                transform,
                interpolation="cubic",
                fill=self.outside,
                dtype=np.float32,
            )

    def _record(self) -> RunRecord:
        return RunRecord(
            status=status_of(self.volumes),
            timings=dict(self.timings),
            plan=plan_to_dict(self.plan),
            versions=software_versions(),
            seed=self.seed,
            threads=get_threads(),
            inputs=described({"series": self.series, "mask": self.mask}),
            measures={
                "reference": self.asked,
                "passes": self._passes,
                "fill": self.outside,
                "frame_seconds": self.series.frame_seconds,
                "failed": failed(self.volumes),
                "volumes": self.volumes,
                **trained_metrics(self.plan),
            },
            warnings=tuple(self.warnings),
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _time(self, name: str, began: float) -> None:
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - began


_SPACES = ("fixed_space", "moving_space")


def check_series(series: Image) -> None:
    """Refuse what is no series of two volumes or more."""
    if not isinstance(series, Image):
        raise GeometryError(f"the series must be a regista.Image (see regista.read), got {type(series)}")
    if series.kind != "series":
        raise GeometryError(
            f"motion is corrected in a series of volumes in time; got a {series.ndim}-D {series.kind} image. Two "
            "images are aligned by `regista register`"
        )
    if len(series.data) < 2:
        raise GeometryError(f"a series has two volumes or more, got {len(series.data)}: nothing can move")


def _check_reference(asked: Reference, count: int) -> None:
    words = ("mean", "median", "first")
    whole = isinstance(asked, int | np.integer) and not isinstance(asked, bool)
    if asked in words or (whole and 0 <= int(asked) < count):
        return
    raise PlanError(
        f"the reference is 'mean', 'median', 'first' or the number of a volume, 0 to {count - 1}; got {asked!r}"
    )
