"""``summary.md``, ``summary.html``, plots and the table of regions."""

from __future__ import annotations

import base64
import html
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regista.benchmarking import _plots
from regista.benchmarking._machine import describe, machine
from regista.benchmarking._methods import Method
from regista.benchmarking._run import Tell
from regista.benchmarking._setup import Setup, Tally
from regista.benchmarking._store import write_table
from regista.benchmarking._tables import (
    Row,
    Table,
    accuracy_tables,
    finite,
    other_tables,
    repeat_table,
    time_table,
)
from regista.core import PlanError
from regista.io import write_text

_MEASURES = (
    "dice",
    "jaccard",
    "volume_similarity",
    "assd_mm",
    "hd95_mm",
    "hd_mm",
    "assd_px",
    "hd95_px",
    "hd_px",
)
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0}
th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
th{vertical-align:bottom}td{overflow-wrap:anywhere}.figures td,th,td:first-child{overflow-wrap:normal}
.figures td,td:first-child{white-space:nowrap}.figures td+td{font-variant-numeric:tabular-nums}
img{max-width:100%}.note{color:#555;font-size:13px}.scroll{overflow-x:auto}"""
_TEXTS = ("Failures", "Warnings", "Methods", "Origin of the results")


def write_report(
    tally: Tally,
    methods: Sequence[Method],
    setup: Setup,
    *,
    title: str = "Benchmark",
    reference: str | None = None,
    test: str = "wilcoxon",
    alpha: float = 0.05,
    tell: Tell = lambda text: None,
) -> dict[str, Path]:
    """Write the tables and pictures of a benchmark into its folder.

    Parameters
    ----------
    tally : Tally
        What `run_benchmark` returned.
    methods : sequence of Method
        The methods.
    setup : Setup
        As it was run.
    title : str
        Heading.
    reference : str, optional
        Method that stars and ratios of seconds refer to (default: the best of each column for stars, the first
        deformable plan of Regista for seconds).
    test : {'wilcoxon', 't'}
        What stars go by.
    alpha : float
        Stars mark corrected p below it.
    tell : callable
        Gets a line where the plots could not be drawn.

    Returns
    -------
    dict of str to Path
        ``raw``, ``summary``, ``html``, ``regions`` where there are labels, and the pictures.

    Raises
    ------
    PlanError
        If the reference is none of the methods, or the test is unknown.
    """
    shared = setup.equal_affine
    methods = [*methods, *([shared] if shared and shared.name not in (m.name for m in methods) else [])]
    if reference is not None and reference not in (m.name for m in methods):
        raise PlanError(f"the reference is one of {', '.join(m.name for m in methods)}; got {reference!r}")
    if test not in ("wilcoxon", "t"):
        raise PlanError(f"test is 'wilcoxon' or 't', got {test!r}")
    rows = [_numbers(row) for row in tally.rows]
    how = (reference, test, alpha)
    tables = accuracy_tables(rows, *how)
    timed = time_table(rows, reference, {m.name for m in methods if m.linear})
    tables += [table for table in (timed, repeat_table(rows)) if table]
    tables += other_tables(rows, *how)
    tables += _troubles(tally)
    tables.append(_settings(methods))
    intro = _intro(tally, methods, setup)
    tables += _origins(tally, setup)
    paths = {"raw": tally.raw, "summary": setup.output / "summary.md", "html": setup.output / "summary.html"}

    def write_pages(pictures: Sequence[Path]) -> None:
        write_text(paths["summary"], _markdown(title, intro, tables, pictures, setup.output))
        write_text(paths["html"], _html(title, intro, tables, pictures))

    write_pages(())  # tables first: they do not depend on plots
    regions = _regions(rows)
    if regions:
        paths["regions"] = setup.output / "regions.csv"
        write_table(paths["regions"], regions)
    if not _plots.available():
        return paths
    pictures: list[Path] = []
    try:
        pictures = _plots.draw(rows, setup.output / "plots")
    except (
        Exception
    ) as error:  # whatever Matplotlib may raise: hours of registration are not lost for a picture
        intro.append(f"The plots could not be drawn: {type(error).__name__}: {error}")
        tell(intro[-1])
    write_pages(pictures)
    return paths | {path.stem: path for path in pictures}


def _numbers(row: Row) -> Row:
    return {name: None if isinstance(v, float) and not finite(v) else v for name, v in row.items()}


def _intro(tally: Tally, methods: Sequence[Method], setup: Setup) -> list[str]:
    cases = len({str(row["case"]) for row in tally.rows})
    lines = [
        f"{_count(cases, 'case')} by {_count(len(methods), 'method')}: {tally.done} done, {tally.failed} failed.",
        describe(_known_machine(setup)),
        "Each registration in a process of its own, one at a time"
        + (f", the median of {setup.repeats} runs" if setup.repeats > 1 else ", once")
        + f", at most {setup.limit_s:g} s. Labels and images are sampled once, through the whole transform.",
    ]
    if setup.equal_affine is not None:
        lines.append(
            f"Every method starts from the result of {setup.equal_affine.name}: deformable ones leave their own linear "
            "part out, linear ones go on from it; the seconds are those from there on."
        )
    for name in setup.labels:
        count = len(
            {row["label"] for row in tally.rows if row.get("kind") == "labels" and row["set"] == name}
        )
        which = "those that every map has" if setup.labels[name] == "common" else "those asked for"
        lines.append(f"Of the labels of the set {name}, {count} count: {which}.")
    lines += [f"{warning}." for warning in tally.warnings]
    if tally.failed:
        lines.append("Means are over the cases a method finished: where cases differ, they do not compare.")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _known_machine(setup: Setup) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((setup.output / "machine.json").read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return machine(setup.threads or 0)


def _troubles(tally: Tally) -> list[Table]:
    tables = []
    if tally.failures:
        tables.append(
            Table(title="Failures", head=("case", "method", "reason"), body=tuple(map(tuple, tally.failures)))  # type: ignore[arg-type]
        )
    warned = [(str(r["case"]), str(r["method"]), str(r["warning"])) for r in tally.rows if r.get("warning")]
    if warned:
        tables.append(Table(title="Warnings", head=("case", "method", "warning"), body=tuple(warned)))
    return tables


def _origins(tally: Tally, setup: Setup) -> list[Table]:
    """Return where the results were made, unless all of them are of the machine, versions and sources named above."""
    if set(tally.origins) <= {describe(_known_machine(setup))}:
        return []
    note = "These results were not made in one go by the same sources on the same machine: seconds may not compare."
    body = tuple((str(count), origin) for origin, count in tally.origins.items())
    return [Table(title="Origin of the results", head=("results", "made on and with"), body=body, note=note)]


def _settings(methods: Sequence[Method]) -> Table:
    body = []
    for method in methods:
        text = "the plan" if method.tool == "regista" else json.dumps(method.settings, ensure_ascii=False)
        masks = "yes" if method.masks else "no"
        body.append(
            (method.name, method.version or ("–" if method.package else ""), method.about, text, masks)
        )
    return Table(
        title="Methods", head=("method", "version", "what", "settings", "uses masks"), body=tuple(body)
    )


def _regions(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return mean and SD over cases of each label by each method; runs of a case are averaged."""
    lists: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.get("kind") in ("labels", "groups"):
            key = tuple(str(row.get(name)) for name in ("kind", "set", "name", "method"))
            lists.setdefault(key, []).append(row)
    found = []
    for (kind, labels, name, method), own in lists.items():
        entry: dict[str, Any] = {
            "kind": kind,
            "set": labels,
            "name": name,
            "method": method,
            "cases": len({str(row["case"]) for row in own}),
        }
        for measure in _MEASURES:
            runs: dict[str, list[float]] = {}
            for row in own:
                if finite(row.get(measure)):
                    runs.setdefault(str(row["case"]), []).append(float(row[measure]))
            values = [statistics.fmean(run) for run in runs.values()]
            if values:
                entry[f"{measure}_mean"] = statistics.fmean(values)
            if len(values) > 1:
                entry[f"{measure}_sd"] = statistics.stdev(values)
        found.append(entry)
    return found


def _markdown(
    title: str, intro: Sequence[str], tables: Sequence[Table], pictures: Sequence[Path], folder: Path
) -> str:
    parts = [f"# {title}", *intro]
    for table in tables:
        lines = [_md_line(table.head), "|" + "---|" * len(table.head)]
        lines += [_md_line(_starless(cell) for cell in row) for row in table.body]
        parts += [f"## {table.title}", "\n".join(lines)]
        parts += [table.note.replace("*", r"\*")] if table.note else []
    if pictures:
        parts.append("## Plots")
        parts += [f"![{path.stem}]({path.relative_to(folder).as_posix()})" for path in pictures]
    return "\n\n".join(parts) + "\n"


def _md_line(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _starless(cell: str) -> str:
    return cell[:-2] + r" \*" if cell.endswith(" *") else cell


def _html(title: str, intro: Sequence[str], tables: Sequence[Table], pictures: Sequence[Path]) -> str:
    parts = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{html.escape(text)}</p>" for text in intro)]
    for table in tables:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in table.head)
        body = "".join(f"<tr>{''.join(f'<td>{_html_cell(c)}</td>' for c in row)}</tr>" for row in table.body)
        kind = "<table>" if table.title in _TEXTS else "<table class=figures>"
        parts.append(
            f"<h2>{html.escape(table.title)}</h2><div class=scroll>{kind}<tr>{head}</tr>{body}</table></div>"
        )
        parts += [f"<p class=note>{html.escape(table.note)}</p>"] if table.note else []
    parts += ["<h2>Plots</h2>"] if pictures else []
    for path in pictures:  # inside the page, so that it can be sent as one file
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        parts.append(f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"></p>')
    content = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n{content}\n</body></html>\n"
    )


def _html_cell(cell: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(cell))
