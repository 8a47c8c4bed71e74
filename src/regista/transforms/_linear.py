"""Linear maps: affine, similarity, rigid, translation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import GeometryError
from regista.transforms._base import Transform

_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Affine(Transform):
    """An affine map in world space.

    Parameters
    ----------
    matrix : (ndim + 1, ndim + 1) array_like
        Homogeneous matrix from fixed to moving world positions, RAS+ mm.
    fixed_space, moving_space : str, optional
        Names of the spaces.

    Raises
    ------
    GeometryError
        If the matrix has another shape, is not finite, is singular, or is not of the class's kind.

    Examples
    --------
    >>> move = Affine([[1, 0, 0, 5], [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    >>> move.map_points([[1.0, 1.0, 1.0]]).tolist()
    [[6.0, 2.0, 1.0]]
    >>> move.inverse().map_points([[6.0, 2.0, 1.0]]).tolist()
    [[1.0, 1.0, 1.0]]
    """

    matrix: NDArray[np.float64]
    fixed_space: str | None = None
    moving_space: str | None = None

    _kind: ClassVar[str] = "an affine map"

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape not in ((3, 3), (4, 4)):
            raise GeometryError(
                f"a linear transform has a 4×4 matrix (3×3 in 2-D), got an array of shape {matrix.shape}"
            )
        if not np.isfinite(matrix).all():
            raise GeometryError("the transform's matrix holds NaN or Inf: it cannot map anything")
        if not np.allclose(matrix[-1], np.eye(len(matrix))[-1]):
            raise GeometryError(
                f"the last row of the matrix must be 0 … 0 1, got {matrix[-1].tolist()}: is it transposed?"
            )
        scale = np.linalg.norm(matrix[:-1, :-1], axis=0)
        if scale.min() <= 0 or abs(np.linalg.det(matrix[:-1, :-1] / np.maximum(scale, 1e-300))) < 1e-9:
            raise GeometryError(
                "the transform's matrix is singular: it flattens space and has no inverse; "
                f"got {matrix[:-1, :-1].tolist()}"
            )
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)
        misfit = self._misfit(matrix)
        if misfit > _TOLERANCE:
            raise GeometryError(
                f"the matrix is not {self._kind} (off by {misfit:.2g}, at most {_TOLERANCE:g}): "
                "use Affine, or another of its kinds"
            )

    @classmethod
    def identity(cls, ndim: int = 3, fixed_space: str | None = None, moving_space: str | None = None) -> Self:
        """Return the map that leaves every point where it is."""
        return cls(np.eye(ndim + 1), fixed_space, moving_space)

    def _misfit(self, _: NDArray[np.float64]) -> float:
        return 0.0

    @property
    def ndim(self) -> int:
        """Number of coordinates, 2 or 3."""
        return len(self.matrix) - 1

    def map_points(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Map ``(N, ndim)`` points, mm."""
        return np.asarray(self._points(points_mm) @ self.matrix[:-1, :-1].T + self.matrix[:-1, -1])

    def inverse(self) -> Self:
        """Return the exact inverse, of the same class, with the spaces exchanged."""
        inverse = np.asarray(np.linalg.inv(self.matrix), dtype=np.float64)
        inverse[-1] = np.eye(self.ndim + 1)[-1]
        return replace(self, matrix=inverse, fixed_space=self.moving_space, moving_space=self.fixed_space)


@dataclass(frozen=True, eq=False)
class Similarity(Affine):
    """Rotation, translation and one scale for all axes; see `Affine` for the parameters."""

    _kind: ClassVar[str] = "a rotation with one scale"

    def _misfit(self, matrix: NDArray[np.float64]) -> float:
        linear = matrix[:-1, :-1]
        det = float(np.linalg.det(linear))
        if det <= 0:
            return float("inf")
        turn = linear / det ** (1 / len(linear))
        return float(np.abs(turn @ turn.T - np.eye(len(linear))).max())

    @property
    def scale(self) -> float:
        """Factor by which lengths grow from fixed to moving."""
        return float(np.linalg.det(self.matrix[:-1, :-1]) ** (1 / self.ndim))


@dataclass(frozen=True, eq=False)
class Rigid(Similarity):
    """Rotation and translation; see `Affine` for the parameters."""

    _kind: ClassVar[str] = "a rotation"

    def _misfit(self, matrix: NDArray[np.float64]) -> float:
        scale = float(np.linalg.det(matrix[:-1, :-1]))
        return max(super()._misfit(matrix), abs(scale - 1))


@dataclass(frozen=True, eq=False)
class Translation(Rigid):
    """A shift; see `Affine` for the parameters.

    Examples
    --------
    >>> Translation.by([1.0, 2.0, 3.0]).map_points([[0.0, 0.0, 0.0]]).tolist()
    [[1.0, 2.0, 3.0]]
    """

    _kind: ClassVar[str] = "a translation"

    @classmethod
    def by(
        cls, offset_mm: ArrayLike, fixed_space: str | None = None, moving_space: str | None = None
    ) -> Self:
        """Return the shift by ``(ndim,)`` millimetres."""
        offset = np.asarray(offset_mm, dtype=np.float64).ravel()
        matrix = np.eye(len(offset) + 1)
        matrix[:-1, -1] = offset
        return cls(matrix, fixed_space, moving_space)

    def _misfit(self, matrix: NDArray[np.float64]) -> float:
        return float(np.abs(matrix[:-1, :-1] - np.eye(len(matrix) - 1)).max())


def multiply(maps: list[Affine]) -> Affine:
    """Return the product of linear maps applied in order, of the narrowest class that holds it."""
    matrix = maps[0].matrix
    for other in maps[1:]:
        matrix = other.matrix @ matrix
    kinds: tuple[type[Affine], ...] = (Translation, Rigid, Similarity)
    kind = next((k for k in kinds if all(isinstance(m, k) for m in maps)), Affine)
    return kind(matrix, maps[0].fixed_space, maps[-1].moving_space)
