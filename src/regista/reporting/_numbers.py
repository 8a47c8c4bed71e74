"""The numbers of a quality page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation

from regista.core import GeometryError, Image, LabelImage, PointSet, RunRecord
from regista.evaluation import ImageSimilarity, LabelScore, image_measures, label_measures, landmark_error
from regista.registration import Result, plan_from_dict, plan_to_toml
from regista.reporting._scene import Scene
from regista.transforms import Transform, resample_labels

MOST_LABELS = 200
"""Rows of the table of labels; the others are told in numbers."""
_NAMES = {
    "ncc": "NCC (correlation)",
    "lncc": "LNCC (local correlation, squared)",
    "mi": "MI (mutual information, nats)",
    "ssim": "SSIM (structural similarity)",
    "ssd": "SSD (mean squared difference)",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measure before and after registration; None where it has no such value."""

    name: str
    before: float | None
    after: float | None


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Measures of a registration.

    Parameters
    ----------
    rows : list of Row
        Similarity, overlap, landmark error.
    map_rows : list of tuple of str and float
        Displacement percentiles, folds and the like.
    labels : list of LabelScore
        The labels that overlap least, at most 200.
    label_count : int
        Number of all labels.
    flat : dict of str to float
        All of it for a table; names of lengths end in their unit.
    """

    rows: list[Row]
    map_rows: list[tuple[str, float]]
    labels: list[LabelScore] = field(default_factory=list)
    label_count: int = 0
    flat: dict[str, float] = field(default_factory=dict)


def measure_numbers(
    scene: Scene,
    result: Result,
    labels: tuple[LabelImage, LabelImage] | None,
    landmarks: tuple[PointSet, PointSet] | None,
    start: Transform | None = None,
    unit: str = "mm",
) -> Numbers:
    """Measure a registration for its page.

    Parameters
    ----------
    scene : Scene
        The pair on a coarse lattice, which similarity is measured on.
    result : Result
        Its registration.
    labels, landmarks : tuple of two, optional
        The truth.
    start : Transform, optional
        Where the moving image lies before, if not where its header says.
    unit : str
        Of lengths, see `length_unit`.
    """
    rows, flat = _similarity(scene)
    map_rows = _map(scene, result, unit)
    flat |= _map_names(map_rows, unit)
    scores: list[LabelScore] = []
    count = 0
    if labels is not None:
        found, row, scores, count = _overlap(labels, result, start)
        rows += [row]
        flat |= found
    if landmarks is not None:
        before, after = (
            landmark_error(*landmarks, transform) for transform in (start, _unnamed(result.transform))
        )
        for name in ("mean", "median", "p95", "max"):
            rows.append(
                Row(
                    name=f"TRE, {name}, {unit} ({len(after.errors)} landmarks)",
                    before=getattr(before, name),
                    after=getattr(after, name),
                )
            )
        beyond = float(np.mean(~result.warped.grid.contains(landmarks[0].points_mm)))
        flat |= {f"tre_mean_{unit}": after.mean, f"tre_max_{unit}": after.max}
        flat |= {f"tre_before_{unit}": before.mean, "landmarks_beyond": beyond}
    return Numbers(rows=rows, map_rows=map_rows, labels=scores, label_count=count, flat=flat)


def _unnamed(transform: Any) -> Any:
    """Return a map without names of spaces: landmarks are named after their files."""
    from regista.transforms import with_spaces

    return with_spaces(transform, None, None)


def _similarity(scene: Scene) -> tuple[list[Row], dict[str, float]]:
    around = binary_dilation(scene.seen, iterations=2)
    found: list[ImageSimilarity | None] = []
    for image, inside in ((scene.before, scene.inside_before), (scene.warped, scene.inside)):
        mask = around & inside
        if not mask.any():
            found.append(None)
            continue
        pair = Image(scene.fixed, scene.grid), Image(np.asarray(image, np.float32), scene.grid)
        found.append(image_measures(*pair, mask=mask))
    rows = [
        Row(name=text, before=_of(found[0], name), after=_of(found[1], name)) for name, text in _NAMES.items()
    ]
    flat = {name: _of(found[1], name) for name in ("ncc", "lncc", "mi", "ssim")}
    return rows, {name: value for name, value in flat.items() if value is not None}


def _of(found: Any, name: str) -> float | None:
    return None if found is None else float(getattr(found, name))


def _map(scene: Scene, result: Result, unit: str) -> list[tuple[str, float]]:
    seen = scene.seen if scene.seen.any() else np.ones_like(scene.seen)
    moved = np.linalg.norm(scene.mapped_mm - scene.places_mm, axis=1)[seen.ravel()]
    rows = [
        (f"displacement, {q}th percentile, {unit}", float(np.percentile(moved, q))) for q in (5, 50, 95, 99)
    ]
    rows.append((f"displacement, largest, {unit}", float(moved.max())))
    measures = result.record.measures
    for name, text in (
        ("folded_percent", "folded voxels, %"),
        ("smallest_jacobian", "smallest Jacobian determinant"),
        ("inverse_folded_percent", "folded voxels of the inverse, %"),
        ("inverse_residual_vox", "largest residual of the inversion, voxels"),
    ):
        if name in measures:
            rows.append((text, float(measures[name])))
    return rows


def _map_names(rows: Sequence[tuple[str, float]], unit: str) -> dict[str, float]:
    names = {
        f"displacement, 50th percentile, {unit}": f"displacement_p50_{unit}",
        f"displacement, 95th percentile, {unit}": f"displacement_p95_{unit}",
        "folded voxels, %": "folded_percent",
    }
    return {names[text]: value for text, value in rows if text in names}


def _overlap(
    labels: tuple[LabelImage, LabelImage], result: Result, start: Transform | None
) -> tuple[dict[str, float], Row, list[LabelScore], int]:
    here, there = (LabelImage(x.data, x.grid, names=x.names) for x in labels)
    scores = _scored(here, resample_labels(there, here.grid, result.transform))
    earlier = _scored(here, resample_labels(there, here.grid, start))
    kept = sorted((s for s in scores if np.isfinite(s.dice)), key=lambda s: s.dice)
    mean, before = (float(np.nanmean([s.dice for s in part])) if part else 0.0 for part in (scores, earlier))
    row = Row(name=f"Dice, mean of {len(scores)} labels", before=before, after=mean)
    return {"dice": mean, "dice_before": before}, row, kept[:MOST_LABELS], len(scores)


def _scored(here: LabelImage, there: LabelImage) -> list[LabelScore]:
    try:
        return list(label_measures(here, there, surface=None).labels)
    except GeometryError:  # no label in common: nothing overlaps
        return []


def record_facts(record: RunRecord) -> dict[str, Any]:
    """Return what the page tells of a run, ready to print.

    Parameters
    ----------
    record : RunRecord
        How it went.
    """
    trained = dict(record.measures.get("trained_metrics", {}))
    model = record.measures.get("model")
    if model is not None:
        trained[model["name"]] = model.get("weights_sha256")
    return {
        "method": _method(record),
        "trained": [(name, f"{sha[:12]}…" if sha else "not known") for name, sha in trained.items()],
        "memory_gb": record.peak_memory_bytes / 1e9,
        "inputs": [(role, dict(tree)) for role, tree in record.inputs.items() if isinstance(tree, dict)],
    }


def _method(record: RunRecord) -> list[tuple[str, str]]:
    """Return what was done, in its order, each with its plan as text: the plan, or those around a network."""
    measures, plan = record.measures, record.plan
    model = measures.get("model")
    if model is None:
        return [("Plan", _plan_text(plan))]
    refined = measures.get("refined", False)
    linear = measures.get("linear_plan", {}) if refined else plan
    spacing = " × ".join(f"{step:g}" for step in model["spacing_mm"])
    purpose = f"for {model['purpose']}; " if model.get("purpose") else ""
    network = (
        f"Network {model['name']}: {purpose}{model['network']}, voxels of {spacing} mm, on {model['device']}"
    )
    if "likeness_after" in model:
        followed, most = model["passes_followed"], model["passes"]
        network += f", followed for {followed:g} of {most} passes" if followed else ", not followed"
    stretch = measures.get("stretch", {})
    rigid = (
        f"; taken for rigid: they stretch by {stretch['percent']:.2g} % at most"
        if stretch.get("left_out")
        else ""
    )
    steps = [(f"Linear stages: {_models(linear)}{rigid}", _plan_text(linear))] if linear.get("stages") else []
    steps.append((network, ""))
    return [*steps, (f"Refinement: {_models(plan)}", _plan_text(plan))] if refined else steps


def _models(plan: Mapping[str, Any]) -> str:
    return ", ".join(stage["model"] for stage in plan["stages"])


def _plan_text(plan: Mapping[str, Any]) -> str:
    try:
        return plan_to_toml(plan_from_dict(dict(plan)))
    except Exception:  # of another tool, or of another version: shown as it is
        return json.dumps(dict(plan), indent=2, default=str)
