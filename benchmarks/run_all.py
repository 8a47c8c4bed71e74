"""Run benchmarks, one after another: what ``make bench`` does.

python benchmarks/run_all.py [--only mouse lung_ct …] [--quick] [--threads 2] [--data DIR]

Targets are the scripts of this folder and the sets of `side_by_side.py`; ``--list`` names them. ``--quick`` runs
each on as little as shows that it works: its figures are for nobody.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from harness.machine import RESULTS, check_sources
from side_by_side import SETS

HERE = Path(__file__).parent
QUICK: dict[str, list[str]] = {
    "startup": ["--repeat", "2"],
    "pages": ["--runs", "8"],
    "kernels": ["--repeat", "1", "--shape", "64", "72", "80"],
    "evaluation": ["--repeat", "1", "--no-peers"],
    "known_truth": [],
    "triangle": [],
    "known_motion": ["--people", "1000"],
    "landmark_fits": [],
    "exchange": ["--people", "1000"],
    "barrier": ["--only", "mouse"],
    "lung_landmarks": [],
    "multimodal": ["--cases", "patient07_t2"],
    "skull_strip": ["--heads", "1001_head_2mm", "--tools", "regista"],
    "brain_t1": ["--pairs", "1", "--tools", "regista_affine", "regista_whole"],
}
"""Scripts, and the words that make them quick."""
TARGETS = (*QUICK, *SETS)


def main() -> None:
    """Run the targets; end with the names of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("--quick", action="store_true", help="as little as shows that everything runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", help="folder of images; default REGISTA_DATA or ../shared/data")
    options = parser.parse_args()
    if options.list:
        print("\n".join(TARGETS))
        return
    check_sources()
    if options.data:
        os.environ["REGISTA_DATA"] = options.data
    failed = []
    for name in options.only:
        print(f"== {name}", flush=True)
        words = ["side_by_side.py", name] if name in SETS else [f"{name}.py"]
        words += ["--threads", str(options.threads)]
        if options.quick:
            words += ["--quick"] if name in SETS else QUICK[name]
        environment = dict(os.environ)
        if options.quick and name not in SETS:  # never over the figures of a whole run
            environment["REGISTA_BENCH_RESULTS"] = str(RESULTS / "quick")
        command = [sys.executable, str(HERE / words[0]), *words[1:]]
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(name)
    print(f"Results: {RESULTS}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
