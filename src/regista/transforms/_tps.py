"""`ThinPlateSpline`: the smoothest map through corresponding landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import GeometryError, Grid, PlanError
from regista.kernels.cpu.splines import map_spline
from regista.transforms._base import Transform
from regista.transforms._composite import Composite
from regista.transforms._linear import Affine

Matrix = NDArray[np.float64]

MAX_LANDMARKS = 4000
"""Beyond it the dense system of the spline would fill the memory."""
_SAME = 1e-7  # of the landmarks' spread: closer ones count as one place
_FLAT = 1e-4  # of the largest extent: a thinner one counts as none


@dataclass(frozen=True, eq=False)
class ThinPlateSpline(Transform):
    """An affine map plus a radial function about each landmark: ``T(x) = A x + b + Σ w_l U(|x − c_l|)``.

    ``U(r)`` is ``r² log r`` in 2-D and ``r`` in 3-D. Far from the landmarks the map goes on smoothly, beyond any
    image. It is made by `ThinPlateSpline.through`.

    Parameters
    ----------
    centers_mm : (L, ndim) array_like
        Landmarks of the fixed space, RAS+ mm.
    weights : (L, ndim) array_like
        What each landmark adds: mm of the moving space per ``U``.
    matrix : (ndim + 1, ndim + 1) array_like
        Homogeneous matrix of the affine part, RAS+ mm.
    fixed_space, moving_space : str, optional
        Names of the spaces.

    Raises
    ------
    GeometryError
        If the arrays do not fit together or hold NaN or Inf.

    Notes
    -----
    Bookstein, Principal warps: thin-plate splines and the decomposition of deformations, IEEE TPAMI 1989.

    Examples
    --------
    >>> corners = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0], [5.0, 5.0]])
    >>> spline = ThinPlateSpline.through(corners, corners + [[1, 0], [0, 0], [0, 0], [0, 0], [0, 2]])
    >>> spline.map_points([[0.0, 0.0], [5.0, 5.0]]).round(6).tolist()
    [[1.0, 0.0], [5.0, 7.0]]
    """

    centers_mm: Matrix
    weights: Matrix
    matrix: Matrix
    fixed_space: str | None = None
    moving_space: str | None = None

    def __post_init__(self) -> None:
        centers, weights, matrix = (
            np.array(a, dtype=np.float64) for a in (self.centers_mm, self.weights, self.matrix)
        )
        if centers.ndim != 2 or centers.shape[1] not in (2, 3):
            raise GeometryError(f"a spline's landmarks are an (L, 2) or (L, 3) array, got {centers.shape}")
        size = centers.shape[1] + 1
        if weights.shape != centers.shape or matrix.shape != (size, size):
            raise GeometryError(
                f"a spline about landmarks of shape {centers.shape} has weights of the same shape and a matrix of "
                f"{size}×{size}, got {weights.shape} and {matrix.shape}"
            )
        if not all(np.isfinite(a).all() for a in (centers, weights, matrix)):
            raise GeometryError("the spline holds NaN or Inf: it cannot map anything")
        for name, array in (("centers_mm", centers), ("weights", weights), ("matrix", matrix)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def through(
        cls,
        fixed_mm: ArrayLike,
        moving_mm: ArrayLike,
        *,
        smoothing: float = 0.0,
        weights: ArrayLike | None = None,
        fixed_space: str | None = None,
        moving_space: str | None = None,
    ) -> ThinPlateSpline:
        """Return the spline that takes landmarks to landmarks, or near them.

        Parameters
        ----------
        fixed_mm, moving_mm : (L, ndim) array_like
            Corresponding points, RAS+ mm.
        smoothing : float
            Weight of the bending energy against the mean squared distance of the landmarks, where the fixed ones
            have a root mean square distance of 1 from their middle: the unit of length does not matter. 0 passes
            through every point; a large value gives the least squares affine map.
        weights : (L,) array_like, optional
            Confidence of each landmark, above 0: with a smoothing, those of more weight are met more closely.
        fixed_space, moving_space : str, optional
            Names of the spaces.

        Returns
        -------
        ThinPlateSpline
            The spline of least bending energy.

        Raises
        ------
        GeometryError
            If the points do not correspond, are not finite, are too few, all lie in a plane (in 2-D on a line), or,
            without smoothing, one place is to go to two.
        PlanError
            If `smoothing` is negative, or a weight is not above 0.

        Notes
        -----
        Wahba, Spline models for observational data, SIAM 1990; Rohr et al., Landmark-based elastic registration
        using approximating thin-plate splines, IEEE TMI 2001.
        """
        fit = SplineFit(fixed_mm, moving_mm, smoothing=smoothing, weights=weights)
        return fit.spline(fixed_space, moving_space)

    @property
    def ndim(self) -> int:
        """Number of coordinates, 2 or 3."""
        return int(self.centers_mm.shape[1])

    def map_points(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Map ``(N, ndim)`` points, mm."""
        points = self._points(points_mm)
        if self.ndim == 2:
            points = np.pad(points, ((0, 0), (0, 1)))
        return np.ascontiguousarray(self.map_3d(points)[:, : self.ndim])

    def map_3d(self, points_mm: Matrix) -> Matrix:
        """Map ``(N, 3)`` points, in 2-D within the plane z = 0."""
        n = self.ndim
        pad, affine = ((0, 0), (0, 3 - n)), np.eye(4)[:3]
        affine[:n, :n], affine[:n, 3] = self.matrix[:n, :n], self.matrix[:n, n]
        centers, weights = np.pad(self.centers_mm, pad), np.pad(self.weights, pad)
        return map_spline(points_mm, centers, weights, affine, planar=n == 2)

    def split(self) -> tuple[ThinPlateSpline, Affine]:
        """Return the bending alone, within the fixed space, and the affine map that follows it.

        Raises
        ------
        GeometryError
            If the affine part is singular.
        """
        affine = Affine(self.matrix, self.fixed_space, self.moving_space)
        back = affine.inverse().matrix[:-1, :-1]
        bending = replace(
            self, weights=self.weights @ back.T, matrix=np.eye(self.ndim + 1), moving_space=self.fixed_space
        )
        return bending, affine

    def inverse(self, grid: Grid | None = None) -> Composite:
        """Return the inverse on a grid: that of the affine part, then that of the bending as a displacement field.

        Parameters
        ----------
        grid : Grid
            Lattice of the field, in the fixed space: the fixed image's.

        Raises
        ------
        GeometryError
            Without a grid: a spline has no inverse in closed form.
        """
        from regista.transforms._ops import to_displacement_field  # which knows this class in turn

        if grid is None:
            raise GeometryError(
                "a thin-plate spline has no inverse in closed form, only one sampled on a grid: call "
                "spline.inverse(fixed.grid) with the fixed image's; in a chain, first write the spline as a "
                "displacement field, to_displacement_field(spline, fixed.grid)"
            )
        bending, affine = self.split()
        return Composite((affine.inverse(), to_displacement_field(bending, grid).inverse()))


