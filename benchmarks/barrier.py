"""Folded voxels with and without `log-jacobian`, model by model, on one pair of each kind of image.

python benchmarks/barrier.py [--threads 2] [--only brain mouse …] [--data DIR]

Each preset runs as it is and with the penalty besides (weight 1e-3). Determinants are NumPy's, of central differences of
the whole map at the voxels of the fixed image.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np

from harness.machine import data_folder
from harness.tables import markdown, write_rows, write_summary
from pairs import write_pairs
from regista.core import Image, set_threads
from regista.io import read
from regista.registration import Result, load_plan, register, warmup
from regista.transforms import to_displacement_field

MODELS = ("brain-t1", "syn-cc", "demons", "diffeomorphic-demons", "svf", "bspline-mi")
CASES = {
    "brain": ("brain_t1", MODELS),
    "mouse": ("mouse_brain", ("mouse-brain",)),
    "heart": ("cardiac_cine", ("cardiac-cine",)),
    "lung CT": ("lung_ct", ("lung-ct", "bspline-mi")),
    "lung MRI": ("lung_mri", ("lung-mri",)),
    "histology": ("histology", ("histology",)),
}
PENALTY = "[{log-jacobian = {weight = 1e-3}}]"


def folded_percent(result: Result, fixed: Image) -> float:
    """Return the share of voxels whose determinant is not above 0."""
    grid = fixed.grid
    vectors = to_displacement_field(result.transform, grid).vectors_mm.astype(np.float64)
    voxels = np.einsum("ab,b...->a...", grid.world2grid[:-1, :-1], vectors)
    places = np.indices(grid.shape) + voxels
    jacobian = np.stack([np.stack(np.gradient(component)) for component in places])
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
    return 100 * float(np.mean(determinant <= 0))


def first_pair(images: str, data: Path, folder: Path) -> dict[str, Image]:
    """Return the images, and masks if there are any, of the first pair of a table."""
    with write_pairs(images, data, folder, 1).open(encoding="utf-8", newline="") as stream:
        row = next(csv.DictReader(stream))
    names = ("fixed", "moving", "fixed_mask", "moving_mask")
    return {name: read(row[name]) for name in names if row.get(name)}


def measure(images: dict[str, Image], preset: str, threads: int) -> dict[str, object]:
    """Run a preset without and with the penalty."""
    model = load_plan(preset).stages[-1].model
    row: dict[str, object] = {"preset": preset}
    for name, settings in (("free", []), ("barred", [f"stages.{model}.penalties={PENALTY}"])):
        start = time.perf_counter()
        result = register(**images, plan=load_plan(preset, settings), threads=threads)
        row[f"{name}_seconds"] = time.perf_counter() - start
        row[f"{name}_percent"] = folded_percent(result, images["fixed"])
        row[f"{name}_smallest"] = result.record.measures["smallest_jacobian"]
        row[f"{name}_status"] = str(result.record.status)
    return row


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="IMAGES")
    parser.add_argument("--data")
    options = parser.parse_args()
    data = data_folder(options.data)
    set_threads(options.threads)
    warmup()
    rows = []
    for name in options.only:
        table, presets = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            images = first_pair(table, data, Path(folder))
        for preset in presets:
            rows.append({"images": name, **measure(images, preset, options.threads)})
            print(rows[-1], flush=True)
    write_rows("barrier", rows)
    header = (
        "images",
        "preset",
        "folded, %",
        "smallest determinant",
        "folded with the barrier, %",
        "smallest determinant with it",
        "seconds",
        "seconds with it",
    )
    keys = ("images", "preset", "free_percent", "free_smallest", "barred_percent", "barred_smallest")
    keys += ("free_seconds", "barred_seconds")
    table = markdown(header, [[row[key] for key in keys] for row in rows])
    path = write_summary("barrier", "Folds with and without log-jacobian", options.threads, [table])
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
