"""Train on slices of 16 hearts, ED moved onto ES, and register those of five others, beside ANTs and the engine.

python benchmarks/learned_cardiac.py --classical [--threads 2] [--data DIR]
python benchmarks/learned_cardiac.py [--minutes 40] [--steps 6000] [--network voxelmorph-2] [--diffeomorphic]
                                     [--labels-weight 0] [--name NAME] [--threads 2] [--data DIR]

The first runs what needs no training, once; the second trains a network, goes on with a training that the minutes cut
short, and sets it beside those. Slices are registered one by one; Dice is of the whole heart, its slices stacked.
Training sees the middle of each slice (`--shape`), prediction all of it. Three other hearts choose the best weights.
`cardiac-cine` was tuned on none of the five. Results: results/learned_cardiac_NAME.csv and .json; `publish_learned.py`
puts them on their page.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.learning import command_line, timed, write_image, write_table
from harness.machine import RESULTS, data_folder
from harness.trained import Method, Row, ants_method, deformation, run, train_and_keep
from regista.core import Grid, Image, LabelImage, RegistrationError
from regista.learning import (
    Augmentation,
    InputConfig,
    Loss,
    ModelConfig,
    NetworkConfig,
    Parts,
    Provenance,
    RegistrationModel,
    TrainingConfig,
    prepare_parts,
    read_dataset,
    split_subjects,
)
from regista.registration import Plan, load_plan, register
from regista.regularization import Diffusion
from regista.similarity import LNCC, MIND, SSD
from regista.transforms import Affine, resample

TEST = (8, 12, 16, 20, 24)
VALIDATION = (4, 10, 22)
LABELS = {1: "RV", 2: "myocardium", 3: "LV"}
GRID = np.eye(3)
CLASSICAL = "learned_cardiac_classical"
COLUMNS = (
    ("dice", "Dice", 3),
    *((f"dice_{n}", f"Dice {name}", 3) for n, name in LABELS.items()),
    ("folded_percent", "folded, %", 4),
    ("sd_log_jacobian", "SD log J", 3),
    ("seconds", "s per heart", 2),
)
SIMILARITY = {"lncc": LNCC, "ssd": SSD, "mind": MIND}


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classical", action="store_true", help="only the methods that need no training")
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--validate-every", type=int, default=250)
    parser.add_argument("--network", default="voxelmorph-2")
    parser.add_argument("--diffeomorphic", action="store_true")
    parser.add_argument("--half-resolution", action="store_true")
    parser.add_argument("--resolutions", type=int, default=1)
    parser.add_argument(
        "--shape", type=int, nargs=2, default=[128, 128], help="pixels in the middle to train on"
    )
    parser.add_argument("--similarity", choices=SIMILARITY, default="lncc")
    parser.add_argument("--radius", type=int, default=4, help="of lncc")
    parser.add_argument("--smoothness", type=float, default=0.1)
    parser.add_argument("--labels-weight", type=float, default=0.0)
    parser.add_argument("--subjects", type=int, default=16, help="how many hearts train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patients", type=int, default=len(TEST), help="how many of the test patients")
    parser.add_argument("--name", default="unsupervised")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", help="folder of images; default REGISTA_DATA or ../shared/data")
    return parser


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


def write_slices(volumes: Mapping[int, dict[str, np.ndarray]], folder: Path, subjects: int) -> Path:
    """Write every slice that shows the heart at both phases as 2-D images; return the table."""
    training = [number for number in volumes if part_of(number) == "train"][:subjects]
    rows = []
    for number, heart in volumes.items():
        part = part_of(number)
        if part == "train" and number not in training:
            continue
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
    path = folder / f"pairs_{subjects}.csv"
    write_table(path, rows)
    return path


def config_of(options: argparse.Namespace) -> ModelConfig:
    """Return the model to train."""
    settings = {"radius": options.radius} if options.similarity == "lncc" else {}
    return ModelConfig(
        network=NetworkConfig(
            name=options.network,
            ndim=2,
            diffeomorphic=options.diffeomorphic,
            half_resolution=options.half_resolution,
            resolutions=options.resolutions,
        ),
        inputs=InputConfig(spacing_mm=(1.0, 1.0), shape=tuple(options.shape), margin_vox=0),
        loss=Loss(
            similarity=SIMILARITY[options.similarity](**settings),
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


def measure(number: int, heart: Mapping[str, np.ndarray], methods: Mapping[str, Method]) -> list[Row]:
    """Register every slice of a heart by every method; return a row for each."""
    shape = heart["ed"].shape
    rows: list[Row] = []
    for method, registered in methods.items():
        warped, seconds, failed = np.zeros(shape, np.int32), 0.0, 0
        bent = []
        for z in range(shape[2]):
            fixed, moving = (Image(heart[p][..., z], Grid(shape[:2], GRID)) for p in ("es", "ed"))
            labels = LabelImage(heart["ed_labels"][..., z], moving.grid)
            warped[..., z] = labels.data
            if fixed.data.min() == fixed.data.max() or moving.data.min() == moving.data.max():
                continue
            try:
                transform, taken = timed(lambda f=fixed, m=moving, way=registered: way(f, m))
            except (RegistrationError, RuntimeError) as error:  # the slice stays as it is, and is counted
                print(f"patient {number} slice {z} {method}: {error}", flush=True)
                failed += 1
                continue
            seconds += taken
            bent.append(deformation(transform, fixed.grid))
            warped[..., z] = resample(labels, fixed.grid, transform, interpolation="nearest").data
        truth = heart["es_labels"]
        scores = {
            n: 2 * np.sum((truth == n) & (warped == n)) / max(np.sum(truth == n) + np.sum(warped == n), 1)
            for n in LABELS
        }
        rows.append(
            {
                "patient": number,
                "method": method,
                "dice": float(np.mean(list(scores.values()))),
                **{f"dice_{n}": float(score) for n, score in scores.items()},
                "folded_percent": float(np.mean([one for one, _ in bent])),
                "sd_log_jacobian": float(np.nanmean([one for _, one in bent])),
                "seconds": seconds,
                "failed_slices": failed,
            }
        )
        print(f"patient {number} {method:24s} Dice {rows[-1]['dice']:.4f}  {seconds:.2f} s", flush=True)
    return rows


def engine(name: str) -> Plan:
    """Return a plan for slices: the preset without what it says of their thickness."""
    return replace(load_plan(name), slice_thickness=1.0)


def classical() -> dict[str, Method]:
    """Return the methods that need no training."""
    plan = engine("cardiac-cine")
    return {
        "as stored": lambda f, m: Affine.identity(2),
        "ANTs affine": ants_method("Affine"),
        "ANTs SyN, its default (MI)": ants_method("SyN"),
        "ANTs SyN, CC": ants_method("antsRegistrationSyN[s]"),
        "ANTs SyN without affine, CC": ants_method("antsRegistrationSyN[so]"),
        "Regista cardiac-cine": lambda f, m: register(f, m, plan).transform,
    }


def learned(model: RegistrationModel, name: str) -> dict[str, Method]:
    """Return the network, and the engine from the network's field."""
    plan = engine("cardiac-cine")
    return {
        name: lambda f, m: model.predict(f, m),
        f"{name} + cardiac-cine": lambda f, m: register(f, m, plan, initial=model.predict(f, m)).transform,
    }


