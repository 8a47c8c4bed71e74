"""The training loop of every network: each step is a function of the seed and its number, so that going on is exact."""

from __future__ import annotations

import contextlib
import contextvars
import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor

from regista.core import PlanError, Progress, ProgressCallback, RegistrationError, get_threads, threads
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
from regista.learning._metric_config import MetricConfig

_FLOOR = 0.02
"""Share of the learning rate that a cosine ends with."""
_MOST_MAKERS = 8
"""Threads that make batches ahead: as many batches wait in memory."""
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Crew:
    """The processes that train together; started under ``torchrun`` there are several.

    Each takes its share of every batch and gradients are averaged: the course is that of a single process with the
    whole batch, to rounding.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    def share(self, batch: int) -> range:
        """Return which members of a batch this process takes."""
        return range(self.rank, batch, self.size)

    def average(self, network: torch.nn.Module) -> None:
        """Add up gradients over the processes."""
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


def first_process() -> bool:
    """Tell whether this process writes files and speaks: of several started under ``torchrun`` only one does."""
    return not distributed.is_torchelastic_launched() or os.environ.get("RANK", "0") == "0"


def device_name(device: str) -> str:
    """Return what a card calls a device: a GPU's own name, or how many processors compute."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    if device == "cpu":
        return f"{get_threads()} CPU thread{'s' * (get_threads() > 1)}"
    return device


@contextlib.contextmanager
def crew(device: str, batch: int) -> Iterator[Crew]:
    """Give the processes that train together on batches of this size."""
    if not distributed.is_torchelastic_launched():
        yield Crew(device=device)
        return
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        size = distributed.get_world_size()
        if batch % size:
            raise PlanError(
                f"a batch of {batch} cannot be shared among {size} processes: make it a multiple of {size}"
            )
        yield Crew(distributed.get_rank(), size, device)
    finally:
        distributed.destroy_process_group()


@dataclass(frozen=True)
class Course:
    """How a training went.

    Parameters
    ----------
    steps : int
        Steps done, over all sessions.
    finished : bool
        False where the time was up before the last step.
    best : dict or None
        Validation of the weights kept.
    seconds, total_seconds : float
        Time spent in this session, and in all of them.
    devices : tuple of str
        What computed.
    start_sha256 : str or None
        Of the weights it began with, where they are another model's.
    """

    steps: int
    finished: bool
    best: dict[str, Any] | None
    seconds: float
    total_seconds: float
    devices: tuple[str, ...]
    start_sha256: str | None


