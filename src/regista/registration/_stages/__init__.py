"""Stages: what one step of a plan optimizes, with which settings."""

from __future__ import annotations

from regista.registration._stages._base import CONFIG, DenseStage
from regista.registration._stages._bspline import FreeFormStage
from regista.registration._stages._convex import ConvexStage
from regista.registration._stages._demons import DemonsStage
from regista.registration._stages._diffeomorphic import DeformableStage
from regista.registration._stages._iterative import IterativeStage
from regista.registration._stages._linear import LINEAR_MODELS, LinearStage
from regista.registration._stages._velocity import VelocityStage

STAGES: dict[str, type[LinearStage] | type[DenseStage]] = {
    **dict.fromkeys(LINEAR_MODELS, LinearStage),
    "diffeomorphic": DeformableStage,
    "syn": DeformableStage,
    "demons": DemonsStage,
    "svf": VelocityStage,
    "bspline": FreeFormStage,
    "convex": ConvexStage,
}
"""The stage that each model belongs to."""

__all__ = [
    "CONFIG",
    "LINEAR_MODELS",
    "STAGES",
    "ConvexStage",
    "DeformableStage",
    "DemonsStage",
    "DenseStage",
    "FreeFormStage",
    "IterativeStage",
    "LinearStage",
    "VelocityStage",
]
