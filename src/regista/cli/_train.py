"""``regista train``: a network of one's own from one's own scans."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from regista.cli._console import Debug, Json, Quiet, Threads, complain, guarded, say, say_json
from regista.cli._models import linear_plan
from regista.cli._register import tell_compiling
from regista.cli._stops import raise_if_stopped, stops_deferred

if TYPE_CHECKING:
    from regista.core import Image
    from regista.learning import ModelConfig
    from regista.registration import Plan
    from regista.transforms import Transform

FILES = ("model.safetensors", "model.json", "card.md", "pairs.png", "log.csv", "checkpoint.pt")
"""What a training leaves in its folder."""

Number = TypeVar("Number", int, float)
train = typer.Typer(help="Train a network, a metric or a prior on your own data.", no_args_is_help=True)


@train.callback()
def _group() -> None:
    """Train a network, a metric or a prior on your own data."""


@train.command("voxelmorph")
@guarded
def voxelmorph(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="CSV with columns image[,subject][,labels][,split] or fixed,moving[,…], a BIDS dataset, or a folder of images.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the model.")],
    suffix: Annotated[
        list[str] | None,
        typer.Option(help="Of a folder, take images whose names end so, as T1w in BIDS; repeat for more."),
    ] = None,
    labels: Annotated[
        str,
        typer.Option(help="Of a folder, what names of label maps end in, as dseg in BIDS, derivatives too."),
    ] = "",
    network: Annotated[
        str, typer.Option(help="voxelmorph-1, voxelmorph-2, unet-2019 or synthmorph.")
    ] = "voxelmorph-2",
    diffeomorphic: Annotated[
        bool, typer.Option("--diffeomorphic", help="Estimate a velocity and integrate it: no folds.")
    ] = False,
    probabilistic: Annotated[
        bool,
        typer.Option(
            "--probabilistic", help="Estimate the velocity's variance too (implies --diffeomorphic)."
        ),
    ] = False,
    half_resolution: Annotated[
        bool, typer.Option("--half-resolution", help="Estimate at half resolution: faster.")
    ] = False,
    edges: Annotated[
        bool,
        typer.Option("--edges", help="The network sees how strong edges are, not intensities: any contrast."),
    ] = False,
    resolutions: Annotated[
        int,
        typer.Option(min=1, help="Give a field at so many resolutions, each refining the one below."),
    ] = 1,
    bidirectional: Annotated[
        bool, typer.Option("--bidirectional", help="Compare in both directions (with --diffeomorphic).")
    ] = False,
    spacing: Annotated[
        list[float] | None,
        typer.Option(
            help="Voxel size the network sees, mm; once, or per axis (default: the first scan's finest)."
        ),
    ] = None,
    shape: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Train on so many voxels around the middle of what a scan shows; once, or per axis (default: all).",
        ),
    ] = None,
    similarity: Annotated[str, typer.Option(help="lncc, ssd, ncc, nmi, mi or mind.")] = "lncc",
    radius: Annotated[int, typer.Option(help="Window radius of lncc, voxels.")] = 4,
    smoothness: Annotated[float, typer.Option(help="Weight of the diffusion penalty.")] = 1.0,
    bending: Annotated[float, typer.Option(help="Weight of the bending penalty, mm².")] = 0.0,
    jacobian: Annotated[float, typer.Option(help="Weight of the squared log-Jacobian.")] = 0.0,
    prior: Annotated[
        float | None, typer.Option(help="Precision of the prior (with --probabilistic; default 10).")
    ] = None,
    kl_weight: Annotated[
        float | None, typer.Option(help="Weight of the prior (with --probabilistic; default 0.01).")
    ] = None,
    labels_weight: Annotated[
        float, typer.Option(help="Weight of 1 − Dice of the labels (semi-supervised).")
    ] = 0.0,
    endpoint_weight: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Weight of the end-point error, voxels, of made-up pairs whose displacement is known (default: 0).",
        ),
    ] = None,
    synthesis: Annotated[
        str | None,
        typer.Option(help="Train on images made up from 'labels' or from random 'shapes': any contrast."),
    ] = None,
    alike: Annotated[
        list[str] | None,
        typer.Option(help="Labels that are equally bright in made-up images, as 2,41 (left, right); repeat."),
    ] = None,
    deformation: Annotated[
        float | None,
        typer.Option(min=0, help="Longest typical displacement of made-up images, voxels (default: 3)."),
    ] = None,
    same_contrast: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of made-up pairs whose two images have one contrast (default: 0)."
        ),
    ] = None,
    reversed_contrast: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of made-up pairs of which one is the other's negative (default: 0)."
        ),
    ] = None,
    targets: Annotated[
        bool,
        typer.Option(
            "--targets", help="Compare clean made-up images by --similarity, not labels by overlap."
        ),
    ] = False,
    validation: Annotated[float, typer.Option(help="Share, or number, of subjects to validate on.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share, or number, of subjects to test on at the end.")] = 0.0,
    align: Annotated[
        str, typer.Option(help="Bring scans near each other first: 'affine', 'rigid' or 'none'.")
    ] = "affine",
    start: Annotated[
        str | None,
        typer.Option(help="Model, by name or folder, whose weights training begins with (fine-tuning)."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of Adam.")] = 5000,
    batch: Annotated[int, typer.Option(min=1, help="Pairs per step.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 3e-4,
    schedule: Annotated[
        str,
        typer.Option(
            help="Of the learning rate: 'cosine', falling to nearly 0 at the last step, or 'constant'."
        ),
    ] = "cosine",
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 250,
    patience: Annotated[
        int, typer.Option(min=0, help="End after so many validations without a gain; 0 never does.")
    ] = 0,
    augment: Annotated[
        bool, typer.Option("--augment/--no-augment", help="Turn, scale and shift pairs at random.")
    ] = True,
    flip_axis: Annotated[
        list[int] | None, typer.Option(help="Axis (0, 1, 2) that augmentation also flips; repeat.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so many minutes; the same command goes on.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again, even where a checkpoint lies.")
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Convolutions in bfloat16.")] = False,
    device: Annotated[str, typer.Option(help="'cpu', 'cuda' for a GPU, or 'auto'.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Same seed and threads: same weights.")] = 0,
    licence: Annotated[str, typer.Option(help="Terms of the data, for the model card.")] = "not stated",
    purpose: Annotated[
        str, typer.Option(help="Which images it is for, in a few words: told wherever the model is named.")
    ] = "",
    passes: Annotated[
        int,
        typer.Option(
            min=1, max=10, help="In how many passes `register --model` asks it at most; training knows one."
        ),
    ] = 1,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Train a network that registers two scans in one pass, without a truth to learn from (VoxelMorph).

    Writes model.safetensors, model.json, card.md with pairs.png, log.csv and checkpoint.pt to the output folder. The same
    command goes on with a training that was interrupted, to the same weights.
    """
    from regista.cli._outputs import check_folder, keep_inputs
    from regista.cli._progress import progress_bar
    from regista.core import PlanError
    from regista.core import threads as use_threads
    from regista.io import read
    from regista.learning import Provenance, fit, prepare_parts, read_dataset, split_subjects
    from regista.learning._bids import without_images
    from regista.learning._checkpoint import refuse_other_settings
    from regista.learning._device import local_device
    from regista.learning._loop import first_process
    from regista.learning._start import start_file, start_weights

    if synthesis not in (None, "labels", "shapes"):
        raise PlanError(f"--synthesis is 'labels' or 'shapes', got {synthesis!r}")
    if align not in ("affine", "rigid", "none"):
        raise PlanError(f"--align is 'affine', 'rigid' or 'none', got {align!r}")
    for word, value in (("--prior", prior), ("--kl-weight", kl_weight)):
        if value is not None and not probabilistic:
            raise PlanError(f"{word} is of networks that estimate a variance: give --probabilistic too")
    same = [_labels_of(one) for one in alike or []]
    if same and synthesis != "labels":
        raise PlanError("--alike tells how images made up from label maps look: give --synthesis labels too")
    made_up = {
        "--targets": targets or None,
        "--deformation": deformation,
        "--endpoint-weight": endpoint_weight,
        "--same-contrast": same_contrast,
        "--reversed-contrast": reversed_contrast,
    }
    option = next((name for name, value in made_up.items() if value is not None), None)
    if synthesis is None and option is not None:
        raise PlanError(f"{option} is for made-up images: give --synthesis labels or shapes too")
    if (same_contrast or 0) + (reversed_contrast or 0) > 1:
        raise PlanError(
            f"--same-contrast {same_contrast:g} and --reversed-contrast {reversed_contrast:g} are shares of all pairs: together at most 1"
        )
    if synthesis is not None and align == "affine":
        align = "multimodal"  # scans to come may be of two contrasts
    device = local_device(device)
    check_folder(output)
    outputs = [output / name for name in FILES]
    begins = restart or not (output / FILES[-1]).exists()  # what goes on has its weights
    keep_inputs(outputs, [data, *([start_file(start)] if start is not None and begins else [])])
    dataset = read_dataset(data, suffix or (), labels)
    keep_inputs(outputs, [path for scan in dataset.scans for path in (scan.image, scan.labels)])
    subjects = split_subjects(dataset, validation, test, seed)
    unlabelled = [scan.image for scan in dataset.of(subjects["train"]).scans if scan.labels is None]
    if synthesis == "labels" and unlabelled:
        raise PlanError(
            f"--synthesis labels makes images up from label maps, and {unlabelled[0]} has none: list label maps in the column "
            "labels (labels[,subject][,split], the images may be left out), or take --synthesis shapes, which needs none"
        )
    first = read(dataset.scans[0].image)
    finest = float(first.grid.spacing.min())
    steps_mm = _per_axis("--spacing", spacing or [round(finest, 6)], first.ndim)
    config = _config(
        network={
            "name": network,
            "ndim": first.ndim,
            "diffeomorphic": diffeomorphic or probabilistic,
            "probabilistic": probabilistic,
            "half_resolution": half_resolution,
            "resolutions": resolutions,
            "edges": edges,
        },
        spacing=steps_mm,
        shape=_per_axis("--shape", shape, first.ndim) if shape else (),
        loss={
            "similarity": similarity,
            "radius": radius,
            "smoothness": smoothness,
            "bending": bending,
            "jacobian": jacobian,
            "prior": 10.0 if prior is None else prior,
            "kl_weight": 0.01 if kl_weight is None else kl_weight,
            "labels_weight": labels_weight,
            "endpoint_weight": endpoint_weight or 0.0,
            "bidirectional": bidirectional,
            "overlap_alone": synthesis is not None and not targets,
        },
        training={
            "steps": steps,
            "batch": batch,
            "learning_rate": learning_rate,
            "schedule": schedule,
            "seed": seed,
            "validate_every": validate_every,
            "patience": patience,
            "bf16": bf16,
            "start": start,
        },
        flips=None if not augment else tuple(flip_axis or ()),
    )
    if begins:  # what is wrong is told before the scans are prepared
        start_weights(config)
    else:
        refuse_other_settings(output, config)
    speaks = first_process()
    bare = [scan.image for scan in dataset.scans if scan.labels is None]
    if speaks and 0 < len(bare) < len(dataset.scans):
        complain(
            f"Warning: {len(bare)} of {len(dataset.scans)} scans have no labels (first {bare[0]}): no Dice is measured where they take part"
        )
    missing = without_images(data, dataset.subjects)
    if speaks and missing:
        complain(
            f"Warning: of {len(missing)} of {len(missing) + len(dataset.subjects)} people in {data} there is no {suffix[0] if suffix else 'image'} in anat "
            f"({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}): training goes without"
        )
    show = speaks and not (quiet or as_json)
    if show:
        tell_compiling()

    def tell(done: int, total: int) -> None:
        raise_if_stopped()
        if show:
            complain(f"prepared {done} of {total} scans")

    with use_threads(threads), stops_deferred():
        plan = linear_plan({"alignment": align, "loss": config.loss.to_dict()})
        aligner = None if plan is None else _aligner(plan)
        shapes = synthesis == "shapes"
        parts = prepare_parts(
            dataset, subjects, config, aligner, tell, trains_on_shapes=shapes, synthetic=targets
        )
        source = (
            None
            if synthesis is None
            else _synthetic(
                synthesis,
                parts,
                same,
                deformation_vox=deformation,
                same_contrast=same_contrast,
                reversed_contrast=reversed_contrast,
                targets=targets,
                displacements=bool(endpoint_weight),
            )
        )
        if source is not None and parts.validation is not None and parts.validation.codes is None:
            parts = replace(parts, validation=None)  # without labels nothing tells good weights from bad
        origin = Provenance(
            data=f"{len(dataset.scans)} scans of {len(dataset.subjects)} subjects "
            + (f"in the folder {data.resolve().name}" if data.is_dir() else f"listed in {data.name}"),
            licence=licence,
            purpose=" ".join(purpose.split()),
            command=" ".join(["regista", *sys.argv[1:]]),
            subjects=subjects,
            alignment=align,
            passes=passes,
        )
        with stop_told(output / FILES[-1], speaks, restart), progress_bar(show, rounds=True) as progress:
            result, tested = fit(
                parts,
                output,
                origin,
                source=source,
                minutes=minutes,
                resume=not restart,
                progress=progress,
                device=device,
            )
    if speaks:
        _tell(output, result, tested, quiet, as_json)
    return 0


