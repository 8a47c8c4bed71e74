"""Solvers (init, step) and stopping rules."""

from regista.optimization._bfgs import BFGS, BFGSState
from regista.optimization._greedy import Force, GreedyDiffeomorphic, GreedyState
from regista.optimization._stopping import Convergence

__all__ = ["BFGS", "BFGSState", "Convergence", "Force", "GreedyDiffeomorphic", "GreedyState"]
