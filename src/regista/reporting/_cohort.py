"""The page of many runs: the worst first, with the spread of every measure."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from regista.core import FormatError, Progress, ProgressCallback, RegistaError, silent
from regista.evaluation._names import read_text
from regista.io import suffix_of, write_text
from regista.reporting._folder import RECORD, check_files, read_record_tree, read_run, short_names
from regista.reporting._page import SUMMARY_END, SUMMARY_START, make_report, page_text, render, run_marks
from regista.reporting._verdict import Outcome

PAGE = "report.html"
COLUMNS = ("folder", "run", "dir", "path", "output")
"""Columns of a table that may name a run's folder, the first there counts."""
_OUTCOMES = tuple(map(str, Outcome))
_ORDER = {"unreadable": 0, "fail": 1, "look": 2, "pass": 3}
_FOREIGN = f"its {PAGE} is of another run: make it again with regista report"
_OUTLIER = 1.5
_WIDTH, _HEIGHT, _PAD = 560.0, 64.0, 12.0


@dataclass(frozen=True, kw_only=True)
class CohortRow:
    """A run in a list.

    Parameters
    ----------
    name : str
        Of the run.
    outcome : str
        ``pass``, ``look``, ``fail``, or ``unreadable``.
    reasons : tuple of str
        Why, in words.
    probability : float
        Of failure, 0 … 1.
    measures : dict of str to float
        What was measured.
    thumbnail : str
        Data URI of a small picture, or nothing.
    link : str
        The run's own page, relative to the list; or nothing.
    """

    name: str
    outcome: str
    reasons: tuple[str, ...] = ()
    probability: float = 1.0
    measures: dict[str, float] = field(default_factory=dict)
    thumbnail: str = ""
    link: str = ""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The spread of a measure over the runs, as dots on a line.

    Parameters
    ----------
    name : str
        Of the measure.
    dots : list of tuple
        ``(x, y, number of the run, outcome, whether it is an outlier, value)`` each.
    low, high, median : float
        Of the values.
    middle : float
        Place of the median on the line.
    """

    name: str
    dots: list[tuple[float, float, int, str, bool, float]]
    low: float
    high: float
    median: float
    middle: float

    @property
    def outliers(self) -> list[tuple[float, float, int, str, bool, float]]:
        """Dots beyond 1.5 interquartile ranges (Tukey)."""
        return [dot for dot in self.dots if dot[4]]


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the folders of runs among folders, folders of folders, and tables.

    Parameters
    ----------
    paths : iterable of Path
        A folder with ``record.json``; one whose subfolders have it; or a CSV with a column ``folder`` (or ``run``,
        ``dir``, ``path``, ``output``), relative to the table.

    Raises
    ------
    FormatError
        If a path is none of these.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir() and (path / RECORD).exists():
            found.append(path)
        elif path.is_dir():
            # hidden folders hold what a command is about to write, or has left when it was killed
            there = (record.parent for record in path.rglob(RECORD))
            inner = sorted(one for one in there if not _hidden(one.relative_to(path)))
            if not inner:
                raise FormatError(
                    f"{path} and its folders hold no {RECORD}: expected runs of regista register"
                )
            found += inner
        elif path.is_file() and suffix_of(path) in (".csv", ".tsv"):
            found += _from_table(path)
        else:
            raise FormatError(f"{path} is neither a folder of runs nor a table (.csv) that names them")
    return list(dict.fromkeys(found))


def _hidden(folder: Path) -> bool:
    return any(part.startswith(".") for part in folder.parts)


def _from_table(path: Path) -> list[Path]:
    text = io.StringIO(read_text(path), newline="")
    rows = list(csv.DictReader(text, delimiter="\t" if suffix_of(path) == ".tsv" else ","))
    column = next((name for name in COLUMNS if rows and name in rows[0]), None)
    if column is None:
        has = ", ".join(rows[0]) if rows else "no rows"
        raise FormatError(f"{path} has no column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}; it has {has}")
    return [path.parent / row[column] for row in rows if row[column]]


def cohort_row(folder: Path, link: str = "", name: str = "") -> CohortRow:
    """Return the row of a run: from its page if it has one of this run, else from its record, else judged anew.

    Parameters
    ----------
    folder : Path
        What ``regista register`` wrote.
    link : str
        Address of its page.
    name : str
        What to call it, by default its folder's name.
    """
    name = name or folder.resolve().name
    try:
        record = read_record_tree(folder)
        check_files(folder)
        page = folder / PAGE
        summary = _summary_of(page) if page.is_file() else None
        foreign = summary is not None and not _is_of(summary, record)
        if foreign:
            summary, link = _recorded(record), ""
        if summary is None:
            run = read_run(folder)
            summary = dict(make_report(run.fixed, run.moving, run.result).summary)
            if foreign:
                summary["reasons"] = [*summary["reasons"], _FOREIGN]
        seconds = record.get("timings", {}).get("registration")
        if summary["outcome"] not in _OUTCOMES:
            raise FormatError(f"{page} tells no verdict that is known: make it again with regista report")
        measures = {k: float(v) for k, v in summary["measures"].items()}
        if isinstance(seconds, (int, float)):
            measures["seconds"] = float(seconds)
        return CohortRow(
            name=f"{name}: {summary['name']}",
            outcome=str(summary["outcome"]),
            reasons=tuple(str(r) for r in summary["reasons"]),
            probability=float(summary["probability"]),
            measures=measures,
            thumbnail=_checked(str(summary["thumbnail"])),
            link=link if page.is_file() else "",
        )
    except (RegistaError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        return CohortRow(name=name, outcome="unreadable", reasons=(str(error),))


def _is_of(summary: dict[str, Any], record: dict[str, Any]) -> bool:
    """Tell whether a page is of the run that a record is of, as far as both tell."""
    told, marks = dict(summary.get("run") or {}), run_marks(record)
    return all(told[name] == marks[name] for name in told.keys() & marks.keys())


def _recorded(record: dict[str, Any]) -> dict[str, Any] | None:
    """Return the row that a record makes without its page, or None if it holds no verdict."""
    verdict = record.get("measures", {}).get("verdict")
    if not verdict:
        return None
    return {
        "name": " → ".join(str(record["inputs"].get(r, {}).get("space") or r) for r in ("moving", "fixed")),
        "outcome": verdict["outcome"],
        "reasons": [*verdict["reasons"], _FOREIGN],
        "probability": verdict["probability"],
        "measures": {},
        "thumbnail": "",
    }


def _checked(uri: str) -> str:
    return uri if uri.startswith("data:image/jpeg;base64,") else ""


def _summary_of(page: Path) -> dict[str, Any] | None:
    """Return the row that a page carries, or None if it carries none."""
    text = page.read_text(encoding="utf-8", errors="replace")
    start = text.rfind(SUMMARY_START)
    end = text.find(SUMMARY_END, start)
    if start < 0 or end < 0:
        return None
    try:
        found = json.loads(text[start + len(SUMMARY_START) : end])
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def write_cohort(
    path: str | os.PathLike[str],
    folders: Sequence[Path],
    *,
    title: str | None = None,
    progress: ProgressCallback = silent,
) -> list[CohortRow]:
    """Write the page of many runs.

    Parameters
    ----------
    path : path
        File to write, ``.html``.
    folders : sequence of Path
        Runs, see `find_runs`.
    title : str, optional
        Heading.
    progress : callable
        Gets a `regista.core.Progress` for each run.

    Returns
    -------
    list of CohortRow
        The runs as listed, the worst first.

    Raises
    ------
    FormatError
        If there is no run, or the disk refuses.
    """
    if not folders:
        raise FormatError("there is no run to show: name folders that regista register wrote")
    place = Path(path).absolute().parent
    rows = []
    for number, (folder, name) in enumerate(zip(folders, short_names(folders), strict=True)):
        link = quote(os.path.relpath((folder / PAGE).absolute(), place).replace(os.sep, "/"))
        rows.append(cohort_row(folder, link, name))
        progress(Progress("runs", 0, 1, number + 1, len(folders), 0.0, (number + 1) / len(folders)))
    rows.sort(key=lambda row: (_ORDER.get(row.outcome, 0), -row.probability))
    write_text(Path(path), cohort_html(rows, title or f"{len(rows)} registrations"))
    return rows


def cohort_html(rows: Sequence[CohortRow], title: str) -> str:
    """Return the page of runs, in the order given.

    Parameters
    ----------
    rows : sequence of CohortRow
        The runs.
    title : str
        Heading.

    Examples
    --------
    >>> page = cohort_html([CohortRow(name="<script>", outcome="pass", probability=0.1)], "one")
    >>> "<td><script>" in page, "&lt;script&gt;" in page
    (False, True)
    """
    names = list(dict.fromkeys(name for row in rows for name in row.measures))
    return render(
        "cohort.html",
        title=title,
        rows=rows,
        names=names,
        strips=[strip for name in names if (strip := strip_of(name, rows)) is not None],
        counts=[
            (name, sum(r.outcome == name for r in rows)) for name in ("fail", "look", "pass", "unreadable")
        ],
        box=(_WIDTH, _HEIGHT),
        style=page_text("style.css"),
        script=page_text("cohort.js"),
    )


def strip_of(name: str, rows: Sequence[CohortRow]) -> Strip | None:
    """Return the spread of a measure, or None if fewer than two runs have it.

    Parameters
    ----------
    name : str
        Measure.
    rows : sequence of CohortRow
        The runs.
    """
    found = [(n, row.measures[name]) for n, row in enumerate(rows) if name in row.measures]
    found = [(n, value) for n, value in found if math.isfinite(value)]
    if len(found) < 2:
        return None
    values = np.array([value for _, value in found])
    first, median, third = np.percentile(values, [25, 50, 75])
    low, high = float(values.min()), float(values.max())
    reach = _OUTLIER * (third - first)
    scale = (_WIDTH - 2 * _PAD) / ((high - low) or 1.0)
    offset = np.random.default_rng(0).uniform(
        -1, 1, len(found)
    )  # so that equal values do not hide each other
    dots = [
        (
            round(_PAD + scale * (value - low), 1),
            round(_HEIGHT / 2 + 16 * float(shift), 1),
            number,
            rows[number].outcome,
            bool(value < first - reach or value > third + reach),
            float(value),
        )
        for (number, value), shift in zip(found, offset, strict=True)
    ]
    middle = round(_PAD + scale * (float(median) - low), 1)
    return Strip(name=name, dots=dots, low=low, high=high, median=float(median), middle=middle)
