"""Compile every kernel ahead of the first run."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid, Image, LabelImage, PointSet
from regista.kernels.cpu import convolution
from regista.registration._guides import Guide, LabelGuide, LandmarkGuide, SurfaceGuide
from regista.registration._plan import Plan, Start
from regista.registration._plan_file import list_presets, load_plan
from regista.registration._register import register
from regista.registration._stages import FreeFormStage
from regista.regularization import Bending
from regista.similarity import SIMILARITIES, DeepMetric, Sum, is_pointwise


def warmup() -> float:
    """Compile and cache the kernels of all presets, solvers, metrics and guides; return the seconds it took (some 5 when cached)."""
    began = time.perf_counter()
    for shape in ((20, 18, 16), (24, 20)):
        place = np.indices(shape, dtype=np.float32)
        center = np.array(shape, np.float32).reshape(-1, *[1] * len(shape)) / 2
        ndim = len(shape)
        blob = np.exp(-((place - center) ** 2).sum(0) / 20) + 0.1 * np.sin(place[0])
        fixed = Image(blob.astype(np.float32), Grid(shape, np.eye(ndim + 1)))
        moving = Image(np.roll(blob, 1, axis=0).astype(np.float32), fixed.grid)
        mask = Image(np.ones(shape, np.uint8), fixed.grid)
        for name in list_presets():
            plan = _brief(load_plan(name))
            register(fixed, moving, plan)
            register(fixed, moving, plan, fixed_mask=mask, moving_mask=mask)
        for name in ("deformable", "syn"):
            register(fixed, moving, _brief(load_plan(name)), guides=_guides(blob > 0.5, fixed.grid))
        register(fixed, moving, _stochastic(), fixed_mask=mask, moving_mask=mask)
        register(fixed, moving, _stochastic())
    volume = np.random.default_rng(0).random((8, 9, 10), np.float32)
    terms = tuple((1.0, kind()) for kind in SIMILARITIES.values() if kind is not DeepMetric)
    metric, scale = Sum(terms=terms).prepare(volume, None), np.ones(3, np.float32)
    scratch, out = (np.zeros((3, *volume.shape), np.float32) for _ in range(2))
    for metric.hides in (False, True):
        metric.force(volume, np.ones_like(volume), scale, True, scratch, out)
    metric.value_and_gradient(volume, None, out[0])
    _convolutions()
    return time.perf_counter() - began


def _brief(plan: Plan) -> Plan:
    """Return a plan of the same stages with two steps at most on each level."""
    stages = (replace(stage, steps=tuple(min(n, 2) for n in stage.steps)) for stage in plan.stages)
    return replace(plan, stages=tuple(stages))


def _convolutions() -> None:
    """Compile what trained networks answer by."""
    x, bias = convolution.features((2, 2, 2), 1), np.zeros(3, np.float32)
    weight = np.zeros((3, 1, 3, 3, 3), np.float32)
    parts = [(convolution.part(weight), x)]
    convolution.convolve(parts, bias, 1.0, convolution.features((2, 2, 2), 3))
    convolution.planes(convolution.planes_part(weight), x, bias, np.zeros((3, 2, 2, 2), np.float32))
    convolution.maxima(x, convolution.features(convolution.halved(x), 1))


def _stochastic() -> Plan:
    """Return a plan of B-splines by stochastic gradient descent, which no preset takes, with every metric it can have."""
    terms = tuple(
        (1.0, one) for kind in SIMILARITIES.values() if kind is not DeepMetric and is_pointwise(one := kind())
    )
    stage = FreeFormStage(
        optimizer="asgd",
        similarity=Sum(terms=terms),
        shrink=(2,),
        steps=(2,),
        samples=100,
        penalties=(Bending(),),
    )
    return Plan(stages=(stage,), start=Start(search="none"))


def _guides(inside: NDArray[np.bool_], grid: Grid) -> list[Guide]:
    """Return a guide of each kind."""
    labels = LabelImage(inside.astype(np.uint8), grid)
    points = PointSet(grid.index2world([[4.0] * grid.ndim, [6.0] * grid.ndim]))
    return [
        LabelGuide(fixed=labels, moving=labels),
        LandmarkGuide(fixed=points, moving=points),
        SurfaceGuide(fixed=labels, moving=labels),
    ]
