"""After `warmup` nothing is left to compile."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

import regista.kernels.cpu as cpu
from regista.core import Grid, Image
from regista.registration import FreeFormStage, Plan, Start, _warmup, register
from regista.regularization import Bending
from regista.similarity import MI, NCC, CorrelationRatio


def forms() -> dict[str, int]:
    """Return how many compiled forms each kernel has in this process."""
    found = {}
    for module in pkgutil.iter_modules(cpu.__path__):
        for name, value in vars(importlib.import_module(f"{cpu.__name__}.{module.name}")).items():
            if isinstance(value, Dispatcher):
                found[f"{module.name}.{name}"] = len(value.signatures)
    return found


@pytest.fixture(scope="module")
def warm() -> dict[str, int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_warmup, "list_presets", dict)  # which take the longest, and none of which descends so
        _warmup.warmup()
    return forms()


@pytest.mark.parametrize("shape", [(26, 22, 18), (30, 26)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("similarity", [NCC(), MI(), CorrelationRatio()])
def test_stochastic_gradient_descent_is_warm(warm, shape, masked, similarity, rng):
    grid = Grid(shape, np.eye(len(shape) + 1))
    fixed, moving = (Image(rng.random(shape).astype(np.float32), grid) for _ in range(2))
    mask = Image(np.ones(shape, np.uint8), grid) if masked else None
    stage = FreeFormStage(
        optimizer="asgd", similarity=similarity, shrink=(1,), steps=(2,), samples=200, penalties=(Bending(),)
    )
    plan = Plan(stages=(stage,), start=Start(search="none"))
    register(fixed, moving, plan, fixed_mask=mask, moving_mask=mask)
    assert {name: count for name, count in forms().items() if count > warm[name]} == {}
