"""Raw rows of many cases and methods, to a table of the kind that papers print."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regista.core import FormatError, PlanError
from regista.evaluation._names import UNREGISTERED, read_text
from regista.evaluation._statistics import MethodSummary, Test, compare_methods, correct

_HIGHER = ("dice", "dsc", "jaccard", "volume_similarity", "ncc", "lncc", "mi", "ssim")
_LOWER = (
    "ssd",
    "folded",
    "ndv",
    "sdlogj",
    "logjac",
    "tre",
    "rtre",
    "assd",
    "hd",
    "hd95",
    "inverse",
    "seconds",
    "peak",
)
_UNRANKED = ("sd_log_jacobian", "bending_energy_per_mm2", "inverse_voxels", "inverse_rim_percent")
"""A smoother map is no better for it, and a count of voxels tells nothing."""
_LEAST_PAIRS = 6


def higher_is_better(measure: str) -> bool | None:
    """Return which way a measure points; None where it is not known.

    Examples
    --------
    >>> higher_is_better("dice"), higher_is_better("hd95_mm"), higher_is_better("sd_log_jacobian")
    (True, False, None)
    """
    name = measure.lower()
    first = name.split("_")[0]
    if name in _UNRANKED:
        return None
    if name in _HIGHER or first in _HIGHER:
        return True
    return False if first in _LOWER else None


def cases_cell(counts: Sequence[tuple[int, int]]) -> str:
    """Return a method's numbers of cases as text, from the number it has and the number there are, by column.

    Examples
    --------
    >>> cases_cell([(12, 12), (12, 12)]), cases_cell([(12, 12), (10, 10)]), cases_cell([(8, 12), (12, 12)])
    ('12', '10–12', '8 of 12')
    """
    lacking = [pair for pair in counts if pair[0] < pair[1]]
    if lacking:
        return "{} of {}".format(*min(lacking))
    own = sorted({count for count, _ in counts}) or [0]
    return str(own[0]) if len(own) == 1 else f"{own[0]}–{own[-1]}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods (rows) by measures or regions (columns).

    Parameters
    ----------
    by : str
        What the rows are.
    columns : mapping of str to tuple of MethodSummary
        Each column's summaries, one per method, in the same order; corrected over the whole table.
    references : mapping of str to str
        The method that each column's others are compared with.
    best : mapping of str to str or None
        The method with the best mean of those with all cases; None where there is none, or where it is not known
        which way the measure points.
    totals : mapping of str to int
        Cases of each column that any method has.
    test : {'wilcoxon', 't'}
        The test that the stars go by.
    alpha : float
        Stars mark corrected p below it.
    level : float
        Of the intervals.
    """

    by: str
    columns: Mapping[str, tuple[MethodSummary, ...]]
    references: Mapping[str, str]
    best: Mapping[str, str | None]
    totals: Mapping[str, int]
    test: Test
    alpha: float
    level: float

    def rows(self) -> list[dict[str, Any]]:
        """Return one dictionary for each method and column."""
        return [
            {"column": name, **asdict(s), "reference": self.references[name], "star": self._starred(s)}
            for name, summaries in self.columns.items()
            for s in summaries
        ]

    def markdown(self, *, intervals: bool = True) -> str:
        """Return a Markdown table: mean (SD), a star for a significant difference, the interval."""
        names = list(self.columns)
        methods = [s.method for s in next(iter(self.columns.values()))]
        lines = ["| " + " | ".join([self.by, "cases", *names]) + " |", "|---|---:|" + "---|" * len(names)]
        for n, method in enumerate(methods):
            found = [self.columns[name][n] for name in names]
            cells = [self._cell(name, s, intervals) for name, s in zip(names, found, strict=True)]
            cases = cases_cell([(s.cases, self.totals[name]) for name, s in zip(names, found, strict=True)])
            lines.append("| " + " | ".join([method, cases, *cells]) + " |")
        return "\n".join([*lines, "", self._note(intervals)]) + "\n"

    def _starred(self, summary: MethodSummary) -> bool:
        return bool(summary.p(self.test) < self.alpha)

    def _cell(self, column: str, s: MethodSummary, intervals: bool) -> str:
        digits = _digits(max(abs(s.mean), 0 if np.isnan(s.sd) else s.sd))
        text = f"{s.mean:.{digits}f}"
        if self.best[column] == s.method:
            text = f"**{text}**"
        if np.isfinite(s.sd):
            text += f" ({s.sd:.{digits}f})"
        text += r"\*" if self._starred(s) else ""
        return text + (f" [{s.low:.{digits}f}, {s.high:.{digits}f}]" if intervals else "")

    def _note(self, intervals: bool) -> str:
        test = "Wilcoxon signed-rank" if self.test == "wilcoxon" else "paired t"
        against = set(self.references.values())
        whom = f"`{next(iter(against))}`" if len(against) == 1 else "the best of the column"
        note = f"Mean (SD) over cases. \\*: differs from {whom}, p < {self.alpha:g}, two-sided {test} test, Holm."
        others = [s for c, found in self.columns.items() for s in found if s.method != self.references[c]]
        if self.test == "wilcoxon" and min(s.pairs for s in others) < _LEAST_PAIRS:
            note += f" With fewer than {_LEAST_PAIRS} pairs this test cannot fall below 0.05."
        if any(s.cases < self.totals[c] for c, found in self.columns.items() for s in found):
            note += " A method that lacks cases is not marked best: its mean is over other cases."
        return note + (
            f" In brackets: {100 * self.level:g} % bootstrap interval of the mean." if intervals else ""
        )


