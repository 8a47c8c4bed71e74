"""Rigid maps around a triangle of scans of one person, and whether going round leads back.

python benchmarks/triangle.py [--threads 2] [--data DIR]

No person was scanned twice with the same contrast in the test images, so two stand-ins are measured. *Contrasts*: T1, T2 and
FLAIR of one patient, which share a grid and are aligned already, each but the first moved by a known rigid map onto an oblique
grid of other voxels. *Rescans*: one T1 made three times, at other poses and voxel sizes, with other noise and another bias
field. The error of each edge is against the known map; the triangle's is how far a point of the brain ends from where it
started after all three maps, which no truth is needed for.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from harness.machine import data_folder
from harness.tables import markdown, write_rows, write_summary
from regista.core import Image, set_threads
from regista.io import read
from regista.registration import load_plan, register, warmup
from regista.transforms import Rigid, resample

POSES = (
    ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ((8.0, -5.0, 11.0), (6.0, -9.0, 4.0), (1.1, 0.9, 1.2)),
    ((-6.0, 9.0, -4.0), (-5.0, 3.0, 8.0), (0.9, 1.2, 1.0)),
)  # rotation in degrees, translation in mm, voxel size in mm
NOISE = 0.03  # of the brain's mean
BIAS = 0.2  # standard deviation of the bias field's logarithm


def posed(image: Image, pose: int) -> tuple[Image, Rigid]:
    """Return the image at a pose, on its own grid, and the map from that pose to the image as it was."""
    angles, shift, spacing = POSES[pose]
    centre = image.grid.index2world((np.array(image.grid.shape) - 1) / 2)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + shift
    back = Rigid(matrix)
    return resample(image, image.grid.with_spacing(spacing), back), back


def rescan(image: Image, seed: int) -> Image:
    """Return the image with noise and a smooth bias field."""
    random = np.random.default_rng(seed)
    data = image.as_float32()
    bias = gaussian_filter(random.standard_normal(data.shape), 25)
    bias *= BIAS / bias.std()
    noise = NOISE * data[data > 0].mean() * random.standard_normal(data.shape)
    return Image(((data * np.exp(bias) + noise) * (data > 0)).astype(np.float32), image.grid)


def triangle(
    name: str, scans: Sequence[Image], brain: NDArray[np.float64], threads: int
) -> list[dict[str, object]]:
    """Register three scans round, each onto the one before; `brain` are points of the first, (N, 3) mm."""
    poses = [posed(scan, number) for number, scan in enumerate(scans)]
    plan = load_plan("rigid")
    rows, points, true = [], brain, brain
    for fixed, moving in ((0, 1), (1, 2), (2, 0)):
        start = time.perf_counter()
        found = register(poses[fixed][0], poses[moving][0], plan, threads=threads).transform
        seconds = time.perf_counter() - start
        there = poses[moving][1].inverse().map_points(poses[fixed][1].map_points(true))
        error = np.linalg.norm(found.map_points(true) - there, axis=1)
        rows.append(
            {"scans": name, "edge": f"{fixed + 1} ← {moving + 1}", **_summary(error), "seconds": seconds}
        )
        points, true = found.map_points(points), there
    rows.append(
        {"scans": name, "edge": "round", **_summary(np.linalg.norm(points - brain, axis=1)), "seconds": ""}
    )
    return rows


def _summary(error_mm: NDArray[np.float64]) -> dict[str, object]:
    return {"mean_mm": float(error_mm.mean()), "largest_mm": float(error_mm.max())}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data")
    options = parser.parse_args()
    data = data_folder(options.data)
    set_threads(options.threads)
    warmup()
    contrasts = [
        read(data / "brain_multicontrast" / f"patient07_{kind}.nii.gz") for kind in ("t1", "t2", "flair")
    ]
    cases = {"contrasts, patient 07": contrasts}
    for person in ("1000", "1001", "1007"):
        scan = read(data / "brain_t1" / f"{person}_t1.nii.gz")
        cases[f"rescans, {person}"] = [rescan(scan, seed) for seed in range(3)]
    rows = []
    for name, scans in cases.items():
        first = scans[0]
        brain = first.grid.index2world(np.argwhere(first.as_float32() > 0)[::97])
        rows += triangle(name, scans, brain, options.threads)
        print(rows[-1], flush=True)
    write_rows("triangle", rows)
    header = ("scans", "edge", "mean, mm", "largest, mm", "seconds")
    keys = ("scans", "edge", "mean_mm", "largest_mm", "seconds")
    table = markdown(header, [[row[key] for key in keys] for row in rows])
    path = write_summary("triangle", "Rigid around a triangle, preset rigid", options.threads, [table])
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
