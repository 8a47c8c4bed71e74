"""Pictures of the pages on models: one slice of the MNI152 brain, bent by a known map, and brought back.

python benchmarks/model_pictures.py -o docs/images

The template is the one inside nilearn (pip install 'regista[demo]'); nothing is downloaded.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from regista import register, resample
from regista.core import Grid, Image
from regista.demo import make_known_pair
from regista.registration import (
    ConvexStage,
    DeformableStage,
    DemonsStage,
    FreeFormStage,
    Plan,
    Start,
    VelocityStage,
)
from regista.similarity import LNCC, MIND, NCC
from regista.transforms import DisplacementField

SLICE_MM, BEND_MM, FAR_MM = 8.0, 9.0, (24.0, -18.0)
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


def seen_elsewhere(fixed: Image, shift_mm: tuple[float, float]) -> Image:
    """Return the slice bent by long waves, and moved."""
    x, y = fixed.grid.coordinates_mm() / 35.0
    waves = np.stack(
        [np.sin(1.3 * y + 0.4) + 0.5 * np.cos(1.7 * x), np.cos(1.1 * x - 0.8) - 0.5 * np.sin(1.9 * y)]
    )
    vectors = BEND_MM * waves / np.abs(waves).max() + np.reshape(shift_mm, (2, 1, 1))
    bend = DisplacementField(vectors.astype(np.float32), fixed.grid)
    seen = resample(Image(fixed.data, fixed.grid), fixed.grid, bend)
    return Image(seen.as_float32(), fixed.grid, space="moving")


def draw(path: Path, fixed: Image, moving: Image, stages: tuple) -> None:
    """Register, and draw the fixed slice, the moving one, and the warped one under the map's grid."""
    result = register(fixed, moving, Plan(stages=stages, start=Start(search="none")))
    places = np.moveaxis(fixed.grid.coordinates_mm(), 0, -1)
    mapped = np.moveaxis(result.transform.map_points(places.reshape(-1, 2)).reshape(places.shape), -1, 0)
    figure = Figure(figsize=(7.2, 3.0), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    pictures = (fixed.as_float32(), moving.as_float32(), result.warped.as_float32())
    titles = ("fixed", "moving", "registered, with its grid")
    for axes, title, picture in zip(figure.subplots(1, 3), titles, pictures, strict=True):
        axes.imshow(picture.T, cmap="gray", origin="lower", vmin=0, vmax=float(np.percentile(picture, 99.8)))
        axes.set_title(title, color="white", fontsize=9)
        axes.set_axis_off()
    for component in mapped:
        lines = np.arange(np.floor(component.min() / 10) * 10, component.max(), 10)
        axes.contour(
            component.T, levels=lines, colors="#ff9f1c", linewidths=0.5, alpha=0.8, linestyles="solid"
        )
    figure.savefig(path, dpi=90, format="png", pil_kwargs={"optimize": True})
    before, after = (float(np.abs(one - pictures[0]).mean() / pictures[0].mean()) for one in pictures[1:])
    folded = result.record.measures["folded_percent"]
    print(f"{path.name}: mean difference {before:.3f} before, {after:.3f} after, {folded:.3f} % folded")


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images"))
    folder = parser.parse_args().output
    fixed = template()
    for name, stages in MODELS.items():
        moving = seen_elsewhere(fixed, FAR_MM if name == "convex" else (0.0, 0.0))
        draw(folder / f"{name}.png", fixed, moving, stages)


if __name__ == "__main__":
    main()
