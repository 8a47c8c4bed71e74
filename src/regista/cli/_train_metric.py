"""``regista train deep-metric``: a similarity metric of one's own from aligned pairs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regista.cli._console import Debug, Json, Quiet, Threads, complain, guarded
from regista.cli._register import tell_compiling
from regista.cli._stops import raise_if_stopped, stops_deferred

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regista.learning import AlignedPair, MetricConfig, PairFile


@guarded
def deep_metric(
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS", help="CSV of aligned pairs: columns fixed,moving[,mask][,subject][,split]."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the model.")],
    contrasts: Annotated[
        str, typer.Option(help="What the columns fixed and moving show, as in t1,t2.")
    ] = "first,second",
    validation: Annotated[float, typer.Option(help="Share, or number, of subjects to hold out.")] = 0.2,
    architecture: Annotated[
        str,
        typer.Option(
            help="'two-channel' scores pairs of patches; 'features' describes each contrast by itself."
        ),
    ] = "two-channel",
    channels: Annotated[str, typer.Option(help="Filters of the four layers.")] = "16,32,32,64",
    shrinks: Annotated[str, typer.Option(help="Levels that patches are drawn from.")] = "1,2,4",
    steps: Annotated[int, typer.Option(min=1, help="Steps of Adam.")] = 10_000,
    batch: Annotated[int, typer.Option(min=4, help="Pairs of patches per step, a multiple of 4.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-3,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between looks at held-out pairs.")] = 250,
    patience: Annotated[
        int, typer.Option(min=0, help="End after so many looks without a gain; 0 never does.")
    ] = 0,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so many minutes; the same command goes on.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again, even where a checkpoint lies.")
    ] = False,
    trust_alignment: Annotated[
        bool,
        typer.Option(
            "--trust-alignment", help="Take pairs that look more alike when shifted or turned as aligned."
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="'cpu', 'cuda' for a GPU, or 'auto'.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Same seed and threads: same weights.")] = 0,
    licence: Annotated[str, typer.Option(help="Terms of the data, for the model card.")] = "not stated",
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Train a metric for two contrasts from a few aligned pairs (Simonovsky 2016).

    Writes model.safetensors, model.json, card.md, log.csv and checkpoint.pt to the output folder. The same command
    goes on with a training that was interrupted, to the same weights. A plan uses it as similarity = {deep = "FOLDER"}.
    """
    from regista.cli._outputs import check_folder, keep_inputs
    from regista.cli._progress import progress_bar
    from regista.cli._train import FILES, stop_told, tell_trained
    from regista.core import threads as use_threads
    from regista.io import read
    from regista.learning import MetricConfig, MetricOrigin, PatchConfig, fit_metric, read_pairs, split_pairs
    from regista.learning._device import local_device

    device = local_device(device)
    check_folder(output)
    outputs = [output / name for name in FILES]
    keep_inputs(outputs, [pairs])
    files = read_pairs(pairs)
    keep_inputs(outputs, [path for one in files for path in (one.fixed, one.moving, one.mask)])
    parts = split_pairs(files, validation, seed)
    config = MetricConfig(
        architecture=architecture,
        ndim=read(files[0].fixed).ndim,
        channels=_numbers(channels, "--channels"),
        patches=PatchConfig(shrinks=_numbers(shrinks, "--shrinks")),
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
        validate_every=validate_every,
        patience=patience,
    )
    origin = MetricOrigin(
        contrasts=_names(contrasts),
        data=f"aligned pairs listed in {pairs.name}",
        licence=licence,
        command=" ".join(["regista", *sys.argv[1:]]),
    )
    show = not (quiet or as_json)
    if show:
        tell_compiling()
    with use_threads(threads), stops_deferred():
        train, held = (
            _prepared([files[n] for n in parts[part]], config, not trust_alignment, show)
            for part in ("train", "validation")
        )
        with stop_told(outputs[-1], speaks=True), progress_bar(show, rounds=True) as progress:
            result = fit_metric(
                config,
                train,
                output,
                origin,
                held_out=held,
                minutes=minutes,
                resume=not restart,
                progress=progress,
                device=device,
            )
    best = result.best
    told = [f"held-out pairs: {100 * best.accuracy:.1f} % of patches told right"] if best else []
    tell_trained(output, result, {"validation": best}, told, quiet, as_json)
    return 0


def _prepared(
    files: Sequence[PairFile], config: MetricConfig, check_alignment: bool, show: bool
) -> list[AlignedPair]:
    from regista.learning import load_pairs

    found: list[AlignedPair] = []
    for number, file in enumerate(files, 1):
        raise_if_stopped()
        found += load_pairs([file], config, check_alignment)
        if show:
            complain(f"prepared {number} of {len(files)} pairs")
    return found


def _numbers(text: str, option: str) -> tuple[int, ...]:
    from regista.core import PlanError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise PlanError(f"{option} is whole numbers with commas between, as in 1,2,4, got {text!r}") from None


def _names(text: str) -> tuple[str, str]:
    from regista.core import PlanError

    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(parts):
        raise PlanError(f"--contrasts is two names with a comma between, as in t1,t2, got {text!r}")
    return parts[0], parts[1]
