"""A metric along one parameter of a rigid map: how wide, how smooth, and where its best value is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from regista.core import Image, PlanError
from regista.registration._channels import Channels
from regista.registration._inputs import canonical, check_mask, check_pair, hide, prepare
from regista.registration._levels import Level, Matrix, Warper, levels
from regista.registration._plan import Plan
from regista.registration._stages import LinearStage
from regista.similarity import Similarity, check_metric, prepare_channels
from regista.transforms import Affine

_PARAMETER = re.compile(r"(t|r)([xyz])")


@dataclass(frozen=True, kw_only=True, eq=False)
class Landscape:
    """The values of a metric along a parameter.

    Parameters
    ----------
    metric : str
        Its name.
    parameter : str
        'tx', 'ty', 'tz' (mm along a world axis) or 'rx', 'ry', 'rz' (degrees about one through the fixed image's centre).
    offsets : (N,) float64 ndarray
        Values of the parameter, evenly spaced; 0 is the given alignment.
    values : (N,) float64 ndarray
        Dissimilarity, lower is better; infinite where the images do not overlap.
    """

    metric: str
    parameter: str
    offsets: NDArray[np.float64]
    values: NDArray[np.float64]

    @property
    def unit(self) -> str:
        """The unit of the offsets."""
        return "mm" if self.parameter[0] == "t" else "deg"

    @property
    def optimum(self) -> float:
        """Where the best value is, refined by the parabola through it and its neighbours."""
        n = int(np.argmin(self.values))
        if not 0 < n < len(self.values) - 1:
            return float(self.offsets[n])
        before, here, after = self.values[n - 1 : n + 2]
        bend = before - 2 * here + after
        share = 0.5 * (before - after) / bend if np.isfinite(bend) and bend > 0 else 0.0
        return float(self.offsets[n] + share * (self.offsets[1] - self.offsets[0]))

    @property
    def capture_range(self) -> tuple[float, float]:
        """How far to either side of the best value every step towards it makes the value better."""
        n = int(np.argmin(self.values))
        low, high = n, n
        while low > 0 and self.values[low - 1] > self.values[low]:
            low -= 1
        while high < len(self.values) - 1 and self.values[high + 1] > self.values[high]:
            high += 1
        return float(self.offsets[n] - self.offsets[low]), float(self.offsets[high] - self.offsets[n])

    @property
    def minima(self) -> int:
        """Number of local minima within the range: 1 where the metric is smooth."""
        v = self.values
        return int(np.sum((v[1:-1] < v[:-2]) & (v[1:-1] <= v[2:])))

    def summary(self) -> dict[str, float | int | str]:
        """Return the figures as one row of a table."""
        low, high = self.capture_range
        return {
            "metric": self.metric,
            "parameter": self.parameter,
            "unit": self.unit,
            "optimum": self.optimum,
            "capture_below": low,
            "capture_above": high,
            "local_minima": self.minima,
        }


def metric_landscape(
    fixed: Image,
    moving: Image,
    metrics: Mapping[str, Similarity],
    along: Sequence[str],
    *,
    reach: float = 20.0,
    points: int = 41,
    shrink: int = 1,
    initial: Affine | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
) -> list[Landscape]:
    """Return metrics as functions of one parameter each, the others at the given alignment.

    Parameters
    ----------
    fixed, moving : Image
        The pair, both 2-D or both 3-D, scaled to 0 … 1 as by `register`.
    metrics : mapping of str to Similarity
        What to look at, by names of one's choice.
    along : sequence of str
        Parameters: 'tx', 'ty', 'tz', 'rx', 'ry', 'rz'; a 2-D image has 'tx', 'ty' and 'rz'.
    reach : float
        How far to go to either side, mm or degrees.
    points : int
        How many values, an odd number so that 0 is one of them.
    shrink : int
        Level to look at, as in a plan.
    initial : Affine, optional
        Alignment that counts as 0 (default: the headers).
    fixed_mask, moving_mask : Image, optional
        As in `register`.

    Raises
    ------
    GeometryError, PlanError
        If the images or masks do not fit, or a setting is out of range.

    Examples
    --------
    >>> from regista.core import Grid
    >>> from regista.similarity import SSD
    >>> blob = np.exp(-((np.indices((24, 24)) - 11.5) ** 2).sum(0) / 30).astype(np.float32)
    >>> image = Image(blob, Grid(blob.shape, np.eye(3)))
    >>> row, = metric_landscape(image, image, {"ssd": SSD()}, ["tx"], reach=4, points=9)
    >>> round(row.optimum, 3) + 0.0, row.capture_range
    (0.0, (4.0, 4.0))
    """
    _check_settings(fixed, along, reach, points, shrink)
    check_pair(fixed, moving, "error")
    for similarity in metrics.values():
        check_metric(similarity, 2 if 1 in fixed.grid.shape else fixed.ndim)
    level = _level(fixed, moving, fixed_mask, moving_mask, shrink)
    start = _matrix(initial)
    warper, center = Warper(level), level.fixed.grid.center_mm
    bound = {
        name: prepare_channels(one, level.fixed.channels, level.fixed.weight, level.fixed.hides)
        for name, one in metrics.items()
    }
    gradients = [np.empty_like(channel) for channel in level.fixed.channels]
    offsets = np.linspace(-reach, reach, points)
    found: list[Landscape] = []
    for parameter in along:
        values: dict[str, list[float]] = {name: [] for name in metrics}
        for offset in offsets:
            warped, weight = warper(level.voxel_map(start @ moved(parameter, offset, center)))
            for name, metric in bound.items():
                values[name].append(metric.value_and_gradient(warped, weight, gradients))
        found += [
            Landscape(metric=name, parameter=parameter, offsets=offsets, values=np.array(column))
            for name, column in values.items()
        ]
    return found


def moved(parameter: str, offset: float, center_mm: Matrix) -> Matrix:
    """Return the world matrix of one parameter: a shift in mm, or a turn in degrees about a centre."""
    matrix = np.eye(4)
    axis = "xyz".index(parameter[1])
    if parameter[0] == "t":
        matrix[axis, 3] = offset
        return matrix
    turn = Rotation.from_euler(parameter[1], offset, degrees=True).as_matrix()
    matrix[:3, :3] = turn
    matrix[:3, 3] = center_mm - turn @ center_mm
    return matrix


def _check_settings(fixed: Image, along: Sequence[str], reach: float, points: int, shrink: int) -> None:
    known = ("tx", "ty", "rz") if fixed.ndim == 2 else ("tx", "ty", "tz", "rx", "ry", "rz")
    for parameter in along:
        if not _PARAMETER.fullmatch(parameter) or parameter not in known:
            raise PlanError(f"parameters of {fixed.ndim}-D images are {', '.join(known)}, got {parameter!r}")
    if not along:
        raise PlanError(f"name at least one parameter to go along: {', '.join(known)}")
    if not 0 < reach <= 1000:
        raise PlanError(f"the reach is above 0 and at most 1000 mm or degrees, got {reach}")
    if not 5 <= points <= 2001 or points % 2 == 0:
        raise PlanError(f"points is an odd number from 5 to 2001, got {points}")
    if not 1 <= shrink <= 64:
        raise PlanError(f"shrink is between 1 and 64, got {shrink}")


def _level(
    fixed: Image, moving: Image, fixed_mask: Image | None, moving_mask: Image | None, shrink: int
) -> Level:
    plan = Plan(stages=(LinearStage(model="rigid"),))  # how a plan scales intensities by default
    channels, scans = Channels.of(fixed, moving), []
    for role, image, mask in (("fixed", fixed, fixed_mask), ("moving", moving, moving_mask)):
        mask = None if mask is None else check_mask(mask, image, role)
        scans.append(prepare(*canonical(image, mask), plan, role, "error", channels.averaged == role))
    hidden = hide(scans[0], scans[1], plan)
    return next(iter(levels(*hidden, (shrink,), (1,))))


def _matrix(initial: Affine | None) -> Matrix:
    """Return a linear map as a (4, 4) matrix."""
    matrix = np.eye(4)
    if initial is not None:
        keep = [0, 1, 3] if initial.ndim == 2 else [0, 1, 2, 3]
        matrix[np.ix_(keep, keep)] = initial.matrix
    return matrix
