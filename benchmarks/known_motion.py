"""Motion that is known: a series of one brain in other poses, and a stack of its slices, each moved on its own.

python benchmarks/known_motion.py [--threads 2] [--people 1000 1001] [--data DIR]

*Series*: a T1 of 1 mm is sampled once on voxels of 3 mm at each of 12 poses (a drift, nods, two jumps), and gets noise. How
far points of the brain are from where they should be, mm: `correct_motion` tells the poses against each other, so that the
rigid map that fits all volumes best is taken off before. *Framewise*: error of the framewise displacement. *Slices*: axial
slices of 1 mm, 6 mm apart, each turned and shifted in its plane, with noise, are registered to those where they were.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from harness.machine import data_folder
from harness.tables import markdown, write_rows, write_summary
from regista.core import Grid, Image, set_threads
from regista.io import read
from regista.registration import (
    correct_motion,
    fit_landmarks,
    framewise_displacement,
    load_plan,
    register_slices,
    warmup,
)
from regista.transforms import Affine, Rigid, resample

Points = NDArray[np.float64]
VOLUMES, VOXEL_MM, NOISE = 12, 3.0, 0.05  # noise: of the brain's mean
SERIES = (
    ("motion", (), "mean"),
    ("motion", (), "first"),
    ("motion", ("stages.rigid.smooth_vox=0",), "mean"),
)  # preset, settings, reference
STACKS = ("rigid", "affine", "2d")
GAP_MM, TURN_DEG, SHIFT_MM = 6, 8.0, 6.0  # of slices: distance, standard deviation of their turns and shifts


def turned(angles_deg: Points, shift_mm: Points, center_mm: Points) -> Rigid:
    """Return the turn about a centre, in 2-D by one angle, then the shift."""
    n = len(center_mm)
    turn = Rotation.from_euler("xyz"[-len(angles_deg) :], angles_deg, degrees=True).as_matrix()
    matrix = np.eye(n + 1)
    matrix[:n, :n] = turn.reshape(3, 3)[:n, :n]
    matrix[:n, n] = center_mm + shift_mm - matrix[:n, :n] @ center_mm
    return Rigid(matrix)


def motion() -> Points:
    """Return where the head is in each volume, shifts in mm and turns in degrees: a drift, nods and two jumps."""
    when = np.linspace(0.0, 1.0, VOLUMES)
    drift = np.outer(when, [0.8, -0.5, 1.5, 1.0, -0.6, 0.5])  # mm, then degrees
    nods = np.outer(np.sin(14 * when), [0.1, 0.4, 0.3, 0.8, 0.1, 0.2])
    jumps = np.outer(when > 0.4, [1.2, 0.3, -0.8, 0.5, 1.0, -1.5])
    jumps += np.outer(when > 0.75, [-0.7, 1.0, 1.5, -2.0, 0.3, 0.8])
    return np.asarray(drift + nods + jumps)


def noisy(image: Image, seed: int) -> Points:
    """Return the image's values with noise."""
    data = image.as_float32()
    level = NOISE * float(data[data > 0].mean())
    return data + level * np.random.default_rng(seed).standard_normal(data.shape)


def away(found: list[Affine], true: list[Rigid], points: Points) -> Points:
    """Return how far points lie from where each volume holds them, after the rigid map that fits all best, (T, N) mm."""
    places = [pose.map_points(points) for pose in true]
    back = [one.inverse().map_points(p) for one, p in zip(found, places, strict=True)]
    few = slice(None, None, 20)
    starts, ends = np.tile(points[few], (len(true), 1)), np.concatenate([one[few] for one in back])
    common = fit_landmarks(starts, ends, "rigid").transform
    here = common.map_points(points)
    return np.array(
        [np.linalg.norm(f.map_points(here) - p, axis=1) for f, p in zip(found, places, strict=True)]
    )


def row_of(what: str, plan: str, error: Points, before: Points, seconds: float) -> dict[str, object]:
    """Return the figures of a run."""
    return {
        "what": what,
        "plan": plan,
        "before_mm": float(before.mean()),
        "mean_mm": float(error.mean()),
        "p95_mm": float(np.percentile(error, 95)),
        "largest_mm": float(error.max()),
        "seconds": seconds,
    }


