"""`run_demo`: register the known pair, or the user's own, and leave files and a picture."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from regista.core import FormatError, Image, PlanError, ProgressCallback, silent
from regista.core import threads as use_threads
from regista.demo._error import transform_error
from regista.demo._montage import write_montage
from regista.demo._pair import KnownPair, make_known_pair
from regista.io import read, write, write_text
from regista.registration import Result, load_plan, register, warmup
from regista.reporting import write_report

PRESET = "brain-t1"


def run_demo(
    output: str | os.PathLike[str],
    fixed: str | os.PathLike[str] | None = None,
    moving: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    *,
    preset: str = PRESET,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Register the demo pair, whose answer is known, or two files of the user's.

    Parameters
    ----------
    output : path
        Folder for ``warped.nii.gz``, ``fixed2moving.h5``, ``moving2fixed.h5``, ``record.json``, ``montage.png`` and
        the quality page ``report.html``; for the demo pair also the pair itself, its mask and the true map.
    fixed, moving : path, optional
        The user's files, both or none.
    threads : int, optional
        Number of threads; None leaves the present setting.
    preset : str
        Name of the plan.
    progress : callable, optional
        Called with `regista.core.Progress`.

    Returns
    -------
    dict
        ``status``; ``verdict``; ``seconds`` (``compile``, ``prepare``, ``register``, ``write``, ``report``);
        ``outputs`` (name to path); and, for the demo pair, ``error_before`` and ``error`` with ``mean_mm``, ``p95_mm``, ….

    Raises
    ------
    PlanError
        If only one of `fixed` and `moving` is given.
    FormatError
        If matplotlib, for the picture, is not installed.
    """
    if (fixed is None) != (moving is None):
        raise PlanError("give both --fixed and --moving, or neither for the pair that comes with Regista")
    if find_spec("matplotlib") is None:  # told before the work, not after it
        raise FormatError(
            "the demo's picture needs matplotlib, which is not installed: pip install 'regista[demo]'"
        )
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    with use_threads(threads):
        clock = _Clock(seconds)
        warmup()
        clock.lap("compile")
        known = make_known_pair() if fixed is None else None
        pair = (known.fixed, known.moving) if known else (read(str(fixed)), read(str(moving)))
        clock.lap("prepare")
        plan = load_plan(preset)
        result = register(pair[0], pair[1], plan, threads=threads, progress=progress or silent)
        clock.lap("register")
        figures: dict[str, Any] = {"status": str(result.record.status), "preset": preset, "seconds": seconds}
        if known:
            figures["error_before"] = transform_error(None, known.truth, known.mask).to_dict()
            figures["error"] = transform_error(result.transform, known.truth, known.mask).to_dict()
            clock.lap("measure")
        figures["outputs"] = _write_outputs(folder, pair, result, known, seconds)
        clock.lap("write")
        figures["outputs"]["montage"] = str(
            write_montage(folder / "montage.png", pair[0], pair[1], result.warped, caption=_caption(figures))
        )
        clock.lap("montage")
        page = folder / "report.html"
        verdict = write_report(page, *pair, result, title=_caption(figures)).verdict
        figures["verdict"] = None if verdict is None else verdict.to_dict()
        figures["outputs"]["report"] = str(page)
        clock.lap("report")
    return figures


class _Clock:
    """Writes the time since the last lap under a name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] = now - self._start
        self._start = now


def _write_outputs(
    folder: Path,
    pair: tuple[Image, Image],
    result: Result,
    known: KnownPair | None,
    seconds: dict[str, float],
) -> dict[str, str]:
    """Write what ``regista register`` writes, and the known pair, so that the command can be tried on it."""
    things: dict[str, Any] = {
        "warped.nii.gz": result.warped,
        "fixed2moving.h5": result.transform,
        "moving2fixed.h5": result.inverse,
    }
    if known:
        things |= {
            "fixed.nii.gz": known.fixed,
            "moving.nii.gz": known.moving,
            "brain_mask.nii.gz": known.mask,
            "truth_fixed2moving.h5": known.truth,
        }
    for name, thing in things.items():
        write(folder / name, thing)
    record = replace(result.record, timings={**result.record.timings, **seconds})
    write_text(folder / "record.json", record.to_json())
    return {name.split(".")[0]: str(folder / name) for name in (*things, "record.json")}


def _caption(figures: dict[str, Any]) -> str:
    time_text = f"{figures['seconds']['register']:.1f} s"
    if "error" not in figures:
        return f"{figures['preset']}, {time_text}"
    before, after = figures["error_before"], figures["error"]
    return (
        f"{figures['preset']}, {time_text}; error in the brain {before['mean_mm']:.1f} mm before, "
        f"{after['mean_mm']:.2f} mm after (95th percentile {after['p95_mm']:.2f} mm)"
    )
