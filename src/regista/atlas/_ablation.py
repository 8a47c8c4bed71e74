"""What each preprocessing step does to a registration."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from regista.core import GeometryError, Image, LabelImage, PlanError, PointSet
from regista.evaluation import label_measures, landmark_error
from regista.preprocessing import Pipeline
from regista.registration import Plan, register
from regista.transforms import Transform, resample_labels

DESIGNS = ("alone", "leave-out", "both")


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
    tell : callable
        Gets the name of each variant before it runs.

    Returns
    -------
    list of dict
        One row for each variant: ``steps``, ``dice``, ``dice_change`` (against no steps), ``tre_mm``,
        ``tre_change_mm``, ``folded_percent``, ``seconds``, ``status``.
    """
    if labels is None and points is None:
        raise PlanError("give labels or landmarks of both images: without them nothing says which is better")
    _check(fixed, moving, labels)
    rows: list[dict[str, Any]] = []
    for name, chosen in _variants(pipeline, design):
        tell(name)
        began = time.perf_counter()
        ready = [chosen.apply(image) for image in (fixed, moving)]
        result = register(ready[0].image, ready[1].image, plan, threads=threads)
        seconds = time.perf_counter() - began
        row: dict[str, Any] = {"steps": name}
        if labels is not None:
            dice = _dice(labels, result.transform)
            row |= {"dice": dice, "dice_change": dice - (rows[0]["dice"] if rows else dice)}
        if points is not None:
            error = _distance(points, result.transform)
            row |= {"tre_mm": error, "tre_change_mm": error - (rows[0]["tre_mm"] if rows else error)}
        row |= {
            "folded_percent": float(result.record.measures.get("folded_percent", 0.0)),
            "seconds": round(seconds, 2),
            "status": str(result.record.status),
        }
        rows.append(row)
    return rows


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
    if design != "alone" and len(steps) > 2:
        found += [
            (f"all but {name}", Pipeline(steps=steps[:n] + steps[n + 1 :])) for n, name in enumerate(names)
        ]
    return [*found, ("all", pipeline)]


def _check(fixed: Image, moving: Image, labels: tuple[LabelImage, LabelImage] | None) -> None:
    for role, image, own in zip(("fixed", "moving"), (fixed, moving), labels or (None, None), strict=True):
        if own is not None and own.ndim != image.ndim:
            raise GeometryError(f"the {role} labels are {own.ndim}-D, the image {image.ndim}-D")


def _dice(labels: tuple[LabelImage, LabelImage], transform: Transform) -> float:
    warped = resample_labels(labels[1], labels[0].grid, transform)
    return float(label_measures(labels[0], warped, surface=None).mean()["dice"])


def _distance(points: tuple[PointSet, PointSet], transform: Transform) -> float:
    return float(landmark_error(*points, transform).mean)
