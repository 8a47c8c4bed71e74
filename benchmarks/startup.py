"""How long it takes to start: ``import regista`` and ``regista --help``, best and median of several.

python benchmarks/startup.py [--repeat 7]
"""

import argparse
import statistics
import sys
from pathlib import Path

from harness.process import run_weighed
from harness.tables import markdown, write_rows, write_summary

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import regista": [sys.executable, "-c", "import regista"],
    "regista --help": [str(Path(sys.executable).with_name("regista")), "--help"],
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rows = []
    for name, command in COMMANDS.items():
        run_weighed(command, threads=options.threads)  # fills the file cache
        runs = [run_weighed(command, threads=options.threads) for _ in range(options.repeat)]
        if any(run.code for run in runs):
            raise SystemExit(f"{name} ended with code {runs[-1].code}")
        seconds = [run.seconds for run in runs]
        rows.append(
            {
                "what": name,
                "best_s": min(seconds),
                "median_s": statistics.median(seconds),
                "peak_mb": max(run.peak_mb for run in runs),
            }
        )
    write_rows("startup", rows)
    table = markdown(tuple(rows[0]), [list(row.values()) for row in rows])
    print(write_summary("startup", "Start", options.threads, [table]).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
