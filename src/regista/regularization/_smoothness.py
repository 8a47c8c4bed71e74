"""Penalties on how much a field varies: diffusion, bending, elastic energy, total variation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from regista.core import Grid, PlanError
from regista.kernels.cpu import penalties as kernels
from regista.kernels.cpu.bending import bending
from regista.regularization._base import (
    FORBID,
    Field,
    PreparedMean,
    PreparedPenalty,
    check_number,
    frame_of,
    total_weight,
    weights_on,
)


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """Mean squared gradient of the displacement, ``R = mean ‖∇u‖²`` (no unit).

    Squares of the forward and of the backward difference are averaged; both are the one-sided one at the border.

    Parameters
    ----------
    weight : float
        Factor on the penalty.

    Notes
    -----
    B. K. P. Horn and B. G. Schunck, "Determining optical flow", Artificial Intelligence 17, 1981; B. Fischer and
    J. Modersitzki, "Fast diffusion registration", Contemporary Mathematics 313, 2002.

    Examples
    --------
    >>> grid = Grid((4, 5, 6), np.diag([2.0, 2.0, 3.0, 1.0]))
    >>> field = 0.1 * np.indices(grid.shape).astype(np.float32)  # every axis stretched by a tenth
    >>> round(Diffusion(weight=1.0).prepare(grid).value_and_gradient(field, np.zeros_like(field)), 4)
    0.03
    """

    weight: float = 1.0
    name: ClassVar[str] = "diffusion"
    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        check_number(self.name, "weight", self.weight, 0)

    def prepare(self, grid: Grid, mask: ArrayLike | None = None) -> PreparedPenalty:
        """Bind to a grid, and to weights of its voxels."""
        weight, frame = weights_on(grid, mask, self.name), frame_of(grid)

        def term(u: Field, factor: float, out: Field) -> float:
            return float(kernels.diffusion(u, frame, weight, factor=factor, out=out))

        return PreparedMean(grid, self.weight, total_weight(grid, weight), term)


@dataclass(frozen=True, kw_only=True)
class Bending:
    """Mean sum of squared second derivatives, mixed ones twice, ``R = mean Σ_cij (∂²u_c/∂x_i∂x_j)²`` in mm⁻².

    Affine maps cost nothing. It is the number that `regista evaluate` reports as bending energy: central second
    differences at the voxels that have neighbours on both sides.

    Parameters
    ----------
    weight : float
        Factor on the penalty, mm².

    Notes
    -----
    D. Rueckert et al., "Nonrigid registration using free-form deformations", IEEE TMI 18(8), 1999.

    Examples
    --------
    >>> grid = Grid((5, 5, 5), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> field = np.zeros((3, 5, 5, 5), np.float32)
    >>> field[0] = np.arange(5, dtype=np.float32)[:, None, None] ** 2  # ∂²u/∂x² = 1 / mm
    >>> Bending(weight=0.5).prepare(grid).value_and_gradient(field, np.zeros_like(field))
    0.5
    """

    weight: float = 1.0
    name: ClassVar[str] = "bending"
    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        check_number(self.name, "weight", self.weight, 0)

    def prepare(self, grid: Grid, mask: ArrayLike | None = None) -> PreparedPenalty:
        """Bind to a grid, and to weights of its voxels."""
        return prepare_bending(grid, self.weight, weights_on(grid, mask, self.name))


def prepare_bending(grid: Grid, factor: float, weight: Field | None) -> PreparedPenalty:
    """Return the bending penalty as a weighted mean over the voxels that have second differences."""
    frame = frame_of(grid)
    inner = tuple(slice(1, n - 1) if n > 2 else slice(None) for n in grid.as_3d().shape)
    ones = np.ones((1, 1, 1), np.float32)
    total = np.broadcast_to(ones if weight is None else weight, grid.as_3d().shape)[inner].sum(
        dtype=np.float64
    )

    def term(u: Field, factor: float, out: Field) -> float:
        return float(bending(u, frame, weight, factor=factor, out=out)[0])

    return PreparedMean(grid, factor, float(total), term)


@dataclass(frozen=True, kw_only=True)
class Elastic:
    """Linear elastic energy, ``R = mean [μ/4 Σ_ij (∂_i u_j + ∂_j u_i)² + λ/2 (div u)²]``.

    A rotation costs nothing to first order in its angle. Differences are taken as in `Diffusion`; products of
    derivatives along two axes use central ones.

    Parameters
    ----------
    weight : float
        Factor on the penalty.
    mu, lam : float
        Lamé's constants: resistance to shear and, besides, to change of volume. Only their ratio and `weight` matter.

    Notes
    -----
    C. Broit, "Optimal registration of deformed images", University of Pennsylvania, 1981; J. Modersitzki,
    Numerical Methods for Image Registration, Oxford, 2004.

    Examples
    --------
    >>> grid = Grid((4, 5, 6), np.eye(4))
    >>> field = np.zeros((3, 4, 5, 6), np.float32)
    >>> field[0] = 0.1 * np.arange(4, dtype=np.float32)[:, None, None]  # one axis stretched by a tenth
    >>> round(Elastic(mu=1.0, lam=1.0).prepare(grid).value_and_gradient(field, np.zeros_like(field)), 4)
    0.015
    """

    weight: float = 1.0
    mu: float = 1.0
    lam: float = 0.0
    name: ClassVar[str] = "elastic"
    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        for name in ("weight", "mu", "lam"):
            check_number(self.name, name, getattr(self, name), 0)
        if self.mu == self.lam == 0:
            raise PlanError("elastic mu and lam are both 0: nothing would be penalized; give one of them")

    def prepare(self, grid: Grid, mask: ArrayLike | None = None) -> PreparedPenalty:
        """Bind to a grid, and to weights of its voxels."""
        weight, frame = weights_on(grid, mask, self.name), frame_of(grid)
        energy = partial(kernels.elastic, mu=self.mu, lam=self.lam)

        def term(u: Field, factor: float, out: Field) -> float:
            return float(energy(u, frame, weight, factor=factor, out=out))

        return PreparedMean(grid, self.weight, total_weight(grid, weight), term)


@dataclass(frozen=True, kw_only=True)
class TotalVariation:
    """Mean length of the gradient, ``R = mean [√(‖∇u‖² + ε²) − ε]`` (no unit), for organs that slide.

    All components share one root, so a jump costs as much in any direction; it costs in proportion to its height,
    and no more for being sharp. ``‖∇u‖²`` is that of `Diffusion`.

    Parameters
    ----------
    weight : float
        Factor on the penalty.
    epsilon : float
        Gradient length below which the penalty is round instead of pointed: small gradients are smoothed as by
        diffusion.

    Notes
    -----
    L. Rudin, S. Osher and E. Fatemi, Physica D 60, 1992; V. Vishnevskiy et al., "Isotropic total variation
    regularization of displacements in parametric image registration", IEEE TMI 36(2), 2017.

    Examples
    --------
    >>> grid = Grid((4, 5, 6), np.eye(4))
    >>> still = np.full((3, 4, 5, 6), 2.5, np.float32)
    >>> TotalVariation().prepare(grid).value_and_gradient(still, np.zeros_like(still))
    0.0
    """

    weight: float = 1.0
    epsilon: float = 0.01
    name: ClassVar[str] = "total-variation"
    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        check_number(self.name, "weight", self.weight, 0)
        check_number(self.name, "epsilon", self.epsilon, 1e-6)

    def prepare(self, grid: Grid, mask: ArrayLike | None = None) -> PreparedPenalty:
        """Bind to a grid, and to weights of its voxels."""
        weight, frame = weights_on(grid, mask, self.name), frame_of(grid)

        def term(u: Field, factor: float, out: Field) -> float:
            value = kernels.total_variation(u, frame, weight, epsilon=self.epsilon, factor=factor, out=out)
            return float(value)

        return PreparedMean(grid, self.weight, total_weight(grid, weight), term)
