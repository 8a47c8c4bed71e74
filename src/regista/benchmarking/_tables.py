"""Raw rows to the tables that papers print."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regista.evaluation import Comparison, MethodSummary, compare_table, higher_is_better
from regista.evaluation._comparison import cases_cell
from regista.evaluation._names import UNREGISTERED

Row = Mapping[str, Any]
TITLES = {
    "dice": "Dice",
    "assd_mm": "ASSD, mm",
    "hd95_mm": "HD95, mm",
    "assd_px": "ASSD, px",
    "hd95_px": "HD95, px",
    "tre_mean": "mean",
    "tre_median": "median",
    "tre_p95": "95 %",
    "tre_max": "largest",
    "rtre_median": "median / diagonal",
    "folded_percent": "folded, %",
    "ndv_percent": "NDV, %",
    "sd_log_jacobian": "SD log J",
    "bending_energy_per_mm2": "bending, 1/mm²",
    "inverse_mean_mm": "mean",
    "inverse_p95_mm": "95 %",
    "inverse_max_mm": "largest",
    "seconds_stage": "registration, s",
    "seconds_process": "whole process, s",
    "peak_mb": "peak memory, MB",
    "ssd": "SSD",
    "ncc": "NCC",
    "lncc": "LNCC",
    "mi": "MI",
    "ssim": "SSIM",
}
FEW = 12
"""Sets of at most so many labels get a column for each of them."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table to be written as Markdown or HTML.

    Parameters
    ----------
    title : str
        Heading.
    head : tuple of str
        Names of columns.
    body : tuple of tuple of str
        Cells; ``**bold**`` and a star at the end are the only markup.
    note : str
        A line below.
    """

    title: str
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    note: str = ""


def has(rows: Sequence[Row], measure: str) -> bool:
    """Tell whether any row holds a finite value of a measure."""
    return any(finite(row.get(measure)) for row in rows)


def finite(value: Any) -> bool:
    """Tell whether a cell is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def of_kind(rows: Sequence[Row], kind: str, labels: str | None = None) -> list[Row]:
    """Return the rows of a kind, and of a set of labels."""
    return [r for r in rows if r.get("kind") == kind and (labels is None or r.get("set") == labels)]


def label_sets(rows: Sequence[Row]) -> list[str]:
    """Return the sets of labels that were measured."""
    return list(dict.fromkeys(str(r["set"]) for r in rows if r.get("kind") == "labels"))


def accuracy_tables(rows: Sequence[Row], reference: str | None, test: str, alpha: float) -> list[Table]:
    """Return the lecture's tables: regions with seconds, few labels one by one, groups, landmarks."""
    tables = []
    how = (reference, test, alpha)
    for name in label_sets(rows):
        found = of_kind(rows, "labels", name)
        titled = "Labels" if name == "labels" else f"Labels: {name}"
        names = list(dict.fromkeys(str(r["name"]) for r in found))
        tables.append(_compared(f"{titled}, mean over {len(names)}", found, _kept(found), *how))
        if 1 < len(names) <= FEW:
            tables.append(_compared(f"{titled}, one by one", found, _kept(found)[:2], *how, columns="name"))
        groups = of_kind(rows, "groups", name)
        if groups:
            tables.append(_compared(f"{titled}, groups", groups, _kept(groups)[:2], *how, columns="name"))
    points = of_kind(rows, "landmarks")
    if points:
        unit = str(points[0].get("unit", "mm"))
        measures = [
            m for m in ("tre_mean", "tre_median", "tre_p95", "tre_max", "rtre_median") if has(points, m)
        ]
        tables.append(_compared(f"Landmark error, {unit}", points, measures, *how))
    return tables


def other_tables(rows: Sequence[Row], reference: str | None, test: str, alpha: float) -> list[Table]:
    """Return the tables of transforms and of intensities."""
    tables, how = [], (reference, test, alpha)
    found = of_kind(rows, "transform")
    if found:
        measures = ["folded_percent", "ndv_percent", "sd_log_jacobian", "bending_energy_per_mm2"]
        tables.append(_compared("Transforms", found, measures, *how))
        inverses = [r for r in found if has([r], "inverse_mean_mm")]
        if inverses:
            measures = ["inverse_mean_mm", "inverse_p95_mm", "inverse_max_mm"]
            tables.append(_compared("Inverse consistency, mm", inverses, measures, *how))
    found = of_kind(rows, "images")
    if found:
        tables.append(_compared("Intensities", found, ["ncc", "lncc", "mi", "ssim"], *how))
    return tables


