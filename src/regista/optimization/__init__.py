"""Solvers (init, step) and stopping rules."""

from regista.optimization._bfgs import BFGS, BFGSState
from regista.optimization._control_spacing import Spacing, along_axes, spline_axes
from regista.optimization._demons import Demons, DemonsState
from regista.optimization._dense import DenseCost, DenseSolver
from regista.optimization._folds import LEAST_DETERMINANT, folds, unfold
from regista.optimization._freeform import FreeForm, FreeFormState
from regista.optimization._freeform_pair import FreeFormPair
from regista.optimization._greedy import GreedyDiffeomorphic, GreedyState
from regista.optimization._stochastic import SampledCost, StochasticFreeForm, StochasticState
from regista.optimization._stopping import Convergence
from regista.optimization._symmetric import SymmetricDiffeomorphic, SymmetricState
from regista.optimization._velocity import StationaryVelocity, VelocityState

__all__ = [
    "BFGS",
    "LEAST_DETERMINANT",
    "BFGSState",
    "Convergence",
    "Demons",
    "DemonsState",
    "DenseCost",
    "DenseSolver",
    "FreeForm",
    "FreeFormPair",
    "FreeFormState",
    "GreedyDiffeomorphic",
    "GreedyState",
    "SampledCost",
    "Spacing",
    "StationaryVelocity",
    "StochasticFreeForm",
    "StochasticState",
    "SymmetricDiffeomorphic",
    "SymmetricState",
    "VelocityState",
    "along_axes",
    "folds",
    "spline_axes",
    "unfold",
]
