"""What the benchmarks of trained networks share."""

import argparse
import csv
import shlex
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from harness.tables import markdown, write_rows, write_summary
from regista.core import Grid, Image, LabelImage
from regista.evaluation import label_measures
from regista.kernels.cpu.fields import jacobian_determinant
from regista.learning import Provenance, TrainingResult
from regista.transforms import Transform, resample, to_displacement_field
from regista.transforms._fields import to_voxels

COLUMNS = ("method", "pairs", "Dice", "SD", "folded % (worst)", "s per pair")


class Printer:
    """Prints the course of a training, a line every half minute."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, report) -> None:
        """Print where the training is."""
        now = time.monotonic()
        if now - self._last > 30 or report.step == report.steps:
            self._last = now
            print(f"step {report.step}/{report.steps} loss {report.value:.4f}", flush=True)


def command_line(script: str, options: argparse.Namespace, without: Sequence[str] = ("data",)) -> str:
    """Return the command that repeats a run, every option written out but the folder of images."""
    words = ["python", f"benchmarks/{script}"]
    for name, value in vars(options).items():
        if name in without or value is None or value is False or value == []:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += map(str, value) if isinstance(value, list | tuple) else [str(value)]
    return shlex.join(words)


def report_training(
    name: str,
    title: str,
    options: argparse.Namespace,
    origin: Provenance,
    result: TrainingResult,
    rows: Sequence[dict],
) -> None:
    """Write the tables of what a trained network did, and print them."""
    write_rows(name, rows)
    state = "finished" if result.finished else "cut short by the minutes: run again to go on"
    notes = (
        f"{result.steps} of {options.steps} steps, {result.seconds / 60:.1f} min in this session ({state}).\n\n"
        f"`{origin.command}`"
    )
    path = write_summary(name, title, options.threads, [notes, summary(rows)])
    print(path.read_text(encoding="utf-8"))


def timed(run: Callable[[], Transform]) -> tuple[Transform, float]:
    """Return a transform and the seconds it took."""
    began = time.perf_counter()
    found = run()
    return found, time.perf_counter() - began


def folded(transform: Transform, grid: Grid) -> float:
    """Return the share of folded voxels, percent."""
    field = to_displacement_field(transform, grid)
    return 100 * float(np.mean(jacobian_determinant(to_voxels(field.vectors_mm, grid)) <= 0))


def dice_of(
    fixed: LabelImage, moving: LabelImage, transform: Transform, labels: Sequence[int] | None = None
) -> float:
    """Return the mean Dice of the labels, carried once by the nearest voxel."""
    warped = resample(moving, fixed.grid, transform, interpolation="nearest")
    found = label_measures(fixed, LabelImage(warped.data, fixed.grid), labels=labels, surface=None)
    return float(np.nanmean([one.dice for one in found.labels]))


def write_image(path: Path, data: np.ndarray, grid: Grid) -> None:
    """Write an image if it is not there yet."""
    from regista.io import write

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, Image(np.ascontiguousarray(data), grid))


def write_table(path: Path, rows: Iterable[dict]) -> None:
    """Write a table for `regista train`."""
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def summary(rows: Sequence[dict]) -> str:
    """Return the table of methods over all pairs."""
    table = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        scores = [row["dice"] for row in own]
        deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
        table.append(
            [
                method,
                len(own),
                f"{statistics.fmean(scores):.4f}",
                f"{deviation:.4f}",
                f"{max(row['folded_percent'] for row in own):.4f}",
                f"{statistics.fmean(row['seconds'] for row in own):.2f}",
            ]
        )
    return markdown(COLUMNS, table)
