"""T1 against T2 and FLAIR moved by a known map: Regista's presets, ANTs' SyN with its defaults, Greedy by NMI.

python benchmarks/multimodal.py [--threads 2] [--data DIR] [--reuse-peers]

The T2 of two patients and the FLAIR of one, already aligned with their T1, are carried by a known affine and diffeomorphism; the
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

CASES = ("patient07_t2", "patient07_flair", "patient19_t2")
PEERS = ("ants_syn", "greedy_nmi")
PRESETS = ("brain-multimodal", "multimodal")


def make_case(data: Path, case: str) -> tuple[Pair, np.ndarray, np.ndarray]:
    """Write the moved contrast; return the pair, the brain (k, j, i) and the true displacements there (LPS mm)."""
    folder = RESULTS / "cases" / case
    patient = case.split("_")[0]
    folder.mkdir(parents=True, exist_ok=True)
    fixed_file = data / "brain_multicontrast" / f"{patient}_t1.nii.gz"
    fixed = read(str(fixed_file))
    contrast = read(str(data / "brain_multicontrast" / f"{case}.nii.gz"))
    mask = LabelImage((fixed.as_float32() > 0).astype(np.uint8), fixed.grid)
    known = make_known_map(mask, displacement_mm=10.0, seed=int(patient[-2:]))
    grid = contrast.grid.with_spacing((1.1, 0.9, 1.2))
    moved = resample(Image(contrast.data, contrast.grid), grid, known.moving2fixed)
    moving_file = folder / "moved.nii.gz"
    write(moving_file, moved)
    index = np.argwhere(mask.data != 0)
    points = mask.grid.index2world(index)
    truth = (known.fixed2moving.map_points(points) - points) * [-1.0, -1.0, 1.0]
    return Pair(f"multimodal_{case}", str(fixed_file), str(moving_file)), index, truth


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
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--reuse-peers", action="store_true")
    options = parser.parse_args()
    data = data_folder(options.data)
    rows = []
    for case in options.cases:
        pair, index, truth = make_case(data, case)
        outcomes = [
            *(run_tool(tool, pair, options.threads, reuse=options.reuse_peers) for tool in PEERS),
            *(run_command(pair, options.threads, preset=name, name=name) for name in PRESETS),
        ]
        for outcome in outcomes:
            rows.append(measure(outcome, pair, index, truth))
            print(rows[-1], flush=True)
    write_rows("multimodal", rows)
    keys = ("case", "tool", "mean_mm", "p95_mm", "stage_seconds", "command_seconds", "peak_mb")
    table = markdown(keys, [[row[key] for key in keys] for row in rows])
    path = write_summary("multimodal", "T1 → T2, T1 → FLAIR with a known truth", options.threads, [table])
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
