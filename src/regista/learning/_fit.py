"""From a list of scans to a model's folder: one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from regista.core import PlanError, ProgressCallback, silent
from regista.io import write_text
from regista.learning._card import CardFacts, Provenance, card_text, picture_text, settings_of
from regista.learning._checkpoint import CARD, PICTURES, WEIGHTS, file_hash, write_settings
from regista.learning._config import ModelConfig
from regista.learning._data import Dataset
from regista.learning._device import local_device
from regista.learning._loop import first_process
from regista.learning._pictures import write_pictures
from regista.learning._prepare import Align, PreparedScans, prepare_scans, reference_grid
from regista.learning._sources import PairSource, Source
from regista.learning._train import TrainingResult, train
from regista.learning._validation import Scores, score

_COMPANY = 3
"""People who train and whom one who validates, or tests, all alone is registered with."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Scans of every part of the data, on the grid of the network.

    Parameters
    ----------
    train, validation, test : PreparedScans or None
        None where a part is empty.
    config : ModelConfig
        With the shape settled.
    """

    train: PreparedScans
    validation: PreparedScans | None
    test: PreparedScans | None
    config: ModelConfig


def prepare_parts(
    dataset: Dataset,
    subjects: dict[str, list[str]],
    config: ModelConfig,
    align: Align | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
    *,
    trains_on_shapes: bool = False,
    synthetic: bool = False,
) -> Parts:
    """Read and prepare all scans, before any training.

    Parameters
    ----------
    dataset : Dataset
        All scans.
    subjects : dict
        Names by part, from `split_subjects`.
    config : ModelConfig
        The model; a shape that it lacks is found.
    align : callable, optional
        Finds the linear map between two scans.
    report : callable
        Gets the number of scans done and of all.
    trains_on_shapes : bool
        Pairs will be made up from random shapes: the loss then needs no labels of the scans.
    synthetic : bool
        Images will be made up: the loss then needs none of the scans.

    Raises
    ------
    PlanError
        If the loss needs labels that some scan lacks, or images where label maps alone are listed.
    FormatError, GeometryError
        If a scan cannot be used.
    """
    if config.loss.similarity_weight and not synthetic and dataset.of(subjects["train"]).maps_alone:
        raise PlanError(
            "the loss compares images, and label maps are listed without them: list the images in the column image, or "
            "train by --synthesis labels (in Python similarity_weight=0, or synthetic=True and a source with targets)"
        )
    needed = config.loss.dice_weight and not trains_on_shapes
    if needed and not dataset.of(subjects["train"]).labelled:
        bare = [scan for scan in dataset.of(subjects["train"]).scans if scan.labels is None]
        raise PlanError(
            f"the loss has a Dice term (dice_weight {config.loss.dice_weight:g}) and {bare[0].image} has no labels ({len(bare)} of the "
            "scans to train on have none): list them in the column labels (of listed pairs fixed_labels and moving_labels; of a folder "
            "give --labels), or leave the term out (--labels-weight)"
        )
    inside = dataset.of(subjects["train"])
    reference, grid = reference_grid(inside, config.inputs, config.network.sizes.factor)
    config = config.with_shape(grid.shape)
    wanted_by: dict[str, tuple[Dataset, bool]] = {}
    for part, names in subjects.items():
        alone = dataset.pairs is None and len(names) == 1 and part != "train"
        wanted_by[part] = dataset.of([*names, *subjects["train"][:_COMPANY]] if alone else names), alone
    total, done = sum(len(wanted.scans) for wanted, _ in wanted_by.values()), 0
    prepared: dict[str, PreparedScans | None] = {}
    for part, names in subjects.items():
        wanted, alone = wanted_by[part]
        if not wanted.scans:
            prepared[part] = None
            continue
        found = prepare_scans(
            wanted, config.inputs, reference, align, partial(_report_part, report, done, total)
        )
        if alone:
            own = {n for n, name in enumerate(found.subjects) if name == names[0]}
            found = replace(found, pairs=tuple(pair for pair in found.pairs if own & set(pair)))
        prepared[part] = found
        done += len(wanted.scans)
    training = prepared["train"]
    assert training is not None

    def with_pairs(part: str) -> PreparedScans | None:
        scans = prepared.get(part)
        return None if scans is None or not scans.pairs else scans

    return Parts(training, with_pairs("validation"), with_pairs("test"), config)


def _report_part(report: Callable[[int, int], None], before: int, total: int, done: int, _: int) -> None:
    report(before + done, total)


def fit(
    parts: Parts,
    folder: Path,
    origin: Provenance,
    *,
    source: Source | None = None,
    minutes: float | None = None,
    resume: bool = True,
    progress: ProgressCallback = silent,
    device: str = "cpu",
) -> tuple[TrainingResult, Scores | None]:
    """Train, measure on the test part, and write the model's folder.

    Parameters
    ----------
    parts : Parts
        Prepared scans.
    folder : Path
        Where the model goes; a training begun there is gone on with.
    origin : Provenance
        For the model card.
    source : Source, optional
        Where pairs come from (default: the training part).
    minutes, resume, progress, device
        As in `train`.

    Returns
    -------
    result : TrainingResult
        How the training ended.
    test : Scores or None
        Measured on the test part.
    """
    config, device = parts.config, local_device(device)
    if source is None:
        # labels that no term of the loss asks for are not carried along
        scans = parts.train if config.loss.dice_weight else replace(parts.train, codes=None, values=())
        source = PairSource(scans, config.training.augmentation)
    result = train(
        config,
        source,
        folder,
        validation=parts.validation,
        minutes=minutes,
        resume=resume,
        progress=progress,
        device=device,
    )
    test = None
    if parts.test is not None:
        test = score(result.network, parts.test, config.loss, config.inputs.spacing_mm, device=device)
    if not first_process():
        return result, test
    facts = CardFacts(
        result.steps,
        result.total_seconds,
        result.devices,
        result.best,
        test,
        result.start_sha256,
        result.finished,
    )
    pictures = ""
    for name, part in {"test": parts.test, "validation": parts.validation, "training": parts.train}.items():
        if part is not None and part.pairs:
            longest = write_pictures(folder / PICTURES, result.network, part, device=device)
            pictures = picture_text(name, longest)
            break
    write_text(folder / CARD, card_text(folder.resolve().name, config, origin, facts, pictures))
    write_settings(folder, config, file_hash(folder / WEIGHTS), settings_of(origin, facts))
    return result, test
