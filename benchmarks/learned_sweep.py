"""Train the same network again and again with one setting changed: how smooth, how many people.

python benchmarks/learned_sweep.py cardiac --smoothness 0.02 0.1 0.5 2 [-- --minutes 10 --steps 2000]
python benchmarks/learned_sweep.py cardiac --subjects 2 5 11 16 [-- --minutes 10 --steps 2000]
python benchmarks/learned_sweep.py brain --smoothness 0.1 0.5 2 [-- --minutes 40 --half-resolution]
python benchmarks/learned_sweep.py brain --subjects 2 5 11 [-- --minutes 40 --half-resolution]

Options after -- go to `learned_cardiac.py` or `learned_brain.py` as they are. Each value has a run of its own, which goes
on where it ended, and one that is finished is not repeated. Results: results/learned_sweep_SET_SETTING.csv, .md and
.png: Dice against the SD of log J for the smoothness, against the number of people for the other.
"""

import argparse
import os
import sys

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import learned_brain
import learned_cardiac
from harness.machine import RESULTS
from harness.tables import markdown, spread, write_rows, write_summary
from harness.trained import Row, budget, read_run
from regista.core import set_threads

SETS = {"brain": learned_brain, "cardiac": learned_cardiac}


def row_of(images: str, setting: str, value: float, words: list[str]) -> tuple[Row, dict]:
    """Train with a value, or take the finished run; return what the network alone reached, and how it was trained."""
    script = SETS[images]
    name = f"{setting}-{value:g}"
    options = script.arguments().parse_args([*words, f"--{setting}", f"{value:g}", "--name", name])
    run = f"learned_{images}_{name}"
    facts, rows = read_run(run) if (RESULTS / f"{run}.json").is_file() else ({}, [])
    if not facts or facts["steps"] < options.steps:
        set_threads(options.threads)
        script.train_and_test(options)
        facts, rows = read_run(run)
    own = [row for row in rows if row["method"] == name]
    found: Row = {setting: value, "cases": len(own), "minutes": facts["minutes"], "steps": facts["steps"]}
    for key in ("dice", "sd_log_jacobian", "folded_percent"):
        values = [float(row[key]) for row in own]
        found |= {key: float(np.mean(values)), f"{key}_sd": float(np.std(values, ddof=1)) if own[1:] else 0.0}
        found[f"{key}_text"] = spread(values, 3)
    return found, facts


def plot(rows: list[Row], images: str, setting: str) -> str:
    """Draw Dice against smoothness, or against the number of people; return the file's name."""
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    across = "sd_log_jacobian" if setting == "smoothness" else setting
    x, y = ([float(row[key]) for row in rows] for key in (across, "dice"))
    axes.errorbar(x, y, yerr=[float(row["dice_sd"]) for row in rows], fmt="o-", capsize=3)
    for row, a, b in zip(rows, x, y, strict=True):
        axes.annotate(f"{row[setting]:g}", (a, b), xytext=(4, 6), textcoords="offset points")
    axes.set_xlabel("SD of log J (rougher to the right)" if setting == "smoothness" else "people who train")
    axes.set_ylabel("Dice, mean and SD over test cases")
    axes.grid(alpha=0.3)
    FigureCanvasAgg(figure)
    name = f"learned_sweep_{images}_{setting}.png"
    figure.savefig(RESULTS / name, dpi=150)
    return name


def main() -> None:
    """Run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", choices=SETS)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--smoothness", type=float, nargs="+", help="weights of the diffusion penalty")
    what.add_argument("--subjects", type=int, nargs="+", help="numbers of people who train")
    own, _, extra = "\0".join(sys.argv[1:]).partition("\0--\0")
    words = extra.split("\0") if extra else []
    options = parser.parse_args(own.split("\0") if own else [])
    setting = "smoothness" if options.smoothness else "subjects"
    threads = SETS[options.images].arguments().parse_args(words).threads
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    found = [row_of(options.images, setting, value, words) for value in getattr(options, setting)]
    rows = [row for row, _ in found]
    name = f"learned_sweep_{options.images}_{setting}"
    write_rows(name, [{key: v for key, v in row.items() if not key.endswith("_text")} for row in rows])
    keys = (setting, "steps", "minutes", "cases", "dice_text", "sd_log_jacobian_text", "folded_percent_text")
    titles = (setting, "steps", "minutes", "cases", "Dice", "SD log J", "folded, %")
    sections = [
        markdown(titles, [[row[key] for key in keys] for row in rows]),
        f"![{setting}]({plot(rows, options.images, setting)})",
        *(f"**{setting} {row[setting]:g}**: {budget(facts)}" for row, facts in found),
    ]
    print(write_summary(name, f"{options.images}, {setting}", threads, sections).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