def time_table(rows: Sequence[Row], reference: str | None, linear: Collection[str] = ()) -> Table | None:
    """Return seconds of the runs that ended well, their ratio to the reference method's, and memory.

    Without a reference it is the first plan of Regista that is none of the `linear` methods.
    """
    runs = [r for r in of_kind(rows, "run") if r["status"] == "done" and finite(r.get("seconds_stage"))]
    methods = list(dict.fromkeys(str(r["method"]) for r in runs))
    if not methods:
        return None
    base = reference if reference in methods else next(
        (m for m in methods if m.startswith("regista:") and m not in linear), methods[0]
    )  # fmt: skip
    body = []
    for method in methods:
        own = {str(r["case"]): r for r in runs if r["method"] == method}
        theirs = {str(r["case"]): r for r in runs if r["method"] == base}
        both = [(own[c], theirs[c]) for c in own if c in theirs]
        ratios = [
            _geometric([a[key] / b[key] for a, b in both if b[key] > 0])
            for key in ("seconds_stage", "seconds_process")
        ]
        body.append(
            (
                method,
                str(len(own)),
                *(spread([r[k] for r in own.values()], 1) for k in ("seconds_stage", "seconds_process")),
                *("–" if r is None else f"{r:.2f}" for r in ratios),
                f"{max(r['peak_mb'] for r in own.values()):.0f}",
            )
        )
    return Table(
        title="Time and memory",
        head=(
            "method",
            "cases",
            "registration, s",
            "whole process, s",
            "registration, ratio",
            "process, ratio",
            "peak memory, MB",
        ),
        body=tuple(body),
        note=f"Mean (SD) over cases; ratio to {base} over the cases both have (geometric mean); the largest peak. "
        "Registration is the call alone, images in memory; the process counts Python's start, imports, reading "
        "and writing too.",
    )


def repeat_table(rows: Sequence[Row]) -> Table | None:
    """Return how far the results of one case and method lie apart from run to run; None without repeats."""
    sources = [(name, "dice", of_kind(rows, "labels", name)) for name in label_sets(rows)]
    sources.append(("landmarks", "tre_mean", of_kind(rows, "landmarks")))
    heads: list[str] = []
    cells: dict[str, list[str]] = {}
    for name, measure, found in sources:
        spreads = _spreads(found, measure)
        if not spreads:
            continue
        unit = f", {found[0]['unit']}" if measure == "tre_mean" else ""
        what = "landmark error" if measure == "tre_mean" else "Dice" if name == "labels" else f"Dice ({name})"
        heads += [f"{what}: SD over runs{unit}", f"{what}: largest range{unit}"]
        digits = 2 if measure == "tre_mean" else 4
        for method in dict.fromkeys(str(r["method"]) for r in rows if r.get("repeat")):
            own = spreads.get(method)
            values = (
                [f"{v:.{digits}f}" for v in (statistics.fmean(s for s, _ in own), max(w for _, w in own))]
                if own
                else ["–"] * 2
            )
            cells.setdefault(method, []).extend(values)
    if not heads:
        return None
    return Table(
        title="Spread from run to run",
        head=("method", *heads),
        body=tuple((method, *values) for method, values in cells.items()),
        note="Runs of the same method on the same images with the same seed: SD, mean over cases; largest minus "
        "least, the case where it is greatest.",
    )


def _spreads(rows: Sequence[Row], measure: str) -> dict[str, list[tuple[float, float]]]:
    """Return, by method, SD and range over the runs of each case."""
    runs: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        if row.get("repeat") and finite(row.get(measure)):
            own = runs.setdefault((str(row["method"]), str(row["case"])), {})
            own.setdefault(row["repeat"], []).append(row[measure])
    found: dict[str, list[tuple[float, float]]] = {}
    for (method, _), own in runs.items():
        means = [statistics.fmean(values) for values in own.values()]
        if len(means) > 1:
            found.setdefault(method, []).append((statistics.stdev(means), max(means) - min(means)))
    return found


