"""Training of a metric: every step is a function of the seed and its number, so that going on is exact."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regista.core import PlanError, Progress, ProgressCallback, RegistrationError, silent
from regista.learning._checkpoint import (
    CHECKPOINT,
    LOG,
    WEIGHTS,
    load_checkpoint,
    save_checkpoint,
    save_weights,
    write_log,
)
from regista.learning._metric_config import MetricConfig
from regista.learning._metric_data import AlignedPair
from regista.learning._metric_patches import PatchSource
from regista.similarity import patch_network

_FLOOR = 0.02
"""Share of the learning rate that the cosine ends with."""
_HELD_OUT = 512
"""Pairs of patches that accuracy is measured on; they are the same at every look."""
_HELD_OUT_NEAREST_VOX = 2.0
"""Least shift of their negatives."""
Patches = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class MetricScores:
    """How well a network tells aligned patches of held-out pairs from others shifted by 2 voxels or more.

    Parameters
    ----------
    accuracy : float
        Share of patches on the right side of 0.
    loss : float
        Mean hinge loss.
    patches : int
        How many were looked at.
    """

    accuracy: float
    loss: float
    patches: int


@dataclass(frozen=True, kw_only=True)
class MetricTraining:
    """How a training ended.

    Parameters
    ----------
    network : PatchNetwork
        With the weights of least loss on held-out pairs, else the last.
    steps : int
        Steps done, over all sessions.
    finished : bool
        False where the time was up before the last step: call again to go on.
    best : MetricScores or None
        Held-out figures of the weights kept.
    seconds : float
        Time spent in this session.
    """

    network: Any
    steps: int
    finished: bool
    best: MetricScores | None
    seconds: float


def train_metric(
    config: MetricConfig,
    pairs: Sequence[AlignedPair],
    folder: Path,
    *,
    held_out: Sequence[AlignedPair] = (),
    minutes: float | None = None,
    resume: bool = True,
    progress: ProgressCallback = silent,
    device: str = "cpu",
) -> MetricTraining:
    """Train a metric on aligned pairs, or go on with a training that was interrupted.

    The loss is ``max(0, 1 − y N(X))`` for patches X with y = 1 where they are aligned and −1 elsewhere (Simonovsky
    2016), by Adam.

    Parameters
    ----------
    config : MetricConfig
        Everything; a checkpoint in `folder` must have been made with the same.
    pairs : sequence of AlignedPair
        What to learn from; at least one.
    folder : Path
        Where checkpoint, log and weights go.
    held_out : sequence of AlignedPair
        Pairs of other people, to measure on and to choose the best weights by.
    minutes : float, optional
        Stop, with a checkpoint, once so many minutes have passed in this session.
    resume : bool
        Go on from the checkpoint in `folder`, if there is one.
    progress : callable
        Gets a `Progress` after every step; what it raises ends the training, after a checkpoint.
    device : str
        'cpu' or 'cuda'.

    Raises
    ------
    PlanError
        If there are no pairs, or the checkpoint is of another training.
    FormatError
        If the checkpoint is damaged.
    RegistrationError
        If the loss becomes NaN or infinite.
    """
    if not pairs:
        raise PlanError("a metric learns from aligned pairs, and there are none (k = 0): give one at least")
    folder.mkdir(parents=True, exist_ok=True)
    with patch_network().torch_threads():
        return _Training(config, pairs, folder, held_out, progress, device).run(minutes, resume)


class _Training:
    def __init__(
        self,
        config: MetricConfig,
        pairs: Sequence[AlignedPair],
        folder: Path,
        held_out: Sequence[AlignedPair],
        progress: ProgressCallback,
        device: str,
    ) -> None:
        self.config, self.folder, self.progress, self.device = config, folder, progress, device
        self.source = PatchSource(pairs, config)
        self.held_out: Patches | None = None
        if held_out:
            rng = np.random.default_rng([config.seed, 1])
            self.held_out = PatchSource(held_out, config).batch(rng, _HELD_OUT, _HELD_OUT_NEAREST_VOX)
        torch.manual_seed(config.seed)
        self.network = patch_network().PatchNetwork(config.ndim, config.channels).to(device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.decay
        )
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self.rows: list[dict[str, Any]] = []

    def run(self, minutes: float | None, resume: bool) -> MetricTraining:
        began = time.monotonic()
        if resume and (self.folder / CHECKPOINT).exists():
            self._restore()
        else:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        deadline = math.inf if minutes is None else began + 60 * minutes
        steps, losses, hits = self.config.steps, [], []
        with ThreadPoolExecutor(1) as ahead:
            following = ahead.submit(self._draw, self.step)
            try:
                while self.step < steps:
                    patches = following.result()
                    following = ahead.submit(self._draw, min(self.step + 1, steps - 1))
                    loss, accuracy = self._advance(patches)
                    losses.append(loss)
                    hits.append(accuracy)
                    self.step += 1
                    if self.step % self.config.validate_every == 0 or self.step == steps:
                        self._look(float(np.mean(losses)), float(np.mean(hits)), time.monotonic() - began)
                        losses, hits = [], []
                        self._save()
                    self.progress(Progress("train", 0, 1, self.step, steps, loss, self.step / steps))
                    if time.monotonic() > deadline:
                        break
            except BaseException:
                following.cancel()
                if self.step:
                    self._save()
                raise
        self._save()
        if self.best_weights is not None:
            self.network.load_state_dict(self.best_weights)
        save_weights(self.folder / WEIGHTS, self.network.state_dict())
        return MetricTraining(
            network=self.network.eval(),
            steps=self.step,
            finished=self.step >= steps,
            best=None if self.best is None else MetricScores(**self.best),
            seconds=time.monotonic() - began,
        )

    def _draw(self, step: int) -> Patches:
        config = self.config
        rng = np.random.default_rng([config.seed, 0, step])
        return self.source.batch(rng, config.batch, config.patches.nearest_at(step / config.steps))

    def _advance(self, patches: Patches) -> tuple[float, float]:
        """Do one step; return its loss and the share of patches told right."""
        rate = 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * (_FLOOR + (1 - _FLOOR) * rate)
        scores, target = self._scores(patches)
        loss = hinge(scores, target)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RegistrationError(
                f"the loss became {value} at step {self.step}: lower the learning rate "
                f"(now {self.config.learning_rate:g})"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return value, float(((scores.detach() * target) > 0).float().mean())

    def _scores(self, patches: Patches) -> tuple[Tensor, Tensor]:
        images, target = (torch.from_numpy(one).to(self.device) for one in patches)
        return self.network(images).reshape(len(target)), target

    @torch.no_grad()
    def _look(self, loss: float, accuracy: float, seconds: float) -> None:
        """Measure on held-out patches, keep the best weights, and log."""
        row: dict[str, Any] = {
            "step": self.step,
            "seconds": round(seconds, 1),
            "nearest_vox": self.config.patches.nearest_at((self.step - 1) / self.config.steps),
            "loss": loss,
            "accuracy": accuracy,
        }
        if self.held_out is not None:
            scores, target = self._scores(self.held_out)
            found = {
                "accuracy": float(((scores * target) > 0).float().mean()),
                "loss": float(hinge(scores, target)),
                "patches": len(target),
            }
            row |= {"held_out_loss": found["loss"], "held_out_accuracy": found["accuracy"]}
            if self.best is None or found["loss"] < self.best["loss"]:
                self.best = found
                state = self.network.state_dict().items()
                self.best_weights = {name: value.detach().cpu().clone() for name, value in state}
        self.rows.append(row)
        write_log(self.folder / LOG, self.rows)

    def _save(self) -> None:
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
                "stale": 0,
            },
        )

    def _restore(self) -> None:
        state = load_checkpoint(self.folder / CHECKPOINT, self.config)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.rows = state["step"], state["rows"]
        self.best, self.best_weights = state["best"], state["best_weights"]


def hinge(scores: Tensor, target: Tensor) -> Tensor:
    """Return the mean of ``max(0, 1 − y s)``.

    Examples
    --------
    >>> float(hinge(torch.tensor([2.0, 0.5]), torch.tensor([1.0, -1.0])))
    0.75
    """
    return torch.clamp(1 - target * scores, min=0).mean()
