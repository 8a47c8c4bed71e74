"""T1 against T2 moved by a known map: Regista's ``multimodal`` preset and ANTs' SyN with its defaults.

python benchmarks/multimodal.py [--threads 2] [--data DIR] [--reuse-peers]

The T2 of two patients, already aligned with their T1, is carried by a known affine and diffeomorphism; the
error is the distance of the recovered map from the true one over the brain.
"""

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from harness.cases import Outcome, Pair, run_command, run_tool
from harness.machine import RESULTS, data_folder
from harness.measures import dense_map, load_map
from harness.tables import markdown, write_rows, write_summary
from regista.core import Image, LabelImage
from regista.demo import make_known_map
from regista.io import read, write
from regista.transforms import resample

PATIENTS = ("patient07", "patient19")


def make_case(data: Path, patient: str) -> tuple[Pair, np.ndarray, np.ndarray]:
    """Write the moved T2; return the pair, the brain (k, j, i) and the true displacements there (LPS mm)."""
    folder = RESULTS / "cases" / patient
    folder.mkdir(parents=True, exist_ok=True)
    fixed_file = data / "brain_multicontrast" / f"{patient}_t1.nii.gz"
    fixed = read(str(fixed_file))
    contrast = read(str(data / "brain_multicontrast" / f"{patient}_t2.nii.gz"))
    mask = LabelImage((fixed.as_float32() > 0).astype(np.uint8), fixed.grid)
    known = make_known_map(mask, displacement_mm=10.0, seed=int(patient[-2:]))
    grid = contrast.grid.with_spacing((1.1, 0.9, 1.2))
    moved = resample(Image(contrast.data, contrast.grid), grid, known.moving2fixed)
    moving_file = folder / "t2_moved.nii.gz"
    write(moving_file, moved)
    index = np.argwhere(mask.data != 0)
    points = mask.grid.index2world(index)
    truth = (known.fixed2moving.map_points(points) - points) * [-1.0, -1.0, 1.0]
    return Pair(f"multimodal_{patient}", str(fixed_file), str(moving_file)), index, truth


def measure(outcome: Outcome, pair: Pair, index: np.ndarray, truth: np.ndarray) -> dict[str, object]:
    """Return one row."""
    field = dense_map(sitk.ReadImage(pair.fixed), load_map(outcome.transforms))
    found = field[index[:, 2], index[:, 1], index[:, 0]]
    errors = np.linalg.norm(found - truth, axis=1)
    return {
        "case": pair.name,
        "tool": outcome.tool,
        "mean_mm": float(errors.mean()),
        "p95_mm": float(np.percentile(errors, 95)),
        "stage_seconds": outcome.stage_seconds,
        "command_seconds": outcome.command_seconds,
        "peak_mb": outcome.peak_mb,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data")
    parser.add_argument("--patients", nargs="+", default=list(PATIENTS))
    parser.add_argument("--reuse-peers", action="store_true")
    options = parser.parse_args()
    data = data_folder(options.data)
    rows = []
    for patient in options.patients:
        pair, index, truth = make_case(data, patient)
        for outcome in (
            run_tool("ants_syn", pair, options.threads, reuse=options.reuse_peers),
            run_command(pair, options.threads, preset="multimodal"),
        ):
            rows.append(measure(outcome, pair, index, truth))
            print(rows[-1], flush=True)
    write_rows("multimodal", rows)
    keys = ("case", "tool", "mean_mm", "p95_mm", "stage_seconds", "command_seconds", "peak_mb")
    table = markdown(keys, [[row[key] for key in keys] for row in rows])
    path = write_summary("multimodal", "T1 → T2 with a known truth", options.threads, [table])
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
