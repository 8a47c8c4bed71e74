"""What each preprocessing step does to a registration."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from regista.core import Cancelled, GeometryError, Image, LabelImage, PlanError, PointSet, RegistaError
from regista.evaluation import check_grid, label_measures, landmark_error, match_landmarks
from regista.preprocessing import Pipeline, Resample, SkullStrip
from regista.registration import Plan, load_plan, register
from regista.transforms import Transform, resample_labels

DESIGNS = ("alone", "leave-out", "both")
_CHANGES = {"dice": "dice_change", "tre_mm": "tre_change_mm"}
_NAN = float("nan")
_SMALL = 24
"""Voxels along each axis of the images that kernels are compiled on."""


def ablate(
    fixed: Image,
    moving: Image,
    pipeline: Pipeline,
    plan: Plan | str = "fast",
    *,
    labels: tuple[LabelImage, LabelImage] | None = None,
    points: tuple[PointSet, PointSet] | None = None,
    design: str = "both",
    threads: int | None = None,
    non_finite: str = "error",
    tell: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Register a pair with different choices of preprocessing steps and measure each on the native data.

    Both images go through the same steps. Transforms are estimated on what comes out, and applied to the
    original labels and landmarks.

    Parameters
    ----------
    fixed, moving : Image
        The pair.
    pipeline : Pipeline
        The steps under question.
    plan : Plan or str
        How to register.
    labels : tuple of LabelImage, optional
        Labels of both images: mean Dice.
    points : tuple of PointSet, optional
        Corresponding landmarks of both images: mean distance.
    design : {'alone', 'leave-out', 'both'}
        Besides no step and all steps: each step by itself, all but each, or both.
    threads : int, optional
        Number of threads.
    non_finite : {'error', 'mask'}
        As `register` has it; steps that change intensities refuse NaN and infinite voxels either way.
    tell : callable
        Gets the name of each variant before it runs.

    Returns
    -------
    list of dict
        One row for each variant: ``steps``, ``dice``, ``dice_change`` (against no steps), ``tre_mm``,
        ``tre_change_mm``, ``folded_percent``, ``seconds``, ``status``. A variant that fails has NaN for measures and
        ``status`` "failed: …"; the others are run all the same.

    Raises
    ------
    PlanError, GeometryError
        If there is nothing to judge by, the design is unknown, there are no steps, or the labels or landmarks of the
        two images do not belong together: before anything is run.
    """
    if labels is None and points is None:
        raise PlanError("give labels or landmarks of both images: without them nothing says which is better")
    _check(fixed, moving, labels)
    if points is not None:
        points = _paired(*points)
    if non_finite not in ("error", "mask"):
        raise PlanError(f"non_finite is 'error' or 'mask', got {non_finite!r}")
    variants = _variants(pipeline, design)
    plan = (
        load_plan(plan) if isinstance(plan, str) else plan
    )  # a name that is wrong fails once, not in every row
    _warm_up(fixed, moving, pipeline, plan, threads)
    rows: list[dict[str, Any]] = []
    for name, chosen in variants:
        tell(name)
        began = time.perf_counter()
        row: dict[str, Any] = {"steps": name, **_measures(labels, points), "folded_percent": _NAN}
        try:
            ready = [chosen.apply(image) for image in (fixed, moving)]
            result = register(ready[0].image, ready[1].image, plan, threads=threads, non_finite=non_finite)
            row["seconds"] = round(time.perf_counter() - began, 2)
            row |= _measures(labels, points, result.transform)
            row["folded_percent"] = float(result.record.measures.get("folded_percent", 0.0))
            row["status"] = str(result.record.status)
        except Cancelled:
            raise
        except RegistaError as error:
            row |= {"seconds": round(time.perf_counter() - began, 2), "status": f"failed: {error}"}
        rows.append(row)
    for row in rows:
        row |= {
            change: row[measure] - rows[0][measure] for measure, change in _CHANGES.items() if measure in row
        }
    return rows


