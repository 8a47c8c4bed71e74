"""Seconds and size of the quality page of a 1 mm brain pair, and of the page of a cohort.

python benchmarks/pages.py [--runs 200] [--threads 2]

The page's seconds are those beyond the registration: verdict, pictures and file. The cohort is of folders with the results
and the page of one brain pair and three pairs of slices, in turn: what `regista report --cohort` reads.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.machine import data_folder
from harness.tables import markdown, write_rows, write_summary
from regista import register
from regista.core import threads
from regista.io import read, write
from regista.reporting import write_cohort, write_report

BRAIN = ("brain_t1", "1000_t1", "1001_t1", "brain-t1")
SLICES = [
    ("brain_slices_2d", f"{one:02d}_t1", f"{other:02d}_t1", "2d") for one, other in ((1, 2), (3, 4), (5, 6))
]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data")
    options = parser.parse_args()
    data = data_folder(options.data)
    with threads(options.threads), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [page(data, folder / f"{n}", *pair) for n, pair in enumerate((BRAIN, *SLICES))]
        rows.append(cohort(folder, len(rows), options.runs))
    write_rows("pages", rows)
    table = markdown(tuple(rows[0]), [list(row.values()) for row in rows])
    print(write_summary("pages", "Pages", options.threads, [table]).read_text(encoding="utf-8"))


def page(data: Path, folder: Path, images: str, one: str, other: str, preset: str) -> dict[str, Any]:
    """Register a pair, and weigh its page."""
    fixed, moving = (read(data / images / f"{name}.nii.gz") for name in (one, other))
    result = register(fixed, moving, preset)
    folder.mkdir()
    (folder / "record.json").write_text(result.record.to_json(), encoding="utf-8")
    write(folder / "warped.nii.gz", result.warped)
    write(folder / "fixed2moving.h5", result.transform)
    write(folder / "moving2fixed.h5", result.inverse)
    watch = Watch()
    write_report(folder / "report.html", fixed, moving, result)
    return watch.row(f"page of {images} {other} to {one}", folder / "report.html")


def cohort(folder: Path, kinds: int, runs: int) -> dict[str, Any]:
    """Weigh the page of many runs, each with a page of its own."""
    made = []
    for n in range(runs):
        made.append(folder / f"runs/{n:04d}")
        made[-1].mkdir(parents=True)
        for source in (folder / str(n % kinds)).iterdir():
            os.link(source, made[-1] / source.name)
    watch = Watch()
    rows = write_cohort(folder / "cohort.html", made)
    assert all(row.outcome != "unreadable" for row in rows)
    return watch.row(f"cohort of {runs} runs", folder / "cohort.html")


class Watch:
    """Seconds since it was made: on the wall, and of the processor."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def row(self, what: str, written: Path) -> dict[str, Any]:
        """Return a row of the table."""
        wall, processor = time.perf_counter() - self._wall, time.process_time() - self._processor
        return {
            "what": what,
            "seconds": wall,
            "processor_s": processor,
            "mb": written.stat().st_size / 1e6,
        }


if __name__ == "__main__":
    main()