def read_rows(*paths: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Read the rows of CSV tables with a header, one after another.

    Raises
    ------
    FormatError
        If a file is missing, or has no header and rows.
    """
    rows: list[dict[str, str]] = []
    for path in paths:
        reader = csv.DictReader(io.StringIO(read_text(path)))
        found = []
        for row in reader:
            if None in row or None in row.values():
                raise FormatError(
                    f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or ())} cells as in the "
                    "header, got another number; is it a comma-separated table?"
                )
            found.append(row)
        if not found:
            raise FormatError(f"{path} has no rows below its header")
        rows += found
    return rows


def compare_table(
    rows: Sequence[Mapping[str, Any]],
    measures: Sequence[str],
    *,
    by: str = "method",
    case: str = "case",
    columns: str | None = None,
    where: Mapping[str, Sequence[str]] | None = None,
    reference: str | None = None,
    test: Test = "wilcoxon",
    alpha: float = 0.05,
    level: float = 0.95,
    resamples: int = 10000,
    seed: int = 0,
) -> Comparison:
    r"""Compare methods from raw rows, such as those that ``regista evaluate`` writes.

    Parameters
    ----------
    rows : sequence of mapping
        One for each method, case and label (or other detail), with the measures as columns.
    measures : sequence of str
        Columns to compare.
    by : str
        Column that tells the methods apart.
    case : str
        Column that tells the cases apart: the unit of the statistics. Rows of the same method and case are
        averaged first, since the regions of one brain are not independent.
    columns : str, optional
        Column whose values (such as region names) become columns of the table.
    where : mapping of str to sequence of str, optional
        Keep rows whose column has one of the values. Without a word on them, rows before registration, those of
        the method ``unregistered``, and groups of labels are left out where others have the measure.
    reference : str, optional
        Method to compare with (default: the best of each column, of the methods that have all cases).
    test : {'wilcoxon', 't'}
        What stars go by.
    alpha : float
        Stars mark p below it, after Holm's correction over the whole table.
    level, resamples, seed
        Of the bootstrap intervals.

    Returns
    -------
    Comparison
        The table.

    Raises
    ------
    FormatError
        If a column is missing or holds no numbers.
    PlanError
        If the test or the reference is unknown, or no row is left.

    Examples
    --------
    >>> rows = [
    ...     {"method": m, "case": c, "dice": 0.7 + 0.01 * c + 0.05 * (m == "new")}
    ...     for m in ("old", "new") for c in range(6)
    ... ]
    >>> print(compare_table(rows, ["dice"], resamples=200).markdown(intervals=False).splitlines()[2])
    | old | 6 | 0.725 (0.019)\* |
    """
    if test not in ("wilcoxon", "t"):
        raise PlanError(f"test is 'wilcoxon' or 't', got {test!r}")
    if not 0 < alpha < 1:
        raise PlanError(f"alpha is between 0 and 1, got {alpha}")
    if not measures:
        raise PlanError("name a measure to compare, such as dice")
    _check_columns(rows, [by, case], [*measures, *([columns] if columns else []), *(where or {})])
    wanted, given = dict(where or {}), len(rows)
    if reference != UNREGISTERED and by not in wanted:
        others = [row for row in rows if str(row[by]) != UNREGISTERED]
        rows = others or rows
    kept = _keep(rows, wanted, (by, case, columns), measures)
    cells = _gather(kept, measures, by, case, columns)
    methods = list(dict.fromkeys(str(row[by]) for row in kept))
    if len(methods) < 2:
        hint = (
            "; the images as they came count only with --reference unregistered" if len(rows) < given else ""
        )
        raise PlanError(f"there is nothing to compare: column {by!r} holds only {methods[0]!r}{hint}")
    references, best, found = (
        dict[str, str](),
        dict[str, str | None](),
        dict[str, tuple[MethodSummary, ...]](),
    )
    totals: dict[str, int] = {}
    for name, values in cells.items():
        missing = [m for m in methods if m not in values]
        if missing:
            raise PlanError(
                f"{name}: no value of {by} {missing[0]!r}; leave it out with --where, or measure it"
            )
        means = {m: np.mean(list(values[m].values())) for m in methods}
        better = higher_is_better(name.split(", ")[0])
        # a mean over fewer cases does not compare: the hard ones may be those that lack
        totals[name] = len({c for m in methods for c in values[m]})
        most = max(len(values[m]) for m in methods)
        whole = [m for m in methods if len(values[m]) == most]
        first = whole[0] if better is None else (max if better else min)(whole, key=means.__getitem__)
        best[name] = first if better is not None and most == totals[name] else None
        references[name] = reference or first
        found[name] = compare_methods(
            {m: values[m] for m in methods},
            reference=references[name],
            level=level,
            resamples=resamples,
            seed=seed,
            holm=False,
        )
    flat = iter(correct([s for column in found.values() for s in column]))
    columns_ = {name: tuple(next(flat) for _ in column) for name, column in found.items()}
    return Comparison(
        by=by,
        columns=columns_,
        references=references,
        best=best,
        totals=totals,
        test=test,
        alpha=alpha,
        level=level,
    )


def _check_columns(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], wanted: Sequence[str]) -> None:
    if not rows:
        raise PlanError("there are no rows to compare")
    known = list(dict.fromkeys(name for row in rows for name in row))
    for name in keys:
        lacking = next((n for n, row in enumerate(rows, start=1) if not _filled(row.get(name))), None)
        if name in known and lacking is not None:
            raise FormatError(
                f"row {lacking} of {len(rows)} has no {name!r}: every row needs it, to know where it belongs"
            )
    for name in [*keys, *wanted]:
        if name not in known:
            raise FormatError(
                f"the table has no column {name!r}; it has {', '.join(known)}. (regista evaluate writes columns of "
                "your own with --tag method=… --tag case=…)"
            )


def _keep(
    rows: Sequence[Mapping[str, Any]],
    where: dict[str, Sequence[str]],
    used: tuple[str | None, ...],
    measures: Sequence[str],
) -> list[Mapping[str, Any]]:
    kept = [r for r in rows if all(str(r.get(name, "")) in set(map(str, v)) for name, v in where.items())]
    for column, value in (("stage", "after"), ("kind", "labels")):
        if column in where or column in used:
            continue
        valued = [r for r in kept if any(_filled(r.get(m)) for m in measures)]
        found = {str(r.get(column, "")) for r in valued}
        if len(found) > 1 and value in found:
            # a row that does not tell, of another table, is after registration and of single labels
            kept = [r for r in kept if str(r.get(column) or value) == value]
    if not kept:
        conditions = ", ".join(f"{n}={'|'.join(map(str, v))}" for n, v in where.items())
        raise PlanError(f"no row of the table fulfils {conditions or 'the conditions'}")
    return kept


def _filled(value: Any) -> bool:
    return value is not None and str(value).strip() != ""


def _gather(
    rows: Sequence[Mapping[str, Any]], measures: Sequence[str], by: str, case: str, columns: str | None
) -> dict[str, dict[str, dict[str, float]]]:
    """Return column → method → case → mean value."""
    lists: dict[str, dict[str, dict[str, list[float]]]] = {}
    for measure in measures:
        for row in rows:
            if not _filled(row.get(measure)):
                continue
            value = _number(row[measure], measure)
            if not np.isfinite(value):
                continue
            if columns is not None and not _filled(row.get(columns)):
                continue
            name = measure if columns is None else f"{measure}, {row[columns]}"
            methods = lists.setdefault(name, {})
            methods.setdefault(str(row[by]), {}).setdefault(str(row[case]), []).append(value)
        if not any(name == measure or name.startswith(f"{measure}, ") for name in lists):
            raise FormatError(f"column {measure!r} holds no finite number in the rows kept")
    return {
        name: {m: {c: float(np.mean(v)) for c, v in cases.items()} for m, cases in methods.items()}
        for name, methods in lists.items()
    }


def _number(value: Any, measure: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise FormatError(f"column {measure!r} holds {value!r}, expected numbers") from None


def _digits(size: float) -> int:
    """Return how many decimals show about three figures."""
    if not np.isfinite(size) or size == 0:
        return 3
    return int(np.clip(2 - np.floor(np.log10(size)), 0, 6)) if size < 0.1 or size >= 10 else 3
