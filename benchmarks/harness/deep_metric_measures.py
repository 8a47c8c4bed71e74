"""A case of the benchmark of trained metrics registered by a metric, and how well the map that was found does."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.deep_metric import Case
from harness.deep_metric_arms import SMOOTHING, Arm
from harness.deep_metric_tables import append, read_rows
from regista.core import Grid, Image, LabelImage
from regista.evaluation import label_measures
from regista.registration import DeformableStage, LinearStage, Plan, Start, register
from regista.similarity import MI, Similarity
from regista.transforms import Affine, Transform, resample_labels

SHRINKS = {
    "slices": (4, 2, 1),
    "photographs": (4, 2, 1),
    "volumes": (4, 2),
    "histology": (16, 8, 4),
    "anatomy": (4, 2, 1),
}
COLUMNS = (
    "experiment", "case", "metric", "error", "error_before", "error_lesions", "dice", "jaccard", "dice_before",
    "silver_dice", "silver_jaccard", "silver_mm", "silver_dice_before", "seconds",
)  # fmt: skip


def compare(
    case: Case,
    experiment: str,
    metrics: Sequence[Arm],
    options: argparse.Namespace,
    path: Path,
    warm: set[str],
) -> None:
    """Add the rows that a case lacks in a table; `warm` are the metrics that have been compiled in this session."""
    done = {(row["experiment"], row["case"], row["metric"]) for row in read_rows(path)}
    for arm in metrics:
        if (experiment, case.name, arm.name) in done:
            continue
        if arm.name not in warm:
            warm_up(case, arm)
            warm.add(arm.name)
        row = measure(case, experiment, arm, options)
        append(path, row, COLUMNS)
        print(row, flush=True)


def plan(
    similarity: Similarity, shrinks: tuple[int, ...], levels: Sequence[int], smoothing: Sequence[float]
) -> Plan:
    """Return the stages that every metric goes through; without levels no affine one."""
    dense = DeformableStage(
        similarity=similarity,
        shrink=shrinks,
        steps=(60, 60, 30)[: len(shrinks)],
        update_sigma_vox=(smoothing[0],),
        field_sigma_vox=(smoothing[1],),
        saturation=(3.0,),
        symmetric_force=False,
    )
    if not levels:
        return Plan(stages=(dense,), start=Start(search="none"))
    steps = (*[60] * (len(levels) - 1), 30)
    linear = LinearStage(model="affine", similarity=similarity, shrink=tuple(levels), steps=steps)
    return Plan(stages=(linear, dense), start=Start(search="none"))


def measure(case: Case, experiment: str, arm: Arm, options: argparse.Namespace) -> dict:
    """Register one case by one metric; return its row."""
    masks = {"fixed_mask": case.fixed_mask, "moving_mask": case.moving_mask} if arm.masked else {}
    smoothing = options.smoothing or arm.smoothing(experiment)
    began = time.perf_counter()
    if arm.similarity is None:
        found = case.silver
    else:
        start = case.truth if options.from_truth else case.start
        levels = () if case.truth is None or options.from_truth else options.levels
        shrinks = SHRINKS[options.set]
        if options.after_mi:
            before = plan(MI(), shrinks, levels, SMOOTHING["known"]["MI"])
            start, levels = register(case.fixed, case.moving, before, initial=start, **masks).transform, ()
        staged = plan(arm.of(case), shrinks, levels, smoothing)
        found = register(case.fixed, case.moving, staged, initial=start, **masks).transform
    row = {
        "experiment": experiment,
        "case": case.name,
        "metric": arm.name,
        "seconds": round(time.perf_counter() - began, 2),
    }
    if case.landmarks is not None:
        here, there = case.landmarks
        row["error"] = float(np.linalg.norm(found.map_points(here) - there, axis=1).mean())
        row["error_before"] = float(np.linalg.norm(case.start.map_points(here) - there, axis=1).mean())
    elif case.truth is not None:
        row |= errors(case, found)
    else:
        row |= overlaps(case, found)
    return row


def warm_up(case: Case, arm: Arm) -> None:
    """Compile what a metric needs, on a small image of noise, so that its first case takes as long as any other."""
    shape = (32,) * case.fixed.ndim
    noise = np.random.default_rng(0).random(shape, np.float32)
    image = Image(noise, Grid(shape, np.eye(len(shape) + 1)))
    mask = Image(np.ones(shape, np.uint8), image.grid) if arm.masked else None
    if arm.similarity is None:
        Case(name="noise", fixed=image, moving=image, same=(image, image)).silver  # noqa: B018
        return
    staged = plan(arm.of(case), (2, 1), (4, 2), arm.smoothing("known"))
    register(image, image, staged, initial=Affine(np.eye(len(shape) + 1)), fixed_mask=mask, moving_mask=mask)


def errors(case: Case, found: Transform) -> dict[str, float]:
    """Return the mean error of a map over the head, and near lesions where they are marked."""
    row = {}
    for name, region in (("error", case.fixed_mask), ("error_lesions", case.region)):
        if region is None:
            continue
        index = np.argwhere(region.data > 0)[:: 7 if case.fixed.ndim == 2 else 97]
        points = case.fixed.grid.index2world(index)
        true = case.truth.map_points(points)
        inside = case.moving.grid.contains(true)
        row[name] = float(np.linalg.norm(found.map_points(points) - true, axis=1)[inside].mean())
        if name == "error":
            row["error_before"] = float(np.linalg.norm(points - true, axis=1)[inside].mean())
    return row


def overlaps(case: Case, found: Transform) -> dict[str, float]:
    """Return how well carried labels agree with the fixed image's own, and with those that `Case.silver` carries."""
    carried, silver, before = (
        resample_labels(case.moving_classes, case.fixed.grid, one) for one in (found, case.silver, case.start)
    )
    row = dict(zip(("silver_dice", "silver_jaccard"), overlap(silver, carried), strict=True))
    row["silver_dice_before"] = overlap(silver, before)[0]
    points = case.fixed.grid.index2world(
        np.argwhere(case.fixed_mask.data > 0)[:: 7 if case.fixed.ndim == 2 else 97]
    )
    row["silver_mm"] = float(
        np.linalg.norm(found.map_points(points) - case.silver.map_points(points), axis=1).mean()
    )
    if case.fixed_classes is not None:
        row |= dict(zip(("dice", "jaccard"), overlap(case.fixed_classes, carried), strict=True))
        row["dice_before"] = overlap(case.fixed_classes, before)[0]
    return row


def overlap(fixed: LabelImage, moving: LabelImage) -> tuple[float, float]:
    """Return mean Dice and Jaccard of the labels."""
    found = label_measures(fixed, moving, surface=None).labels
    dice = np.array([one.dice for one in found])
    return float(dice.mean()), float((dice / (2 - dice)).mean())
