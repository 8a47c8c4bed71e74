"""A small registration's files, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from regista.cli import app
from regista.core import Grid, Image
from regista.io import write

SHIFT_MM = (3.0, -2.0, 2.5)
SHAPE, SPACING = (26, 31, 17), (1.0, 0.9, 1.7)


def _grid(shift=(0.0, 0.0, 0.0)) -> Grid:
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", (17, -11, 23), degrees=True).as_matrix()
    matrix[:3, :3] = turn @ np.diag([-1.0, 1.0, 1.0]) @ np.diag(SPACING)
    matrix[:3, 3] = np.array([31.0, -18.0, 44.0]) + shift
    return Grid(SHAPE, matrix)


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> Path:
    """Return a folder with `fixed.nii.gz` and the same voxels `SHIFT_MM` away, `moving.nii.gz`."""
    folder = tmp_path_factory.mktemp("pair")
    noise = np.random.default_rng(7).normal(size=SHAPE)
    data = gaussian_filter(noise, 2.0) * 100
    index = np.indices(SHAPE)
    middle = (np.array(SHAPE) - 1)[:, None, None, None] / 2
    data = (data + 20) * np.exp(-(((index - middle) / (0.3 * middle * 2)) ** 2).sum(0))
    write(folder / "fixed.nii.gz", Image(data.astype(np.float32), _grid()))
    write(folder / "moving.nii.gz", Image(data.astype(np.float32), _grid(SHIFT_MM)))
    mask = (data > 5).astype(np.uint8)
    write(folder / "mask.nii.gz", Image(mask, _grid()))
    return folder


@pytest.fixture
def call():
    """Return a caller of the command line; it gives exit code, standard output and standard error."""

    def run(*words: object):
        return CliRunner().invoke(app, [str(word) for word in words])

    return run


@pytest.fixture(scope="session")
def registered(pair: Path) -> Path:
    """Return the folder that `regista register` left for the pair."""
    words = ["register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "-o", pair / "out"]
    words += ["--preset", "translation", "--threads", 2, "--seed", 3, "--quiet"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    return pair / "out"