@contextmanager
def stop_told(checkpoint: Path, speaks: bool, restart: bool = False) -> Iterator[None]:
    """Say where a training that is stopped goes on from."""
    try:
        yield
    except KeyboardInterrupt:
        if speaks and checkpoint.exists():
            complain(
                f"{checkpoint} holds the training so far: the same command{', without --restart,' if restart else ''} goes on from there"
            )
        raise


def _per_axis(option: str, values: list[Number], ndim: int) -> tuple[Number, ...]:
    from regista.core import PlanError

    if len(values) not in (1, ndim):
        raise PlanError(f"{option} is given once, or once per axis ({ndim}), got {len(values)} times")
    return tuple(values * ndim if len(values) == 1 else values)


def _config(
    network: dict[str, Any],
    spacing: tuple[float, ...],
    shape: tuple[int, ...],
    loss: dict[str, Any],
    training: dict[str, Any],
    flips: tuple[int, ...] | None,
) -> ModelConfig:
    from regista.learning import (
        Augmentation,
        InputConfig,
        ModelConfig,
        NetworkConfig,
        TrainingConfig,
    )

    pose = None if flips is None else Augmentation(flip_axes=flips)
    return ModelConfig(
        network=NetworkConfig(**network),
        inputs=InputConfig(spacing_mm=spacing, shape=shape),
        loss=_loss(network["probabilistic"], **loss),
        training=TrainingConfig(**training, augmentation=pose),
    )


