"""One pair of a Learn2Reg task, from its files to its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError, Image
from regista.evaluation import (
    Learn2RegPair,
    Learn2RegTask,
    learn2reg_labels,
    learn2reg_sdlogj,
    learn2reg_tre,
)
from regista.io import read, read_labels, read_transform, suffix_of
from regista.transforms import to_displacement_field


def score_pair(task: Learn2RegTask, pair: Learn2RegPair, path: Path) -> dict[str, dict[str, Any]]:
    """Return each measure of a task for one pair, ``{'mean': …, 'detailed': …}`` as the challenge writes it."""
    field = _field(path, pair)
    found: dict[str, dict[str, Any]] = {}
    overlap: dict[tuple[int, ...], dict[str, dict[int, float]]] = {}
    for measure in task.measures:
        if measure.metric == "sdlogj":
            value = learn2reg_sdlogj(field, _mask(pair) if task.masked else None)
            found[measure.name] = {"mean": value, "detailed": value}
        elif measure.metric == "tre":
            here, there = (_points(pair.points(measure.points, moving=m)) for m in (False, True))
            errors = learn2reg_tre(here, there, field, read(pair.moving).grid.spacing)
            found[measure.name] = {"mean": float(errors.mean()), "detailed": errors.tolist()}
        else:
            if measure.labels not in overlap:
                fixed, moving = (read_labels(pair.beside("labels", moving=m)).data for m in (False, True))
                wants = any(m.metric == "hd95" and m.labels == measure.labels for m in task.measures)
                overlap[measure.labels] = learn2reg_labels(
                    fixed, moving, field, measure.labels, surface=wants
                )
            values = list(overlap[measure.labels][measure.metric].values())
            known = [v for v in values if not np.isnan(v)]
            mean = float(np.mean(known)) if known else float("nan")
            found[measure.name] = {"mean": mean, "detailed": values}
    return found


def files_of_pair(task: Learn2RegTask, pair: Learn2RegPair) -> list[Path]:
    """Return the files of the data that scoring a pair may read."""
    kinds = [measure.points for measure in task.measures if measure.points]
    points = [pair.points(kind, moving=m) for kind in kinds for m in (False, True)]
    labels = [pair.beside("labels", moving=m) for m in (False, True)]
    return [pair.fixed, pair.moving, *labels, pair.beside("masks"), *points]


def _field(path: Path, pair: Learn2RegPair) -> NDArray[Any]:
    """Return the displacement in voxels, ``(I, J, K, 3)``, as stored where the format allows."""
    if suffix_of(path) == ".nii.gz":
        image = read(path)
        if image.kind == "scalar" or len(image.data) != 3:
            raise FormatError(
                f"{path}: its size is {image.data.shape}, expected a field of size (I, J, K, 3)"
            )
        return np.moveaxis(image.data, 0, -1)
    fixed, moving = read(pair.fixed), read(pair.moving)
    transform = read_transform(path, format="learn2reg", fixed=fixed, moving=moving)
    field = to_displacement_field(transform, fixed.grid)
    world = np.moveaxis(fixed.grid.coordinates_mm() + field.vectors_mm, 0, -1)
    return moving.grid.world2index(world) - np.moveaxis(np.indices(fixed.grid.shape), 0, -1)


def _mask(pair: Learn2RegPair) -> NDArray[Any] | None:
    path = pair.beside("masks")
    image: Image | None = read_labels(path) if path.exists() else None
    return None if image is None else image.data


def _points(path: Path) -> NDArray[np.float64]:
    """Read a headless CSV of voxel coordinates (which is neither LPS nor RAS)."""
    if not path.is_file():
        raise FormatError(f"{path} does not exist; expected the pair's points in voxels")
    try:
        points = np.loadtxt(path, delimiter=",", ndmin=2)
    except ValueError as error:
        raise FormatError(f"{path} cannot be read as rows of x,y,z in voxels: {error}") from None
    if points.shape[1] != 3 or not len(points):
        raise FormatError(f"{path} has rows of {points.shape[1]} numbers, expected x,y,z in voxels")
    return points
