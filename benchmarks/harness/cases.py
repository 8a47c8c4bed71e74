"""Run tools over pairs: one folder per pair and tool, peers kept when asked."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.machine import RESULTS
from harness.process import run_or_stop

WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Pair:
    """A pair of images."""

    name: str
    fixed: str
    moving: str
    fixed_mask: str | None = None
    moving_mask: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What a tool left."""

    tool: str
    transforms: tuple[Path, ...]
    stage_seconds: float
    command_seconds: float
    peak_mb: float
    timing: dict


def run_tool(
    tool: str, pair: Pair, threads: int, *, affine: Path | None = None, reuse: bool = False
) -> Outcome:
    """Run a tool of `harness.worker` on a pair, or read what it left before."""
    folder = RESULTS / "runs" / pair.name / tool
    report = folder / "outcome.json"
    if not (reuse and report.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(WORKER), tool, pair.fixed, pair.moving, str(folder), str(threads)]
        weighed = run_or_stop(
            [*command, *([str(affine)] if affine else [])], threads=threads, log=folder / "log.txt"
        )
        timing = json.loads((folder / "timing.json").read_text(encoding="utf-8"))
        timing.setdefault("command_seconds", weighed.seconds)
        report.write_text(json.dumps({**timing, "peak_mb": weighed.peak_mb}), encoding="utf-8")
    return _outcome(tool, folder, json.loads(report.read_text(encoding="utf-8")))


def run_command(
    pair: Pair,
    threads: int,
    *,
    preset: str = "brain-t1",
    name: str = "regista_whole",
    extra: Sequence[str] = (),
) -> Outcome:
    """Run ``regista register`` as a user does, Python's start included."""
    folder = RESULTS / "runs" / pair.name / name
    folder.mkdir(parents=True, exist_ok=True)
    program = str(Path(sys.executable).with_name("regista"))
    command = [program, "register", pair.fixed, pair.moving, "-o", str(folder / "out")]
    command += [
        "--preset",
        preset,
        "--threads",
        str(threads),
        "--quiet",
        "--no-report",
        "--no-verdict",
        *extra,
    ]
    if pair.fixed_mask:
        command += ["--fixed-mask", pair.fixed_mask]
    if pair.moving_mask:
        command += ["--moving-mask", pair.moving_mask]
    weighed = run_or_stop(command, threads=threads, log=folder / "log.txt")
    record = json.loads((folder / "out" / "record.json").read_text(encoding="utf-8"))
    timing = {
        "transforms": ["out/fixed2moving.h5"],
        "stage_seconds": record["timings"]["registration"],
        "command_seconds": weighed.seconds,
        "peak_mb": weighed.peak_mb,
        "parts": record["timings"],
        "status": record["status"],
    }
    return _outcome(name, folder, timing)


def _outcome(tool: str, folder: Path, timing: dict) -> Outcome:
    return Outcome(
        tool,
        tuple(folder / name for name in timing["transforms"]),
        timing["stage_seconds"],
        timing["command_seconds"],
        timing["peak_mb"],
        timing,
    )
