"""A process that runs one method on one pair, and loads nothing but what this method needs.

``python -m regista.benchmarking._register FOLDER`` reads ``_register.json`` and leaves the transforms and
``_register.done.json``. Seconds are of the registration calls: reading, writing and imports are in the seconds
of the process only.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regista.benchmarking._process import die_with_parent, work

if TYPE_CHECKING:
    from regista.registration import Plan

Report = dict[str, Any]


def run(job: Mapping[str, Any], folder: Path) -> Report:
    """Run the job's tool.

    Parameters
    ----------
    job : mapping
        ``tool``, ``settings``, ``fixed``, ``moving``, ``fixed_mask``, ``moving_mask``, ``affine`` (ITK file of
        the map to start from, or None), ``affine_ras`` (the same as text), ``ndim``, ``threads``, ``non_finite``.
    folder : Path
        Where the transforms go.

    Returns
    -------
    dict
        ``transforms``, files in the order in which they act on a fixed point; ``seconds`` of each part;
        perhaps ``inverse``, files in the order in which they act on a moving point, and ``warning``.
    """
    tool = job["tool"]
    if tool == "warmup":
        return warmup(job)
    if tool == "regista":
        return regista(job, folder)
    if tool == "command":
        return command(job, folder)
    from regista.benchmarking import _tools

    tools: dict[str, Callable[[Mapping[str, Any], Path], Report]] = _tools.TOOLS
    return tools[tool](job, folder)


def regista(job: Mapping[str, Any], folder: Path) -> Report:
    """Run a plan of Regista, from the original files."""
    from dataclasses import replace

    from regista.core import set_threads
    from regista.io import read, read_transform, write
    from regista.registration import DenseStage, plan_from_dict, register

    set_threads(job["threads"])
    plan = plan_from_dict(job["settings"])
    initial = read_transform(job["affine"]) if job["affine"] else None
    deformable = tuple(stage for stage in plan.stages if isinstance(stage, DenseStage))
    if initial is not None and deformable:
        plan = replace(plan, stages=deformable)
    roles = ("fixed", "moving", "fixed_mask", "moving_mask")
    fixed, moving, *masks = (read(job[role]) if job[role] else None for role in roles)
    assert fixed is not None
    assert moving is not None
    _load_kernels(plan, fixed.ndim, masked=_masked(job))
    began = time.perf_counter()
    result = register(
        fixed,
        moving,
        plan,
        initial=initial,
        fixed_mask=masks[0],
        moving_mask=masks[1],
        non_finite=job["non_finite"],
    )
    seconds = time.perf_counter() - began
    write(folder / "fixed2moving.h5", result.transform)
    if deformable:  # that of a linear map is exact
        write(folder / "moving2fixed.h5", result.inverse)
    linear, dense = parts_of(plan, result.record.timings)
    warnings = [*result.record.warnings]
    if not result.record.status.ok:
        warnings.insert(0, f"its own verdict: {result.record.status}")
    return {
        "transforms": ["fixed2moving.h5"],
        "inverse": ["moving2fixed.h5"] if deformable else [],
        "seconds": {"stage": seconds, "linear": linear, "deformable": dense},
        "warning": "; ".join(warnings),
    }


def parts_of(plan: Plan, timings: Mapping[str, float]) -> tuple[float, float]:
    """Return the seconds of the linear part, the search for a start included, and of the dense stages.

    Preparing the images, and inverting and resampling at the end, belong to neither.
    """
    from regista.registration import LinearStage

    # sets: a model of several stages is timed under one name
    linear = {"start", *(stage.model for stage in plan.stages if isinstance(stage, LinearStage))}
    dense = {stage.model for stage in plan.stages} - linear
    one, other = (sum(timings.get(name, 0.0) for name in names) for names in (linear, dense))
    return one, other


def warmup(job: Mapping[str, Any]) -> Report:
    """Compile the kernels of a plan, so that no clock sees it."""
    from regista.core import set_threads
    from regista.registration import plan_from_dict

    set_threads(job["threads"])
    for masked in (False, True) if _masked(job) else (False,):
        _load_kernels(plan_from_dict(job["settings"]), job["ndim"], masked=masked)
    return {"transforms": [], "seconds": {}}


def _masked(job: Mapping[str, Any]) -> bool:
    """Tell whether voxels may be left out, which takes kernels of its own."""
    return bool(job["fixed_mask"] or job["moving_mask"] or job["non_finite"] == "mask")


def _load_kernels(plan: Any, ndim: int, *, masked: bool) -> None:
    """Load the plan's compiled kernels, as the peers' code is loaded by importing them."""
    import numpy as np

    from regista.core import Grid, Image
    from regista.registration import register

    shape = (20, 18, 16)[:ndim]
    place = np.indices(shape, dtype=np.float32)
    blob = np.exp(-((place - 8) ** 2).sum(0) / 20) + 0.1 * np.sin(place[0])
    fixed = Image(blob.astype(np.float32), Grid(shape, np.eye(ndim + 1)))
    mask = fixed.with_data(np.ones(shape, np.uint8)) if masked else None
    moving = fixed.with_data(np.roll(fixed.data, 1, axis=0))
    register(fixed, moving, plan, fixed_mask=mask, moving_mask=mask)


def command(job: Mapping[str, Any], folder: Path) -> Report:
    """Run a program of the user's."""
    from regista.core import RegistrationError

    settings = job["settings"]
    words = settings["command"]
    if job["affine"]:
        words = settings.get("from_affine")
        if not words:
            raise RegistrationError("this method has no from_affine: it cannot start from a given affine")
    names = {
        key: job[key] or "" for key in ("fixed", "moving", "fixed_mask", "moving_mask", "affine", "threads")
    }
    filled = [str(word).format(out=folder, **names) for word in words]
    program = shutil.which(filled[0])
    if program is None:
        raise RegistrationError(f"there is no program {filled[0]!r}")
    began = time.perf_counter()
    done = subprocess.run([program, *filled[1:]], check=False, preexec_fn=die_with_parent)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RegistrationError(
            f"{filled[0]} ended with code {done.returncode}; its words are in {Path(*folder.parts[-3:]) / '_register.log'}"
        )
    absent = [name for name in settings["transforms"] if not (folder / name).is_file()]
    if absent:
        raise RegistrationError(f"{filled[0]} ended well but left no {', '.join(absent)}")
    return {"transforms": list(settings["transforms"]), "seconds": {"stage": seconds}}


if __name__ == "__main__":
    work("_register", run)
