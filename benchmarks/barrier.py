"""Folded voxels with and without `log-jacobian`, model by model, on one pair of each kind of image.

python benchmarks/barrier.py [--threads 2] [--only brain mouse …] [--every] [--data DIR]

Each preset runs as it is and with the penalty besides (weight 1e-3). Determinants are NumPy's, of central differences of
the whole map at the voxels of the fixed image. With ``--every`` the first preset of each kind runs on every pair, with the penalty alone.
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from harness.machine import data_folder
from harness.tables import markdown, write_rows, write_summary
from multimodal import CASES as CONTRASTS
from multimodal import make_case
from pairs import write_pairs
from regista.core import Image, set_threads
from regista.io import read
from regista.registration import Result, load_plan, register, warmup
from regista.transforms import to_displacement_field

MODELS = ("brain-t1", "syn-cc", "syn", "demons", "diffeomorphic-demons", "log-demons", "svf", "bspline-mi")
CASES = {
    "brain": ("brain_t1", MODELS),
    "mouse": ("mouse_brain", ("mouse-brain",)),
    "heart": ("cardiac_cine", ("cardiac-cine",)),
    "lung CT": ("lung_ct", ("lung-ct", "bspline-mi")),
    "lung CT, far off": ("lung_ct_moved", ("lung-ct",)),
    "lung MRI": ("lung_mri", ("lung-mri",)),
    "histology": ("histology", ("histology",)),
    "brain slice": ("brain_slices_2d", ("2d",)),
    "T1 to T2, FLAIR": ("known maps", ("brain-multimodal",)),
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


def pairs_of(images: str, data: Path, folder: Path, count: int | None) -> Iterator[dict[str, Image]]:
    """Return the images, and masks if there are any, of each pair of a table, or of the first ones."""
    if images == "known maps":
        for case in CONTRASTS[:count]:
            pair, *_ = make_case(data, case)
            yield {"fixed": read(pair.fixed), "moving": read(pair.moving)}
        return
    names = ("fixed", "moving", "fixed_mask", "moving_mask")
    with write_pairs(images, data, folder, count).open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            yield {name: read(row[name]) for name in names if row.get(name)}


def measure(images: dict[str, Image], preset: str, threads: int, ways: Sequence[str]) -> dict[str, object]:
    """Run a preset without the penalty ('free') and with it ('barred')."""
    stages = load_plan(preset).stages
    bending = [n for n, stage in enumerate(stages) if stage.model == stages[-1].model]
    row: dict[str, object] = {"preset": preset}
    for name in ways:
        settings = [f"stages.{n}.penalties={PENALTY}" for n in bending] if name == "barred" else []
        start = time.perf_counter()
        result = register(**images, plan=load_plan(preset, settings), threads=threads)
        row[f"{name}_seconds"] = time.perf_counter() - start
        row[f"{name}_percent"] = folded_percent(result, images["fixed"])
        row[f"{name}_smallest"] = result.record.measures["smallest_jacobian"]
        row[f"{name}_status"] = str(result.record.status)
    return row


def told_of_every(rows: Sequence[dict[str, object]], threads: int) -> str:
    """Return a table of each kind of images: its pairs, and the worst of them."""
    header = ("images", "preset", "pairs", "folded with the barrier, % (worst)", "smallest determinant")
    cells = []
    for name in dict.fromkeys(str(row["images"]) for row in rows):
        mine = [row for row in rows if row["images"] == name]
        worst = [max(float(str(row["barred_percent"])) for row in mine)]
        least = [min(float(str(row["barred_smallest"])) for row in mine)]
        cells.append([name, mine[0]["preset"], len(mine), *worst, *least])
    path = write_summary("barrier_every", "Folds with log-jacobian", threads, [markdown(header, cells)])
    return path.read_text(encoding="utf-8")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="IMAGES")
    parser.add_argument("--every", action="store_true", help="every pair, its first preset, with the penalty")
    parser.add_argument("--data")
    options = parser.parse_args()
    data = data_folder(options.data)
    set_threads(options.threads)
    warmup()
    rows = []
    for name in options.only:
        table, presets = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            for images in pairs_of(table, data, Path(folder), None if options.every else 1):
                for preset in presets[:1] if options.every else presets:
                    ways = ("barred",) if options.every else ("free", "barred")
                    rows.append({"images": name, **measure(images, preset, options.threads, ways)})
                    print(rows[-1], flush=True)
    if options.every:
        write_rows("barrier_every", rows)
        print(told_of_every(rows, options.threads))
        return
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
