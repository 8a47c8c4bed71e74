"""Lung CT with masks: distance between corresponding landmarks (target registration error).

python benchmarks/lung_ct.py [--threads 2] [--data DIR]
"""

import argparse

import numpy as np
import SimpleITK as sitk

from harness.cases import Pair, run_command
from harness.machine import data_folder
from harness.measures import landmark_errors, load_map, read_landmarks
from harness.tables import markdown, write_rows, write_summary


def main() -> None:
    """Run the benchmark, both ways round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data")
    options = parser.parse_args()
    folder = data_folder(options.data) / "lung_ct"
    rows = []
    for fixed, moving in (("baseline", "followup"), ("followup", "baseline")):
        files = [str(folder / f"{name}.mha") for name in (fixed, moving)]
        masks = [str(folder / f"{name}_mask.mha") for name in (fixed, moving)]
        pair = Pair(f"lung_{fixed}_{moving}", *files, *masks)
        outcome = run_command(pair, options.threads, preset="lung-ct")
        points = [read_landmarks(folder / f"{name}_landmarks.txt") for name in (fixed, moving)]
        before = landmark_errors(*points, sitk.Transform(3, sitk.sitkIdentity))
        errors = landmark_errors(*points, load_map(outcome.transforms))
        rows.append(
            {
                "fixed": fixed,
                "moving": moving,
                "before_mm": float(before.mean()),
                "mean_mm": float(errors.mean()),
                "median_mm": float(np.median(errors)),
                "max_mm": float(errors.max()),
                "stage_seconds": outcome.stage_seconds,
                "command_seconds": outcome.command_seconds,
                "peak_mb": outcome.peak_mb,
            }
        )
        print(rows[-1], flush=True)
    write_rows("lung_ct", rows)
    keys = tuple(rows[0])
    table = markdown(keys, [[row[key] for key in keys] for row in rows])
    print(
        write_summary("lung_ct", "Lung CT, landmarks", options.threads, [table]).read_text(encoding="utf-8")
    )


if __name__ == "__main__":
    main()
