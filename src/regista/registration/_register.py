"""`register`: the one verb."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from regista.core import (
    GeometryError,
    Grid,
    Image,
    LevelHistory,
    Progress,
    ProgressCallback,
    RunRecord,
    Status,
    get_threads,
    hash_array,
    peak_memory_bytes,
    silent,
    software_versions,
    threads,
)
from regista.registration._bases import base_from, linear_of, parts_of, planar, product_of, to_voxels
from regista.registration._channels import Channels, check_metrics, flat_warning, trained_metrics
from regista.registration._control_points import fit_control_points
from regista.registration._convex import run_convex
from regista.registration._deformable import (
    Base,
    VoxelField,
    check_levels_of,
    kept_warning,
    run_deformable,
    voxel_sizes,
    without_folds,
)
from regista.registration._guide_terms import Guidance
from regista.registration._guides import Guide, check_guides, recorded_inputs
from regista.registration._halfway import Halfway, inverse_of, largest_gap_mm, mean_map
from regista.registration._initial import find_mutual_start, find_start
from regista.registration._inputs import (
    canonical,
    check_mask,
    check_memory,
    check_pair,
    check_priors,
    check_region,
    guides_warning,
    hide,
    masks_warning,
    overlap_warning,
    plane,
    prepare,
    region_on,
    unused_warnings,
)
from regista.registration._levels import Level, Matrix, Scan
from regista.registration._linear import content_center_mm, rigid_part, run_linear
from regista.registration._outcome import Found, flow_of, maps_both_ways
from regista.registration._pair_cost import loop_error_mm
from regista.registration._plan import Plan
from regista.registration._plan_file import load_plan, plan_to_dict
from regista.registration._result import MAX_FOLDED_PERCENT, Result
from regista.registration._stages import (
    ConvexStage,
    DenseStage,
    FreeFormStage,
    IterativeStage,
    LinearStage,
    VelocityStage,
)
from regista.transforms import (
    Affine,
    BSplineField,
    Composite,
    Fill,
    Transform,
    check_direction,
    fill_value,
    resample,
)

_RIGID_GAP, _AFFINE_GAP = 2.0, 10.0
"""Voxels by which the linear maps of either direction may differ at the grid's corners before a warning says so."""


def register(
    fixed: Image,
    moving: Image,
    plan: Plan | str = "brain-t1",
    *,
    initial: Transform | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    region: Image | None = None,
    guides: Sequence[Guide] = (),
    threads: int | None = None,
    seed: int = 0,
    progress: ProgressCallback = silent,
    non_finite: str = "error",
    fill: Fill = "auto",
) -> Result:
    """Find the transform that brings `moving` onto `fixed`.

    Parameters
    ----------
    fixed, moving : Image
        Scalar or multi-channel images, both 2-D or both 3-D. Channel is compared with channel (see
        `regista.core.stack_channels`); where one image has a single one, the other's are averaged.
    plan : Plan or str
        What to do; a name means a preset (see `regista.registration.list_presets`).
    initial : Transform, optional
        Point map fixed → moving to start from; the search for a start is then left out. A displacement
        field in it is refined by deformable stages and cannot be refined by linear ones.
    fixed_mask, moving_mask : Image, optional
        On the grid of their image; voxels at 0 are not compared. Whole numbers above 0 all count alike; values between
        0 and 1 are weights.
    region : Image, optional
        Where penalties such as ``local-rigidity`` hold, on the grid of the fixed image: all voxels above 0 alike.
    guides : sequence of LabelGuide, LandmarkGuide or SurfaceGuide
        What is known besides intensities; joins the cost of all linear and dense stages but demons and 'convex'.
    threads : int, optional
        Number of threads (default: `regista.core.get_threads`).
    seed : int
        Of the voxels that ``optimizer="asgd"`` draws; recorded. Nothing else is random.
    progress : callable
        Gets a `Progress` after every step; may raise `Cancelled`.
    non_finite : {'error', 'mask'}
        Refuse NaN and Inf, or leave such voxels out.
    fill : float or {'auto', 'min', 'edge'}
        What the warped image holds outside the moving one; see `regista.transforms.resample`.

    Returns
    -------
    Result
        Transform, inverse, warped image and record. ``record.status.ok`` tells whether to use it.

    Raises
    ------
    GeometryError, PlanError
        If the input cannot be registered.
    RegistrationError
        If there is too little memory.

    Examples
    --------
    >>> from regista.core import Grid
    >>> blob = np.exp(-((np.indices((24, 24)) - 11.5) ** 2).sum(0) / 30).astype(np.float32)
    >>> fixed = Image(blob, Grid(blob.shape, np.eye(3)))
    >>> moving = Image(np.roll(blob, 3, axis=0), fixed.grid)
    >>> result = register(fixed, moving, "translation")
    >>> [round(float(v), 1) + 0.0 for v in result.transform.map_points([[0.0, 0.0]])[0]]
    [3.0, 0.0]
    """
    with _threads(threads):
        return _Run(
            fixed,
            moving,
            load_plan(plan) if isinstance(plan, str) else plan,
            initial,
            fixed_mask,
            moving_mask,
            region,
            tuple(guides),
            seed,
            progress,
            non_finite,
            fill,
        ).result()