def prepared(options: argparse.Namespace) -> tuple[Parts, Provenance]:
    """Return the slices as the network sees them, and where the model will have come from."""
    volumes = hearts(data_folder(options.data))
    dataset = read_dataset(write_slices(volumes, RESULTS / "learned_cardiac" / "slices", options.subjects))
    subjects = split_subjects(dataset)
    return prepare_parts(dataset, subjects, config_of(options)), Provenance(
        data="slices of ACDC cine MRI, ED and ES, 24 patients",
        licence="ACDC's terms",
        command=command_line("learned_cardiac.py", options, ("data", "patients")),
        subjects=subjects,
        alignment="none",
    )


def measure_all(options: argparse.Namespace, methods: Mapping[str, Method]) -> list[Row]:
    """Register the hearts of the test patients by every method."""
    volumes = hearts(data_folder(options.data))
    return [row for number in TEST[: options.patients] for row in measure(number, volumes[number], methods)]


def run_classical(options: argparse.Namespace) -> list[Row]:
    """Register the test patients by what needs no training."""
    return measure_all(options, classical())


def test(options: argparse.Namespace, model: RegistrationModel) -> list[Row]:
    """Register the test patients by the network and from its field."""
    return measure_all(options, learned(model, options.name))


def train_and_test(options: argparse.Namespace) -> list[Row]:
    """Train, register the test patients, keep the run; return the rows."""
    return train_and_keep("learned_cardiac", options, prepared, test)


def main() -> None:
    """Run what is asked for, and print the table."""
    run(CLASSICAL, arguments().parse_args(), run_classical, train_and_test, COLUMNS)


if __name__ == "__main__":
    main()
