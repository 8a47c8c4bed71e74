"""Mouse brains: small images for a quick look at accuracy.

python benchmarks/mouse.py [--threads 2] [--data DIR] [--preset brain-t1] [--greedy]
"""

import argparse
import itertools

import SimpleITK as sitk

from harness.cases import Pair, run_command, run_tool
from harness.machine import data_folder
from harness.measures import folded_percent, load_map, mean_dice
from harness.tables import markdown, spread, write_rows, write_summary


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--preset", default="brain-t1")
    parser.add_argument("--greedy", action="store_true", help="Greedy's affine and deformable beside ours")
    parser.add_argument("--reuse-peers", action="store_true")
    options = parser.parse_args()
    folder = data_folder(options.data) / "mouse_brain"
    rows = []
    for fixed, moving in list(itertools.permutations("1234", 2))[: options.pairs]:
        pair = Pair(
            f"mouse_{fixed}_{moving}",
            str(folder / f"{fixed}_mri.nii.gz"),
            str(folder / f"{moving}_mri.nii.gz"),
        )
        labels = [str(folder / f"{name}_labels.nii.gz") for name in (fixed, moving)]
        before, _ = mean_dice(*labels, sitk.Transform(3, sitk.sitkIdentity))
        outcomes = [run_command(pair, options.threads, preset=options.preset)]
        if options.greedy:
            outcomes.append(run_tool("greedy_whole", pair, options.threads, reuse=options.reuse_peers))
        for outcome in outcomes:
            mapping = load_map(outcome.transforms)
            dice, _ = mean_dice(*labels, mapping)
            rows.append(
                {
                    "pair": pair.name,
                    "tool": outcome.tool,
                    "before": before,
                    "dice": dice,
                    "folded_percent": folded_percent(pair.fixed, mapping),
                    "command_seconds": outcome.command_seconds,
                    "peak_mb": outcome.peak_mb,
                }
            )
            print(rows[-1], flush=True)
    write_rows("mouse", rows)
    print(write_summary("mouse", "Mouse brains", options.threads, [_table(rows)]).read_text(encoding="utf-8"))


def _table(rows: list[dict]) -> str:
    keys = ("before", "dice", "folded_percent", "command_seconds")
    body = []
    for tool in dict.fromkeys(row["tool"] for row in rows):
        found = [row for row in rows if row["tool"] == tool]
        columns = [[row[key] for row in found] for key in keys]
        body.append([tool, len(found), *(spread(column, 4) for column in columns)])
    return markdown(("tool", "pairs", "Dice before", "Dice", "folded %", "command s"), body)


if __name__ == "__main__":
    main()
