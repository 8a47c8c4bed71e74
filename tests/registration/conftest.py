"""Pairs made once for all tests of the engine."""

from __future__ import annotations

import pytest
from phantoms import grid_of, linear_truth, pair, smooth_truth


@pytest.fixture(scope="session")
def rigid_pair():
    """Return truth, fixed and moving image of a rigid case."""
    truth = linear_truth(grid_of(), (7, -5, 9), (2.5, -2.0, 3.0))
    return truth, *pair(truth)


@pytest.fixture(scope="session")
def shifted_pair():
    """Return truth, fixed and moving image of a pure translation."""
    truth = linear_truth(grid_of(), shift_mm=(3.2, -2.6, 4.1))
    return truth, *pair(truth)


@pytest.fixture(scope="session")
def smooth_pair():
    """Return truth, fixed and moving image of a smooth deformation of up to 4 mm."""
    truth = smooth_truth(grid_of(), 4.0)
    return truth, *pair(truth)
