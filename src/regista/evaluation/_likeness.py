"""How alike two images are, of whatever contrasts: information shared, local correlation, and edges that meet."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]
_BINS = 24
_CURVED, _CURVED_SHARE = 0.08, 0.45
"""Variance that only a curve explains, of all and of what is explained, in images of two contrasts. Of aligned T1 and T2 it is
0.11 and more of all, nearly all of what is explained; of one contrast, aligned or not, 0.1 at most or less than the share."""
_ENOUGH = 500
_LITTLE = 0.005
"""Likeness below which more and less do not differ."""


def log_ratio(value: float, other: float) -> float:
    return float(np.log((max(value, 0) + _LITTLE) / (max(other, 0) + _LITTLE)))


def log_odds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log odds of measures between 0 and 1, whose gains weigh alike near either end: from .94 little of a ratio is left.

    Parameters
    ----------
    values : ndarray
        Measures; beyond 0 and 1 they count as these.

    Examples
    --------
    >>> np.round(log_odds(np.array([0.1, 0.2, 0.8, 0.9])), 2).tolist()
    [-2.15, -1.37, 1.37, 2.15]
    """
    within = np.clip(values, 0, 1)
    return np.asarray(np.log((within + _LITTLE) / (1 + _LITTLE - within)))


class Likeness:
    """How alike other images are to one; what depends on that one alone is computed once.

    Parameters
    ----------
    fixed : ndarray of float32
        The one.
    """

    def __init__(self, fixed: Volume) -> None:
        self._fixed = fixed
        self._axes = [a for a, n in enumerate(fixed.shape) if n > 2]
        self._window = [min(5, n) for n in fixed.shape]
        self.measures: dict[str, Callable[[Volume, Mask], float]] = {  # the quickest first
            "nmi": lambda warped, region: _information(fixed[region], warped[region]),
            "edges": self._edge_agreement,
            "lncc": self._local_correlation,
        }

    def measured(self, warped: Volume, region: Mask) -> dict[str, float]:
        """Return all measures over a region; zeros where it is next to nothing."""
        enough = region.sum() >= 64
        return {name: measure(warped, region) if enough else 0.0 for name, measure in self.measures.items()}

    def least_gain(self, warped: Volume, region: Mask, base: dict[str, float], floor: float) -> float:
        """Return the log ratio to `base` of the measure that gains least; anything below `floor` is as good as it."""
        least = np.inf
        for name, measure in self.measures.items():
            least = min(least, log_ratio(measure(warped, region) if region.sum() >= 64 else 0.0, base[name]))
            if least <= floor:
                break
        return least

    @cached_property
    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The image less its mean, and mean and variance of that in each window."""
        f = self._fixed.astype(np.float64) - float(self._fixed.mean())
        mean = uniform_filter(f, self._window)
        return f, mean, uniform_filter(f * f, self._window) - mean * mean

    @cached_property
    def _slopes(self) -> list[Volume]:
        return [np.gradient(self._fixed, axis=a) for a in self._axes]

    def _local_correlation(self, warped: Volume, region: Mask) -> float:
        """Return the mean squared correlation over windows of 5 voxels."""
        f, mf, vf = self._moments
        w = warped.astype(np.float64) - float(warped[region].mean())
        mw = uniform_filter(w, self._window)
        vw = uniform_filter(w * w, self._window) - mw * mw
        cov = uniform_filter(f * w, self._window) - mf * mw
        enough = region & (vf > 1e-3 * f[region].var()) & (vw > 0)
        if enough.sum() < 32:
            return 0.0
        squares = cov[enough] ** 2 / (vf[enough] * np.maximum(vw[enough], 1e-3 * w[region].var() + 1e-12))
        return float(np.minimum(squares, 1).mean())

    def _edge_agreement(self, warped: Volume, region: Mask) -> float:
        """Return how parallel the gradients are where both are steep: 0 for chance, 1 for all (NGF)."""
        if len(self._axes) < 2:  # along one axis all edges are parallel
            return 0.0
        one = np.stack([slope[region] for slope in self._slopes])
        other = np.stack([np.gradient(warped, axis=a)[region] for a in self._axes])
        size, size_other = np.linalg.norm(one, axis=0), np.linalg.norm(other, axis=0)
        weight = size * size_other
        if weight.sum() <= 0:
            return 0.0
        cosine2 = (one * other).sum(axis=0) ** 2 / np.maximum(weight**2, 1e-20)
        chance = 1 / len(self._axes)
        aligned = (float((weight * cosine2).sum() / weight.sum()) - chance) / (1 - chance)
        # steep places must also coincide: their product against what independence would give
        together = float(weight.mean() / max(np.sqrt((size**2).mean() * (size_other**2).mean()), 1e-12))
        return float(max(aligned, 0.0) * together)


def contrasts_differ(fixed: Volume, warped: Volume, region: Mask) -> bool:
    """Tell whether two images show the same by different intensities, so that their difference does not vanish.

    Then the intensities of one tell those of the other, but along a falling or bent curve, not a rising line. Images that
    lie wrong on each other tell each other little: of them it is not said.

    Parameters
    ----------
    fixed, warped : ndarray of float32
        Images on one lattice.
    region : ndarray of bool
        Where both show something.

    Examples
    --------
    >>> one = np.random.default_rng(0).random((40, 50), np.float32)
    >>> both = np.ones(one.shape, bool)
    >>> contrasts_differ(one, 3 * one + 1, both), contrasts_differ(one, 1 - one, both), contrasts_differ(one, one[::-1], both)
    (False, True, False)
    """
    if region.sum() < _ENOUGH:
        return False
    a, b = fixed[region].astype(np.float64), warped[region].astype(np.float64)
    if not (a.std() > 0 and b.std() > 0):
        return False
    rising = max(float(np.corrcoef(a, b)[0, 1]), 0.0) ** 2
    explained = max(_correlation_ratio(a, b), _correlation_ratio(b, a))
    curved = explained - rising
    return bool(curved > max(_CURVED, _CURVED_SHARE * explained))


def _correlation_ratio(values: NDArray[np.float64], given: NDArray[np.float64]) -> float:
    """Return the share of the variance of some values that others explain, by a curve of any form, less what chance gives."""
    codes = coded(given, rims_of(given))
    counts = np.bincount(codes, minlength=_BINS)
    means = np.bincount(codes, values, minlength=_BINS) / np.maximum(counts, 1)
    rest = float(((values - means[codes]) ** 2).sum()) / (len(values) - np.count_nonzero(counts))
    return 1 - rest / float(values.var(ddof=1))


def _information(a: Volume, b: Volume) -> float:
    """Return mutual information as a share of the smaller entropy, less what chance gives."""
    return shared_information(coded(a, rims_of(a)), coded(b, rims_of(b)))


def rims_of(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the borders between bins that hold as many values each."""
    return np.unique(np.percentile(values, np.linspace(0, 100, _BINS + 1)[1:-1]).astype(np.float32))


def coded(values: NDArray[np.floating], rims: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.asarray(np.searchsorted(rims, values, side="right"))


def shared_information(one: NDArray[np.intp], other: NDArray[np.intp]) -> float:
    joint = np.bincount(one * _BINS + other, minlength=_BINS * _BINS).astype(float)
    joint /= joint.sum()
    table = joint.reshape(_BINS, _BINS)
    entropies = [_entropy(table.sum(axis=0)), _entropy(table.sum(axis=1))]
    found = sum(entropies) - _entropy(joint)
    chance = (np.count_nonzero(table.sum(0)) - 1) * (np.count_nonzero(table.sum(1)) - 1) / (2 * one.size)
    return float(max(found - chance, 0.0) / max(min(entropies), 1e-6))


def _entropy(shares: NDArray[np.float64]) -> float:
    kept = shares[shares > 0]
    return float(-(kept * np.log(kept)).sum())
