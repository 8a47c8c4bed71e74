"""Train on brains at 2 mm and register three people it has not seen, beside ANTs and the engine.

python benchmarks/learned_brain.py --classical [--slow] [--threads 2] [--data DIR]
python benchmarks/learned_brain.py [--minutes 40] [--steps 4000] [--network voxelmorph-2] [--diffeomorphic]
                                   [--probabilistic] [--half-resolution] [--subjects 11] [--name NAME] [--data DIR]

The first runs what needs no training, once (`--slow` adds ANTs' SyN by local correlation, a quarter of an hour a pair); the
second trains a network, goes on with a training that the minutes cut short, and sets it beside those. 11 people train, one
validates (in pairs with some of them), three test: every ordered pair of the three. Figures are on the native 1 mm
images, labels carried once. Results: results/learned_brain_NAME.csv and .json; `publish_learned.py` puts them on their
page.
"""

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.learning import command_line, dice_of, timed, write_table
from harness.machine import RESULTS, data_folder
from harness.trained import Method, Row, ants_method, deformation, run, train_and_keep
from regista.core import Image
from regista.io import read, read_labels
from regista.learning import (
    KL,
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
from regista.similarity import LNCC
from regista.transforms import Transform

TEST = ("1010", "1013", "1036")
VALIDATION = ("1008",)
CLASSICAL = "learned_brain_classical"
COLUMNS = (
    ("dice", "Dice", 3),
    ("folded_percent", "folded, %", 4),
    ("sd_log_jacobian", "SD log J", 3),
    ("seconds", "s per pair", 1),
    ("network_seconds", "of it the network", 2),
)
Timed = Callable[[Image, Image], tuple[Transform, dict[str, float]]]
"""Gives a map fixed → moving, and the seconds that parts of it took."""


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classical", action="store_true", help="only the methods that need no training")
    parser.add_argument(
        "--slow", action="store_true", help="with --classical: ANTs' SyN by local correlation too"
    )
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--validate-every", type=int, default=200)
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--network", default="voxelmorph-2")
    parser.add_argument("--diffeomorphic", action="store_true")
    parser.add_argument("--probabilistic", action="store_true")
    parser.add_argument("--half-resolution", action="store_true")
    parser.add_argument("--resolutions", type=int, default=1)
    parser.add_argument("--smoothness", type=float, default=0.5)
    parser.add_argument("--prior", type=float, default=20.0)
    parser.add_argument("--kl-weight", type=float, default=0.01)
    parser.add_argument("--radius", type=int, default=2)
    parser.add_argument("--labels-weight", type=float, default=0.0)
    parser.add_argument("--subjects", type=int, default=11, help="how many people train")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--start", help="model, by name or folder, whose weights training begins with")
    parser.add_argument(
        "--refine", nargs="*", default=["deformable"], help="presets whose deformable stages go on"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=6, help="how many of the test pairs")
    parser.add_argument("--name", default="unsupervised")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", help="folder of images; default REGISTA_DATA or ../shared/data")
    return parser


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
            resolutions=options.resolutions,
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
            start=options.start,
            bf16=options.bf16,
            augmentation=Augmentation(flip_axes=(0,)),
        ),
    )


def whole(method: Method) -> Timed:
    """Return a method as one that times itself."""

    def timed_run(fixed: Image, moving: Image) -> tuple[Transform, dict[str, float]]:
        transform, seconds = timed(lambda: method(fixed, moving))
        return transform, {"seconds": seconds}

    return timed_run


def engine(plan: str | Plan) -> Timed:
    """Return a plan, or a preset by name, as a method."""
    return whole(lambda fixed, moving: register(fixed, moving, plan).transform)


def classical(slow: bool) -> dict[str, Timed]:
    """Return the methods that need no training."""
    peers = {"ANTs affine": "Affine", "ANTs SyN, its default (MI)": "SyN"}
    peers |= {"ANTs SyN, CC": "antsRegistrationSyN[s]"} if slow else {}
    return {
        **{preset: engine(preset) for preset in ("affine", "brain-t1", "accurate")},
        **{name: whole(ants_method(kind)) for name, kind in peers.items()},
    }


