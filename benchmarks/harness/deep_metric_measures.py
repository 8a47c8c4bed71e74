"""How well a map that was found does on a case of the benchmark of trained metrics."""

import numpy as np

from harness.deep_metric import Case
from regista.core import LabelImage
from regista.evaluation import label_measures
from regista.transforms import Transform, resample_labels


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
