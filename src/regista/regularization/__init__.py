"""Penalties on displacement fields, each a configuration with `prepare(grid) → value_and_gradient(field, out)`."""

from regista.regularization._base import PairPenalty, Penalty, PreparedPairPenalty, PreparedPenalty
from regista.regularization._consistency import GradientConsistency, InverseConsistency
from regista.regularization._plans import PAIR_PENALTIES, PENALTIES, penalties_from_plan
from regista.regularization._prior import (
    DeformationModel,
    DeformationPrior,
    load_deformation_model,
    save_deformation_model,
)
from regista.regularization._rigidity import LocalRigidity
from regista.regularization._smoothness import Bending, Diffusion, Elastic, TotalVariation
from regista.regularization._volume import Incompressibility, LogJacobian, forbids_folds

__all__ = [
    "PAIR_PENALTIES",
    "PENALTIES",
    "Bending",
    "DeformationModel",
    "DeformationPrior",
    "Diffusion",
    "Elastic",
    "GradientConsistency",
    "Incompressibility",
    "InverseConsistency",
    "LocalRigidity",
    "LogJacobian",
    "PairPenalty",
    "Penalty",
    "PreparedPairPenalty",
    "PreparedPenalty",
    "TotalVariation",
    "forbids_folds",
    "load_deformation_model",
    "penalties_from_plan",
    "save_deformation_model",
]