def learned(
    model: RegistrationModel,
    name: str,
    refine: Sequence[str],
    linear: str | Plan = "affine",
    passes: int | None = None,
) -> dict[str, Timed]:
    """Return the network after a linear map, and the deformable stages of presets from the network's field."""
    # imports what a machine that only trains may lack
    from regista.cli._models import without_linear_stages

    def predicted(fixed: Image, moving: Image) -> tuple[Transform, dict[str, float]]:
        affine, before = timed(lambda: register(fixed, moving, linear).transform)
        field, seconds = timed(
            lambda: model.predict(fixed, moving, initial=affine, passes=passes, bend_first=True)
        )
        return field, {"seconds": before + seconds, "network_seconds": seconds}

    def refined(preset: str) -> Timed:
        plan = without_linear_stages(load_plan(preset))

        def from_field(fixed: Image, moving: Image) -> tuple[Transform, dict[str, float]]:
            start, taken = predicted(fixed, moving)
            found, after = timed(lambda: register(fixed, moving, plan, initial=start).transform)
            return found, {**taken, "seconds": taken["seconds"] + after}

        return from_field

    return {name: predicted, **{f"{name} + {preset}": refined(preset) for preset in refine}}


def measure(data: Path, methods: Mapping[str, Timed], pairs: int) -> list[Row]:
    """Register the pairs of the test people by every method; return a row for each."""
    rows: list[Row] = []
    for fixed, moving in list(itertools.permutations(TEST, 2))[:pairs]:
        images = [read(data / "brain_t1" / f"{person}_t1.nii.gz") for person in (fixed, moving)]
        labels = [read_labels(data / "brain_t1" / f"{person}_labels.nii.gz") for person in (fixed, moving)]
        for method, registered in methods.items():
            transform, taken = registered(*images)
            folded, rough = deformation(transform, images[0].grid)
            row: Row = {
                "fixed": fixed,
                "moving": moving,
                "method": method,
                "dice": dice_of(*labels, transform),
            }
            row |= {"folded_percent": folded, "sd_log_jacobian": rough, "network_seconds": "", **taken}
            rows.append(row)
            print(f"{fixed} {moving} {method:28s} Dice {row['dice']:.4f}  {row['seconds']:.2f} s", flush=True)
    return rows


def prepared(options: argparse.Namespace) -> tuple[Parts, Provenance]:
    """Return the scans on the grid of the network, and where the model will have come from."""
    dataset = read_dataset(write_list(data_folder(options.data), RESULTS / "learned_brain", options.subjects))
    subjects = split_subjects(dataset)

    def report(done: int, total: int) -> None:
        print(f"prepared {done} of {total}", flush=True)

    parts = prepare_parts(
        dataset, subjects, config_of(options), lambda f, m: register(f, m, "affine").transform, report
    )
    return parts, Provenance(
        data="T1 brains of the MICCAI 2012 multi-atlas challenge (OASIS scans, Neuromorphometrics labels)",
        licence="CC BY-NC",
        command=command_line("learned_brain.py", options, ("data", "device", "minutes", "pairs")),
        subjects=subjects,
        alignment="affine",
    )


def run_classical(options: argparse.Namespace) -> list[Row]:
    """Register the test pairs by what needs no training."""
    return measure(data_folder(options.data), classical(options.slow), options.pairs)


def test(options: argparse.Namespace, model: RegistrationModel) -> list[Row]:
    """Register the test pairs by the network and from its field."""
    return measure(data_folder(options.data), learned(model, options.name, options.refine), options.pairs)


def train_and_test(options: argparse.Namespace) -> list[Row]:
    """Train, register the test pairs, keep the run; return the rows."""
    return train_and_keep("learned_brain", options, prepared, test, options.device)


def main() -> None:
    """Run what is asked for, and print the table."""
    run(CLASSICAL, arguments().parse_args(), run_classical, train_and_test, COLUMNS)


if __name__ == "__main__":
    main()
