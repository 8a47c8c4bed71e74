"""From aligned pairs to the folder of a trained metric, with its card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regista.core import ProgressCallback, silent
from regista.io import write_text
from regista.learning._card import training_versions
from regista.learning._checkpoint import CARD, SETTINGS, WEIGHTS, file_hash
from regista.learning._metric_config import MetricConfig
from regista.learning._metric_data import AlignedPair
from regista.learning._metric_training import MetricTraining, train_metric


@dataclass(frozen=True, kw_only=True)
class MetricOrigin:
    """Where a metric comes from, for its card.

    Parameters
    ----------
    contrasts : tuple of 2 str
        What the first and the second image of each pair show.
    data, licence : str
        What it was trained on, and on which terms.
    command : str
        How to make it again.
    """

    contrasts: tuple[str, str] = ("first", "second")
    data: str = "not stated"
    licence: str = "not stated"
    command: str = ""


def fit_metric(
    config: MetricConfig,
    pairs: Sequence[AlignedPair],
    folder: Path,
    origin: MetricOrigin,
    *,
    held_out: Sequence[AlignedPair] = (),
    minutes: float | None = None,
    resume: bool = True,
    progress: ProgressCallback = silent,
    device: str = "cpu",
) -> MetricTraining:
    """Train a metric and write its folder: weights, settings, card, log and checkpoint.

    Parameters and errors are those of `train_metric`; `origin` goes to the card.
    """
    result = train_metric(
        config,
        pairs,
        folder,
        held_out=held_out,
        minutes=minutes,
        resume=resume,
        progress=progress,
        device=device,
    )
    subjects = {
        "train": sorted({pair.subject for pair in pairs}),
        "validation": sorted({pair.subject for pair in held_out}),
    }
    told: dict[str, Any] = {
        "contrasts": list(origin.contrasts),
        "data": origin.data,
        "licence": origin.licence,
        "command": origin.command,
        "pairs": len(pairs),
        "spacing_mm": np.median([pair.spacing_mm for pair in pairs], axis=0).round(4).tolist(),
        "subjects": subjects,
        "steps_done": result.steps,
        "seconds_last_session": round(result.seconds, 1),
        "validation": None if result.best is None else asdict(result.best),
        "versions": training_versions(),
    }
    tree = {**config.to_dict(), "weights_sha256": file_hash(folder / WEIGHTS), **told}
    write_text(folder / CARD, metric_card(folder.resolve().name, config, told))
    write_text(folder / SETTINGS, json.dumps(tree, indent=2) + "\n")
    return result


def metric_card(name: str, config: MetricConfig, told: Mapping[str, Any]) -> str:
    """Return the card of a metric as Markdown."""
    patches, (first, second) = config.patches, told["contrasts"]
    found = told["validation"]
    figures = "not measured: no pairs were held out."
    if found is not None:
        figures = _figures(config, found)
    spacing = " × ".join(f"{step:g}" for step in told["spacing_mm"])
    people = "\n".join(f"- {part}: {', '.join(names)}" for part, names in told["subjects"].items() if names)
    versions = ", ".join(f"{key} {value}" for key, value in told["versions"].items())
    return f"""# {name}

A network that scores whether two {config.ndim}-D patches of 17 voxels a side show the same place of {first} (first) and
{second} (second): a similarity metric for registration (Simonovsky et al. 2016). In a plan:

    similarity = {{deep = "{name}"}}

Where the fixed image is {second} and the moving one {first}: `similarity = {{deep = {{model = "{name}", fixed = "second"}}}}`.

## Images it wants

Voxels as wide as those it was trained on ({spacing} mm), at the levels {list(patches.shrinks)}; intensities between the percentiles
{list(config.percentiles)} of the foreground scaled to 0 … 1, which the engine does.

## Data

{told["data"]}. Licence: {told["licence"]}. k = {told["pairs"]} aligned pairs; no person is in two parts.

{people}

## Training

{told["steps_done"]} steps of {config.batch} pairs of patches, seed {config.seed}; {config.architecture}, filters per layer
{list(config.channels)}.

    {told["command"]}

Versions: {versions}.

## Figures

{figures}

## Known failures

It has seen only images of the kind named above, healthy or ill as those were. On others it may have its best value away
from the alignment: look at it first with `regista metric-landscape`.
"""


def _figures(config: MetricConfig, found: Mapping[str, Any]) -> str:
    """Return what was found on held-out pairs, which chose the weights."""
    share, count, farthest = 100 * found["accuracy"], found["patches"], config.patches.farthest_vox
    if config.architecture == "features":
        return (
            f"{share:.1f} % of {count // 2} patches of held-out pairs, which chose the weights, were more alike to their own place "
            f"than to one 2 to {farthest:g} voxels away; contrastive loss {found['loss']:.3f}."
        )
    return (
        f"{share:.1f} % of {count} patches of held-out pairs, which chose the weights, told right (half of them aligned, half "
        f"shifted by 2 to {farthest:g} voxels); mean hinge loss {found['loss']:.3f}."
    )
