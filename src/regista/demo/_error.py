"""How far an estimated map is from the true one."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from regista.core import GeometryError, Image
from regista.transforms import Transform

_CHUNK = 400_000


@dataclass(frozen=True, kw_only=True)
class ErrorSummary:
    """Distances between two maps over a set of points.

    Parameters
    ----------
    mean_mm, median_mm, p95_mm, max_mm : float
        Mean, median, 95th percentile and largest distance, mm.
    points : int
        Number of points compared.
    """

    mean_mm: float
    median_mm: float
    p95_mm: float
    max_mm: float
    points: int

    def to_dict(self) -> dict[str, float]:
        """Return plain JSON types."""
        return asdict(self)


def transform_error(estimate: Transform | None, truth: Transform, mask: Image) -> ErrorSummary:
    """Summarize ``|estimate(x) - truth(x)|`` over the voxels of a mask in the fixed space.

    Parameters
    ----------
    estimate : Transform or None
        Estimated map fixed → moving; None stands for no registration at all (identity).
    truth : Transform
        True map fixed → moving.
    mask : Image
        Voxels other than 0 are compared.

    Returns
    -------
    ErrorSummary
        Distances in mm.

    Raises
    ------
    GeometryError
        If the mask is empty.

    Examples
    --------
    >>> from regista.core import Grid
    >>> from regista.transforms import Translation
    >>> shift = np.eye(4)
    >>> shift[:3, 3] = [0.0, 3.0, 4.0]
    >>> mask = Image(np.ones((2, 3, 4), np.uint8), Grid((2, 3, 4), np.eye(4)))
    >>> transform_error(None, Translation(shift), mask).mean_mm
    5.0
    """
    points = mask.grid.index2world(np.argwhere(mask.data != 0))
    if not len(points):
        raise GeometryError("the mask is empty: there is no voxel to compare the two maps at")
    distances = np.concatenate(
        [_distances(estimate, truth, points[n : n + _CHUNK]) for n in range(0, len(points), _CHUNK)]
    )
    return ErrorSummary(
        mean_mm=float(distances.mean()),
        median_mm=float(np.median(distances)),
        p95_mm=float(np.percentile(distances, 95)),
        max_mm=float(distances.max()),
        points=len(points),
    )


def _distances(
    estimate: Transform | None, truth: Transform, points: NDArray[np.float64]
) -> NDArray[np.float64]:
    estimated = points if estimate is None else estimate.map_points(points)
    return np.asarray(np.linalg.norm(estimated - truth.map_points(points), axis=1))
