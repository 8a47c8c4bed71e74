"""How well the lung's landmarks can tell registrations apart, and what tells them apart besides.

python benchmarks/lung_landmarks.py [--plan lung-ct] [--set PATH=VALUE …] [--threads 2] [--data DIR]

*Landmarks*: error of the plan's map, of matching by itself a ball around each landmark (no field, no other landmark;
the best correlation wins), and of a right answer rounded to the follow-up's landmarks' lattice. *Ways*: how far the maps found with
one and with the other scan as the fixed one are from undoing each other. *Known truth*: the moving scan bent by a map that
B-splines found between the two, thinned where that map stretches it, with noise; error of the plan's map in the mask.
"""

import argparse
import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, spline_filter
from scipy.optimize import minimize

from harness.machine import data_folder
from harness.tables import markdown, write_rows, write_summary
from pairs import write_pairs
from regista.core import Image, set_threads
from regista.io import read, read_points
from regista.registration import Plan, load_plan, register, warmup
from regista.transforms import Transform, resample

Points = NDArray[np.float64]
TRUTH = (
    "stages.bspline.similarity={lncc={radius=3}}",
    "stages.bspline.spacing_vox=5",
    "fixed_surround=keep",
)
RADIUS_MM, STEP_MM = 10.0, 1.25
HIGHEST_HU = 100.0  # bone and contrast agent do not lead the balls
NOISE_HU = 20.0
LATTICE_MM = (0.683, 0.683, 2.5)
"""Spacing of the places where landmarks of the follow-up lie; those of the baseline lie on one of 1.366 × 1.366 × 5."""


@dataclass(frozen=True)
class Pair:
    """Two scans, their masks and landmarks (RAS mm)."""

    name: str
    fixed: Image
    moving: Image
    fixed_mask: Image
    moving_mask: Image
    here: Points
    there: Points

    def map(self, plan: Plan, fixed: Image | None = None) -> Transform:
        """Return the map a plan finds."""
        masks = {"fixed_mask": self.fixed_mask, "moving_mask": self.moving_mask}
        return register(fixed or self.fixed, self.moving, plan, **masks).transform

    def samples(self, count: int = 4000) -> Points:
        """Return places within the fixed mask."""
        voxels = np.argwhere(self.fixed_mask.data > 0)
        chosen = np.random.default_rng(1).choice(len(voxels), count, replace=False)
        return self.fixed_mask.grid.index2world(voxels[chosen])


def read_pairs(data: Path, folder: Path) -> list[Pair]:
    """Return the lung both ways round."""
    with write_pairs("lung_ct", data, folder).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    images = ("fixed", "moving", "fixed_mask", "moving_mask")
    points = ("fixed_points", "moving_points")
    return [
        Pair(
            row["case"],
            *(read(row[name]) for name in images),
            *(read_points(row[name], convention="lps").points_mm for name in points),
        )
        for row in rows
    ]


def jacobian(transform: Transform, point: Points, step_mm: float = 3.0) -> Points:
    """Return the derivative of a map about a point, over some mm."""
    ends = [transform.map_points(point + sign * step_mm * np.eye(3)) for sign in (1, -1)]
    return (ends[0] - ends[1]).T / (2 * step_mm)


def matched(pair: Pair, transform: Transform) -> tuple[Points, Points, Points]:
    """Return where the ball about each landmark, turned and stretched as the map does there, correlates best.

    Returns
    -------
    from_partner : (N, 3) ndarray
        Where the search ends that begins at the landmark's partner, of which the map knows nothing.
    best : (N, 3) ndarray
        The better of that and of the end of a search from the map's answer.
    gain : (N,) ndarray
        How much higher the correlation is at the map's answer than at the partner.
    """
    ticks = np.arange(-RADIUS_MM, RADIUS_MM + STEP_MM / 2, STEP_MM)
    ball = np.stack(np.meshgrid(ticks, ticks, ticks), -1).reshape(-1, 3)
    ball = ball[np.sum(ball**2, 1) <= RADIUS_MM**2]
    weight = np.exp(-np.sum(ball**2, 1) / (2 * (RADIUS_MM / 2) ** 2))
    weight /= weight.sum()
    splines = [spline_filter(np.clip(i.as_float32(), None, HIGHEST_HU)) for i in (pair.fixed, pair.moving)]

    def normalized(which: int, points: Points) -> Points:
        grid = (pair.fixed, pair.moving)[which].grid
        values = map_coordinates(splines[which], grid.world2index(points).T, prefilter=False, mode="nearest")
        values = values - weight @ values
        return values / np.sqrt(weight @ values**2 + 1e-9)

    simplex = np.vstack([np.zeros(3), np.diag([1.2, 1.2, 2.0])])
    found, gains = [], []
    for here, *starts in zip(pair.here, pair.there, transform.map_points(pair.here), strict=True):
        one, moved_ball = normalized(0, here + ball), ball @ jacobian(transform, here).T

        def loss(place: Points, one: Points = one, moved_ball: Points = moved_ball) -> float:
            return -float(weight @ (one * normalized(1, place + moved_ball)))

        options = {"xatol": 0.02, "fatol": 1e-5, "maxiter": 150}
        ends = [
            minimize(loss, s, method="Nelder-Mead", options={**options, "initial_simplex": s + simplex})
            for s in starts
        ]
        found.append((ends[0].x, min(ends, key=lambda end: end.fun).x))
        gains.append(loss(starts[0]) - loss(starts[1]))
    from_partner, best = np.moveaxis(found, 1, 0)
    return from_partner, best, np.array(gains)


