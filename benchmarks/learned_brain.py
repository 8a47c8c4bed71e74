"""Train on brains at 2 mm and register three people it has not seen: affine, model, model refined, brain-t1.

python benchmarks/learned_brain.py [--minutes 40] [--steps 4000] [--network voxelmorph-2] [--diffeomorphic]
                                   [--probabilistic] [--half-resolution] [--subjects 11] [--name NAME] [--data DIR]

The same command goes on with a training that the minutes cut short. 11 people train, one validates (in pairs with some of
them), three test: every ordered pair of the three. Figures are on the native 1 mm images, labels carried once.
Results: results/learned_brain_NAME.csv and .md.
"""

import argparse
import itertools
from pathlib import Path

from harness.learning import Printer, command_line, dice_of, folded, report_training, timed, write_table
from harness.machine import RESULTS, data_folder
from regista.core import set_threads
from regista.io import read, read_labels
from regista.learning import (
    KL,
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
from regista.registration import load_plan, register
from regista.regularization import Diffusion
from regista.similarity import LNCC

TEST = ("1010", "1013", "1036")
VALIDATION = ("1008",)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--validate-every", type=int, default=200)
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--network", default="voxelmorph-2")
    parser.add_argument("--diffeomorphic", action="store_true")
    parser.add_argument("--probabilistic", action="store_true")
    parser.add_argument("--half-resolution", action="store_true")
    parser.add_argument("--smoothness", type=float, default=0.5)
    parser.add_argument("--prior", type=float, default=20.0)
    parser.add_argument("--kl-weight", type=float, default=0.01)
    parser.add_argument("--radius", type=int, default=2)
    parser.add_argument("--labels-weight", type=float, default=0.0)
    parser.add_argument("--subjects", type=int, default=11, help="how many people train")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--refine", default="deformable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="unsupervised")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", help="folder of images; default REGISTA_DATA or ../shared/data")
    return parser.parse_args()


def write_list(data: Path, folder: Path, count: int) -> Path:
    """Write which people train, validate and test."""
    people = sorted({path.name.split("_")[0] for path in (data / "brain_t1").glob("*_t1.nii.gz")})
    training = [name for name in people if name not in (*TEST, *VALIDATION)][:count]
    rows = []
    for part, names in (("train", training), ("validation", VALIDATION), ("test", TEST)):
        for name in names:
            base = (data / "brain_t1").resolve()
            rows.append(
                {
                    "image": base / f"{name}_t1.nii.gz",
                    "subject": name,
                    "labels": base / f"{name}_labels.nii.gz",
                    "split": part,
                }
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / f"people_{count}.csv", rows)
    return folder / f"people_{count}.csv"


def config_of(options: argparse.Namespace) -> ModelConfig:
    """Return the model to train."""
    probabilistic = options.probabilistic
    return ModelConfig(
        network=NetworkConfig(
            name=options.network,
            diffeomorphic=options.diffeomorphic or probabilistic,
            probabilistic=probabilistic,
            half_resolution=options.half_resolution,
        ),
        inputs=InputConfig(spacing_mm=(options.spacing,) * 3),
        loss=Loss(
            similarity=LNCC(radius=options.radius),
            penalties=() if probabilistic else (Diffusion(weight=options.smoothness),),
            kl=KL(precision=options.prior) if probabilistic else None,
            kl_weight=options.kl_weight,
            dice_weight=options.labels_weight,
        ),
        training=TrainingConfig(
            steps=options.steps,
            learning_rate=options.learning_rate,
            validate_every=options.validate_every,
            seed=options.seed,
            bf16=options.bf16,
            augmentation=Augmentation(flip_axes=(0,)),
        ),
    )


def measure(data: Path, fixed: str, moving: str, model, refine: str, name: str) -> list[dict]:
    """Register a pair by every method; return a row for each."""
    images = [read(data / "brain_t1" / f"{person}_t1.nii.gz") for person in (fixed, moving)]
    labels = [read_labels(data / "brain_t1" / f"{person}_labels.nii.gz") for person in (fixed, moving)]
    affine, affine_seconds = timed(lambda: register(*images, "affine").transform)
    predicted, seconds = timed(lambda: model.predict(*images, initial=affine))
    plan = load_plan(refine)
    refined, refine_seconds = timed(lambda: register(*images, plan, initial=predicted).transform)
    whole, whole_seconds = timed(lambda: register(*images, "brain-t1").transform)
    rows = []
    for method, transform, taken in (
        ("affine", affine, affine_seconds),
        (name, predicted, affine_seconds + seconds),
        (f"{name} + refine", refined, affine_seconds + seconds + refine_seconds),
        ("brain-t1", whole, whole_seconds),
    ):
        row = {
            "fixed": fixed,
            "moving": moving,
            "method": method,
            "dice": dice_of(*labels, transform),
            "folded_percent": folded(transform, images[0].grid),
            "seconds": taken,
            "network_seconds": seconds if method == name else "",
        }
        rows.append(row)
        print(f"{fixed} {moving} {method:24s} Dice {row['dice']:.4f}  {taken:.2f} s", flush=True)
    return rows


def main() -> None:
    """Train, register the test pairs, write the tables."""
    options = arguments()
    set_threads(options.threads)
    data = data_folder(options.data)
    folder = RESULTS / "learned_brain"
    dataset = read_dataset(write_list(data, folder, options.subjects))
    subjects = split_subjects(dataset)

    def report(done: int, total: int) -> None:
        print(f"prepared {done} of {total}", flush=True)

    parts = prepare_parts(
        dataset, subjects, config_of(options), lambda f, m: register(f, m, "affine").transform, report
    )
    origin = Provenance(
        data="T1 brains of the MICCAI 2012 multi-atlas challenge (OASIS scans, Neuromorphometrics labels)",
        licence="CC BY-NC",
        command=command_line("learned_brain.py", options),
        subjects=subjects,
        alignment="affine",
    )
    place = folder / options.name
    result, _ = fit(parts, place, origin, minutes=options.minutes, progress=Printer(), device=options.device)
    model = load_model(place)
    rows: list[dict] = []
    for fixed, moving in itertools.permutations(TEST, 2):
        rows += measure(data, fixed, moving, model, options.refine, options.name)
    report_training(
        f"learned_brain_{options.name}", "Brain T1 pairs, by a trained network", options, origin, result, rows
    )


if __name__ == "__main__":
    main()
