"""The training loop: every step is a function of the seed and its number, so that going on is exact."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as distributed
from torch import Tensor

from regista.core import PlanError, Progress, ProgressCallback, RegistrationError, get_threads, silent
from regista.learning._checkpoint import (
    CHECKPOINT,
    LOG,
    WEIGHTS,
    load_checkpoint,
    save_checkpoint,
    save_weights,
    write_log,
)
from regista.learning._config import ModelConfig, TrainingConfig
from regista.learning._networks import RegistrationNetwork
from regista.learning._prepare import PreparedScans
from regista.learning._sources import Sample, Source
from regista.learning._validation import Scores, score

_FLOOR = 0.02
"""Share of the learning rate that a cosine ends with."""


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
    seconds : float
        Time spent in this session.
    """

    network: RegistrationNetwork
    steps: int
    finished: bool
    best: Scores | None
    seconds: float


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
        If the checkpoint is damaged or of another training, or labels are missing for a Dice loss.
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
    torch.set_num_threads(get_threads())
    folder.mkdir(parents=True, exist_ok=True)
    with _processes(device) as crew:
        return _Training(config, source, folder, validation, progress, device, crew).run(minutes, resume)


@dataclass(frozen=True)
class _Crew:
    """The processes that train together."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    def average(self, network: torch.nn.Module) -> None:
        if self.size == 1:
            return
        for weight in network.parameters():
            if weight.grad is not None:
                distributed.all_reduce(weight.grad)

    def any(self, flag: bool) -> bool:
        """Tell whether any process says yes: all must leave the loop at the same step."""
        if self.size == 1:
            return flag
        vote = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(vote)
        return bool(vote > 0)


@contextlib.contextmanager
def _processes(device: str) -> Iterator[_Crew]:
    if not distributed.is_torchelastic_launched():
        yield _Crew()
        return
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield _Crew(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()


class _Training:
    def __init__(
        self,
        config: ModelConfig,
        source: Source,
        folder: Path,
        validation: PreparedScans | None,
        progress: ProgressCallback,
        device: str,
        crew: _Crew,
    ) -> None:
        self.config, self.source, self.folder = config, source, folder
        self.validation, self.progress, self.device, self.crew = validation, progress, device, crew
        if config.training.batch % crew.size:
            raise PlanError(
                f"a batch of {config.training.batch} cannot be shared among {crew.size} processes: make it a multiple"
            )
        torch.manual_seed(config.training.seed)
        self.network = config.network.build().to(device)
        if device != "cpu":
            self.network.to(memory_format=_layout(config.network.ndim))
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.training.learning_rate)
        self.step, self.stale = 0, 0
        self.best: dict[str, Any] | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self.rows: list[dict[str, Any]] = []

    def run(self, minutes: float | None, resume: bool) -> TrainingResult:
        began = time.monotonic()
        setup = self.config.training
        if resume and (self.folder / CHECKPOINT).exists():
            self._restore()
        elif self.crew.rank == 0:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        deadline = math.inf if minutes is None else began + 60 * minutes
        totals: dict[str, float] = {}
        since, up = self.step, False
        with ThreadPoolExecutor(1) as ahead, _board(self.folder, self.crew.rank) as board:
            following = ahead.submit(self._batch, self.step)
            try:
                while self.step < setup.steps and not self._tired():
                    samples = following.result()
                    if self.step + 1 < setup.steps:
                        following = ahead.submit(self._batch, self.step + 1)
                    for name, value in self._advance(samples).items():
                        totals[name] = totals.get(name, 0.0) + value
                    self.step += 1
                    last = self.step == setup.steps
                    up = self.crew.any(time.monotonic() > deadline)
                    if self.step % setup.validate_every == 0 or last:
                        means = {name: v / (self.step - since) for name, v in totals.items()}
                        self._validate(means, time.monotonic() - began, board)
                        totals, since = {}, self.step
                        self._save()
                    self._report(totals, since)
                    if up:
                        break
            except BaseException:
                following.cancel()
                if self.step:
                    self._save()
                raise
        self._save()
        if self.best_weights is not None:
            self.network.load_state_dict(self.best_weights)
        if self.crew.rank == 0:
            save_weights(self.folder / WEIGHTS, self.network.state_dict())
        return TrainingResult(
            network=self.network.eval(),
            steps=self.step,
            finished=self.step >= setup.steps or self._tired(),
            best=None if self.best is None else Scores(**self.best),
            seconds=time.monotonic() - began,
        )

    def _tired(self) -> bool:
        patience = self.config.training.patience
        return bool(patience) and self.stale >= patience

    def _batch(self, step: int) -> list[Sample]:
        """Return this process's share of a step's pairs."""
        setup = self.config.training
        mine = range(self.crew.rank, setup.batch, self.crew.size)
        return [self.source.sample(np.random.default_rng([setup.seed, step, n])) for n in mine]

    def _advance(self, samples: list[Sample]) -> dict[str, float]:
        """Do one step of Adam; return the terms of the loss."""
        setup = self.config.training
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(setup, self.step)
        mine = range(self.crew.rank, setup.batch, self.crew.size)
        seeds = (setup.seed * 1_000_003 + self.step * setup.batch + n for n in mine)
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        fixed, moving = (
            torch.from_numpy(np.stack([getattr(s, role) for s in samples])[:, None]).to(self.device)
            for role in ("fixed", "moving")
        )
        labels = None
        if self.source.code_count and samples[0].fixed_codes is not None:
            here, there = (
                torch.from_numpy(np.stack([getattr(s, role) for s in samples])[:, None]).to(self.device)
                for role in ("fixed_codes", "moving_codes")
            )
            labels = (here, there, self.source.code_count)
        loss, network = self.config.loss, self.network
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=setup.bf16):
            motion = network(moving, fixed, noise, backwards=loss.bidirectional)
        terms = loss(motion, fixed, moving, self.config.inputs.spacing_mm, labels)
        value = float(terms["loss"].detach())
        if self.crew.any(not math.isfinite(value)):
            raise RegistrationError(
                f"the loss became {value} at step {self.step}: lower the learning rate (now {setup.learning_rate:g})"
            )
        self.optimizer.zero_grad(set_to_none=True)
        (terms["loss"] / self.crew.size).backward()
        self.crew.average(network)
        self.optimizer.step()
        return {name: float(term.detach()) for name, term in terms.items()}

    def _validate(self, means: dict[str, float], seconds: float, board: Callable[..., None]) -> None:
        row: dict[str, Any] = {"step": self.step, "seconds": round(seconds, 1), **means}
        if self.validation is not None and self.validation.pairs:
            spacing = self.config.inputs.spacing_mm
            found = score(self.network, self.validation, self.config.loss, spacing, device=self.device)
            row |= {f"validation_{name}": v for name, v in asdict(found).items() if name != "pairs"}
            if self.best is None or found.better > Scores(**self.best).better:
                self.best, self.stale = asdict(found), 0
                self.best_weights = {
                    name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()
                }
            else:
                self.stale += 1
        self.rows.append(row)
        if self.crew.rank == 0:
            write_log(self.folder / LOG, self.rows)
            board(self.step, row)

    def _report(self, totals: dict[str, float], since: int) -> None:
        setup = self.config.training
        rounds = -(-setup.steps // setup.validate_every)
        recent = totals.get("loss", math.nan) / max(self.step - since, 1)
        if not totals and self.rows:
            recent = self.rows[-1]["loss"]
        number = min((self.step - 1) // setup.validate_every, rounds - 1)
        fraction = self.step / setup.steps
        self.progress(Progress("train", number, rounds, self.step, setup.steps, recent, fraction))

    def _save(self) -> None:
        if self.crew.rank:
            return
        save_checkpoint(
            self.folder / CHECKPOINT,
            {
                "config": json.dumps(self.config.to_dict()),
                "step": self.step,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "best_weights": self.best_weights,
                "rows": self.rows,
                "stale": self.stale,
            },
        )

    def _restore(self) -> None:
        state = load_checkpoint(self.folder / CHECKPOINT, self.config)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.stale = state["step"], state["stale"]
        self.best, self.best_weights, self.rows = state["best"], state["best_weights"], state["rows"]


def learning_rate(setup: TrainingConfig, step: int) -> float:
    """Return the rate of a step.

    Examples
    --------
    >>> setup = TrainingConfig(steps=100, learning_rate=1e-3)
    >>> learning_rate(setup, 0), round(learning_rate(setup, 50), 5)
    (0.001, 0.00051)
    """
    if setup.schedule == "constant":
        return setup.learning_rate
    wave = 0.5 * (1 + math.cos(math.pi * step / setup.steps))
    return setup.learning_rate * (_FLOOR + (1 - _FLOOR) * wave)


def _layout(ndim: int) -> torch.memory_format:
    return cast(torch.memory_format, torch.channels_last_3d if ndim == 3 else torch.channels_last)


@contextlib.contextmanager
def _board(folder: Path, rank: int) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """Give a function that writes a row for TensorBoard, where that is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        SummaryWriter = None
    if SummaryWriter is None or rank:
        yield lambda step, row: None
        return
    writer = SummaryWriter(str(folder / "tensorboard"))

    def note(step: int, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and isinstance(value, float) and math.isfinite(value):
                writer.add_scalar(name, value, step)
        writer.flush()

    try:
        yield note
    finally:
        writer.close()
