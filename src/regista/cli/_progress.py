"""A bar on the terminal: stage, level, metric and time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from regista.cli._console import complain
from regista.cli._stops import raise_if_stopped
from regista.core import Progress, ProgressCallback, silent


@contextmanager
def progress_bar(show: bool, *, rounds: bool = False) -> Iterator[ProgressCallback]:
    """Give a progress callback that draws on standard error while the block runs.

    Parameters
    ----------
    show : bool
        Without, it only obeys Ctrl-C.
    rounds : bool
        Of a training: where there is no terminal, as in a batch job's log, write a line at the end of each level.
    """
    if not show:
        yield _stoppable(silent)
        return
    if rounds and not sys.stderr.isatty():
        yield _stoppable(_lines())
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),  # all in one line of 80 columns
        TextColumn("{task.percentage:>3.0f} %"),
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
                f"{report.stage} {report.level + 1}/{report.levels} step {report.step}/{report.steps} "
                f"metric {report.value:.4f}"
            )
            bar.update(task, completed=report.fraction, description=text)

        yield _stoppable(draw)


def _lines() -> ProgressCallback:
    """Return a callback that writes a line at the end of each level."""
    began = time.monotonic()
    last: Progress | None = None

    def write(report: Progress) -> None:
        nonlocal last
        if last is not None and report.level > last.level:
            tell(last)
        if report.step == report.steps:
            tell(report)
        last = report

    def tell(report: Progress) -> None:
        seconds = time.monotonic() - began
        complain(f"step {report.step} of {report.steps}, loss {report.value:.4f}, {seconds:.0f} s")

    return write


def _stoppable(draw: ProgressCallback) -> ProgressCallback:
    def report(progress: Progress) -> None:
        raise_if_stopped()
        draw(progress)

    return report