def _loss(probabilistic: bool, **told: Any) -> Any:
    from regista.core import PlanError
    from regista.learning import KL, Loss
    from regista.learning._losses import SIMILARITY_LOSSES
    from regista.regularization import Bending, Diffusion, LogJacobian

    name = told["similarity"]
    if name not in SIMILARITY_LOSSES:
        raise PlanError(f"--similarity is one of {', '.join(SIMILARITY_LOSSES)}, got {name!r}")
    metric = SIMILARITY_LOSSES[name](**({"radius": told["radius"]} if name == "lncc" else {}))
    smooth = 0.0 if probabilistic else told["smoothness"]  # the prior of the velocity takes its place
    weights = ((Diffusion, smooth), (Bending, told["bending"]), (LogJacobian, told["jacobian"]))
    return Loss(
        similarity=metric,
        penalties=tuple(kind(weight=weight) for kind, weight in weights if weight),
        similarity_weight=0.0 if told["overlap_alone"] else 1.0,
        kl=KL(precision=told["prior"]) if probabilistic else None,
        kl_weight=told["kl_weight"],
        dice_weight=told["labels_weight"] or (1.0 if told["overlap_alone"] else 0.0),
        endpoint_weight=told["endpoint_weight"],
        bidirectional=told["bidirectional"],
    )


