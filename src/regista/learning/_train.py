"""Training of a network that registers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from regista.core import PlanError, ProgressCallback, get_threads, silent
from regista.learning._checkpoint import file_hash
from regista.learning._config import ModelConfig
from regista.learning._device import local_device
from regista.learning._loop import Crew, TrainingLoop, crew
from regista.learning._networks import RegistrationNetwork
from regista.learning._prepare import PreparedScans
from regista.learning._sources import Sample, Source
from regista.learning._start import start_file, start_weights
from regista.learning._validation import Scores, score


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a training ended.

    Parameters
    ----------
    network : RegistrationNetwork
        With the best weights of those validated, else the last.
    steps : int
        Steps done, over all sessions.
    finished : bool
        False where the time was up before the last step: call again to go on.
    best : Scores or None
        Validation of the weights kept.
    seconds, total_seconds : float
        Time spent in this session, and in all of them, validation included.
    devices : tuple of str
        What computed: a GPU's name, or a number of CPU threads.
    start_sha256 : str or None
        Of the weights it began with, where they are another model's.
    """

    network: RegistrationNetwork
    steps: int
    finished: bool
    best: Scores | None
    seconds: float
    total_seconds: float
    devices: tuple[str, ...]
    start_sha256: str | None = None


def train(
    config: ModelConfig,
    source: Source,
    folder: Path,
    *,
    validation: PreparedScans | None = None,
    minutes: float | None = None,
    resume: bool = True,
    progress: ProgressCallback = silent,
    device: str = "cpu",
) -> TrainingResult:
    """Train a network, or go on with a training that was interrupted.

    Parameters
    ----------
    config : ModelConfig
        Everything; a checkpoint in `folder` must have been made with the same.
    source : Source
        Gives the pairs.
    folder : Path
        Where checkpoint, log and weights go.
    validation : PreparedScans, optional
        Scans to choose the best weights by, and to stop early on.
    minutes : float, optional
        Stop, with a checkpoint, once so many minutes have passed in this session.
    resume : bool
        Go on from the checkpoint in `folder`, if there is one.
    progress : callable
        Gets a `Progress` after every step; what it raises ends the training, after a checkpoint.
    device : str
        'cpu', 'cuda', …

    Returns
    -------
    TrainingResult
        The network and how it went.

    Raises
    ------
    FormatError, PlanError
        If the checkpoint is damaged or of another training, labels are missing for a Dice loss, images are not `comparable`
        and the loss compares them, or displacements are not known and the loss asks for them.
    RegistrationError
        If the loss becomes NaN or infinite.

    Notes
    -----
    Started under ``torchrun``, each process takes its share of every batch and gradients are averaged: the course is
    that of a single process with the whole batch, to rounding.
    """
    if config.loss.dice_weight and not source.code_count:
        raise PlanError(
            "the loss has a Dice term (dice_weight > 0) and not every scan has labels: list them, or set it to 0"
        )
    if config.loss.similarity_weight and not source.comparable:
        raise PlanError(
            f"the loss compares images by {config.loss.similarity.name}, and those made up are of two contrasts: make them with "
            "targets=True, or set similarity_weight to 0"
        )
    if config.loss.endpoint_weight and not source.knows_displacement:
        raise PlanError(
            "the loss has an end-point error (endpoint_weight > 0), and no displacement is known of these pairs: make images up from "
            "label maps, not all across two of them, or set it to 0"
        )
    torch.set_num_threads(get_threads())
    device = local_device(device)
    folder.mkdir(parents=True, exist_ok=True)
    with crew(device, config.training.batch) as processes, _tuned():
        training = _Training(config, source, folder, validation, progress, device, processes)
        course = training.run(minutes, resume)
    return TrainingResult(
        network=training.network,
        steps=course.steps,
        finished=course.finished,
        best=None if course.best is None else Scores(**course.best),
        seconds=course.seconds,
        total_seconds=course.total_seconds,
        devices=course.devices,
        start_sha256=course.start_sha256,
    )


@contextlib.contextmanager
def _tuned() -> Iterator[None]:
    """Let a graphics card look for the fastest convolutions: every step has the same sizes."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class _Training(TrainingLoop[list[Sample]]):
    network: RegistrationNetwork

    def __init__(
        self,
        config: ModelConfig,
        source: Source,
        folder: Path,
        held_out: PreparedScans | None,
        progress: ProgressCallback,
        device: str,
        processes: Crew,
    ) -> None:
        self.model, self.source, self.held_out, self.device = config, source, held_out, device
        torch.manual_seed(config.training.seed)
        network = config.network.build().to(device)
        network.to(memory_format=_layout(config.network.ndim))
        # a graphics card waits for many small steps longer than for few large ones
        network.body.folded = device == "cpu"
        optimizer = torch.optim.Adam(network.parameters(), lr=config.training.learning_rate)
        super().__init__(config, config.training, network, optimizer, folder, progress, processes)
        self.data = source.fingerprint

    def begin(self) -> None:
        weights = start_weights(self.model)
        if weights is not None:
            self.network.load_state_dict(weights)
            self.start_sha256 = file_hash(start_file(cast(str, self.model.training.start)))

    def batch(self, step: int) -> list[Sample]:
        setup = self.model.training
        mine = self.crew.share(setup.batch)
        return [self.source.sample(np.random.default_rng([setup.seed, step, n])) for n in mine]

    def terms(self, batch: list[Sample]) -> dict[str, Tensor]:
        setup, loss = self.model.training, self.model.loss
        mine = self.crew.share(setup.batch)
        seeds = (setup.seed * 1_000_003 + self.step * setup.batch + n for n in mine)
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        fixed, moving = self._stacked(batch, "fixed", "moving")
        labels = None
        if self.source.code_count and batch[0].fixed_codes is not None:
            labels = (*self._stacked(batch, "fixed_codes", "moving_codes"), self.source.code_count)
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=setup.bf16):
            motion = self.network(moving, fixed, noise, backwards=loss.bidirectional)
        if batch[0].fixed_target is not None:
            fixed, moving = self._stacked(batch, "fixed_target", "moving_target")
        known = [
            None if (one := sample.known_vox) is None else torch.from_numpy(one).to(self.device)
            for sample in batch
        ]
        return loss(motion, fixed, moving, self.model.inputs.spacing_mm, labels, known)

    def _stacked(self, batch: list[Sample], first: str, second: str) -> tuple[Tensor, Tensor]:
        one, other = (
            torch.from_numpy(np.stack([getattr(sample, role) for sample in batch])[:, None]).to(self.device)
            for role in (first, second)
        )
        return one, other

    def validate(self) -> tuple[dict[str, Any], bool] | None:
        if self.held_out is None or not self.held_out.pairs:
            return None
        spacing = self.model.inputs.spacing_mm
        found = score(self.network, self.held_out, self.model.loss, spacing, device=self.device)
        return asdict(found), self.best is None or found.better > Scores(**self.best).better


def _layout(ndim: int) -> torch.memory_format:
    return cast(torch.memory_format, torch.channels_last_3d if ndim == 3 else torch.channels_last)
