"""One tool on one pair, in a process of its own: ``worker.py TOOL FIXED MOVING OUT THREADS [AFFINE]``.

It leaves its transforms and ``timing.json`` in OUT. Times are of the registration calls alone: imports are
not counted for any tool, and kernels are compiled beforehand for ours.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GREEDY_METRIC = "-m NCC 2x2x2 -n 100x50x10"


@dataclass(frozen=True)
class Job:
    """What a tool is given."""

    fixed: str
    moving: str
    out: Path
    threads: int
    affine: str | None
    fixed_mask: str | None = None
    moving_mask: str | None = None


def ants_linear(job: Job) -> dict:
    """Run ANTsPy ``registration(type_of_transform='Affine')`` with its defaults."""
    return _ants(job, "Affine")


def ants_syn(job: Job) -> dict:
    """Run ANTsPy ``registration(type_of_transform='SyN')`` with its defaults (mutual information)."""
    return _ants(job, "SyN")


def _ants(job: Job, kind: str) -> dict:
    import ants

    fixed, moving = ants.image_read(job.fixed), ants.image_read(job.moving)
    start = time.perf_counter()
    result = ants.registration(fixed, moving, kind, random_seed=1)
    seconds = time.perf_counter() - start
    names = []
    for number, path in enumerate(result["fwdtransforms"]):
        name = f"{number}_{'affine.mat' if path.endswith('.mat') else 'warp.nii.gz'}"
        shutil.move(path, job.out / name)
        names.append(name)
    return {"stage_seconds": seconds, "transforms": names}


def greedy_deformable(job: Job) -> dict:
    """Run Greedy's deformable mode from a given affine, images in memory: no reading or writing is timed."""
    import SimpleITK as sitk
    from picsl_greedy import Greedy3D

    affine = job.out / "affine.ras.txt"
    _write_ras(job.affine, affine)
    fixed, moving = sitk.ReadImage(job.fixed), sitk.ReadImage(job.moving)
    greedy = Greedy3D()
    start = time.perf_counter()
    greedy.execute(
        f"-i fixed moving {GREEDY_METRIC} -it {affine} -threads {job.threads} -o warp",
        fixed=fixed,
        moving=moving,
        warp=None,
    )
    seconds = time.perf_counter() - start
    sitk.WriteImage(greedy["warp"], str(job.out / "warp.nii"))
    return {"stage_seconds": seconds, "transforms": ["warp.nii", affine.name]}


def greedy_whole(job: Job) -> dict:
    """Run Greedy's three commands, affine, deformable and reslice, from files to files."""
    return _greedy_whole(job, GREEDY_METRIC)


def greedy_nmi(job: Job) -> dict:
    """Run the same by normalized mutual information, for different contrasts."""
    return _greedy_whole(job, "-m NMI -n 100x50x10")


def _greedy_whole(job: Job, metric: str) -> dict:
    from picsl_greedy import Greedy3D

    affine, warp, out = job.out / "affine.ras.txt", job.out / "warp.nii.gz", job.out / "warped.nii.gz"
    images = f"-i {job.fixed} {job.moving} -threads {job.threads}"
    commands = {
        "affine": f"-a {images} -ia-image-centers {metric} -o {affine}",
        "deformable": f"{images} {metric} -it {affine} -o {warp}",
        "reslice": f"-rf {job.fixed} -threads {job.threads} -rm {job.moving} {out} -r {warp} {affine}",
    }
    seconds = {}
    for name, command in commands.items():
        start = time.perf_counter()
        Greedy3D().execute(command)
        seconds[name] = time.perf_counter() - start
    return {
        "stage_seconds": seconds["affine"] + seconds["deformable"],
        "command_seconds": sum(seconds.values()),
        "parts": seconds,
        "transforms": [warp.name, affine.name],
    }


def regista_affine(job: Job) -> dict:
    """Run the plan ``affine``."""
    return _regista(job, "affine")


def regista_deformable(job: Job) -> dict:
    """Run the deformable stage of ``brain-t1`` alone, from a given affine."""
    return _regista(job, "deformable")


def _regista(job: Job, preset: str) -> dict:
    from regista.core import set_threads
    from regista.io import read, read_transform, write
    from regista.registration import load_plan, register, warmup

    set_threads(job.threads)
    warmup()
    fixed, moving = read(job.fixed), read(job.moving)
    initial = read_transform(job.affine) if job.affine else None
    plan = load_plan(preset)
    start = time.perf_counter()
    result = register(fixed, moving, plan, initial=initial, threads=job.threads)
    seconds = time.perf_counter() - start
    write(job.out / "fixed2moving.h5", result.transform)
    # what the peers' stages do not give: the inverse and the warped image (they count in the command's seconds)
    return {
        "stage_seconds": seconds - result.record.timings["inverse and resampling"],
        "with_inverse_seconds": seconds,
        "transforms": ["fixed2moving.h5"],
        "parts": dict(result.record.timings),
        "status": str(result.record.status),
    }


def _write_ras(itk_file: str | None, target: Path) -> None:
    """Write an ITK affine (LPS) as Greedy's 4×4 RAS text."""
    import SimpleITK as sitk

    if itk_file is None:
        raise SystemExit("this tool starts from a given affine: name its ITK file")
    transform = sitk.ReadTransform(itk_file)
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, 3] = origin
    matrix[:3, :3] = np.stack([transform.TransformPoint(tuple(row)) for row in np.eye(3)], axis=1)
    matrix[:3, :3] -= origin[:, None]
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    np.savetxt(target, flip @ matrix @ flip, fmt="%.12g")


TOOLS: dict[str, Callable[[Job], dict]] = {
    function.__name__: function
    for function in (
        ants_linear,
        ants_syn,
        greedy_deformable,
        greedy_whole,
        greedy_nmi,
        regista_affine,
        regista_deformable,
    )
}


def main() -> None:
    """Run the named tool and leave its timing."""
    tool, fixed, moving, out, threads, *affine = sys.argv[1:]
    job = Job(fixed, moving, Path(out), int(threads), affine[0] if affine else None)
    timing = TOOLS[tool](job)
    (job.out / "timing.json").write_text(json.dumps(timing, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
