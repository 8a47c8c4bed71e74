"""Steps that map intensities by a curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from regista.core import GeometryError, Image, PlanError
from regista.preprocessing._itk import from_itk, itk, to_itk
from regista.preprocessing._nyul import bend, increasing
from regista.preprocessing._step import (
    Foreground,
    IntensityStep,
    check_intensities,
    check_percentiles,
    foreground_values,
    load,
    needs_file,
)

Change = tuple[NDArray[Any], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Clip(IntensityStep):
    """Limit intensities to a range, or to percentiles of the foreground.

    Parameters
    ----------
    low, high : float, optional
        Limits; None leaves that side open. Or
    percentiles : tuple of 2 floats, optional
        Percentiles of the foreground, 0 … 100.

    Notes
    -----
    The voxel type stays: limits of whole-number images are rounded.

    Examples
    --------
    >>> from regista.core import Grid
    >>> image = Image(np.array([[-1000.0, 40.0], [60.0, 3000.0]]), Grid((2, 2), np.eye(3)))
    >>> Clip(low=-200, high=300)(image).data.tolist()
    [[-200.0, 40.0], [60.0, 300.0]]
    """

    name: ClassVar[str] = "clip"
    low: float | None = None
    high: float | None = None
    percentiles: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        given = self.low is not None or self.high is not None
        if given == (self.percentiles is not None):
            raise PlanError("clip takes low and/or high, or percentiles")
        if self.percentiles is not None:
            check_percentiles("clip.percentiles", self.percentiles)
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise PlanError(f"clip.low is below clip.high, got {self.low} and {self.high}")

    def change(self, frame: Image, mask: Foreground | None) -> Change:
        """Return the clipped voxels and the limits."""
        low, high = self.low, self.high
        if self.percentiles is not None:
            values = foreground_values(frame, mask, self.name)
            low, high = (float(v) for v in np.percentile(values, self.percentiles))
        kind: np.dtype[Any] = frame.data.dtype
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            low = None if low is None else float(min(max(np.rint(low), limits.min), limits.max))
            high = None if high is None else float(min(max(np.rint(high), limits.min), limits.max))
        measured = {"low": None if low is None else float(low), "high": None if high is None else float(high)}
        return np.clip(frame.data, low, high).astype(kind), measured


@dataclass(frozen=True, kw_only=True)
class ZScore(IntensityStep):
    """Subtract the mean of the foreground and divide by its standard deviation.

    Examples
    --------
    >>> from regista.core import Grid
    >>> image = Image(np.array([[1.0, 2.0], [3.0, 4.0]]), Grid((2, 2), np.eye(3)))
    >>> abs(round(float(ZScore()(image, image).data.mean()), 6))
    0.0
    """

    name: ClassVar[str] = "zscore"

    def change(self, frame: Image, mask: Foreground | None) -> Change:
        """Return the scaled voxels, the mean and the standard deviation."""
        values = foreground_values(frame, mask, self.name)
        mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        data = (frame.data.astype(np.float64) - mean) / deviation
        return data.astype(np.float32), {"mean": mean, "standard_deviation": deviation}


@dataclass(frozen=True, kw_only=True)
class PercentileNormalize(IntensityStep):
    """Map two percentiles of the foreground to the ends of a range.

    Parameters
    ----------
    percentiles : tuple of 2 floats
        Percentiles of the foreground, 0 … 100.
    to : tuple of 2 floats
        Where they go.
    clip : bool
        Limit what lies beyond them.
    """

    name: ClassVar[str] = "percentile-normalize"
    percentiles: tuple[float, float] = (1.0, 99.0)
    to: tuple[float, float] = (0.0, 1.0)
    clip: bool = True

    def __post_init__(self) -> None:
        check_percentiles("percentile-normalize.percentiles", self.percentiles)
        if not self.to[0] < self.to[1]:
            raise PlanError(f"percentile-normalize.to is [low, high] with low < high, got {list(self.to)}")

    def change(self, frame: Image, mask: Foreground | None) -> Change:
        """Return the scaled voxels and the two percentiles."""
        values = foreground_values(frame, mask, self.name)
        low, high = (float(v) for v in np.percentile(values, self.percentiles))
        if not high > low:
            raise GeometryError(
                f"percentile-normalize: both percentiles {self.percentiles} are {low:g}; choose wider ones"
            )
        start, stop = self.to
        data = start + (frame.data.astype(np.float64) - low) * ((stop - start) / (high - low))
        if self.clip:
            data = np.clip(data, start, stop)
        return data.astype(np.float32), {"low": low, "high": high}


@dataclass(frozen=True, kw_only=True)
class HistogramMatch(IntensityStep):
    """Bend intensities so that their quantiles meet those of a reference image (SimpleITK).

    Parameters
    ----------
    reference : Image or file name
        Scalar image of the wanted contrast, on any grid.
    levels : int
        Bins of the histograms.
    points : int
        Quantiles that are matched.
    above_mean : bool
        Leave voxels below the mean, mostly air, out of the histograms.

    Notes
    -----
    Where there is a mask, the image's quantiles are those inside it. The mask is the image's: of the reference the
    voxels above its mean count, or all, as without a mask. ITK takes no mask, so its rule is spelled out here then,
    with the quantiles of the values themselves in place of `levels` bins.

    L. G. Nyúl, J. K. Udupa and X. Zhang, "New variants of a method of MRI scale standardization", IEEE
    Transactions on Medical Imaging 19(2), 2000, as implemented in ITK.
    """

    name: ClassVar[str] = "histogram-match"
    reference: Image | str
    levels: int = 256
    points: int = 15
    above_mean: bool = True

    def __post_init__(self) -> None:
        if not 8 <= self.levels <= 65536:
            raise PlanError(f"histogram-match.levels is between 8 and 65536, got {self.levels}")
        if not 1 <= self.points <= 1000:
            raise PlanError(f"histogram-match.points is between 1 and 1000, got {self.points}")
        if isinstance(self.reference, Image):
            check_intensities(self.reference, "histogram-match.reference")
            if self.reference.kind != "scalar":
                raise GeometryError("histogram-match.reference is one scalar image; take a frame of it")

    def resolved(self, read: Callable[[str], Image]) -> HistogramMatch:
        """Return the step with its reference read."""
        return replace(self, reference=load(self.reference, read))

    def change(self, frame: Image, mask: Foreground | None) -> Change:
        """Return the matched voxels and percentiles before and after."""
        needs_file(self, "reference", self.reference)
        assert isinstance(self.reference, Image)
        if self.reference.ndim != frame.ndim:
            raise GeometryError(
                f"histogram-match.reference is {self.reference.ndim}-D, the image {frame.ndim}-D"
            )
        if mask is not None:
            data = self._matched_inside(frame, mask)
        else:
            with itk() as sitk:
                out = sitk.HistogramMatching(
                    to_itk(frame), to_itk(self.reference), self.levels, self.points, self.above_mean
                )
                data = from_itk(out)
        at = (1, 25, 50, 75, 99)
        named = {
            "before": foreground_values(frame, mask, self.name),
            "after": data[mask] if mask is not None else data,
            "reference": foreground_values(self.reference, None, self.name),
        }
        found = {key: [float(v) for v in np.percentile(values, at)] for key, values in named.items()}
        return data, {"percentiles": list(at), **found}

    def _matched_inside(self, frame: Image, mask: Foreground) -> NDArray[np.float32]:
        assert isinstance(self.reference, Image)
        other = self.reference.as_float32().ravel()
        if self.above_mean:
            other = other[other >= other.mean(dtype=np.float64)]
        shares = np.linspace(0, 1, self.points + 2)
        here = foreground_values(frame, mask, self.name)
        marks, goal = (np.quantile(values.astype(np.float64), shares) for values in (here, other))
        return bend(frame.data, increasing(marks), goal)
