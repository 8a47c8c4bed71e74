"""Tables of measures on the screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from regista.cli._evaluate_parts import Findings, undefined
from regista.evaluation import LABEL_MEASURES, LabelAgreement

_SHOWN, _WORST = 24, 5


def show(found: Findings) -> None:
    """Print what was measured."""
    for stage, agreement in sorted(found.labels.items(), key=lambda item: item[0] != "before"):
        _show_labels(stage, agreement)
    for kind in ("landmarks", "transform", "images"):
        stages = found.tree.get(kind, {})
        if stages:
            names = list(dict.fromkeys(name for row in stages.values() for name in row))
            body = [[name, *(row.get(name) for row in stages.values())] for name in names]
            print_table(kind, ["measure", *stages], body)


def _show_labels(stage: str, agreement: LabelAgreement) -> None:
    scores = list(agreement.labels)
    title = f"labels, {stage} registration"
    if len(scores) > _SHOWN:
        scores = sorted(scores, key=lambda s: s.dice)[:_WORST]
        title += f" (the {_WORST} with least Dice of {len(agreement.labels)}; all with -o)"
    measures = [m for m in LABEL_MEASURES if any(not math.isnan(getattr(s, m)) for s in agreement.labels)]
    body = [[s.name, *(getattr(s, m) for m in measures)] for s in (*scores, *agreement.groups)]
    mean = agreement.mean()
    body.append([f"mean ({len(agreement.labels)})", *(mean[m] for m in measures)])
    print_table(title, ["label", *(m.replace("volume_similarity", "vol. sim.") for m in measures)], body)


def print_table(title: str, head: Sequence[str], body: Sequence[Sequence[Any]]) -> None:
    """Print a table on standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for n, name in enumerate(head):
        words = any(isinstance(row[n], str) for row in body)
        table.add_column(name, justify="left" if words or not n else "right", no_wrap=not words)
    for row in body:
        table.add_row(*(_text(value) for value in row))
    console.print(table)


def _text(value: Any) -> str:
    if undefined(value):
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.4g}"
    return str(value)