def _aligner(plan: Plan) -> Any:
    """Return the linear registration that brings a scan near another."""
    from regista.registration import register as run

    def align(fixed: Image, moving: Image) -> Transform:
        raise_if_stopped()
        return run(fixed, moving, plan).transform

    return align


def _labels_of(words: str) -> list[int]:
    from regista.core import PlanError

    try:
        found = [int(word) for word in words.split(",")]
    except ValueError:
        found = []
    if len(found) < 2:
        raise PlanError(f"--alike takes labels with commas between them, as in 2,41; got {words!r}")
    return found


def _synthetic(kind: str, parts: Any, alike: list[list[int]], **told: Any) -> Any:
    from regista.core import PlanError
    from regista.learning import SynthesisSource, random_shapes

    settings = {name: value for name, value in told.items() if value is not None}
    if kind == "shapes":
        return SynthesisSource(maps=random_shapes(parts.config.inputs.shape, count=16, seed=0), **settings)
    values = parts.train.values
    named = [label for group in alike for label in group]
    unknown = sorted(set(named) - set(values) | {label for label in named if not label})
    if unknown:
        names = ", ".join(map(str, unknown))
        raise PlanError(f"--alike names {names}, labels that no scan to train on has (0 is the background)")
    twice = sorted({label for label in named if named.count(label) > 1})
    if twice:
        raise PlanError(
            f"--alike names {', '.join(map(str, twice))} twice: put all labels of one shade into one --alike"
        )
    first = {label: group[0] for group in alike for label in group}
    tissues = tuple(first.get(value, value) for value in values) if alike else ()
    maps = tuple(parts.train.codes)
    return SynthesisSource(maps=maps, across=0.5, tissues=tissues, **settings)


