"""Expected deformations: a mean and a few modes learned from fields, and the penalty on what departs from them."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import FormatError, GeometryError, Grid, PlanError
from regista.kernels.cpu.fields import sample_field
from regista.kernels.cpu.modes import combine_modes, project
from regista.regularization._base import (
    FORBID,
    Field,
    PreparedPenalty,
    check_field,
    check_number,
    frame_of,
)

_VERSION = 1
_LEAST_SHARE = 1e-6
"""Modes with a smaller share of the whole variance are rounding."""
_MOST_SHARE = 0.9
"""Share of the whole variance that modes hold where their number is not given."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DeformationModel:
    """Displacements to be expected: a mean, modes with their variances, and the variance of what is left.

    Parameters
    ----------
    grid : Grid
        Lattice of mean and modes.
    mean_mm : (ndim, *grid.shape) float32 ndarray
        Mean displacement in world mm.
    modes : (r, ndim, *grid.shape) float32 ndarray
        Modes in world axes, each of mean squared length 1 over the voxels and orthogonal to the others.
    variances_mm2 : (r,) float64 ndarray
        Variance of the coefficient of each mode, mm²: its square root is the usual root-mean-square displacement
        along the mode.
    residual_mm2 : float
        Mean squared length of the displacement outside the span of the modes, mm².
    """

    grid: Grid
    mean_mm: Field
    modes: Field
    variances_mm2: NDArray[np.float64]
    residual_mm2: float

    def __post_init__(self) -> None:
        rank, vectors = len(self.variances_mm2), (self.grid.ndim, *self.grid.shape)
        if self.mean_mm.shape != vectors or self.modes.shape != (rank, *vectors):
            raise GeometryError(
                f"a deformation model of {rank} modes on a grid of shape {self.grid.shape} has a mean of shape {vectors} "
                f"and modes of shape {(rank, *vectors)}, got {self.mean_mm.shape} and {self.modes.shape}"
            )
        numbers = (self.mean_mm, self.modes, self.variances_mm2, self.residual_mm2)
        if not all(np.isfinite(n).all() for n in numbers):
            raise GeometryError("the deformation model holds NaN or Inf: learn it again")
        if not (np.asarray(self.variances_mm2) > 0).all() or not self.residual_mm2 > 0:
            raise PlanError("the variances of a deformation model are above 0")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Accept instances as they are: arrays are not spelled out in plans."""
        from pydantic_core import core_schema  # slow to import; only plans need it

        return core_schema.is_instance_schema(cls)


@dataclass(frozen=True, kw_only=True)
class DeformationPrior:
    """Penalty on departing from expected deformations, in their own standard deviations.

    With ``d = u − mean``, coefficients a of the modes (least squares) and what is left of d, the residual:
    ``R = Σ_n a_n² / variance_n + mean ‖residual‖² / residual variance`` (no unit). The first sum is the squared
    Mahalanobis distance within the span of the modes, about their number for a usual deformation; the second is about
    1 for one. Neither depends on the number of voxels, which the plain distance does: there the residual, with a
    freedom for each voxel, would drown the modes.

    Parameters
    ----------
    weight : float
        Factor on the penalty.
    model : DeformationModel or str
        What `learn` found, or the ``.npz`` file it was saved to.

    Notes
    -----
    The model is that of probabilistic principal components (M. E. Tipping and C. M. Bishop, J. R. Stat. Soc. B 61,
    1999), used for deformations since D. Rueckert, A. F. Frangi and J. A. Schnabel, IEEE TMI 22(8), 2003.

    Examples
    --------
    >>> grid, rng = Grid((5, 6, 7), np.eye(4)), np.random.default_rng(0)
    >>> mode = rng.normal(size=(3, 5, 6, 7))
    >>> fields = [a * mode + 0.1 * rng.normal(size=mode.shape) for a in rng.normal(size=9)]
    >>> prior = DeformationPrior.learn(fields, grid, rank=1, weight=0.1)
    >>> prior.model.modes.shape
    (1, 3, 5, 6, 7)
    """

    weight: float = 1.0
    model: DeformationModel | str
    name: ClassVar[str] = "deformation-prior"
    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        check_number(self.name, "weight", self.weight, 0)
        if not isinstance(self.model, DeformationModel | str):
            raise PlanError(f"{self.name} model is a model or the name of its .npz file, got {self.model!r}")

    @classmethod
    def learn(
        cls,
        fields: Sequence[ArrayLike],
        grid: Grid,
        *,
        rank: int | None = None,
        residual_mm: float | None = None,
        weight: float = 1.0,
    ) -> DeformationPrior:
        """Learn a model from displacement fields.

        Parameters
        ----------
        fields : sequence of (ndim, *grid.shape) array_like
            Displacements in world mm on one grid, of maps into one space (as `DisplacementField.vectors_mm`).
        grid : Grid
            Their lattice.
        rank : int, optional
            Modes to keep, at most one less than fields; by default as many as hold 90 % of the variance.
        residual_mm : float, optional
            Root-mean-square displacement outside the span of the modes. By default each field in turn is compared with
            the modes of the others, so that it is honest for fields not seen.
        weight : float
            Factor on the penalty.

        Raises
        ------
        GeometryError
            If the fields do not fit the grid or hold NaN or Inf.
        PlanError
            If there are too few fields for the rank, or they do not vary.
        """
        return cls(weight=weight, model=_learn(fields, grid, rank, residual_mm))

    def prepare(self, grid: Grid, mask: ArrayLike | None = None) -> PreparedPenalty:
        """Bind to a grid: mean and modes are interpolated on it, continued beyond their lattice by edge values."""
        if mask is not None:
            raise PlanError(f"{self.name} is a penalty on whole fields and takes no mask")
        model = load_deformation_model(self.model) if isinstance(self.model, str) else self.model
        return _PreparedPrior(model, grid, self.weight)


class _PreparedPrior(PreparedPenalty):
    def __init__(self, model: DeformationModel, grid: Grid, weight: float) -> None:
        if model.grid.ndim != grid.ndim and not (model.grid.ndim == 2 and _in_plane(grid)):
            raise GeometryError(f"a {model.grid.ndim}-D deformation model does not fit a {grid.ndim}-D grid")
        frame = frame_of(grid)
        to_voxels = np.asarray(np.linalg.inv(frame), np.float64)
        self._grid, self._weight, self._metric = grid, weight, frame.T @ frame
        self._mean = _turned(_resampled(model.mean_mm, model.grid, grid), to_voxels)
        modes = np.empty((len(model.modes), 3, *grid.as_3d().shape), np.float32)
        for n, mode in enumerate(model.modes):
            modes[n] = _resampled(mode, model.grid, grid)
        flat = modes.reshape(len(modes), -1)
        gram = np.array([[np.dot(a, b) for a in flat] for b in flat], np.float64).reshape(
            len(modes), len(modes)
        )
        # interpolated modes are not quite orthonormal any more
        self._inverse = np.linalg.inv(gram / grid.size)
        for n in range(len(modes)):
            modes[n] = _turned(
                modes[n], frame.T
            )  # products with displacements in voxels are then those in mm
        self._modes, self._precisions = modes, 1 / np.asarray(model.variances_mm2, np.float64)
        self._residual = 1 / model.residual_mm2

    def value_and_gradient(self, field_vox: Field, out: Field) -> float:
        """Return the weighted value and add the weighted gradient."""
        check_field(self._grid, field_vox, out)
        if self._weight == 0:
            return 0.0
        n = self._grid.size
        products, square = project(field_vox, self._mean, self._modes, self._metric)
        products, square = products / n, square / n
        a = self._inverse @ products
        left = max(square - float(products @ a), 0.0)
        value = float(a @ (self._precisions * a)) + left * self._residual
        factor = 2 * self._weight / n
        coefficients = factor * (self._inverse @ (self._precisions * a) - self._residual * a)
        combine_modes(
            field_vox,
            self._mean,
            self._modes,
            self._metric,
            coefficients,
            factor=factor * self._residual,
            out=out,
        )
        return float(self._weight * value)


def save_deformation_model(model: DeformationModel, path: str | Path) -> None:
    """Write a model to an ``.npz`` file, as a whole or not at all.

    Parameters
    ----------
    model : DeformationModel
        What to write.
    path : path
        File ending in ``.npz``.

    Raises
    ------
    FormatError
        If the name ends otherwise, or the disk refuses.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise FormatError(f"{path}: a deformation model is written to a file ending in .npz")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    except OSError as error:
        raise FormatError(f"cannot write {path}: {error}") from None
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez_compressed(
                stream,
                version=_VERSION,
                shape=np.array(model.grid.shape),
                grid2world=model.grid.grid2world,
                mean_mm=model.mean_mm,
                modes=model.modes,
                variances_mm2=model.variances_mm2,
                residual_mm2=model.residual_mm2,
            )
        os.replace(name, path)
    except OSError as error:
        raise FormatError(f"cannot write {path}: {error}") from None
    finally:
        Path(name).unlink(missing_ok=True)


