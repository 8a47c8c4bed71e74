"""The model card: what a model is, in words for those who want to use it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

from regista.core import software_versions
from regista.learning._checkpoint import PICTURES
from regista.learning._config import ModelConfig
from regista.learning._pictures import COLUMNS
from regista.learning._validation import Scores


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a model comes from.

    Parameters
    ----------
    data, licence : str
        What it was trained on, and on which terms.
    command : str
        How to make it again.
    subjects : mapping of str to sequence of str
        Names of the subjects by part.
    alignment : str
        How scans were brought near each other: 'affine', 'rigid' or 'none'.
    failures : str
        Failures that are known.
    purpose : str
        Which images it is for, in a few words: 'stripped brains of any contrast'.
    before : str
        Trainings before this one, whose weights it began with.
    passes : int
        In how many passes at most it registers, see `RegistrationModel.predict`.
    """

    data: str
    licence: str = "not stated"
    command: str = ""
    subjects: Mapping[str, Sequence[str]]
    alignment: str = "affine"
    failures: str = ""
    purpose: str = ""
    before: str = ""
    passes: int = 1


class CardFacts(NamedTuple):
    """What a card says of a training: steps and seconds in all, what computed, and what was measured on scans held out.

    `start_sha256` is that of the weights it began with, where they are another model's; `finished` is False where the time was
    up before the last step.
    """

    steps: int
    seconds: float
    devices: Sequence[str]
    validation: Scores | None
    test: Scores | None
    start_sha256: str | None = None
    finished: bool = True


def _told(value: Any) -> str:
    """Return a setting of the loss in words: a term by its name with its settings."""
    if isinstance(value, list):
        return "none" if not value else " + ".join(map(_told, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, dict):
        return "none" if value is None else str(value)
    settings = ", ".join(f"{key} {_told(one)}" for key, one in value.items() if key != "name")
    return f"{value['name']}{f' ({settings})' if settings else ''}"


def training_versions() -> dict[str, str]:
    """Return the versions that can change what is learned."""
    return {**software_versions(), "torch": metadata.version("torch")}


def _passes_told(passes: int) -> str:
    return (
        "one pass"
        if passes == 1
        else f"up to {passes} passes, each kept as far as the images become more alike by it"
    )


def _figures(scores: Scores | None) -> str:
    if scores is None:
        return "not measured: no subjects were held out."
    lines = [
        f"{scores.pairs} pair{'s' * (scores.pairs != 1)}, on the grid of the network, in one pass, linear alignment only → with the model:",
        "",
    ]
    if math.isfinite(scores.dice):
        lines.append(f"- mean Dice of the labels: {scores.dice_before:.3f} → {scores.dice:.3f}")
    lines += [
        f"- mean squared local correlation (radius 4 voxels) after: {scores.lncc:.3f}",
        f"- folded voxels: {scores.folded_percent:.4f} %",
    ]
    return "\n".join(lines)


def card_text(
    name: str,
    config: ModelConfig,
    origin: Provenance,
    facts: CardFacts,
    pictures: str = "",
) -> str:
    """Return the model card as Markdown."""
    steps, seconds, devices, validation, test, start_sha256, finished = facts
    network, inputs = config.network, config.inputs
    kind = "displacement"
    if network.diffeomorphic:
        kind = "stationary velocity, integrated by scaling and squaring"
        kind += ", with its variance" if network.probabilistic else ""
    held = {part: names for part, names in origin.subjects.items() if names}
    subjects = "\n".join(f"- {part}: {len(names)} ({', '.join(names)})" for part, names in held.items())
    steps_mm = " × ".join(f"{s:g}" for s in inputs.spacing_mm)
    versions = ", ".join(f"{key} {value}" for key, value in training_versions().items())
    begun = f"the weights of {config.training.start}" if config.training.start else "random weights"
    if start_sha256:
        begun += f" (SHA-256 {start_sha256})"
    loss = ", ".join(f"`{key}` {_told(value)}" for key, value in config.loss.to_dict().items())
    pairs = f"{config.training.batch} pair{'s' * (config.training.batch > 1)}"
    if finished:
        done = f"{steps} steps of {pairs}"
    else:
        done = f"**Not finished**: the time was up after {steps} of {config.training.steps} steps of {pairs}, and the same command goes on"
    return f"""# {name}

A network that registers two {network.ndim}-D images in {_passes_told(origin.passes)}: {network.name} ({network.sizes.source}), estimating a
{kind}{" at half resolution" if network.half_resolution else ""}.{f" For {origin.purpose}." if origin.purpose else ""}

    regista register FIXED MOVING -o OUT --model {name}

## Images it wants

Voxels of {steps_mm} mm, trained at {" × ".join(map(str, inputs.shape))}; intensities between the percentiles
{list(inputs.percentiles)} scaled to 0 … 1; moving images aligned by: {origin.alignment}. `regista register` does all of this.

## Data

{origin.data}. Licence: {origin.licence}. No person is in two parts.

{subjects}

## Training

{done}. {seconds / 60:.1f} minutes in all by {" and ".join(devices) or "a device not recorded"}, seed
{config.training.seed}, from {begun}. Loss: {loss}.

    {origin.command}

{origin.before + 2 * chr(10) if origin.before else ""}Versions: {versions}.

## Figures

Validation (used to choose the weights): {_figures(validation)}

Test (never used in training): {_figures(test)}

{pictures}## Known failures

{origin.failures or "None recorded. It has seen only images of the kind named above: others, other contrasts above all, may go wrong without a sign. Look at the result."}
"""


def picture_text(part: str, longest_vox: float) -> str:
    """Return the section of the card that shows pairs of a part of the data."""
    return f"""## Pictures

![Pairs of the {part} part, one per row]({PICTURES})

Pairs of the {part} part, one per row: {", ".join(COLUMNS)} (white: {longest_vox:.1f} voxels). Grey is no difference.

"""


def settings_of(origin: Provenance, facts: CardFacts) -> dict[str, Any]:
    """Return what ``model.json`` holds besides the configuration."""
    steps, seconds, devices, validation, test, start_sha256, finished = facts

    def plain(scores: Scores | None) -> dict[str, Any] | None:
        if scores is None:
            return None
        return {k: v if math.isfinite(v) else None for k, v in vars(scores).items()}

    return {
        "purpose": origin.purpose,
        "data": origin.data,
        "licence": origin.licence,
        "command": origin.command,
        "before": origin.before,
        "start_sha256": start_sha256,
        "alignment": origin.alignment,
        "passes": origin.passes,
        "subjects": {part: list(names) for part, names in origin.subjects.items()},
        "steps_done": steps,
        "finished": finished,
        "seconds": round(seconds, 1),
        "devices": list(devices),
        "validation": plain(validation),
        "test": plain(test),
        "versions": training_versions(),
    }
