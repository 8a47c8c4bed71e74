"""How far landmarks lie from fits that have not seen them: lung CT in 3-D, stained sections in 2-D; and exchanged landmarks.

python benchmarks/landmark_fits.py [--threads 2] [--data DIR]

*Left out*: each landmark measured by a fit to all others; means over both directions of a pair. *Exchanged*: the moving
landmarks of some lung pairs change places, and an affine map is fitted with and without ``robust``; the error is at the
landmarks left right.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.machine import data_folder
from harness.tables import markdown, write_rows, write_summary
from pairs import write_pairs
from regista.core import PointSet, set_threads
from regista.io import read_points
from regista.registration import fit_landmarks

MODELS = (
    *((model, 0.0) for model in ("translation", "rigid", "similarity", "affine")),
    *(("tps", smoothing) for smoothing in (0.0, 0.01, 0.1, 1.0)),
)
EXCHANGED = (2, 6, 10)  # landmarks that change places


def read_cases(images: str, data: Path, folder: Path) -> Iterator[tuple[str, PointSet, PointSet]]:
    """Yield the landmarks of every pair of a folder of test images, with the name of the pair."""
    with write_pairs(images, data, folder).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        fixed, moving = (read_points(row[f"{role}_points"], convention="lps") for role in ("fixed", "moving"))
        yield row["case"], fixed, moving


def exchanged(fixed: PointSet, moving: PointSet, count: int) -> tuple[float, float, int]:
    """Return the error of a plain and of a robust affine fit at the landmarks left right, and how many outliers it found."""
    wrong = np.random.default_rng(1).permutation(len(moving.points_mm))[:count]
    places = moving.points_mm.copy()
    places[wrong] = places[np.roll(wrong, 1)]
    right = np.setdiff1d(np.arange(len(places)), wrong)
    plain, robust = (fit_landmarks(fixed.points_mm, places, "affine", robust=one) for one in (False, True))
    return (
        float(plain.residuals_mm[right].mean()),
        float(robust.residuals_mm[right].mean()),
        int(robust.outliers[wrong].sum()),
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data")
    options = parser.parse_args()
    data = data_folder(options.data)
    set_threads(options.threads)
    rows, swaps = [], []
    for images in ("lung_ct", "histology"):
        with tempfile.TemporaryDirectory() as folder:
            cases = list(read_cases(images, data, Path(folder)))
        for name, fixed, moving in cases:
            which = images if images == "lung_ct" else name.rpartition("-")[0]
            for model, smoothing in MODELS:
                found = fit_landmarks(fixed, moving, model, smoothing=smoothing).summary()
                rows.append({"images": which, "case": name, "smoothing": smoothing, **found})
            if images == "lung_ct":
                swaps += [(name, count, *exchanged(fixed, moving, count)) for count in EXCHANGED]
    write_rows("landmark_fits", rows)
    keys = ("residual_mean_mm", "left_out_mean_mm", "left_out_median_mm", "left_out_max_mm")
    header = (
        "images",
        "landmarks",
        "model",
        "smoothing",
        "residual, mean",
        "left out, mean",
        "median",
        "largest",
    )
    lines = []
    for which, model, smoothing in dict.fromkeys((r["images"], r["model"], r["smoothing"]) for r in rows):
        alike = [r for r in rows if (r["images"], r["model"], r["smoothing"]) == (which, model, smoothing)]
        means = (float(np.mean([r[key] for r in alike])) for key in keys)
        lines.append((which, alike[0]["landmarks"], model, smoothing, *means))
    tables = [
        markdown(header, lines),
        markdown(("pair", "exchanged", "error, plain, mm", "error, robust, mm", "of them found"), swaps),
    ]
    path = write_summary("landmark_fits", "Landmark fits, mm, histology in pixels", options.threads, tables)
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