def load_deformation_model(path: str | Path) -> DeformationModel:
    """Read a model written by `save_deformation_model`.

    Raises
    ------
    FormatError
        If the file is missing, damaged or not of this kind.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if int(archive["version"]) != _VERSION:
                raise FormatError(
                    f"{path} is a deformation model of version {archive['version']}, not {_VERSION}"
                )
            grid = Grid(tuple(archive["shape"].tolist()), archive["grid2world"])
            return DeformationModel(
                grid=grid,
                mean_mm=archive["mean_mm"].astype(np.float32),
                modes=archive["modes"].astype(np.float32),
                variances_mm2=archive["variances_mm2"].astype(np.float64),
                residual_mm2=float(archive["residual_mm2"]),
            )
    except FormatError:
        raise
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(f"cannot read the deformation model {path}: {error}") from None


def _in_plane(grid: Grid) -> bool:
    """Tell whether a 3-D grid is a 2-D one as images are worked on: one slice, in the plane z = 0, axes in any order."""
    across = np.flatnonzero(np.array(grid.shape) == 1)
    upright = [n for n in across if np.allclose(grid.grid2world[:2, n], 0)]
    others = [n for n in range(4) if n not in upright[:1]]
    return bool(upright) and np.allclose(grid.grid2world[2, others], 0)


def _learn(
    fields: Sequence[ArrayLike], grid: Grid, rank: int | None, residual_mm: float | None
) -> DeformationModel:
    if len(fields) < 2:
        raise PlanError(f"a prior is learned from 2 fields or more, got {len(fields)}")
    if rank is not None and (
        isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank < len(fields)
    ):
        raise PlanError(
            f"rank is a whole number from 1 to one less than the number of fields ({len(fields)}), got {rank!r}"
        )
    if residual_mm is not None:
        check_number(DeformationPrior.name, "residual_mm", residual_mm, 1e-6)
    data = np.stack([_checked(field, grid, n) for n, field in enumerate(fields)]).reshape(len(fields), -1)
    mean = data.mean(axis=0, dtype=np.float64).astype(np.float32)
    data -= mean
    gram = np.empty((len(data), len(data)))
    for m in range(len(data)):
        for n in range(m + 1):
            gram[m, n] = gram[n, m] = np.dot(data[m].astype(np.float64), data[n]) / grid.size
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    if rank is None:
        held = np.cumsum(values) / max(float(values.sum()), 1e-300)
        rank = min(1 + int(np.searchsorted(held, _MOST_SHARE)), len(data) - 1)
    values, vectors = values[:rank], vectors[:, :rank]
    if not values[-1] > _LEAST_SHARE * np.trace(gram) > 0:
        raise PlanError(
            f"the {len(data)} fields vary along fewer than {rank} modes: give more unlike fields or a lower rank"
        )
    modes = (vectors / np.sqrt(values)).T.astype(np.float32) @ data
    residual = residual_mm**2 if residual_mm is not None else _left_out(gram, rank)
    if not residual > _LEAST_SHARE * np.trace(gram) / len(data):
        raise PlanError(
            "the modes explain the fields wholly: say what else to expect (in Python residual_mm=)"
        )
    shape = (grid.ndim, *grid.shape)
    return DeformationModel(
        grid=grid,
        mean_mm=mean.reshape(shape),
        modes=modes.reshape(rank, *shape),
        variances_mm2=values / (len(data) - 1),
        residual_mm2=float(residual),
    )


def _left_out(gram: NDArray[np.float64], rank: int) -> float:
    """Return the mean squared distance of each field from mean and modes of the others, from inner products alone."""
    count, total = len(gram), 0.0
    for n in range(count):
        others = np.eye(count)[:, np.arange(count) != n]
        mean = others.mean(axis=1)
        centred, this = others - mean[:, None], np.eye(count)[n] - mean
        values, vectors = np.linalg.eigh(centred.T @ gram @ centred)
        kept = values > _LEAST_SHARE * max(values[-1], 1e-300)
        kept[:-rank] = False
        along = (vectors[:, kept].T @ (centred.T @ gram @ this)) / np.sqrt(values[kept])
        total += max(float(this @ gram @ this - along @ along), 0.0)
    return total / count


def _checked(field: ArrayLike, grid: Grid, number: int) -> Field:
    vectors = np.asarray(field, np.float32)
    if vectors.shape != (grid.ndim, *grid.shape):
        raise GeometryError(
            f"field {number} has shape {vectors.shape}, expected {(grid.ndim, *grid.shape)}: bring all fields onto one "
            "grid"
        )
    if not np.isfinite(vectors).all():
        raise GeometryError(f"field {number} holds NaN or Inf vectors: replace them before use")
    return vectors


def _resampled(vectors_mm: Field, own: Grid, grid: Grid) -> Field:
    """Return a world field at the voxels of another grid, ``(3, I, J, K)``."""
    vectors = vectors_mm
    if own.ndim == 2:
        vectors = np.concatenate([vectors, np.zeros_like(vectors[:1])])[..., None]
    if own == grid:
        return np.ascontiguousarray(vectors)
    own, grid = own.as_3d(), grid.as_3d()
    to_own = own.world2grid @ grid.grid2world
    out = np.empty((3, *grid.shape), np.float32)
    for i in range(grid.shape[0]):  # a plane at a time: places are float64
        index = np.indices(grid.shape[1:]).reshape(2, -1)
        places = to_own[:3, 1:3] @ index + (to_own[:3, 0] * i + to_own[:3, 3])[:, None]
        out[:, i] = sample_field(vectors, places.T).reshape(3, *grid.shape[1:])
    return out


def _turned(vectors: Field, matrix: NDArray[np.float64]) -> Field:
    turned = matrix.astype(np.float32) @ vectors.reshape(3, -1)
    return np.ascontiguousarray(turned.reshape(vectors.shape))
