"""Train on images made up from label maps, or from random shapes, and register contrasts the network has never seen.

python benchmarks/learned_contrast.py [--maps labels] [--minutes 120] [--steps 4000] [--batch 1] [--spacing 2]
                                      [--half-resolution] [--edges] [--start MODEL] [--smoothness 0.2] [--name NAME] [--threads 2] [--data DIR]

No image is trained on: the six maps of `brain_label_maps`, or blobs, give both images of every pair. The network sees
two contrasts; the loss compares the same two shapes in one. Beside the affine map and the presets: Dice of the test pairs of `learned_brain.py` (T1 to T1), and the distance from a known map of T2 and
FLAIR that it carried away (the cases of `multimodal.py`, T1 fixed), by 10 mm at most, by 3, 2 and 1.5, and not at all: as they are. Where
the contrasts lie as they are is told twice: the identity, which is the truth to the error of those who brought them together, and the rigid map
that SimpleITK and ANTs find (`harness/one_head.py`). The same command goes on with a training that the minutes cut short.
Results: results/learned_contrast_NAME.csv, .json and .md.
"""

import argparse
import itertools
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

import learned_brain
from harness.learning import command_line, write_table
from harness.machine import RESULTS, ROOT, data_folder
from harness.tables import write_summary
from harness.trained import Row, budget, deformation, read_run, table, train_and_keep
from regista.core import Image, LabelImage, set_threads
from regista.io import read, read_labels, write
from regista.learning import (
    InputConfig,
    Loss,
    ModelConfig,
    NetworkConfig,
    Parts,
    Provenance,
    RegistrationModel,
    SynthesisSource,
    TrainingConfig,
    prepare_parts,
    random_shapes,
    read_dataset,
)
from regista.registration import register
from regista.regularization import Diffusion
from regista.similarity import LNCC
from regista.transforms import Transform

FLUID_AROUND = 24
"""Code of the fluid around the brain: of stripped scans some show it and some do not."""
BRAIN = (
    *(2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, FLUID_AROUND, 26, 28, 30, 31),
    *(41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60, 62, 63, 72, 77, 80, 85),
)
"""Codes inside the head that belong to the brain (FreeSurfer's numbers); the rest is left out, as from stripped scans."""
RIGHT = {
    41: 2,
    42: 3,
    43: 4,
    44: 5,
    46: 7,
    47: 8,
    49: 10,
    50: 11,
    51: 12,
    52: 13,
    53: 17,
    54: 18,
    58: 26,
    60: 28,
}
"""Codes of the right half, and those of the same in the left one: they are equally bright."""
MERGED = {30: 12, 62: 51, 77: 2, 80: 2, 31: 4, 63: 43, 72: FLUID_AROUND, 85: FLUID_AROUND}
"""Codes of a few voxels (vessels, spots of white matter, plexus …), and those that they lie in: too few to be learned from."""
CEREBELLUM = (7, 8, 46, 47)
BEFORE = """Five trainings before it, each from the weights of the one before, the first from random ones; in the first three the network saw
intensities, not edges:

1. 6413 steps (of 7000 planned) by an NVIDIA H200 in 8 minutes, commit 72100fd: learning rate 6e-4, `--deformation 1.5 --across 0.8
   --same-contrast 0.5`, each map twice, with the fluid around the brain and without, background dark in half of the images.
2. 4250 (of 6000) by one CPU thread in 42 minutes, commit 432b42f: 5e-4, `--deformation 2.5 --across 0.4 --same-contrast 0.3`, fluid dark
   in half of the images, background always.
3. 1200 (of 3400) in 12 minutes, commit f3d83d0: 4e-4, `--same-contrast 0.2 --reversed-contrast 0.3`.
4. 1800 in 17 minutes, commit d27d3ca: 3e-4, `--edges --smoothness 0.1 --labels-weight 1 --deformation 2.5 --across 0.4 --same-contrast 0.2`: the
   network that was in the package under this name up to commit cb0074f.
5. 5500 in 80 minutes, commit 9210a4b: 5e-4, all else as in 4: in the package up to commit e19dd10, and what `--start any-contrast` named in
   the last one, which began to know the displacements and made its pairs as commit 03506b8 does."""
