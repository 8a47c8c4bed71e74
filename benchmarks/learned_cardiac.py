"""Train on slices of 16 hearts, ED moved onto ES, and register those of five others.

python benchmarks/learned_cardiac.py [--minutes 40] [--steps 6000] [--network voxelmorph-2] [--diffeomorphic]
                                     [--labels-weight 0] [--name NAME] [--threads 2] [--data DIR]

The same command goes on with a training that the minutes cut short. Slices are registered one by one; Dice is of the
whole heart, its slices stacked, so that figures compare with docs/benchmarks/cardiac.md. `cardiac-cine` was tuned on
none of the five. Results: results/learned_cardiac_NAME.csv and .md.
"""

import argparse
from pathlib import Path

import numpy as np

from harness.learning import Printer, command_line, folded, report_training, timed, write_image, write_table
from harness.machine import RESULTS, data_folder
from regista.core import Grid, Image, LabelImage, set_threads
from regista.learning import (
    Augmentation,
    InputConfig,
    Loss,
    ModelConfig,
    NetworkConfig,
    Provenance,
    TrainingConfig,
    fit,
    load_model,
    prepare_parts,
    read_dataset,
    split_subjects,
)
from regista.registration import DenseStage, load_plan, register
from regista.regularization import Diffusion
from regista.similarity import LNCC
from regista.transforms import Affine, resample

