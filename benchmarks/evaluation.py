"""Seconds that measuring labels takes, beside SimpleITK and surface-distance.

python benchmarks/evaluation.py [--threads 2] [--repeat 3] [--shape 180 220 180] [--no-peers] [--data DIR]

The maps are those of two people of `brain_t1` with 138 labels, the second laid on the first by `affine`, on a grid
of the given size at 1 mm. Kernels are compiled before the clock starts. Peers measure label by label, as their
interfaces ask for.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import SimpleITK as sitk

from harness.machine import data_folder
from harness.tables import markdown, write_rows, write_summary
from regista import LabelImage, read, read_labels, register
from regista.core import Grid, set_threads
from regista.evaluation import label_measures
from regista.transforms import resample_labels

FIXED, MOVING = "1000", "1001"
BARS = {"overlaps": 1.0, "surfaces, voxels": 20.0, "surfaces, surfels": 20.0}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--shape", type=int, nargs=3, default=(180, 220, 180))
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--data")
    options = parser.parse_args()
    set_threads(options.threads)
    fixed, warped = label_maps(options)
    labels = sorted((set(np.unique(fixed.data)) | set(np.unique(warped.data))) - {0})
    ours: dict[str, Callable[[], Any]] = {
        "overlaps": lambda: label_measures(fixed, warped, surface=None),
        "surfaces, voxels": lambda: label_measures(fixed, warped, surface="voxels"),
        "surfaces, surfels": lambda: label_measures(fixed, warped, surface="surfels"),
    }
    rows = [row("Regista", what, measure, options.repeat) for what, measure in ours.items()]
    if not options.no_peers:
        rows.append(
            row("SimpleITK", "overlaps", lambda: sitk_overlaps(fixed, warped, labels), options.repeat)
        )
        rows.append(
            row(
                "surface-distance",
                "surfaces, surfels",
                lambda: surfels(fixed, warped, labels),
                options.repeat,
            )
        )
    write_rows("evaluation", rows)
    body = [
        [r["tool"], r["what"], r["seconds"], r["least"], r["greatest"], r["repeats"], BARS[r["what"]]]
        for r in rows
    ]
    size = "×".join(map(str, options.shape))
    title = f"Measuring labels: {len(labels)} of them on {size} voxels of 1 mm"
    header = ("tool", "what", "s, median", "least", "greatest", "runs", "bar, s")
    path = write_summary("evaluation", title, options.threads, [markdown(header, body)])
    print(path.read_text(encoding="utf-8"))


def label_maps(options: argparse.Namespace) -> tuple[LabelImage, LabelImage]:
    """Return the fixed labels, and the moving ones on the same grid."""
    folder = data_folder(options.data) / "brain_t1"
    fixed, moving = (read(folder / f"{person}_t1.nii.gz") for person in (FIXED, MOVING))
    transform = register(fixed, moving, "affine").transform
    matrix = np.diag([1.0, 1.0, 1.0, 1.0])
    matrix[:3, 3] = fixed.grid.center_mm - (np.array(options.shape) - 1) / 2
    grid = Grid(tuple(options.shape), matrix)
    here, there = (read_labels(folder / f"{person}_labels.nii.gz") for person in (FIXED, MOVING))
    return resample_labels(here, grid), resample_labels(there, grid, transform)


def row(tool: str, what: str, measure: Callable[[], Any], repeat: int) -> dict[str, Any]:
    """Return the seconds of a measurement; it runs once before, to compile."""
    if tool == "Regista":
        measure()
    seconds = []
    for _ in range(repeat):
        began = time.perf_counter()
        measure()
        seconds.append(time.perf_counter() - began)
    found = {
        "tool": tool,
        "what": what,
        "seconds": statistics.median(seconds),
        "least": min(seconds),
        "greatest": max(seconds),
        "repeats": repeat,
    }
    print(found, flush=True)
    return found


def sitk_overlaps(fixed: LabelImage, warped: LabelImage, labels: list[int]) -> list[float]:
    """Return SimpleITK's Dice of each label."""
    one, other = (sitk.GetImageFromArray(image.data.astype(np.int16)) for image in (fixed, warped))
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(one, other)
    return [measures.GetDiceCoefficient(int(label)) for label in labels]


def surfels(fixed: LabelImage, warped: LabelImage, labels: list[int]) -> list[float]:
    """Return surface-distance's 95 % Hausdorff distance of each label."""
    import surface_distance

    np.Inf = np.inf  # the name its release 0.1 asks NumPy for
    found = []
    for label in labels:
        distances = surface_distance.compute_surface_distances(
            fixed.data == label, warped.data == label, fixed.grid.spacing
        )
        surface_distance.compute_average_surface_distance(distances)
        found.append(surface_distance.compute_robust_hausdorff(distances, 95))
    return found


if __name__ == "__main__":
    main()
