"""Penalties on the local change of volume, and on its loss: folds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from numpy.typing import ArrayLike

from regista.core import Grid, PlanError
from regista.kernels.cpu.penalties import determinant
from regista.regularization._base import (
    FORBID,
    Field,
    PreparedMean,
    PreparedPenalty,
    check_number,
    total_weight,
    weights_on,
)


@dataclass(frozen=True, kw_only=True)
class LogJacobian:
    """Barrier against folds: ``R = mean (log det J)²``, J the Jacobian of ``x + u``.

    Growing by a factor costs what shrinking by it does. At each voxel the determinants of all eight corners (one for
    each choice of forward and backward differences) are penalized and averaged: where all are above 0, no corner of a
    cell is turned over, which central differences would not tell.

    Below `threshold` the square of the logarithm goes on as the straight line that touches it there, so that value and
    gradient stay finite and continuous: a field that folds already is drawn back. With ``threshold = 0`` the value is
    infinite as soon as one determinant is 0 or less (the gradient is then that of the other corners).

    The stages of a plan take it as a promise besides, whatever weight and threshold: no voxel of their map folds (see
    `forbids_folds`, and `regista.optimization.unfold`).

    Parameters
    ----------
    weight : float
        Factor on the penalty.
    threshold : float
        Determinant below which the penalty is a straight line, 0 … 0.5.

    Notes
    -----
    The penalty on the logarithm: D. Rueckert et al., MICCAI 2006; A. Leow et al., IEEE TMI 26(6), 2007. Its corners:
    M. Burger, J. Modersitzki and L. Ruthotto, SIAM J. Sci. Comput. 35(1), 2013, and the digital determinants of
    Liu et al., IJCV 2024.

    Examples
    --------
    >>> import numpy as np
    >>> grid = Grid((4, 5, 6), np.eye(4))
    >>> field = np.zeros((3, 4, 5, 6), np.float32)
    >>> field[0] = np.arange(4, dtype=np.float32)[:, None, None]  # twice as long: (log 2)²
    >>> round(LogJacobian().prepare(grid).value_and_gradient(field, np.zeros_like(field)), 4)
    0.4805
    """

    weight: float = 1.0
    threshold: float = 0.01
    name: ClassVar[str] = "log-jacobian"
    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        check_number(self.name, "weight", self.weight, 0)
        _check_threshold(self.name, self.threshold)

    def prepare(self, grid: Grid, mask: ArrayLike | None = None) -> PreparedPenalty:
        """Bind to a grid, and to weights of its voxels."""
        return _prepare(grid, mask, self.name, self.weight, True, self.threshold)


@dataclass(frozen=True, kw_only=True)
class Incompressibility:
    """Tissue that keeps its volume: ``R = mean (det J − 1)²`` or ``mean (log det J)²``, over a mask if one is given.

    Determinants are taken at all eight corners of each voxel, as in `LogJacobian`.

    Parameters
    ----------
    weight : float
        Factor on the penalty.
    measure : {'determinant', 'logarithm'}
        Which of the two; the logarithm also keeps the map from folding.
    threshold : float
        Of the logarithm, as in `LogJacobian`.

    Notes
    -----
    T. Rohlfing et al., "Volume-preserving nonrigid registration of MR breast images", IEEE TMI 22(6), 2003;
    E. Haber and J. Modersitzki, Inverse Problems 20, 2004.

    Examples
    --------
    >>> import numpy as np
    >>> grid = Grid((4, 5, 6), np.eye(4))
    >>> field = np.zeros((3, 4, 5, 6), np.float32)
    >>> field[0] = np.arange(5, dtype=np.float32)[:, None]  # a shear
    >>> Incompressibility().prepare(grid).value_and_gradient(field, np.zeros_like(field))
    0.0
    """

    weight: float = 1.0
    measure: Literal["determinant", "logarithm"] = "determinant"
    threshold: float = 0.01
    name: ClassVar[str] = "incompressibility"
    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        check_number(self.name, "weight", self.weight, 0)
        _check_threshold(self.name, self.threshold)
        if self.measure not in ("determinant", "logarithm"):
            raise PlanError(f"{self.name} measure is 'determinant' or 'logarithm', got {self.measure!r}")

    def prepare(self, grid: Grid, mask: ArrayLike | None = None) -> PreparedPenalty:
        """Bind to a grid, and to where (and how much) volume is to be kept."""
        logarithm = self.measure == "logarithm"
        return _prepare(grid, mask, self.name, self.weight, logarithm, self.threshold)


def forbids_folds(penalty: object) -> bool:
    """Tell whether a penalty is a barrier: where it takes part, no map may fold.

    `LogJacobian` is one, whatever its threshold, and so is `Incompressibility` of the logarithm with
    ``threshold = 0``; not with weight 0.

    Examples
    --------
    >>> forbids_folds(LogJacobian()), forbids_folds(LogJacobian(weight=0)), forbids_folds(Incompressibility())
    (True, False, False)
    """
    if isinstance(penalty, LogJacobian):
        return penalty.weight > 0
    if isinstance(penalty, Incompressibility):
        return penalty.weight > 0 and penalty.measure == "logarithm" and penalty.threshold == 0
    return False


def _check_threshold(owner: str, threshold: float) -> None:
    check_number(owner, "threshold", threshold, 0, 0.5)
    if 0 < threshold < 1e-6:
        raise PlanError(f"{owner} threshold is 0 (infinite on a fold) or at least 1e-6, got {threshold!r}")


def _prepare(
    grid: Grid, mask: ArrayLike | None, owner: str, factor: float, logarithm: bool, threshold: float
) -> PreparedPenalty:
    weight = weights_on(grid, mask, owner)

    def term(u: Field, factor: float, out: Field) -> float:
        total, folded = determinant(
            u, weight, logarithm=logarithm, threshold=threshold, factor=factor, out=out
        )
        return math.inf if folded else float(total)

    return PreparedMean(grid, factor, total_weight(grid, weight), term)
