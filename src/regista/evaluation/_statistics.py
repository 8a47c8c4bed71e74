"""Whether one method is better than another on the same cases, and whether the difference is real."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from regista.core import PlanError

Test = Literal["wilcoxon", "t"]
_DRAWS_AT_ONCE = 1 << 22
_NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """One method's values over the cases, and its difference to the reference method.

    Parameters
    ----------
    method : str
        Its name.
    cases : int
        Cases with a value.
    mean, sd, median : float
        Over the cases (`sd` with n − 1).
    low, high : float
        Bootstrap interval of the mean.
    pairs : int
        Cases that the reference has too.
    difference : float
        Mean of method minus reference over the pairs.
    p_wilcoxon, p_t : float
        Two-sided p of the signed-rank and of the paired t test; NaN for the reference itself and below two
        pairs.
    p_wilcoxon_holm, p_t_holm : float
        The same after Holm's correction for all methods compared.
    effect_dz : float
        Cohen's d of the paired differences.
    effect_rank : float
        Rank-biserial correlation of the signed ranks, −1 … 1.
    """

    method: str
    cases: int
    mean: float
    sd: float
    median: float
    low: float
    high: float
    pairs: int = 0
    difference: float = _NAN
    p_wilcoxon: float = _NAN
    p_t: float = _NAN
    p_wilcoxon_holm: float = _NAN
    p_t_holm: float = _NAN
    effect_dz: float = _NAN
    effect_rank: float = _NAN

    def p(self, test: Test) -> float:
        """Return the corrected p of a test."""
        return self.p_wilcoxon_holm if test == "wilcoxon" else self.p_t_holm


def compare_methods(
    values: Mapping[str, Mapping[str, float]],
    *,
    reference: str,
    level: float = 0.95,
    resamples: int = 10000,
    seed: int = 0,
    holm: bool = True,
) -> tuple[MethodSummary, ...]:
    """Summarize methods over the same cases and test each against a reference.

    Parameters
    ----------
    values : mapping of str to mapping of str to float
        Method → case → value. Cases without a finite value are left out, of a method's summary, and of a pair
        if either method lacks it.
    reference : str
        The method the others are compared with.
    level : float
        Of the bootstrap interval.
    resamples : int
        Bootstrap resamples.
    seed : int
        Of the bootstrap: same seed, same interval.
    holm : bool
        Correct for the number of methods compared.

    Returns
    -------
    tuple of MethodSummary
        In the order of `values`.

    Raises
    ------
    PlanError
        If the reference is unknown, or a method has no finite value.

    Notes
    -----
    The paired tests are those of SciPy; Wilcoxon leaves zero differences out, and is 1 where all are zero.
    Holm, A simple sequentially rejective multiple test procedure, 1979.

    Examples
    --------
    >>> ours = {"a": 0.8, "b": 0.7, "c": 0.9, "d": 0.75, "e": 0.85, "f": 0.7}
    >>> theirs = {case: dice - 0.02 - 0.001 * n for n, (case, dice) in enumerate(ours.items())}
    >>> found = compare_methods({"ours": ours, "theirs": theirs}, reference="ours")
    >>> round(found[1].difference, 4), round(found[1].p_wilcoxon, 4), found[1].effect_rank
    (-0.0225, 0.0312, -1.0)
    """
    if reference not in values:
        raise PlanError(f"the reference method is one of {', '.join(values)}; got {reference!r}")
    if not 0 < level < 1:
        raise PlanError(f"level is between 0 and 1, got {level}")
    if resamples < 100:
        raise PlanError(f"resamples is at least 100, got {resamples}")
    base = values[reference]
    found = [
        _summary(name, cases, None if name == reference else base, level, resamples, seed)
        for name, cases in values.items()
    ]
    return correct(found) if holm else tuple(found)


def correct(summaries: Sequence[MethodSummary]) -> tuple[MethodSummary, ...]:
    """Apply Holm's correction over all tests of the summaries taken together."""
    wilcoxon = holm_correction([s.p_wilcoxon for s in summaries])
    t = holm_correction([s.p_t for s in summaries])
    return tuple(
        replace(s, p_wilcoxon_holm=float(w), p_t_holm=float(v))
        for s, w, v in zip(summaries, wilcoxon, t, strict=True)
    )


def holm_correction(p: ArrayLike) -> NDArray[np.float64]:
    """Return p values corrected by Holm's step-down method; NaN stays NaN and does not count.

    Examples
    --------
    >>> [round(v, 6) for v in holm_correction([0.01, 0.04, 0.03]).tolist()]
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64)
    corrected = np.full(values.shape, _NAN)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    scaled = values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


def bootstrap_interval(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 10000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean.

    Examples
    --------
    >>> bootstrap_interval([2.0, 2.0, 2.0])
    (2.0, 2.0)
    """
    data = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _DRAWS_AT_ONCE // max(len(data), 1))
    for first in range(0, resamples, step):
        count = min(step, resamples - first)
        means[first : first + count] = data[rng.integers(0, len(data), (count, len(data)))].mean(axis=1)
    tail = 50 * (1 - level)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _summary(
    name: str,
    cases: Mapping[str, float],
    base: Mapping[str, float] | None,
    level: float,
    resamples: int,
    seed: int,
) -> MethodSummary:
    data = np.array([v for v in cases.values() if np.isfinite(v)])
    if not data.size:
        raise PlanError(f"the method {name!r} has no finite value: nothing to compare")
    low, high = bootstrap_interval(data, level=level, resamples=resamples, seed=seed)
    pairs = {} if base is None else _paired(cases, base)
    return MethodSummary(
        method=name,
        cases=len(data),
        mean=float(data.mean()),
        sd=float(data.std(ddof=1)) if len(data) > 1 else _NAN,
        median=float(np.median(data)),
        low=low,
        high=high,
        **pairs,  # type: ignore[arg-type]
    )


def _paired(cases: Mapping[str, float], base: Mapping[str, float]) -> dict[str, float | int]:
    """Return the paired tests and effect sizes."""
    both = [(cases[c], base[c]) for c in cases if c in base and np.isfinite(cases[c] + base[c])]
    if not both:
        return {}
    one, other = np.array(both).T
    d = one - other
    found: dict[str, float | int] = {"pairs": len(d), "difference": float(d.mean())}
    if len(d) < 2:
        return found
    if not d.any():
        return found | {"p_wilcoxon": 1.0, "p_t": 1.0, "effect_dz": 0.0, "effect_rank": 0.0}
    ranks = stats.rankdata(np.abs(d[d != 0]))
    sign = np.sign(d[d != 0])
    spread = float(d.std(ddof=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few pairs, ties, or differences all alike
        found["p_wilcoxon"] = float(stats.wilcoxon(d).pvalue)
        found["p_t"] = float(stats.ttest_rel(one, other).pvalue) if spread > 0 else 0.0
    found["effect_dz"] = float(d.mean() / spread) if spread > 0 else float(np.sign(d.mean()) * np.inf)
    found["effect_rank"] = float((ranks * sign).sum() / ranks.sum())
    return found
