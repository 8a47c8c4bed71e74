"""Run one tool in a process of its own, with equal threads, and weigh it."""

import os
import subprocess
import sys
import time
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


@dataclass(frozen=True)
class Weighed:
    """Wall-clock seconds and peak resident memory of a finished process."""

    seconds: float
    peak_mb: float
    code: int


def run_weighed(command: Sequence[str], *, threads: int, log: Path | None = None) -> Weighed:
    """Run a command to its end; its output goes to `log`."""
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    with open(log or os.devnull, "wb") as stream:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return Weighed(seconds, usage.ru_maxrss / unit, process.returncode)


def run_or_stop(command: Sequence[str], *, threads: int, log: Path) -> Weighed:
    """Run a command; on failure stop the benchmark with the end of its log."""
    weighed = run_weighed(command, threads=threads, log=log)
    if weighed.code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise SystemExit(f"{' '.join(map(str, command))}\nended with code {weighed.code}:\n{tail}")
    return weighed