_threads = threads


@dataclass
class _Run:
    fixed: Image
    moving: Image
    plan: Plan
    initial: Transform | None
    fixed_mask: Image | None
    moving_mask: Image | None
    region: Image | None
    guides: tuple[Guide, ...]
    seed: int
    progress: ProgressCallback
    non_finite: str
    fill: Fill
    timings: dict[str, float] = field(default_factory=dict)
    history: list[LevelHistory] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    measures: dict[str, Any] = field(default_factory=dict)
    _guidance: tuple[Guidance, ...] = ()
    _done: float = 0.0

    def result(self) -> Result:
        began = time.perf_counter()
        fixed, moving = self._scans()
        linear, found = (self._halfway if self.plan.halfway else self._straight)(fixed, moving)
        began_output = time.perf_counter()
        transform, inverse = self._transforms(linear, found)
        warped = resample(self.moving, self.fixed.grid, transform, fill=self.fill, dtype=np.float32)
        warped = replace(warped, grid=self.fixed.grid, space=self.fixed.space, oriented=self.fixed.oriented)
        self._time("inverse and resampling", began_output)
        self._time("registration", began)
        pair = (self.fixed, self.moving)
        return Result(transform, inverse, warped, self._record(), pair, self.fixed_mask)

    def _scans(self) -> tuple[Scan, Scan]:
        began = time.perf_counter()
        check_pair(self.fixed, self.moving, self.non_finite)
        self.measures["fill"] = "edge" if self.fill == "edge" else fill_value(self.moving, self.fill)
        self.warnings += masks_warning(self.plan, self.fixed_mask, self.moving_mask)
        self.warnings += unused_warnings(self.plan)
        region = check_region(self.region, self.fixed, self.plan)
        check_priors(self.plan, self.fixed.ndim)
        self._prepare_guides()
        channels = Channels.of(self.fixed, self.moving)
        channels.check(self.plan, search=self.initial is None)
        check_metrics(self.plan, search=self.initial is None, grid=self.fixed.grid)
        told = channels.measure(self.plan)
        self.measures |= {} if told is None else {"channels": told}
        self.measures |= trained_metrics(self.plan, search=self.initial is None)
        scans = []
        for role, image, mask in (
            ("fixed", self.fixed, self.fixed_mask),
            ("moving", self.moving, self.moving_mask),
        ):
            mask = None if mask is None else check_mask(mask, image, role)
            if self.plan.preprocessing.steps:
                done = self.plan.preprocessing.apply(image, mask)
                # a foreground that a step found is for the steps after it; only a mask that was given masks
                image, mask = done.image, None if mask is None else done.mask
                self.measures.setdefault("preprocessing", {})[role] = dict(done.record)
            image, mask = canonical(image, mask)
            average = channels.averaged == role
            scans.append(prepare(image, mask, self.plan, role, self.non_finite, average))
            self.warnings += flat_warning(scans[-1], role)
            thickness = max(scans[-1].thickness)
            if thickness > 1:
                self.measures["slice_thickness"] = thickness
                self.warnings.append(
                    f"the {role} image has few slices and equal spacing along all axes: its slices count as "
                    f"{thickness:g} voxels thick (plan key slice_thickness); give the header its spacing if you know it"
                )
        self.warnings += channels.warning()
        if region is not None:
            scans[0] = replace(scans[0], region=region_on(region, scans[0].grid))
        check_levels_of(self.plan, scans[0])
        fixed, moving = hide(scans[0], scans[1], self.plan)
        self.measures["predicted_memory_bytes"] = check_memory(fixed, moving, self.plan, len(self.guides))
        self._time("prepare", began)
        return fixed, moving

    def _prepare_guides(self) -> None:
        if not self.guides:
            return
        check_guides(self.guides, self.fixed, self.moving)
        self.warnings += guides_warning(self.plan)
        self.measures["guides"] = [guide.settings() for guide in self.guides]
        self._guidance = tuple(guide.prepare() for guide in self.guides)

    def _start(self, fixed: Scan, moving: Scan) -> tuple[Matrix, Base | None]:
        began = time.perf_counter()
        if self.initial is None:
            warning = overlap_warning(self.fixed, self.moving)
            if warning and self.plan.start.search == "none":
                raise GeometryError(
                    "the images do not overlap in world space and the plan's start.search is 'none'; give an "
                    "initial transform, or set start.search to 'rotations'"
                )
            self.warnings += [warning] if warning else []
            find = find_mutual_start if self.plan.halfway else find_start
            matrix = find(fixed, moving, self.plan.start)
            self._time("start", began)
            return matrix, None
        if self.initial.ndim != self.fixed.ndim:
            raise GeometryError(
                f"the initial transform is {self.initial.ndim}-D, the images are {self.fixed.ndim}-D"
            )
        check_direction(self.initial, self.fixed.space, self.moving.space)
        self.measures["initial_fixed2moving"] = linear_of(self.initial)
        parts = parts_of(self.initial)
        linear = [part for part in parts if isinstance(part, Affine)]
        matrix = product_of(linear)
        if len(linear) == len(parts):
            return matrix, None
        if any(isinstance(stage, LinearStage) for stage in self.plan.stages):
            raise GeometryError(
                "the initial transform holds a displacement field or a spline, which linear stages would undo; use a "
                "plan with deformable stages only (preset 'deformable')"
            )
        return matrix, base_from(self.initial, matrix)

    def _straight(self, fixed: Scan, moving: Scan) -> tuple[Matrix, Found | None]:
        """Run all stages from the fixed to the moving image."""
        matrix, base = self._start(fixed, moving)
        for stage in self.plan.stages:
            if isinstance(stage, LinearStage):
                began = time.perf_counter()
                matrix, history = run_linear(
                    fixed, moving, stage, matrix, self._reporter(stage), self._guidance, self._before()
                )
                self.history += history
                matrix = self._settled(matrix, stage, fixed, moving)
                self._time(stage.model, began)
        found = self._dense_stages(fixed, moving, matrix, base, self._guidance)
        if base is not None and found is not None and all(level.status.ok for level in self.history):
            given = base(fixed.grid)
            change = to_voxels(found.vectors_mm, fixed.grid) - given
            self.warnings += kept_warning(self.plan, given, change)
        return matrix, found

    def _settled(self, matrix: Matrix, stage: LinearStage, fixed: Scan, moving: Scan) -> Matrix:
        """Return a stage's map, or its rigid part where it stretches no more than counts."""
        self.measures.pop("stretch", None)  # of a stage before
        if not stage.least_stretch:
            return matrix
        rigid, stretch = rigid_part(matrix, self._shown_by_both(matrix, fixed, moving))
        left_out = stretch <= stage.least_stretch
        self.measures["stretch"] = {"percent": round(100 * stretch, 3), "left_out": left_out}
        return rigid if left_out else matrix

    def _shown_by_both(self, matrix: Matrix, fixed: Scan, moving: Scan) -> Matrix:
        """Return the middle, mm, of what both images show, or their masks cover: either way round the same place."""
        back = inverse_of(matrix)
        there = back[:3, :3] @ content_center_mm(moving) + back[:3, 3]
        centers = ((fixed, content_center_mm(fixed)), (moving, there))
        masked = [place for scan, place in centers if scan.weight is not None]
        return np.asarray(np.mean(masked or [place for _, place in centers], axis=0))

    def _halfway(self, fixed: Scan, moving: Scan) -> tuple[Matrix, Found | None]:
        """Run linear stages both ways, and the dense one in the space halfway along their mean."""
        matrix, base = self._start(fixed, moving)
        if base is not None:
            raise GeometryError(
                "the plan begins halfway between the images, and the initial transform bends: give a linear one, or a plan "
                "with halfway = false"
            )
        back_guidance, gap = tuple(guide.exchanged().prepare() for guide in self.guides), 0.0
        for stage in self.plan.stages:
            if not isinstance(stage, LinearStage):
                continue
            began = time.perf_counter()
            there, history = run_linear(
                fixed, moving, stage, matrix, self._reporter(stage), self._guidance, self._before()
            )
            away, back_history = run_linear(
                moving, fixed, stage, inverse_of(matrix), lambda *_: None, back_guidance, self._before()
            )
            back = inverse_of(away)
            mean = mean_map(there, back, fixed.grid.center_mm)
            matrix = self._settled(mean, stage, fixed, moving)
            if matrix is not mean:  # what is left out is no matter
                middle = self._shown_by_both(mean, fixed, moving)
                there, back = (rigid_part(one, middle)[0] for one in (there, back))
            gap = largest_gap_mm(there, back, fixed.grid)
            self.history += history
            self.history += [one for one in back_history if one.status is Status.NON_FINITE]
            self._time(stage.model, began)
        rigid = all(
            one.model in ("translation", "rigid") for one in self.plan.stages if isinstance(one, LinearStage)
        )
        # affine maps between two people differ by 5 or 6 mm at the corners of a grid, and their mean is as good
        if gap > (_RIGID_GAP if rigid else _AFFINE_GAP) * fixed.finest_mm:
            self.warnings.append(
                f"the linear maps from either image to the other differ by up to {gap:.2g} mm, and their mean is taken: look "
                "whether it is right; masks, or a start given (--initial), may help"
            )
        half = Halfway.between(matrix, fixed.grid, moving.grid)
        grid = half.grid if self.fixed.ndim == 3 else plane(half.grid)
        self.measures["halfway"] = {"grid": grid.describe(), "linear_gap_mm": gap}
        if not any(isinstance(stage, DenseStage) for stage in self.plan.stages):
            return matrix, None
        guides = [guide.placed(half.to_middle, inverse_of(half.to_moving)) for guide in self.guides]
        # the middle has room for both images: more than was foreseen of the fixed one
        need = check_memory(fixed, moving, self.plan, len(self.guides), half.grid.shape)
        self.measures["predicted_memory_bytes"] = max(need, self.measures["predicted_memory_bytes"])
        scans = half.scans(fixed, moving)
        found = self._dense_stages(*scans, np.eye(4), None, tuple(guide.prepare() for guide in guides))
        assert found is not None
        vectors = half.displacement_mm(found.vectors_mm, fixed.grid)
        field = VoxelField(to_voxels(vectors, fixed.grid), fixed.grid)
        return matrix, self._found(field, None, (), fixed.grid)

    def _dense_stages(
        self, fixed: Scan, moving: Scan, matrix: Matrix, base: Base | None, guidance: tuple[Guidance, ...]
    ) -> Found | None:
        found: Found | None = None
        for stage in self.plan.stages:
            if isinstance(stage, DenseStage):
                began = time.perf_counter()
                if found is not None:
                    base = VoxelField(to_voxels(found.vectors_mm, fixed.grid), fixed.grid).resampled
                run: Any = run_convex if isinstance(stage, ConvexStage) else run_deformable
                more = (guidance, self.seed) if isinstance(stage, IterativeStage) else ()
                field, history = run(
                    fixed, moving, stage, matrix, base, self._reporter(stage), *more, after=self._before()
                )
                self.history += history
                if field.back_vox is not None:
                    self.measures["loop_mean_mm"] = loop_error_mm(
                        field.vectors_vox, field.back_vox, field.grid
                    )
                # a field that the stage began with has no place in its model
                found = self._found(field, stage if base is None else None, history, fixed.grid)
                self._time(stage.model, began)
        return found

    def _before(self) -> str:
        """Return the model of the stage that was done last, if any was."""
        return self.history[-1].stage if self.history else ""

    def _found(
        self, field: VoxelField, stage: DenseStage | None, history: Sequence[LevelHistory], grid: Grid
    ) -> Found:
        """Return a field on the scans' grid, without folds where they are forbidden, and as a model of its stage."""
        mended = field
        if self._forbids_folds():
            mended, changed = without_folds(field, grid)
            self.measures |= {"unfolded_vox": changed} if changed else {}
        vectors = mended.vectors_mm(grid)
        if mended is not field or stage is None or history[-1].status is Status.NON_FINITE:
            return Found(vectors, grid)
        if isinstance(stage, VelocityStage) and field.velocity_vox is not None:
            velocity = VoxelField(field.velocity_vox, field.grid)
            return Found(vectors, grid, flow_of(velocity, grid, stage.squarings, self.fixed.ndim))
        if isinstance(stage, FreeFormStage):
            spacing = stage.control_spacing(history[-1].level, voxel_sizes(field.grid))
            spline, miss = fit_control_points(field, spacing, self.fixed.ndim)
            self.measures["control_points"] = list(spline.grid.shape)
            self.measures["control_points_rms_mm"] = miss
            return Found(vectors, grid, spline)
        return Found(vectors, grid)

    def _transforms(self, matrix: Matrix, found: Found | None) -> tuple[Transform, Transform]:
        affine = Affine(planar(matrix, self.fixed.ndim), self.fixed.space, self.moving.space)
        self.measures["linear_fixed2moving"] = affine.matrix
        if found is None:
            return affine, affine.inverse()
        forward, backward, measures = maps_both_ways(found, self.fixed, self._forbids_folds())
        self.measures |= measures
        if not isinstance(forward, BSplineField):
            for name in ("control_points", "control_points_rms_mm"):
                self.measures.pop(name, None)
        return Composite((forward, affine)), Composite((affine.inverse(), backward))

    def _record(self) -> RunRecord:
        return RunRecord(
            status=self._status(),
            history=tuple(self.history),
            timings=dict(self.timings),
            plan=plan_to_dict(self.plan),
            versions=software_versions(),
            seed=self.seed,
            threads=get_threads(),
            inputs={
                role: {"space": image.space, "grid": image.grid.describe(), "sha256": hash_array(image.data)}
                for role, image in self._inputs().items()
            }
            | recorded_inputs(self.guides),
            measures=dict(self.measures),
            warnings=tuple(self.warnings),
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _inputs(self) -> dict[str, Image]:
        named = {
            "fixed": self.fixed,
            "moving": self.moving,
            "fixed_mask": self.fixed_mask,
            "moving_mask": self.moving_mask,
            "region": self.region,
        }
        return {role: image for role, image in named.items() if image is not None}

    def _status(self) -> Status:
        if any(level.status is Status.NON_FINITE for level in self.history):
            return Status.NON_FINITE
        if self.measures.get("folded_percent", 0.0) > (0.0 if self._forbids_folds() else MAX_FOLDED_PERCENT):
            return Status.FOLDED
        if all(level.status is Status.CONVERGED for level in self.history):
            return Status.CONVERGED
        return Status.STEP_LIMIT

    def _forbids_folds(self) -> bool:
        """Return whether a stage has the penalty against folds, and with it the promise of none."""
        stages = (stage for stage in self.plan.stages if isinstance(stage, IterativeStage))
        return any(stage.forbids_folds for stage in stages)

    def _time(self, name: str, began: float) -> None:
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - began

    def _reporter(self, stage: LinearStage | DenseStage) -> Any:
        """Return a callback that turns a level's step into a `Progress` with the share of all work done."""
        weights = {
            (id(s), n): count / factor**3
            for s in self.plan.stages
            for n, (factor, count) in enumerate(zip(s.shrink, s.steps, strict=True))
        }
        total = sum(weights.values()) or 1.0
        keys = list(weights)

        def report(level: Level, step: int, value: float) -> None:
            place = keys.index((id(stage), level.index))
            before = sum(weights[key] for key in keys[:place])
            fraction = (before + weights[keys[place]] * (step + 1) / max(level.steps, 1)) / total
            self.progress(
                Progress(
                    stage.model, level.index, level.count, step + 1, level.steps, value, min(fraction, 1.0)
                )
            )

        return report
