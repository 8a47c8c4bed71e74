"""Pictures of the pages on models: one slice of the MNI152 brain, moved by a known map, and brought back.

python benchmarks/model_pictures.py -o docs/images

The template is the one inside nilearn (pip install 'regista[demo]'); nothing is downloaded.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from regista import correct_motion, register, resample
from regista.core import Grid, Image
from regista.demo import make_known_pair
from regista.registration import (
    ConvexStage,
    DeformableStage,
    DemonsStage,
    FreeFormStage,
    LinearStage,
    Plan,
    Start,
    VelocityStage,
    fit_landmarks,
)
from regista.similarity import LNCC, MIND, NCC
from regista.transforms import Affine, DisplacementField, Transform

SLICE_MM, BEND_MM, FAR_MM = 8.0, 9.0, (24.0, -18.0)
TURN_DEG, STRETCH, SHEAR = 75.0, (1.12, 0.9), 0.15  # of the linear picture
LANDMARKS, FRAMES, NOISE = 24, 30, 0.1
COLOURS = ("#ff9f1c", "#2ec4b6", "#e56b8c")
LEVELS = {"shrink": (8, 4, 2, 1), "steps": (80, 80, 50, 20)}
MODELS = {
    "diffeomorphic": (DeformableStage(similarity=LNCC(radius=3), **LEVELS),),
    "syn": (DeformableStage(model="syn", step_vox=0.5, similarity=LNCC(radius=3), **LEVELS),),
    "demons": (DemonsStage(**LEVELS, field_sigma_vox=(1.5,)),),
    "velocity": (VelocityStage(similarity=LNCC(radius=3), **LEVELS),),
    "bspline": (FreeFormStage(similarity=NCC(), shrink=(8, 4, 2), steps=(40, 40, 40), spacing_vox=(5.0,)),),
    "convex": (
        ConvexStage(search=(6, 4, 3)),
        DeformableStage(
            similarity=MIND(), shrink=(2,), steps=(60,), update_sigma_vox=(2.0,), symmetric_force=False
        ),
    ),
}


def template() -> Image:
    """Return one axial slice of the MNI152 brain."""
    brain = make_known_pair(fixed_spacing_mm=1, displacement_mm=1.0).fixed
    depth = round(float(brain.grid.world2index(np.array([0.0, 0.0, SLICE_MM]))[2]))
    flat = np.ascontiguousarray(brain.as_float32()[:, :, depth])
    keep = np.ix_([0, 1, 3], [0, 1, 3])
    return Image(flat, Grid(flat.shape, brain.grid.grid2world[keep]), space="mni152")


def waves(grid: Grid, shift_mm: Sequence[float] = (0.0, 0.0)) -> DisplacementField:
    """Return a map of long waves, with a shift."""
    x, y = grid.coordinates_mm() / 35.0
    both = np.stack(
        [np.sin(1.3 * y + 0.4) + 0.5 * np.cos(1.7 * x), np.cos(1.1 * x - 0.8) - 0.5 * np.sin(1.9 * y)]
    )
    vectors = BEND_MM * both / np.abs(both).max() + np.reshape(shift_mm, (2, 1, 1))
    return DisplacementField(vectors.astype(np.float32), grid)


def about_center(grid: Grid, linear: np.ndarray, shift_mm: Sequence[float]) -> Affine:
    """Return a linear map about the centre of a grid, and a shift."""
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = grid.center_mm - linear @ grid.center_mm + shift_mm
    return Affine(matrix)


def rotation(degrees: float) -> np.ndarray:
    """Return the matrix of a turn."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


def seen_elsewhere(fixed: Image, back: Transform) -> Image:
    """Return the slice as it lies where a map leads back from."""
    seen = resample(Image(fixed.data, fixed.grid), fixed.grid, back)
    return Image(seen.as_float32(), fixed.grid, space="moving")


def three(titles: Sequence[str], pictures: Sequence[np.ndarray]) -> tuple[Figure, np.ndarray]:
    """Return a figure of three panels with pictures in the first of them."""
    figure = Figure(figsize=(7.2, 3.0), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, color="white", fontsize=9)
    for axes, picture in zip(panels, pictures, strict=False):
        axes.imshow(picture.T, cmap="gray", origin="lower", vmin=0, vmax=float(np.percentile(picture, 99.8)))
        axes.set_axis_off()
    return figure, panels


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a small file."""
    figure.savefig(path, dpi=90, format="png", pil_kwargs={"optimize": True})


def draw_grid(axes, transform: Transform, grid: Grid) -> None:
    """Draw the lines of the moving image's grid, 10 mm apart, where a map puts them."""
    places = np.moveaxis(grid.coordinates_mm(), 0, -1)
    mapped = np.moveaxis(transform.map_points(places.reshape(-1, 2)).reshape(places.shape), -1, 0)
    for component in mapped:
        lines = np.arange(np.floor(component.min() / 10) * 10, component.max(), 10)
        axes.contour(
            component.T, levels=lines, colors=COLOURS[0], linewidths=0.5, alpha=0.8, linestyles="solid"
        )