TEST = (8, 12, 16, 20, 24)
VALIDATION = (4, 10, 22)
LABELS = (1, 2, 3)
GRID = np.eye(3)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--validate-every", type=int, default=200)
    parser.add_argument("--network", default="voxelmorph-2")
    parser.add_argument("--diffeomorphic", action="store_true")
    parser.add_argument("--smoothness", type=float, default=0.05)
    parser.add_argument("--radius", type=int, default=4)
    parser.add_argument("--labels-weight", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patients", type=int, default=len(TEST), help="how many of the test patients")
    parser.add_argument("--name", default="unsupervised")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", help="folder of images; default REGISTA_DATA or ../shared/data")
    return parser.parse_args()


def part_of(number: int) -> str:
    """Return which part of the data a patient is in."""
    return "test" if number in TEST else "validation" if number in VALIDATION else "train"


def hearts(data: Path) -> dict[int, dict[str, np.ndarray]]:
    """Return the volumes of every patient, axes (x, y, slice)."""
    found = {}
    for source in sorted((data / "cardiac_cine").glob("*.npz")):
        arrays = np.load(source)
        found[int(source.stem[-3:])] = {name: arrays[name].transpose(2, 1, 0) for name in arrays}
    return found


def write_slices(volumes: dict[int, dict[str, np.ndarray]], folder: Path) -> Path:
    """Write every slice that shows the heart at both phases as 2-D images; return the table."""
    rows = []
    for number, heart in volumes.items():
        part = part_of(number)
        for z in range(heart["ed"].shape[2]):
            if not all(heart[f"{phase}_labels"][..., z].any() for phase in ("ed", "es")):
                continue
            names = {}
            for name, volume in heart.items():
                path = folder / f"patient{number:03d}_{z:02d}_{name}.nii.gz"
                plane = volume[..., z]
                write_image(path, plane, Grid(plane.shape, GRID))
                names[name] = path.name
            ways = (("es", "ed"), ("ed", "es")) if part == "train" else (("es", "ed"),)
            rows += [
                {
                    "fixed": names[a],
                    "moving": names[b],
                    "fixed_labels": names[f"{a}_labels"],
                    "moving_labels": names[f"{b}_labels"],
                    "subject": f"patient{number:03d}",
                    "split": part,
                }
                for a, b in ways
            ]
    write_table(folder / "pairs.csv", rows)
    return folder / "pairs.csv"


def config_of(options: argparse.Namespace) -> ModelConfig:
    """Return the model to train."""
    return ModelConfig(
        network=NetworkConfig(name=options.network, ndim=2, diffeomorphic=options.diffeomorphic),
        inputs=InputConfig(spacing_mm=(1.0, 1.0), margin_vox=0),
        loss=Loss(
            similarity=LNCC(radius=options.radius),
            penalties=(Diffusion(weight=options.smoothness),),
            dice_weight=options.labels_weight,
        ),
        training=TrainingConfig(
            steps=options.steps,
            batch=options.batch,
            learning_rate=options.learning_rate,
            validate_every=options.validate_every,
            seed=options.seed,
            augmentation=Augmentation(rotation_deg=30, flip_axes=(0, 1)),
        ),
    )


def measure(number: int, heart: dict[str, np.ndarray], methods: dict) -> list[dict]:
    """Register every slice of a heart by every method; return a row for each."""
    shape = heart["ed"].shape
    rows = []
    for method, run in methods.items():
        warped, seconds, folds = np.zeros(shape, np.int32), 0.0, []
        for z in range(shape[2]):
            fixed, moving = (Image(heart[p][..., z], Grid(shape[:2], GRID)) for p in ("es", "ed"))
            labels = LabelImage(heart["ed_labels"][..., z], moving.grid)
            if fixed.data.min() == fixed.data.max() or moving.data.min() == moving.data.max():
                warped[..., z] = labels.data
                continue
            transform, taken = timed(lambda f=fixed, m=moving, way=run: way(f, m))
            seconds += taken
            folds.append(folded(transform, fixed.grid))
            warped[..., z] = resample(labels, fixed.grid, transform, interpolation="nearest").data
        truth = heart["es_labels"]
        scores = [
            2 * np.sum((truth == n) & (warped == n)) / max(np.sum(truth == n) + np.sum(warped == n), 1)
            for n in LABELS
        ]
        rows.append(
            {
                "patient": number,
                "method": method,
                "dice": float(np.mean(scores)),
                **{f"dice_{n}": float(s) for n, s in zip(LABELS, scores, strict=True)},
                "folded_percent": float(np.mean(folds)),
                "seconds": seconds,
            }
        )
        print(f"patient {number} {method:24s} Dice {rows[-1]['dice']:.4f}  {seconds:.2f} s", flush=True)
    return rows


def main() -> None:
    """Train, register the test patients, write the tables."""
    options = arguments()
    set_threads(options.threads)
    volumes = hearts(data_folder(options.data))
    folder = RESULTS / "learned_cardiac"
    dataset = read_dataset(write_slices(volumes, folder / "slices"))
    subjects = split_subjects(dataset)
    parts = prepare_parts(dataset, subjects, config_of(options))
    origin = Provenance(
        data="slices of ACDC cine MRI, ED and ES, 24 patients",
        licence="ACDC's terms",
        command=command_line("learned_cardiac.py", options, ("data", "patients")),
        subjects=subjects,
        alignment="none",
    )
    place = folder / options.name
    result, _ = fit(parts, place, origin, minutes=options.minutes, progress=Printer())
    model = load_model(place)
    dense = load_plan("2d")
    dense = type(dense)(
        stages=tuple(s for s in dense.stages if isinstance(s, DenseStage)),
        start=load_plan("deformable").start,
    )
    methods = {
        "before": lambda f, m: Affine.identity(2),
        "regista 2d, deformable": lambda f, m: register(f, m, dense).transform,
        options.name: lambda f, m: model.predict(f, m),
        f"{options.name} + refine": lambda f, m: register(f, m, dense, initial=model.predict(f, m)).transform,
    }
    rows: list[dict] = []
    for number in TEST[: options.patients]:
        rows += measure(number, volumes[number], methods)
    report_training(
        f"learned_cardiac_{options.name}",
        "Cardiac ED to ES, by a trained network",
        options,
        origin,
        result,
        rows,
    )


if __name__ == "__main__":
    main()
