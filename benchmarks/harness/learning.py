"""What the benchmarks of trained networks share."""

import argparse
import csv
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from regista.core import Grid, Image, LabelImage
from regista.evaluation import label_measures
from regista.transforms import Transform, resample


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


def timed(run: Callable[[], Transform]) -> tuple[Transform, float]:
    """Return a transform and the seconds it took."""
    began = time.perf_counter()
    found = run()
    return found, time.perf_counter() - began


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