def draw(path: Path, fixed: Image, moving: Image, plan: Plan) -> None:
    """Register, and draw the fixed slice, the moving one, and the warped one under the map's grid."""
    result = register(fixed, moving, plan)
    pictures = (fixed.as_float32(), moving.as_float32(), result.warped.as_float32())
    figure, panels = three(("fixed", "moving", "registered, with its grid"), pictures)
    draw_grid(panels[2], result.transform, fixed.grid)
    save(figure, path)
    before, after = (float(np.abs(one - pictures[0]).mean() / pictures[0].mean()) for one in pictures[1:])
    folded = result.record.measures.get("folded_percent", 0.0)
    print(f"{path.name}: mean difference {before:.3f} before, {after:.3f} after, {folded:.3f} % folded")


def draw_landmarks(path: Path, fixed: Image) -> None:
    """Draw landmarks in both slices, and the moving one warped by a spline through them, under its grid."""
    back = waves(fixed.grid)
    moving = seen_elsewhere(fixed, back)
    inside = np.argwhere(moving.as_float32() > 0.3 * moving.as_float32().max())
    random = np.random.default_rng(4)
    there = [inside[random.integers(len(inside))]]
    while len(there) < LANDMARKS:  # each far from all before
        some = inside[random.integers(len(inside), size=30)]
        gaps = np.linalg.norm(some[:, None] - np.array(there)[None], axis=2).min(axis=1)
        there.append(some[gaps.argmax()])
    moving_points = fixed.grid.index2world(np.array(there))
    fixed_points = back.map_points(moving_points)
    fit = fit_landmarks(fixed_points, moving_points, "tps")
    warped = resample(moving, fixed.grid, fit.transform)
    pictures = (fixed.as_float32(), moving.as_float32(), warped.as_float32())
    figure, panels = three(
        ("fixed, landmarks", "moving, the same landmarks", "by a spline, with its grid"), pictures
    )
    for axes, points in zip(panels, (fixed_points, moving_points), strict=False):
        axes.scatter(*fixed.grid.world2index(points).T, s=7, color=COLOURS[0])
    draw_grid(panels[2], fit.transform, fixed.grid)
    save(figure, path)
    print(f"{path.name}: left one out {fit.summary()['left_out_mean_mm']:.2f} mm")


def draw_series(path: Path, fixed: Image) -> None:
    """Draw the mean of a made series as it is and corrected, and the motion found over the true one."""
    when = np.arange(FRAMES) / FRAMES
    motion = np.stack(
        [6 * when + 4 * (when > 0.4), -3 * np.sin(9 * when), 5 * np.sin(6 * when) - 6 * (when > 0.7)], 1
    )
    random, frames = np.random.default_rng(0), []
    for *shift, angle in motion:
        pose = about_center(fixed.grid, rotation(angle), shift)
        seen = seen_elsewhere(fixed, pose.inverse()).as_float32()
        frames.append(seen + NOISE * seen.max() * random.standard_normal(seen.shape))
    series = Image(np.array(frames, np.float32), fixed.grid, "series")
    found = correct_motion(series, reference="first")
    means = [one.as_float32().mean(axis=0) for one in (series, found.corrected)]
    figure, panels = three(("mean of the series", "mean, corrected", "motion: mm, mm, °"), means)
    for column, colour in enumerate(COLOURS):
        panels[2].plot(motion[:, column] - motion[0, column], ".", color="white", markersize=3)
        panels[2].plot(found.parameters[:, column], color=colour, linewidth=1)
    panels[2].set_facecolor("black")
    panels[2].tick_params(colors="white", labelsize=7)
    panels[2].set_box_aspect(1)
    for spine in panels[2].spines.values():
        spine.set_color("white")
    save(figure, path)
    error = np.abs(found.parameters - (motion - motion[0])).max(axis=0).round(3)
    print(f"{path.name}: largest error of the parameters {error.tolist()}")


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images"))
    folder = parser.parse_args().output
    fixed = template()
    for name, stages in MODELS.items():
        moving = seen_elsewhere(fixed, waves(fixed.grid, FAR_MM if name == "convex" else (0.0, 0.0)))
        draw(folder / f"{name}.png", fixed, moving, Plan(stages=stages, start=Start(search="none")))
    linear = rotation(TURN_DEG) @ [[1.0, SHEAR], [0.0, 1.0]] @ np.diag(STRETCH)
    stages = tuple(LinearStage(model=model, similarity=NCC()) for model in ("rigid", "affine"))
    moving = seen_elsewhere(fixed, about_center(fixed.grid, linear, FAR_MM))
    draw(folder / "linear.png", fixed, moving, Plan(stages=stages))
    draw_landmarks(folder / "landmarks.png", fixed)
    draw_series(folder / "series.png", fixed)


if __name__ == "__main__":
    main()
