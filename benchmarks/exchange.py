"""How far the map of exchanged images is from the inverse: `longitudinal`, and the same without its space halfway.

python benchmarks/exchange.py [--threads 2] [--people 1000 1001] [--data DIR]

Two stand-ins for rescans of one person: a T1 made twice, at two poses and voxel sizes, with other noise and another bias
field, the second one bent by a known smooth map (`triangle.py` makes poses and rescans). The gap is how far a point of the
brain ends from where it started after the map there and the map of the exchanged images; the error is that of the map
against the known one.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from harness.machine import data_folder
from harness.tables import markdown, write_rows, write_summary
from regista.core import Image, set_threads
from regista.io import read
from regista.registration import load_plan, register, warmup
from regista.transforms import DisplacementField, resample
from triangle import posed, rescan

LARGEST_MM = 2.0
WIDTH_VOX = 12.0


def changed(image: Image, seed: int) -> tuple[Image, DisplacementField]:
    """Return an image bent by a smooth field, and the field: from what is returned to the image as it was."""
    random = np.random.default_rng(seed)
    field = np.stack([gaussian_filter(random.standard_normal(image.grid.shape), WIDTH_VOX) for _ in range(3)])
    bend = DisplacementField(LARGEST_MM * field / np.abs(field).max(), image.grid)
    return resample(image, image.grid, bend), bend


def measure(scan: Image, person: str, halfway: bool, threads: int) -> dict[str, object]:
    """Register the two rescans of a person both ways."""
    bent, bend = changed(scan, 1)
    (fixed, to_scan), (moving, to_bent) = posed(rescan(scan, 2), 1), posed(rescan(bent, 3), 2)
    plan = replace(load_plan("longitudinal"), halfway=halfway)
    start = time.perf_counter()
    there = register(fixed, moving, plan, threads=threads).transform
    seconds = time.perf_counter() - start
    back = register(moving, fixed, plan, threads=threads).transform
    brain = scan.grid.index2world(np.argwhere(scan.as_float32() > 0)[::97])
    points = to_scan.inverse().map_points(brain)
    # the bent scan shows at x what the scan shows at bend(x): the truth goes back through it
    truth = to_bent.inverse().map_points(bend.inverse().map_points(brain))
    mapped = there.map_points(points)
    gap = np.linalg.norm(back.map_points(mapped) - points, axis=1)
    error = np.linalg.norm(mapped - truth, axis=1)
    row: dict[str, object] = {"person": person, "halfway": str(halfway).lower(), "seconds": seconds}
    return row | _summary("gap", gap) | _summary("error", error)


def _summary(name: str, values: NDArray[np.float64]) -> dict[str, object]:
    return {
        f"{name}_mean": float(values.mean()),
        f"{name}_p95": float(np.percentile(values, 95)),
        f"{name}_largest": float(values.max()),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--people", nargs="+", default=["1000", "1001"])
    parser.add_argument("--data")
    options = parser.parse_args()
    data = data_folder(options.data)
    set_threads(options.threads)
    warmup()
    rows = []
    for person in options.people:
        scan = read(data / "brain_t1" / f"{person}_t1.nii.gz")
        for halfway in (True, False):
            rows.append(measure(scan, person, halfway, options.threads))
            print(rows[-1], flush=True)
    write_rows("exchange", rows)
    header = (
        "person",
        "halfway",
        "gap: mean, mm",
        "95 %",
        "largest",
        "error: mean, mm",
        "95 %",
        "largest",
        "s",
    )
    keys = ("person", "halfway", "gap_mean", "gap_p95", "gap_largest")
    keys += ("error_mean", "error_p95", "error_largest", "seconds")
    table = markdown(header, [[row[key] for key in keys] for row in rows])
    path = write_summary("exchange", "Exchanged images, preset longitudinal", options.threads, [table])
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