FAILURES = (
    "Scans that are not stripped of the skull. Two scans of one head that nothing bends gain nothing by it: in one pass (`--passes 1`) it "
    "moves them by some .4 mm, in several their linear map is kept. No lesion was in its maps."
)
PURPOSE = "stripped brains of any contrast"
ALIGNMENT = "multimodal"
"""What brings images near each other before the network sees them."""
PASSES = 3
"""In how many passes the network registers at most."""
MOVED_MM = (10.0, 3.0, 2.0, 1.5, 0.0)
"""Largest displacements of the known maps; 0 leaves images as they are."""
STEM_MM = 12.0
"""How far below the cerebellum the brain stem is kept: stripped scans end about there."""


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", choices=("labels", "shapes"), default="labels")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    parser.add_argument("--validate-every", type=int, default=250)
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--network", default="voxelmorph-2")
    parser.add_argument("--half-resolution", action="store_true")
    parser.add_argument("--edges", action="store_true", help="the network sees edges, not intensities")
    parser.add_argument("--smoothness", type=float, default=0.2)
    parser.add_argument("--labels-weight", type=float, default=0.0)
    parser.add_argument(
        "--endpoint-weight", type=float, default=0.0, help="on the distance from known displacements"
    )
    parser.add_argument("--deformation", type=float, default=2.0, help="typical length at most, voxels")
    parser.add_argument("--widest", type=float, default=32.0, help="distance of its nodes at most, voxels")
    parser.add_argument("--across", type=float, default=0.7, help="share of pairs of two people")
    parser.add_argument(
        "--same-contrast", type=float, default=0.5, help="share of pairs whose images have one contrast"
    )
    parser.add_argument(
        "--reversed-contrast",
        type=float,
        default=0.0,
        help="share of pairs of which one is the other's negative",
    )
    parser.add_argument("--start", help="model, by name or folder, whose weights training begins with")
    parser.add_argument("--refine", default="brain-multimodal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=6, help="how many of the T1 pairs")
    parser.add_argument("--cases", nargs="+", help="of the known maps; default all that multimodal.py has")
    parser.add_argument("--name", default="any-contrast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ship", action="store_true", help="put the trained model into the package")
    parser.add_argument("--data", help="folder of images; default REGISTA_DATA or ../shared/data")
    return parser


def config_of(options: argparse.Namespace) -> ModelConfig:
    """Return the model to train."""
    return ModelConfig(
        network=NetworkConfig(
            name=options.network,
            diffeomorphic=True,
            half_resolution=options.half_resolution,
            edges=options.edges,
        ),
        inputs=InputConfig(spacing_mm=(options.spacing,) * 3),
        loss=Loss(
            similarity=LNCC(radius=2),
            penalties=(Diffusion(weight=options.smoothness),),
            dice_weight=options.labels_weight,
            endpoint_weight=options.endpoint_weight,
        ),
        training=TrainingConfig(
            steps=options.steps,
            batch=options.batch,
            learning_rate=options.learning_rate,
            validate_every=options.validate_every,
            seed=options.seed,
            start=options.start,
        ),
    )


def write_brains(data: Path, folder: Path) -> Path:
    """Write the maps without what is outside the brain, as scans will come; return their list."""
    rows = []
    for path in sorted((data / "brain_label_maps").glob("*.nii.gz")):
        drawn = read_labels(path)
        brain = np.isin(drawn.data, BRAIN)
        pieces, _ = ndimage.label(brain)
        brain &= pieces == np.bincount(pieces[brain]).argmax()
        height = drawn.grid.index2world(np.argwhere(brain))[:, 2]
        lowest = height[np.isin(drawn.data[brain], CEREBELLUM)].min()
        brain[brain] = height >= lowest - STEM_MM
        name = path.name[:-7]
        codes = np.where(brain, drawn.data, 0)
        for small, around in MERGED.items():
            codes[codes == small] = around
        write(folder / f"{name}_brain.nii.gz", LabelImage(codes, drawn.grid))
        rows.append({"labels": folder / f"{name}_brain.nii.gz", "subject": name})
    write_table(folder / "maps.csv", rows)
    return folder / "maps.csv"


def _cases() -> tuple[str, ...]:
    """Return the names of the cases of `multimodal.py`, which imports what a machine that only trains may lack."""
    from multimodal import CASES

    return tuple(CASES)


class OneHead(NamedTuple):
    """Two contrasts of one head, points of the brain in the fixed one, and where they lie in the other, mm, by either truth."""

    fixed: Image
    moving: Image
    points: np.ndarray
    by_identity: np.ndarray
    by_peers: np.ndarray

    def errors_mm(self, transform: Transform) -> tuple[np.ndarray, np.ndarray]:
        """Return how far a map is at each point from either truth."""
        found = transform.map_points(self.points)
        return tuple(np.linalg.norm(found - one, axis=1) for one in (self.by_identity, self.by_peers))


def known_case(data: Path, case: str, moved_mm: float) -> OneHead:
    """Return a T1 and another contrast of a person, moved by a known map or not."""
    from multimodal import known_map, make_case

    folder = data / "brain_multicontrast"
    fixed_file, moving_file = folder / f"{case.split('_')[0]}_t1.nii.gz", folder / f"{case}.nii.gz"
    if not moved_mm:
        return as_they_are(fixed_file, moving_file)
    still = as_they_are(fixed_file, moving_file)
    known = known_map(data, case, moved_mm).fixed2moving
    there = (known.map_points(one) for one in (still.by_identity, still.by_peers))
    return OneHead(still.fixed, read(make_case(data, case, moved_mm)[0].moving), still.points, *there)


def as_they_are(fixed_file: Path, moving_file: Path) -> OneHead:
    """Return two scans of a person that share a grid."""
    from harness.one_head import mapped, rigid_truth

    fixed = read(fixed_file)
    points = fixed.grid.index2world(np.argwhere(fixed.as_float32() > 0))
    matrix, _ = rigid_truth(fixed_file, moving_file)
    return OneHead(fixed, read(moving_file), points, points, mapped(matrix, points))


def known_maps(options: argparse.Namespace, model: RegistrationModel) -> list[Row]:
    """Return the distance from the truth, mm, by case and method."""
    from regista.cli._models import linear_plan

    linear = linear_plan(model.settings)
    methods = {
        "affine by MI": learned_brain.engine(linear_plan(model.settings | {"passes": 1})),
        "affine by MI, both ways round": learned_brain.engine(linear),
        **learned_brain.learned(model, f"{options.name}, one pass", [], linear, passes=1),
        **learned_brain.learned(model, options.name, [options.refine], linear),
        **{preset: learned_brain.engine(preset) for preset in ("multimodal", "brain-multimodal")},
    }
    rows: list[Row] = []
    for moved_mm, case in itertools.product(MOVED_MM, options.cases or _cases()):
        pair = known_case(data_folder(options.data), case, moved_mm)
        for method, registered in methods.items():
            transform, taken = registered(pair.fixed, pair.moving)
            error, by_peers = pair.errors_mm(transform)
            row: Row = {"moved_mm": moved_mm, "case": case, "method": method, "mean_mm": float(error.mean())}
            row |= {"mean_by_peers_mm": float(by_peers.mean())}
            row |= {"p95_mm": float(np.percentile(error, 95)), "seconds": taken["seconds"]}
            row["folded_percent"] = deformation(transform, pair.fixed.grid)[0]
            rows.append(row)
            print(row, flush=True)
    return rows


def prepared(options: argparse.Namespace) -> tuple[Parts, Provenance, SynthesisSource]:
    """Return the maps on the grid of the network, where the model will have come from, and what makes images of the maps."""
    from regista.cli._models import linear_plan  # imports what a machine that only trains may lack

    folder = RESULTS / "learned_contrast"
    folder.mkdir(parents=True, exist_ok=True)
    dataset = read_dataset(write_brains(data_folder(options.data), folder))
    subjects = {"train": dataset.subjects, "validation": [], "test": []}
    config = config_of(options)
    align = linear_plan({"alignment": ALIGNMENT, "loss": config.loss.to_dict()})
    parts = prepare_parts(
        dataset, subjects, config, lambda f, m: register(f, m, align).transform, synthetic=True
    )
    drawn, values = options.maps == "labels", parts.train.values
    assert parts.train.codes is not None
    source = SynthesisSource(
        maps=tuple(parts.train.codes) if drawn else random_shapes(parts.config.inputs.shape, count=24),
        targets=True,
        deformation_vox=options.deformation,
        deformation_spacing=(8.0, options.widest),
        same_contrast=options.same_contrast,
        reversed_contrast=options.reversed_contrast,
        across=options.across if drawn else 0.0,
        dark_background=1.0,  # of stripped scans
        tissues=tuple(RIGHT.get(value, value) for value in values) if drawn else (),
        fluid=(values.index(FLUID_AROUND),) if drawn else (),
        displacements=bool(options.endpoint_weight),
    )
    origin = Provenance(
        data="no images: made up from "
        + ("six label maps of SynthSeg's training" if drawn else "random shapes"),
        licence="Apache-2.0" if drawn else "none needed",
        command=command_line(
            "learned_contrast.py", options, ("data", "device", "minutes", "pairs", "cases", "ship")
        ),
        subjects=subjects,
        alignment=ALIGNMENT,
        failures=FAILURES if drawn else "",
        purpose=PURPOSE if drawn else "",
        passes=PASSES,
        before=BEFORE if Path(options.start or "").name == "any-contrast" else "",
    )
    return parts, origin, source


def test(options: argparse.Namespace, model: RegistrationModel) -> list[Row]:
    """Register the T1 pairs of `learned_brain.py`, and what known maps carried away."""
    from regista.cli._models import linear_plan

    linear = linear_plan(model.settings)
    classical = learned_brain.classical(False)
    methods = {
        **learned_brain.learned(model, f"{options.name}, one pass", [], linear, passes=1),
        **learned_brain.learned(model, options.name, ["deformable"], linear),
        **{name: classical[name] for name in ("affine", "brain-t1")},
    }
    dice = learned_brain.measure(data_folder(options.data), methods, options.pairs)
    return [*dice, *known_maps(options, model)]


def main() -> None:
    """Train, measure on real scans, write the tables."""
    options = arguments().parse_args()
    unknown = sorted(set(options.cases or ()) - set(_cases()))
    if unknown:
        sys.exit(f"--cases are among {', '.join(_cases())}; got {', '.join(unknown)}")
    set_threads(options.threads)
    rows = train_and_keep("learned_contrast", options, prepared, test, options.device)
    if options.ship:
        shutil.copytree(
            RESULTS / "learned_contrast" / options.name,
            ROOT / "src" / "regista" / "learning" / "models" / options.name,
            ignore=shutil.ignore_patterns("checkpoint*", "tensorboard"),
            dirs_exist_ok=True,
        )
    columns = (
        ("mean_mm", "mean error, mm", 2),
        ("mean_by_peers_mm", "by the peers' truth, mm", 2),
        ("p95_mm", "95 %, mm", 2),
        ("folded_percent", "folded, %", 4),
    )
    name = f"learned_contrast_{options.name}"
    sections = [
        budget(read_run(name)[0]),
        "## T1 to T1",
        table([row for row in rows if "dice" in row], learned_brain.COLUMNS),
    ]
    for moved_mm in MOVED_MM:
        how = (
            f"moved by a known map, {moved_mm:g} mm at most and a little turned and scaled"
            if moved_mm
            else "as they are"
        )
        sections.append(f"## T1 to T2 and FLAIR {how}")
        own = [row for row in rows if row.get("moved_mm") == moved_mm]
        sections.append(table(own, (*columns, ("seconds", "s", 1))))
    path = write_summary(name, "A network for any contrast", options.threads, sections)
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
