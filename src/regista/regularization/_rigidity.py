"""Parts of the body that do not bend: bones, implants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from numpy.typing import ArrayLike

from regista.core import Grid, PlanError
from regista.kernels.cpu.penalties import rigidity
from regista.regularization._base import (
    FORBID,
    Field,
    PreparedMean,
    PreparedPenalty,
    PreparedSum,
    check_number,
    frame_of,
    total_weight,
    weights_on,
)
from regista.regularization._smoothness import prepare_bending


@dataclass(frozen=True, kw_only=True)
class LocalRigidity:
    """Within a mask the map shall be a rotation and a shift: ``R = mean_w [a ‖JᵀJ − I‖² + b (det J − 1)² + c ‖∂²u‖²]``.

    The means run over the mask, each voxel with its weight: a small bone is held as firmly as a large one. J is the
    Jacobian of ``x + u`` in mm by central differences (one-sided at the border of the grid); second derivatives as in
    `Bending`. Every exact rotation costs nothing, however large.

    Parameters
    ----------
    weight : float
        Factor on the penalty.
    orthonormality, properness : float
        a and b: lengths and angles are kept; volume is kept, and no mirroring.
    affinity_mm2 : float
        c, mm²: the map is affine. It also sees what alternates from voxel to voxel, which central differences do not.

    Notes
    -----
    M. Staring, S. Klein and J. P. W. Pluim, "A rigidity penalty term for nonrigid registration", Medical Physics
    34(11), 2007; J. Modersitzki, "FLIRT with rigidity", IJCV 76, 2008.

    Examples
    --------
    >>> import numpy as np
    >>> grid = Grid((4, 5, 6), np.eye(4))
    >>> x, y, z = np.indices(grid.shape).astype(np.float32)
    >>> turned = np.stack([-x - y, x - y, 0 * z])  # by 90° about the third axis
    >>> LocalRigidity().prepare(grid, np.ones(grid.shape)).value_and_gradient(turned, np.zeros_like(turned))
    0.0
    """

    weight: float = 1.0
    orthonormality: float = 1.0
    properness: float = 1.0
    affinity_mm2: float = 1.0
    name: ClassVar[str] = "local-rigidity"
    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        for name in ("weight", "orthonormality", "properness", "affinity_mm2"):
            check_number(self.name, name, getattr(self, name), 0)
        if self.orthonormality == self.properness == self.affinity_mm2 == 0:
            raise PlanError(f"all parts of {self.name} are 0: nothing would be penalized; give one of them")

    def prepare(self, grid: Grid, mask: ArrayLike | None = None) -> PreparedPenalty:
        """Bind to a grid, and to where (and how firmly) it is rigid."""
        if mask is None:
            raise PlanError(
                f"{self.name} needs a mask of what is rigid: give one (in Python mask=, ones for the whole grid)"
            )
        weight, frame = weights_on(grid, mask, self.name), frame_of(grid)

        def term(u: Field, factor: float, out: Field) -> float:
            value = rigidity(
                u,
                frame,
                weight,
                orthonormality=self.orthonormality,
                properness=self.properness,
                factor=factor,
                out=out,
            )
            return float(value)

        first = PreparedMean(grid, self.weight, total_weight(grid, weight), term)
        if self.affinity_mm2 == 0:
            return first
        return PreparedSum(first, prepare_bending(grid, self.weight * self.affinity_mm2, weight))
