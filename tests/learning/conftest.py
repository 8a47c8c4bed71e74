"""Everything here needs the extra ``learn``; small sets of scans, made once."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from commands import QUICK, TINY, call
from scipy import ndimage

from regista.core import Grid, Image
from regista.io import write

pytest.importorskip("torch", reason="learned registration needs torch: pip install 'regista[learn]'")
pytest.importorskip(
    "safetensors", reason="learned registration needs safetensors: pip install 'regista[learn]'"
)


def blob(shape, center, radii, angle=0.3):
    """Return a soft ellipsoid with a brighter core, and its labels."""
    index = np.indices(shape) - np.reshape(center, (-1, *[1] * len(shape)))
    a, b = (
        np.cos(angle) * index[0] + np.sin(angle) * index[1],
        np.cos(angle) * index[1] - np.sin(angle) * index[0],
    )
    index[0], index[1] = a, b
    away = sum((part / radius) ** 2 for part, radius in zip(index, radii, strict=True)) ** 0.5
    labels = (away < 1).astype(np.int32) + (away < 0.5)
    image = ndimage.gaussian_filter(60.0 * labels + 20 * (away < 1) * np.sin(index[0]), 0.7)
    return image.astype(np.float32), labels.astype(np.int16)


@pytest.fixture(scope="session")
def slices(tmp_path_factory) -> Path:
    """Return a folder with `scans.csv`: 2-D scans of five people, 33×38 pixels of 1.2×0.9 mm, with labels."""
    folder = tmp_path_factory.mktemp("slices")
    rng = np.random.default_rng(5)
    shape = (33, 38)
    matrix = np.array([[-1.2, 0, 20.0], [0, 0.9, -4.0], [0, 0, 1]])
    rows = []
    for number in range(5):
        image, labels = blob(shape, rng.uniform(14, 18, 2), rng.uniform(7, 11, 2))
        grid = Grid(shape, matrix)
        write(folder / f"p{number}_t1.nii.gz", Image(image, grid))
        write(folder / f"p{number}_labels.nii.gz", Image(labels, grid))
        rows.append(
            {"image": f"p{number}_t1.nii.gz", "subject": f"p{number}", "labels": f"p{number}_labels.nii.gz"}
        )
    write_csv(folder / "scans.csv", rows)
    return folder


def write_csv(path: Path, rows) -> Path:
    """Write a table."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def table():
    """Return the writer of tables."""
    return write_csv


@pytest.fixture(scope="session")
def trained(slices, tmp_path_factory):
    """Return the folder of a model trained for a moment on the slices."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    done = call("train", "voxelmorph", slices / "scans.csv", "-o", folder, *TINY, *QUICK, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["finished"]
    assert told["steps"] == 6
    assert told["validation"]["pairs"] == told["test"]["pairs"] == 6
    return folder