def series_rows(name: str, scan: Image) -> list[dict[str, object]]:
    """Register a made series of a brain."""
    grid = scan.grid.with_spacing((VOXEL_MM,) * 3)
    true = [turned(row[3:], row[:3], grid.center_mm) for row in motion()]
    frames = [noisy(resample(scan, grid, pose.inverse()), n) for n, pose in enumerate(true)]
    series = Image(np.stack(frames).astype(np.float32), grid, "series")
    points = scan.grid.index2world(np.argwhere(scan.as_float32() > 0)[::997])
    steps = framewise_displacement(motion())
    before = away([Affine.identity(3)] * len(true), true, points)
    rows = []
    for preset, settings, reference in SERIES:
        began = time.perf_counter()
        found = correct_motion(series, load_plan(preset, settings), reference=reference)
        seconds = time.perf_counter() - began
        error = away(list(found.transforms), true, points)
        off = np.abs(found.framewise_mm - steps)[1:]
        rows.append(
            row_of(f"{name}, series", " ".join([preset, *settings, reference]), error, before, seconds)
        )
        rows[-1] |= {"framewise_mm": float(off.mean()), "framewise_true_mm": float(steps[1:].mean())}
    return rows


def slice_rows(name: str, scan: Image) -> list[dict[str, object]]:
    """Register a stack of slices that were moved one by one, as a series of 2-D images."""
    keep = np.ix_([0, 1, 3], [0, 1, 3])
    grid = Grid(scan.grid.shape[:2], scan.grid.grid2world[keep])
    filled = [n for n in range(0, scan.grid.shape[2], GAP_MM) if (scan.data[:, :, n] > 0).mean() > 0.1]
    slices = [Image(np.ascontiguousarray(scan.as_float32()[:, :, n]), grid) for n in filled]
    random = np.random.default_rng(3)
    true = [
        turned(TURN_DEG * random.standard_normal(1), SHIFT_MM * random.standard_normal(2), grid.center_mm)
        for _ in slices
    ]
    moved = [
        noisy(resample(one, grid, pose.inverse()), n)
        for n, (one, pose) in enumerate(zip(slices, true, strict=True))
    ]
    still = [noisy(one, 100 + n) for n, one in enumerate(slices)]
    fixed, moving = (Image(np.stack(stack).astype(np.float32), grid, "series") for stack in (still, moved))
    points = [grid.index2world(np.argwhere(one.data > 0)[::29]) for one in slices]

    def error(maps: list) -> Points:
        ends = zip(maps, true, points, strict=True)
        return np.concatenate([np.linalg.norm(m.map_points(p) - t.map_points(p), axis=1) for m, t, p in ends])

    rows = []
    for plan in STACKS:
        began = time.perf_counter()
        found = register_slices(fixed, moving, plan)
        seconds = time.perf_counter() - began
        before = error([Affine.identity(2)] * len(true))
        rows.append(
            row_of(f"{name}, {len(true)} slices", plan, error(list(found.transforms)), before, seconds)
        )
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--people", nargs="+", default=["1000", "1001"])
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    data = data_folder(options.data)
    set_threads(options.threads)
    warmup()
    rows = []
    for person in options.people:
        scan = read(data / "brain_t1" / f"{person}_t1.nii.gz")
        for made in (slice_rows, series_rows):
            rows += made(person, scan)
            print(rows[-1], flush=True)
    write_rows("known_motion", rows)
    header = (
        "what",
        "plan",
        "before, mm",
        "mean, mm",
        "95 %, mm",
        "largest, mm",
        "framewise: error, mm",
        "seconds",
    )
    keys = ("what", "plan", "before_mm", "mean_mm", "p95_mm", "largest_mm", "framewise_mm", "seconds")
    table = markdown(header, [[row.get(key, "") for key in keys] for row in rows])
    path = write_summary("known_motion", "Known motion", options.threads, [table])
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
