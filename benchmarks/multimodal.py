"""T1 against T2 and FLAIR moved by a known map: Regista's presets, ANTs' SyN with its defaults, Greedy by NMI.

python benchmarks/multimodal.py [--threads 2] [--data DIR] [--reuse-peers]
python benchmarks/multimodal.py --slices [--threads 2] [--data DIR]

The T2 of two patients and the FLAIR of one, already aligned with their T1, are carried by a known affine and diffeomorphism; the
error is the distance of the recovered map from the true one over the brain.

``--slices``: T1 and T2 slices of one person, as they are (the identity is the truth) and moved by a known affine and smooth
field; over what the T1 shows, and over what both show, 3 voxels within it. `2d-multimodal` was chosen on one half of the people.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import binary_erosion, binary_fill_holes

from harness.cases import Outcome, Pair, run_command, run_tool
from harness.learning import timed
from harness.machine import RESULTS, data_folder
from harness.measures import dense_map, load_map
from harness.tables import markdown, write_rows, write_summary
from harness.trained import ants_method
from harness.verdict_cases import ordinary
from regista.core import Image, LabelImage, set_threads
from regista.demo import KnownMap, make_known_map
from regista.io import read, write
from regista.registration import load_plan, register
from regista.transforms import resample

CASES = ("patient07_t2", "patient07_flair", "patient19_t2")
PEERS = ("ants_syn", "greedy_nmi")
PRESETS = ("brain-multimodal", "multimodal")


def known_map(data: Path, case: str, displacement_mm: float) -> KnownMap:
    """Return the affine and diffeomorphism that carries a case's contrast."""
    fixed = read(str(data / "brain_multicontrast" / f"{case.split('_')[0]}_t1.nii.gz"))
    mask = LabelImage((fixed.as_float32() > 0).astype(np.uint8), fixed.grid)
    return make_known_map(mask, displacement_mm=displacement_mm, seed=int(case.split("_")[0][-2:]))


def make_case(data: Path, case: str, displacement_mm: float = 10.0) -> tuple[Pair, np.ndarray, np.ndarray]:
    """Write the moved contrast; return the pair, the brain (i, j, k) and the true displacements there (LPS mm)."""
    folder = RESULTS / "cases" / (case if displacement_mm == 10 else f"{case}_{displacement_mm:g}mm")
    patient = case.split("_")[0]
    folder.mkdir(parents=True, exist_ok=True)
    fixed_file = data / "brain_multicontrast" / f"{patient}_t1.nii.gz"
    fixed = read(str(fixed_file))
    contrast = read(str(data / "brain_multicontrast" / f"{case}.nii.gz"))
    mask = LabelImage((fixed.as_float32() > 0).astype(np.uint8), fixed.grid)
    known = known_map(data, case, displacement_mm)
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


def slices(data: Path, threads: int) -> None:
    """Register slices of two contrasts, by ANTs and the presets; write the table."""
    methods = {
        "ANTs SyN, its default (MI)": ants_method("SyN"),
        "ANTs SyN, CC": ants_method("antsRegistrationSyN[s]"),
        "affine part of multimodal": lambda f, m: register(f, m, linear).transform,
        "multimodal": lambda f, m: register(f, m, "multimodal").transform,
        "2d-multimodal": lambda f, m: register(f, m, "2d-multimodal").transform,
    }
    plan = load_plan("multimodal")
    linear = replace(plan, stages=plan.stages[:-1])
    rows = []
    for case in ordinary(data, RESULTS, ("T1-T2 aligned", "T1-T2 slice")):
        assert case.truth is not None
        shown = case.fixed.as_float32()
        there = resample(case.moving, case.fixed.grid, case.truth).as_float32()
        both = binary_erosion(binary_fill_holes(there > 0.02 * there.max()), iterations=3)
        index = np.argwhere(shown > shown.mean())
        seen = both[tuple(index.T)]
        points = case.fixed.grid.index2world(index)
        truth = case.truth.map_points(points)
        for name, method in methods.items():
            found, seconds = timed(lambda c=case, run=method: run(c.fixed, c.moving))
            errors = np.linalg.norm(found.map_points(points) - truth, axis=1)
            rows.append(
                {
                    "set": "as they are" if case.aligned else "moved",
                    "case": case.name,
                    "half": "chosen on" if case.half == "fit" else "other people",
                    "method": name,
                    "mean_mm": float(errors.mean()),
                    "mean_seen_by_both_mm": float(errors[seen].mean()),
                    "p95_mm": float(np.percentile(errors, 95)),
                    "seconds": seconds,
                }
            )
            print(rows[-1], flush=True)
    write_rows("multimodal_slices", rows)
    keys = ("mean_mm", "mean_seen_by_both_mm", "p95_mm", "seconds")
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["half"], row["method"]), []).append(row)
    lines = [
        [*group, len(some), *(round(float(np.mean([row[key] for row in some])), 2) for key in keys)]
        for group, some in groups.items()
    ]
    table = markdown(("slices", "people", "method", "n", *keys), lines)
    path = write_summary("multimodal_slices", "T1 and T2 slices", threads, [table])
    print(path.read_text(encoding="utf-8"))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data")
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--reuse-peers", action="store_true")
    parser.add_argument("--slices", action="store_true", help="slices of two contrasts instead")
    options = parser.parse_args()
    data = data_folder(options.data)
    if options.slices:
        os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(options.threads)
        set_threads(options.threads)
        slices(data, options.threads)
        return
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