def _measures(
    labels: tuple[LabelImage, LabelImage] | None,
    points: tuple[PointSet, PointSet] | None,
    transform: Transform | None = None,
) -> dict[str, float]:
    """Return what a transform achieves, and places for the changes; NaN without one."""
    found = dict[str, float]()
    if labels is not None:
        found |= {"dice": _NAN if transform is None else _dice(labels, transform), "dice_change": _NAN}
    if points is not None:
        found |= {
            "tre_mm": _NAN if transform is None else _distance(points, transform),
            "tre_change_mm": _NAN,
        }
    return found


def _warm_up(fixed: Image, moving: Image, pipeline: Pipeline, plan: Plan, threads: int | None) -> None:
    """Do everything once on coarse images: compiling, or loading what is compiled, is no variant's time."""
    small = [_coarse(image) for image in (fixed, moving)]
    for step in pipeline.steps:
        if isinstance(
            step, SkullStrip
        ):  # takes seconds, however small the image, and would warn of what is not asked
            continue
        with suppress(RegistaError):  # what fails here will say so in its turn
            step.apply(small[0])
    with suppress(RegistaError):
        register(small[0], small[1], plan, threads=threads)


def _coarse(image: Image) -> Image:
    spacing = image.grid.spacing
    return Resample(
        spacing_mm=tuple(
            float(s) * max(1.0, n / _SMALL) for s, n in zip(spacing, image.grid.shape, strict=True)
        )
    )(image)


def _variants(pipeline: Pipeline, design: str) -> list[tuple[str, Pipeline]]:
    if design not in DESIGNS:
        raise PlanError(f"design is {', '.join(DESIGNS)}, got {design!r}")
    steps = pipeline.steps
    if not steps:
        raise PlanError("there are no steps to leave out: name at least one")
    names = [
        s.name if [t.name for t in steps].count(s.name) == 1 else f"{s.name} {n + 1}"
        for n, s in enumerate(steps)
    ]
    found = [("none", Pipeline())]
    if design != "leave-out" and len(steps) > 1:
        found += [(f"only {name}", Pipeline(steps=(step,))) for name, step in zip(names, steps, strict=True)]
    # of two steps, all but one is only the other
    if (design == "leave-out" and len(steps) > 1) or (design == "both" and len(steps) > 2):
        found += [
            (f"all but {name}", Pipeline(steps=steps[:n] + steps[n + 1 :])) for n, name in enumerate(names)
        ]
    return [*found, ("all", pipeline)]


def _check(fixed: Image, moving: Image, labels: tuple[LabelImage, LabelImage] | None) -> None:
    for role, image, own in zip(("fixed", "moving"), (fixed, moving), labels or (None, None), strict=True):
        if own is not None and own.ndim != image.ndim:
            raise GeometryError(f"the {role} labels are {own.ndim}-D, the image {image.ndim}-D")
        if own is not None:
            check_grid(own, image, role)
    if labels is not None and not set(labels[0].labels) & set(labels[1].labels):
        texts = [", ".join(map(str, own.labels[:6])) or "none" for own in labels]
        raise GeometryError(
            f"the label maps share no label: the fixed one has {texts[0]}, the moving one {texts[1]}; do they come "
            "from the same protocol?"
        )


def _paired(fixed: PointSet, moving: PointSet) -> tuple[PointSet, PointSet]:
    """Return the landmarks that correspond, in order; what is left out is told once, not for each variant."""
    landmark_error(fixed, moving)
    one, other = match_landmarks(fixed, moving)
    return (
        PointSet(fixed.points_mm[one], space=fixed.space),
        PointSet(moving.points_mm[other], space=moving.space),
    )


def _dice(labels: tuple[LabelImage, LabelImage], transform: Transform) -> float:
    warped = resample_labels(labels[1], labels[0].grid, transform)
    return float(label_measures(labels[0], warped, surface=None).mean()["dice"])


def _distance(points: tuple[PointSet, PointSet], transform: Transform) -> float:
    return float(landmark_error(*points, transform).mean)