class SplineFit:
    """A spline through landmarks, and how well each landmark is foretold by the others.

    Parameters
    ----------
    fixed_mm, moving_mm, smoothing, weights
        As for `ThinPlateSpline.through`.
    names : sequence of str, optional
        What messages call the landmarks; by default their numbers, counted from 1.

    Examples
    --------
    >>> fixed = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0], [5.0, 5.0]])
    >>> SplineFit(fixed, fixed + [1, 2]).left_out_mm().round(6).max().item() + 0.0
    0.0
    """

    def __init__(
        self,
        fixed_mm: ArrayLike,
        moving_mm: ArrayLike,
        *,
        smoothing: float = 0.0,
        weights: ArrayLike | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        fixed, moving, confidence = _checked(fixed_mm, moving_mm, smoothing, weights)
        self._fixed = fixed
        self._middle = fixed.mean(axis=0)
        centered = fixed - self._middle
        self._scale = float(np.sqrt((centered**2).sum(axis=1).mean()))
        _refuse_flat(centered)
        # without smoothing a place given twice counts once: its two rows would be the same
        called = names if names is not None else [str(n + 1) for n in range(len(fixed))]
        place = _places(fixed, moving, self._scale, called) if smoothing == 0 else np.arange(len(fixed))
        kept, self._position = np.unique(place, return_inverse=True)
        self._kept, targets = kept, moving[kept]
        places = centered[kept] / self._scale
        kernel = _kernel(places) + np.diag(len(kept) * smoothing / confidence[kept])
        basis = np.column_stack([places, np.ones(len(places))])
        turned, upper = np.linalg.qr(basis, mode="complete")
        count = basis.shape[1]
        affine_part, rest = turned[:, :count], turned[:, count:]
        # on what no affine map can express the kernel is positive definite
        inner = rest.T @ kernel @ rest
        self._influence = rest @ np.linalg.solve((inner + inner.T) / 2, rest.T)
        self._weights = self._influence @ targets
        left = affine_part.T @ (targets - kernel @ self._weights)
        self._affine = np.linalg.solve(upper[:count], left)
        self._determined = (affine_part**2).sum(axis=1) < 1 - 1e-9
        self._residuals = moving - targets[self._position]

    def spline(self, fixed_space: str | None = None, moving_space: str | None = None) -> ThinPlateSpline:
        """Return the spline."""
        centers, n, scale = self._fixed[self._kept], self._fixed.shape[1], self._scale
        matrix = np.eye(n + 1)
        matrix[:n, :n] = self._affine[:n].T / scale
        shift = self._affine[n].copy()
        if n == 2:  # (r/s)² log(r/s) differs from r² log(r)/s² by what sums to a constant
            weights = self._weights / scale**2
            square = ((centers - self._middle) ** 2).sum(axis=1)
            shift -= np.log(scale) * square @ weights
        else:
            weights = -self._weights / scale
        matrix[:n, n] = shift - matrix[:n, :n] @ self._middle
        return ThinPlateSpline(centers, weights, matrix, fixed_space, moving_space)

    def left_out_mm(self) -> Matrix:
        """Return how far each moving landmark lies from where the spline through the others puts it, ``(L, ndim)`` mm.

        NaN where the others do not determine a spline. No refitting is needed (Rippa, Adv Comput Math 1999; with
        smoothing, Wahba 1990).
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            found = self._weights / np.diag(self._influence)[:, None]
        found[~self._determined] = np.nan
        found = np.asarray(found[self._position])
        twice = np.bincount(self._position)[self._position] > 1
        found[twice] = self._residuals[twice]  # its twin holds the spline
        return found


def _kernel(places: Matrix) -> Matrix:
    """Return U between all places, with the sign that makes it positive on what no affine map can express."""
    square = _square_distances(places)
    if places.shape[1] == 3:
        return np.asarray(-np.sqrt(square))
    return np.asarray(0.5 * square * np.log(np.where(square == 0, 1.0, square)))


def _square_distances(places: Matrix) -> Matrix:
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(places, places, "sqeuclidean"))


def _checked(
    fixed_mm: ArrayLike, moving_mm: ArrayLike, smoothing: float, weights: ArrayLike | None
) -> tuple[Matrix, Matrix, Matrix]:
    fixed, moving = np.asarray(fixed_mm, np.float64), np.asarray(moving_mm, np.float64)
    if fixed.ndim != 2 or fixed.shape[1] not in (2, 3) or fixed.shape != moving.shape:
        raise GeometryError(
            f"corresponding landmarks are two (L, 2) or (L, 3) arrays, got shapes {fixed.shape} and {moving.shape}"
        )
    if not (np.isfinite(fixed).all() and np.isfinite(moving).all()):
        raise GeometryError("the landmarks hold NaN or Inf: leave those out")
    if not (np.isfinite(smoothing) and smoothing >= 0):
        raise PlanError(f"smoothing is a number of at least 0, got {smoothing!r}")
    confidence = np.ones(len(fixed)) if weights is None else np.asarray(weights, np.float64)
    if confidence.shape != (len(fixed),) or not (np.isfinite(confidence) & (confidence > 0)).all():
        raise PlanError(f"weights are {len(fixed)} numbers above 0, one per landmark, got {weights!r}")
    if len(fixed) < fixed.shape[1] + 1:
        raise GeometryError(
            f"a thin-plate spline in {fixed.shape[1]}-D needs {fixed.shape[1] + 1} landmarks or more, got {len(fixed)}"
        )
    if len(fixed) > MAX_LANDMARKS:
        raise GeometryError(
            f"a thin-plate spline goes through {MAX_LANDMARKS} landmarks at most, got {len(fixed)}: take fewer"
        )
    return fixed, moving, confidence / confidence.mean()


def _refuse_flat(centered: Matrix) -> None:
    extents = np.linalg.svd(centered, compute_uv=False)
    if extents[-1] <= _FLAT * extents[0]:
        where = "in one plane" if centered.shape[1] == 3 else "on one line"
        raise GeometryError(f"the fixed landmarks lie {where}: a thin-plate spline needs one elsewhere")


def _places(fixed: Matrix, moving: Matrix, scale: float, names: Sequence[str]) -> NDArray[np.int64]:
    """Return the first landmark at each landmark's place; refuse one place that goes to two."""
    first = np.argmax(_square_distances(fixed) <= (_SAME * scale) ** 2, axis=1)
    away = np.linalg.norm(moving - moving[first], axis=1)
    worst = int(np.argmax(away))
    if away[worst] > _SAME * scale:
        raise GeometryError(
            f"landmarks {names[first[worst]]} and {names[worst]} are one place of the fixed image but lie {away[worst]:.3g} mm "
            "apart in the moving one: correct them, or let the spline pass near its landmarks, with --smoothing above 0 "
            "(in Python smoothing=)"
        )
    return np.asarray(first, np.int64)