class TrainingLoop(ABC, Generic[Batch]):
    """Steps, validation, checkpoints, log, early stop; what a step is, a kind of network says itself.

    Parameters
    ----------
    config : ModelConfig or MetricConfig
        Everything; a checkpoint in `folder` must have been made with the same.
    setup : TrainingConfig or MetricConfig
        Steps, learning rate, patience.
    network : Module
        With its first weights, on its device.
    optimizer : Optimizer
        Of `network`.
    folder : Path
        Where checkpoint, log and weights go.
    progress : callable
        Gets a `Progress` after every step; what it raises ends the training, after a checkpoint.
    crew : Crew
        The processes that train together.
    """

    def __init__(
        self,
        config: ModelConfig | MetricConfig,
        setup: TrainingConfig | MetricConfig,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        folder: Path,
        progress: ProgressCallback,
        crew: Crew,
    ) -> None:
        self.config, self.setup, self.network, self.optimizer = config, setup, network, optimizer
        self.folder, self.progress, self.crew = folder, progress, crew
        # beside a GPU several processors make batches, each one of its own; more of them would only take memory
        self.makers = 1 if crew.device == "cpu" else min(_MOST_MAKERS, max(1, get_threads() // crew.size))
        self.devices = [f"{crew.size} × " * (crew.size > 1) + device_name(crew.device)]
        self.step, self.stale = 0, 0
        self.whole = True  # whether the state is that between two steps
        self.data = ""  # tells one set of scans from another
        self.start_sha256: str | None = None  # of the weights it began with, where they are another model's
        self.began, self.spent = (
            time.monotonic(),
            0.0,
        )  # this session's begin, and the seconds of those before
        self.best: dict[str, Any] | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self.rows: list[dict[str, Any]] = []

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """Return this process's share of a step's batch; it is called ahead, in another thread or several."""

    @abstractmethod
    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Return what a step is logged by, of which ``loss`` is minimized."""

    @abstractmethod
    def validate(self) -> tuple[dict[str, Any], bool] | None:
        """Return what was found on scans held out, and whether it is better than `best`; None without such scans."""

    def begin(self) -> None:
        """Set what a training that does not go on begins with."""

    def also_logged(self) -> Mapping[str, Any]:
        """Return more columns of the log."""
        return {}

    def run(self, minutes: float | None, resume: bool) -> Course:
        """Train, or go on; leave the network with its best weights, else the last."""
        self.began = began = time.monotonic()
        if resume and (self.folder / CHECKPOINT).exists():
            self._restore()
        else:
            self.begin()
            if self.crew.rank == 0:
                (self.folder / CHECKPOINT).unlink(missing_ok=True)
        deadline = math.inf if minutes is None else began + 60 * minutes
        with ThreadPoolExecutor(self.makers) as ahead, _board(self.folder, self.crew.rank) as board:
            self._steps(ahead, began, deadline, board)
        self._save()
        if self.best_weights is not None:
            self.network.load_state_dict(self.best_weights)
        if self.crew.rank == 0:
            save_weights(self.folder / WEIGHTS, self.network.state_dict())
        self.network.eval()
        finished = self.step >= self.setup.steps or self._tired()
        seconds = time.monotonic() - began
        return Course(
            self.step,
            finished,
            self.best,
            seconds,
            self.spent + seconds,
            tuple(self.devices),
            self.start_sha256,
        )

    def _steps(
        self, ahead: ThreadPoolExecutor, began: float, deadline: float, board: Callable[..., None]
    ) -> None:
        steps, every = self.setup.steps, self.setup.validate_every
        totals: dict[str, float] = {}
        since = self.step
        first = range(self.step, min(self.step + self.makers, steps))
        waiting = deque(self._begun(ahead, step) for step in first)
        try:
            while self.step < steps and not self._tired():
                batch = waiting.popleft().result()
                self.whole = False
                if self.step + self.makers < steps:
                    waiting.append(self._begun(ahead, self.step + self.makers))
                for name, value in self._advance(batch).items():
                    totals[name] = totals.get(name, 0.0) + value
                self.step += 1
                up = self.crew.any(time.monotonic() > deadline)
                if self.step % every == 0 or self.step == steps:
                    means = {name: value / (self.step - since) for name, value in totals.items()}
                    self._look(means, self.spent + time.monotonic() - began, board)
                    totals, since = {}, self.step
                    self._save()
                self.whole = True
                self._report(totals, since)
                if up:
                    break
        except BaseException:
            # a step or a validation cut in half would be lost or done twice: the checkpoint before it stands
            if self.step and self.whole:
                self._save()
            raise
        finally:
            for batch_ahead in waiting:
                batch_ahead.cancel()

    def _begun(self, ahead: ThreadPoolExecutor, step: int) -> Future[Batch]:
        """Begin to make a batch in another thread, which is to obey this thread's number of threads."""

        def make() -> Batch:
            with threads(1 if self.makers > 1 else None):
                return self.batch(step)

        return ahead.submit(contextvars.copy_context().run, make)

    def _tired(self) -> bool:
        return bool(self.setup.patience) and self.stale >= self.setup.patience

    def _advance(self, batch: Batch) -> dict[str, float]:
        """Do one step; return the terms of the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.setup, self.step)
        terms = self.terms(batch)
        value = float(terms["loss"].detach())
        if self.crew.any(not math.isfinite(value)):
            raise RegistrationError(
                f"the loss became {value} at step {self.step}: lower the learning rate "
                f"(now {self.setup.learning_rate:g})"
            )
        self.optimizer.zero_grad(set_to_none=True)
        (terms["loss"] / self.crew.size).backward()
        self.crew.average(self.network)
        self.optimizer.step()
        return {name: float(term.detach()) for name, term in terms.items()}

    def _look(self, means: dict[str, float], seconds: float, board: Callable[..., None]) -> None:
        """Validate, keep the best weights, and log."""
        row: dict[str, Any] = {"step": self.step, "seconds": round(seconds, 1), **self.also_logged(), **means}
        looked = self.validate()
        if looked is not None:
            found, better = looked
            row |= {f"validation_{name}": value for name, value in found.items()}
            if better:
                self.best, self.stale = found, 0
                state = self.network.state_dict().items()
                self.best_weights = {name: value.detach().cpu().clone() for name, value in state}
            else:
                self.stale += 1
        self.rows.append(row)
        if self.crew.rank == 0:
            write_log(self.folder / LOG, self.rows)
            board(self.step, row)

    def _report(self, totals: dict[str, float], since: int) -> None:
        steps, every = self.setup.steps, self.setup.validate_every
        rounds = -(-steps // every)
        recent = totals.get("loss", math.nan) / max(self.step - since, 1)
        if not totals and self.rows:
            recent = self.rows[-1]["loss"]
        number = min((self.step - 1) // every, rounds - 1)
        self.progress(Progress("train", number, rounds, self.step, steps, recent, self.step / steps))

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
                "data": self.data,
                "seconds": self.spent + time.monotonic() - self.began,
                "devices": self.devices,
                "start_sha256": self.start_sha256,
            },
        )

    def _restore(self) -> None:
        state = load_checkpoint(self.folder / CHECKPOINT, self.config)
        if state.get("data", "") != self.data:
            raise PlanError(
                f"{self.folder / CHECKPOINT} belongs to a training on other scans: give the same scans to go on, or another "
                "folder (-o), or --restart"
            )
        self.spent = state.get("seconds", 0.0)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.stale = state["step"], state["stale"]
        self.best, self.best_weights, self.rows = state["best"], state["best_weights"], state["rows"]
        self.start_sha256 = state.get("start_sha256")
        now = [] if self.step >= self.setup.steps or self._tired() else self.devices
        self.devices = [*dict.fromkeys([*state.get("devices", []), *now])]


def learning_rate(setup: TrainingConfig | MetricConfig, step: int) -> float:
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