def _geometric(ratios: Sequence[float]) -> float | None:
    return statistics.geometric_mean(ratios) if ratios else None


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return ``mean (SD)``.

    Examples
    --------
    >>> spread([1.0, 2.0]), spread([0.5])
    ('1.500 (0.707)', '0.500')
    """
    text = f"{statistics.fmean(values):.{digits}f}"
    return text + (f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else "")


def _kept(rows: Sequence[Row]) -> list[str]:
    return [m for m in ("dice", "assd_mm", "assd_px", "hd95_mm", "hd95_px") if has(rows, m)]


def _compared(
    title: str,
    rows: Sequence[Row],
    measures: Sequence[str],
    reference: str | None,
    test: str,
    alpha: float,
    *,
    columns: str | None = None,
) -> Table:
    """Return methods by measures, stars where they differ from the reference."""
    own = [dict(r) for r in rows if r["method"] != UNREGISTERED]
    measures = [m for m in measures if has(own or rows, m)]
    before = [r for r in rows if r["method"] == UNREGISTERED]
    heads = _columns(own or rows, measures, columns)
    methods = list(dict.fromkeys(str(r["method"]) for r in own))
    whole = [m for m in methods if all(_values(own, m, c) for c in heads)]
    comparison: Comparison | None = None
    ranked = [m for m in measures if higher_is_better(m) is not None]  # the others have no best, and no stars
    if len(whole) > 1 and ranked:
        comparison = compare_table(
            [r for r in own if r["method"] in whole],
            ranked,
            columns=columns,
            reference=reference if reference in whole else None,
            test=test,  # type: ignore[arg-type]
            alpha=alpha,
            resamples=100,  # the intervals are not shown
        )
    totals = {c: len({case for m in methods for case in _values(own, m, c)}) for c in heads}
    body = [_line(UNREGISTERED, before, heads, None, {})] if before else []
    body += [_line(m, own, heads, comparison if m in whole else None, totals) for m in methods]
    note = _note(comparison, test, alpha)
    if any(" of " in line[1] for line in body):
        note += " A method that lacks cases is not marked best: its mean is over other cases."
    titles = [_title(*head) for head in heads]
    return Table(title=title, head=("method", "cases", *titles), body=tuple(body), note=note)


Head = tuple[str, str | None]


def _title(measure: str, name: str | None) -> str:
    words, comma, unit = TITLES.get(measure, measure).partition(", ")
    return words + (f" {name}" if name else "") + comma + unit


def _columns(rows: Sequence[Row], measures: Sequence[str], columns: str | None) -> list[Head]:
    if columns is None:
        return [(measure, None) for measure in measures]
    names = list(dict.fromkeys(str(r[columns]) for r in rows))
    found = [(m, n) for m in measures for n in names]
    return [c for c in found if any(finite(r.get(c[0])) for r in rows if str(r[columns]) == c[1])]


def _values(rows: Iterable[Row], method: str, head: Head) -> dict[str, float]:
    """Return a method's values of a column by case; several rows of a case are averaged."""
    lists: dict[str, list[float]] = {}
    for row in rows:
        if row["method"] == method and head[1] in (None, str(row.get("name"))) and finite(row.get(head[0])):
            lists.setdefault(str(row["case"]), []).append(row[head[0]])
    return {case: statistics.fmean(values) for case, values in lists.items()}


def _line(
    method: str,
    rows: Sequence[Row],
    heads: Sequence[Head],
    comparison: Comparison | None,
    totals: Mapping[Head, int],
) -> tuple[str, ...]:
    """Return a method's line; `totals` are the cases that any method finished, by column."""
    cells, counts = [], []
    for head in heads:
        values = _values(rows, method, head)
        total = totals.get(head, len(values))
        if not values:
            cells.append("–")
            continue
        counts.append((len(values), total))
        digits = _digits(head[0], statistics.fmean(values.values()))
        mean, sign, deviation = spread(list(values.values()), digits).partition(" ")
        key = head[0] if head[1] is None else f"{head[0]}, {head[1]}"
        if comparison is not None and key in comparison.columns:
            best = comparison.best[key]
            # all that print alike are bold, not the first of them
            leads = (
                best is not None
                and len(values) == total
                and float(mean) == float(f"{_mean(comparison, key, best):.{digits}f}")
            )
            mean = f"**{mean}**" if leads else mean
            deviation += " *" if _starred(comparison, key, method) else ""
        cells.append(f"{mean}{sign}{deviation}")
    return (method, cases_cell(counts), *cells)


def _mean(comparison: Comparison, column: str, method: str) -> float:
    return next(s for s in comparison.columns[column] if s.method == method).mean


def _starred(comparison: Comparison, column: str, method: str) -> bool:
    found: MethodSummary = next(s for s in comparison.columns[column] if s.method == method)
    return found.p(comparison.test) < comparison.alpha


def _digits(measure: str, size: float) -> int:
    if measure.startswith(("folded", "ndv")):
        return 4
    if measure.startswith(("tre", "assd", "hd")):
        return 2 if size >= 1 else 3
    if higher_is_better(measure) or measure.startswith("sd_log"):
        return 3
    return 3 if size == 0 else int(min(6, max(0, 2 - math.floor(math.log10(abs(size))))))


def _note(comparison: Comparison | None, test: str, alpha: float) -> str:
    if comparison is None:
        return "Mean (SD) over cases."
    against = set(comparison.references.values())
    whom = next(iter(against)) if len(against) == 1 else "the best of its column"
    named = "Wilcoxon signed-rank" if test == "wilcoxon" else "paired t"
    note = f"Mean (SD) over cases, best in bold. *: differs from {whom}, p < {alpha:g}, two-sided {named} test, Holm."
    others = [
        s for c, found in comparison.columns.items() for s in found if s.method != comparison.references[c]
    ]
    least = 2 ** (1 - min(s.pairs for s in others)) * len(others)
    if test == "wilcoxon" and least >= alpha:
        note += (
            f" With so few cases and {len(others)} comparisons no difference can be significant by this test."
        )
    return note
