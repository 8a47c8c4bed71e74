"""Run one tool in a process of its own, with equal threads, and weigh it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    "REGISTA_THREADS",
)


# A process inherits, as its own peak, the memory of whoever started it: a small one in between keeps it honest.
_BETWEEN = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
figures = [time.perf_counter() - start, usage.ru_maxrss, os.waitstatus_to_exitcode(status)]
open(sys.argv[1], "w").write(json.dumps(figures))
"""


@dataclass(frozen=True)
class Weighed:
    """Wall-clock seconds and peak resident memory of a finished process."""

    seconds: float
    peak_mb: float
    code: int


def run_weighed(command: Sequence[str], *, threads: int, log: Path | None = None) -> Weighed:
    """Run a command to its end; its output goes to `log`."""
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    with tempfile.TemporaryDirectory() as folder, open(log or os.devnull, "wb") as stream:
        figures = Path(folder) / "figures.json"
        between = [sys.executable, "-S", "-c", _BETWEEN, str(figures), *map(str, command)]
        subprocess.run(between, env=environment, stdout=stream, stderr=subprocess.STDOUT, check=True)
        seconds, peak, code = json.loads(figures.read_text(encoding="utf-8"))
    return Weighed(seconds, peak / (1024**2 if sys.platform == "darwin" else 1024), code)


def run_or_stop(command: Sequence[str], *, threads: int, log: Path) -> Weighed:
    """Run a command; on failure stop the benchmark with the end of its log."""
    weighed = run_weighed(command, threads=threads, log=log)
    if weighed.code != 0:
        tail = "\n".join(log.read_text(errors="replace", encoding="utf-8").splitlines()[-25:])
        raise SystemExit(f"{' '.join(map(str, command))}\nended with code {weighed.code}:\n{tail}")
    return weighed
