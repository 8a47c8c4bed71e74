"""A bar on the terminal: stage, level, metric and time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from regista.core import Progress, ProgressCallback, silent


@contextmanager
def progress_bar(show: bool) -> Iterator[ProgressCallback]:
    """Give a progress callback that draws on standard error while the block runs."""
    if not show:
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing", total=1.0)
        drawn = 0.0

        def draw(report: Progress) -> None:
            nonlocal drawn
            now = time.monotonic()
            if now - drawn < 0.1 and report.step < report.steps:
                return
            drawn = now
            text = (
                f"{report.stage}  level {report.level + 1}/{report.levels}  "
                f"step {report.step}/{report.steps}  metric {report.value:.5g}"
            )
            bar.update(task, completed=report.fraction, description=text)

        yield draw
