"""A pair whose registration is known."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import pytest

from regista.core import Image
from regista.registration import Result
from regista.transforms import Composite, Transform, resample

sys.path.insert(0, os.path.dirname(__file__))
from scenes import bend, oblique, organ, result_of, turned


@dataclass
class Pair:
    fixed: Image
    moving: Image
    truth: Transform


@pytest.fixture(scope="session")
def pair() -> Pair:
    grid = oblique()
    fixed = organ(grid)
    away = turned(8, (2.0, -1.5, 1.0), grid.center_mm)  # moving → fixed
    truth = Composite((bend(grid), away.inverse()))
    moving = resample(fixed, oblique((40, 50, 34), (1.1, 0.9, 1.5)), truth.inverse())
    return Pair(
        Image(fixed.data, grid, space="fixed"), Image(moving.data, moving.grid, space="moving"), truth
    )


@pytest.fixture(scope="session")
def good(pair: Pair) -> Result:
    return result_of(pair.fixed, pair.moving, pair.truth)
