"""Run every benchmark, one after another: what ``make bench`` does.

python benchmarks/run_all.py [--threads 2] [--only brain_t1 lung_ct …] [--reuse-peers]
"""

import argparse
import subprocess
import sys
from pathlib import Path

from harness.machine import RESULTS

HERE = Path(__file__).parent
SCRIPTS = ("startup", "kernels", "known_truth", "mouse", "lung_ct", "multimodal", "skull_strip", "brain_t1")
WITH_PEERS = ("mouse", "multimodal", "brain_t1")


def main() -> None:
    """Run the scripts; end with the number that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument("--reuse-peers", action="store_true")
    options = parser.parse_args()
    failed = []
    for name in options.only:
        print(f"== {name}", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), "--threads", str(options.threads)]
        if options.reuse_peers and name in WITH_PEERS:
            command.append("--reuse-peers")
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    print(f"Results: {RESULTS}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