def rounding_mm() -> float:
    """Return how far a place is from the nearest of the lattice, on average."""
    places = np.random.default_rng(0).uniform(-0.5, 0.5, (100_000, 3)) * LATTICE_MM
    return float(np.linalg.norm(places, axis=1).mean())


def bent(pair: Pair, truth: Transform) -> Image:
    """Return the moving scan through a map, its tissue thinned as the map stretches it, with noise."""
    grid = pair.fixed.grid
    voxels = grid.index2world(np.indices(grid.shape).reshape(3, -1).T)
    places = truth.map_points(voxels).reshape(*grid.shape, 3)
    along = np.stack(np.gradient(places, axis=(0, 1, 2)), -1)
    squeeze = np.linalg.det(along @ np.linalg.inv(grid.grid2world[:3, :3])).clip(0.5, 2.0)
    values = resample(pair.moving, grid, truth, fill=-1000.0, interpolation="cubic").as_float32()
    lung = pair.fixed_mask.data > 0
    values = np.where(lung, (values + 1000) * squeeze - 1000, values)
    values = values + NOISE_HU * np.random.default_rng(5).standard_normal(values.shape)
    return pair.fixed.with_data(values.clip(-1000, None).astype(np.float32))


def distances(one: Points, other: Points) -> Points:
    """Return the distances of points, mm."""
    return np.linalg.norm(one - other, axis=1)


def measure(pair: Pair, maps: tuple[Transform, Transform], plan: Plan) -> dict[str, object]:
    """Return the figures of a pair, given the maps of the plan there and back."""
    answer, (near, ball, gain) = maps[0].map_points(pair.here), matched(pair, maps[0])
    error, alone = distances(answer, pair.there), distances(ball, pair.there)
    others = np.arange(len(error)) != error.argmax()
    samples, truth = pair.samples(), pair.map(load_plan("bspline-mi", TRUTH))
    known = pair.map(plan, bent(pair, truth))
    away = distances(known.map_points(samples), truth.map_points(samples))
    return {
        "fixed": pair.name.partition("-")[0],
        "error": error.mean(),
        "error, median": np.median(error),
        "largest": error.max(),
        "error of the others": error[others].mean(),
        "others, ball alone": alone[others].mean(),
        "others, ball from the partner": distances(near, pair.there)[others].mean(),
        "ball from the partner to map": distances(answer, near)[others].mean(),
        "others more alike at the answer": int((gain[others] > 0).sum()),
        "others, rounding": rounding_mm(),
        "ball to map": distances(answer, ball)[others].mean(),
        "ways": distances(maps[1].map_points(maps[0].map_points(samples)), samples).mean(),
        "known truth": away.mean(),
        "known truth, median": np.median(away),
        "known truth, at landmarks": distances(
            known.map_points(pair.here), truth.map_points(pair.here)
        ).mean(),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", default="lung-ct", help="a preset, or a plan file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="settings of the plan"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data")
    options = parser.parse_args()
    data = data_folder(options.data)
    set_threads(options.threads)
    warmup()
    plan = load_plan(options.plan, options.set)
    with tempfile.TemporaryDirectory() as folder:
        pairs = read_pairs(data, Path(folder))
    there, back = (pair.map(plan) for pair in pairs)
    rows = [
        measure(pair, maps, plan) for pair, maps in zip(pairs, ((there, back), (back, there)), strict=True)
    ]
    write_rows("lung_landmarks", rows)
    table = markdown(("mm", *(str(row["fixed"]) for row in rows)), [
        (key, *(float(str(row[key])) for row in rows)) for key in rows[0] if key != "fixed"
    ])  # fmt: skip
    title = " ".join([options.plan, *options.set])
    print(write_summary("lung_landmarks", title, options.threads, [table]).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