def _tell(output: Path, result: Any, tested: Any, quiet: bool, as_json: bool) -> None:
    found = {"validation": result.best, "test": tested}
    lines = []
    for name, scores in found.items():
        if scores is not None:
            dice = (
                "" if scores.dice != scores.dice else f"Dice {scores.dice_before:.3f} → {scores.dice:.3f}, "
            )
            lines.append(
                f"{name}: {dice}local correlation {scores.lncc:.3f}, {scores.folded_percent:.4f} % folded "
                f"({scores.pairs} pair{'s' * (scores.pairs != 1)})"
            )
    tell_trained(output, result, found, lines, quiet, as_json)


def tell_trained(
    output: Path, result: Any, found: dict[str, Any], lines: list[str], quiet: bool, as_json: bool
) -> None:
    """Tell how a training ended: one JSON object, or lines for people."""
    from dataclasses import asdict

    if as_json:
        scores = {name: None if one is None else asdict(one) for name, one in found.items()}
        course = {"steps": result.steps, "finished": result.finished, "seconds": result.seconds}
        say_json({"model": str(output), **course, **scores})
        return
    end = "trained" if result.finished else "time is up: the same command goes on"
    say(f"{end}; {result.steps} steps, {result.seconds / 60:.1f} minutes in this session", quiet=quiet)
    for line in (*lines, output):
        say(f"  {line}", quiet=quiet)
