"""Raw rows as CSV, summaries as Markdown."""

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.machine import RESULTS, describe


def write_rows(name: str, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write ``results/NAME.csv``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.csv"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_summary(name: str, title: str, threads: int, sections: Sequence[str]) -> Path:
    """Write ``results/NAME.md`` and return its path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.md"
    path.write_text("\n\n".join([f"# {title}", describe(threads), *sections]) + "\n", encoding="utf-8")
    return path


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _text(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return ``mean ± SD``."""
    if not values:
        return "–"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"
