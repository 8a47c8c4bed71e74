"""Random label maps on oblique, anisotropic grids, and a caller of the command line."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from regista.cli import app
from regista.core import LabelImage


@pytest.fixture
def random_labels(rng):
    """Return a maker of blobby label maps on a grid: labels 0 … count − 1, all touching the border."""

    def make(grid, count=5, sigma=1.5, values=None):
        noise = np.stack([gaussian_filter(rng.normal(size=grid.shape), sigma) for _ in range(count)])
        codes = noise.argmax(axis=0)
        return LabelImage(codes if values is None else np.asarray(values)[codes], grid)

    return make


@pytest.fixture
def call():
    """Return a caller of the command line; it gives exit code, standard output and standard error."""

    def run(*words: object):
        return CliRunner().invoke(app, [str(word) for word in words])

    return run
