"""A process of its own for each piece of work: equal threads, a time limit, no survivors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    "REGISTA_THREADS",
)
_TAIL = 3


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a process ended.

    Parameters
    ----------
    seconds : float
        Wall clock, from its start to its end.
    peak_mb : float
        Largest resident memory.
    error : str
        Why it failed; empty where it did not.
    content : mapping
        What it left in its report.
    """

    seconds: float
    peak_mb: float
    error: str
    content: Mapping[str, Any]


def run_job(
    module: str, job: Mapping[str, Any], folder: Path, threads: int, limit_s: float | None = None
) -> Outcome:
    """Run ``python -m regista.benchmarking.MODULE`` on a job in a folder, and wait for it.

    Parameters
    ----------
    module : str
        Which one; it reads ``MODULE.json`` in the folder and leaves ``MODULE.done.json`` there.
    job : mapping
        What to do.
    folder : Path
        Where; the process's output goes to ``MODULE.log``.
    threads : int
        Threads for every library that asks the environment.
    limit_s : float, optional
        Seconds after which the process, and all that it started, is killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report, log = folder / f"{module}.done.json", folder / f"{module}.log"
    report.unlink(missing_ok=True)
    (folder / f"{module}.json").write_text(json.dumps(job, indent=1), encoding="utf-8")
    command = [sys.executable, "-m", f"regista.benchmarking.{module}", str(folder)]
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    seconds, code, late, peak_mb = _run(command, environment, log, limit_s)
    content: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        content = json.loads(report.read_text(encoding="utf-8"))
    if late:
        error = f"stopped after the time limit of {limit_s:g} s"
    elif "error" in content:
        error = str(content["error"])
    elif code or not content:
        error = _obituary(code, log)
    else:
        error = ""
    return Outcome(seconds=seconds, peak_mb=content.get("peak_mb", peak_mb), error=error, content=content)


def _run(
    command: list[str], environment: Mapping[str, str], log: Path, limit_s: float | None
) -> tuple[float, int, bool, float]:
    late = threading.Event()
    with open(log, "wb") as stream:
        began = time.perf_counter()
        # a session of its own: a Ctrl-C is ours to handle, and the whole group can be killed
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

        def stop() -> None:
            late.set()
            _kill(process.pid)

        timer = threading.Timer(limit_s or 0, stop)
        timer.daemon = True
        try:
            if limit_s is not None:
                timer.start()
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            timer.cancel()
            _kill(process.pid)
            process.wait()
            raise
        seconds = time.perf_counter() - began
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        _kill(process.pid)  # what it may have started and left
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return seconds, process.returncode, late.is_set(), usage.ru_maxrss / unit


def _kill(group: int) -> None:
    with suppress(OSError):
        os.killpg(group, signal.SIGKILL)


def _without_origin(text: str) -> str:
    r"""Return a message without where it was compiled and where it lies in memory, as ITK tells: no reader needs them.

    Examples
    --------
    >>> _without_origin("/a/b/itkFilter.hxx:12:\nITK ERROR: Filter(0x55d0): too few pixels")
    'ITK ERROR: Filter: too few pixels'
    """
    text = re.sub(r"\S+\.(?:hxx|cxx|txx|h|cpp):\d+:?\s*", "", text)
    return " ".join(re.sub(r"\(0x[0-9a-f]+\)", "", text).split())


def _obituary(code: int, log: Path) -> str:
    """Return why a process that left no report died, with its last words."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        reason = f"killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
    else:
        reason = f"ended with code {code}"
    words: list[str] = []
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        words = [line.strip() for line in lines if line.strip()][-_TAIL:]
    return reason + (f": {' | '.join(words)}" if words else "")[:400]


def die_with_parent() -> None:
    """Make this process end when the one that started it is killed (on Linux)."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process and of those it has waited for, MB."""
    import resource

    unit = 1024**2 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    # a new process inherits the high-water mark of the one that made it: Linux keeps the true one apart
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                own = int(line.split()[1]) / 1024
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit)


def work(module: str, do: Any) -> None:
    """Read this process's job, do it, and leave the report: the main function of a worker."""
    die_with_parent()
    folder = Path(sys.argv[1]).resolve()  # a tool may change the working folder
    job = json.loads((folder / f"{module}.json").read_text(encoding="utf-8"))
    try:
        content = dict(do(job, folder))
    except Exception as error:
        import traceback

        traceback.print_exc()
        text = _without_origin(str(error)) or type(error).__name__
        known = type(error).__module__.startswith("regista")
        content = {"error": (text if known else f"{type(error).__name__}: {text}")[:500]}
    content["peak_mb"] = peak_memory_mb()
    target = folder / f"{module}.done.json"
    temporary = target.with_suffix(".part")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    os.replace(temporary, target)
    sys.stdout.flush()
    sys.stderr.flush()
    # some libraries crash while they are unloaded: the work is done, leave without it
    os._exit(0)
