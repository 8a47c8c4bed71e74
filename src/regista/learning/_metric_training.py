"""Training of a metric on patches of aligned pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regista.core import PlanError, ProgressCallback, silent
from regista.learning._loop import Crew, TrainingLoop, crew
from regista.learning._metric_config import MetricConfig
from regista.learning._metric_data import AlignedPair
from regista.learning._metric_patches import PatchSource
from regista.similarity import patch_network

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
    with patch_network().torch_threads(), crew(device, config.batch) as processes:
        training = _Training(config, pairs, folder, held_out, progress, device, processes)
        course = training.run(minutes, resume)
    return MetricTraining(
        network=training.network,
        steps=course.steps,
        finished=course.finished,
        best=None if course.best is None else MetricScores(**course.best),
        seconds=course.seconds,
    )


class _Training(TrainingLoop[Patches]):
    def __init__(
        self,
        config: MetricConfig,
        pairs: Sequence[AlignedPair],
        folder: Path,
        held_out: Sequence[AlignedPair],
        progress: ProgressCallback,
        device: str,
        processes: Crew,
    ) -> None:
        self.metric, self.device = config, device
        self.source = PatchSource(pairs, config)
        self.held_out: Patches | None = None
        if held_out:
            rng = np.random.default_rng([config.seed, 1])
            self.held_out = PatchSource(held_out, config).batch(rng, _HELD_OUT, _HELD_OUT_NEAREST_VOX)
        torch.manual_seed(config.seed)
        network = patch_network().PatchNetwork(config.ndim, config.channels).to(device)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.decay
        )
        super().__init__(config, config, network, optimizer, folder, progress, processes)

    def batch(self, step: int) -> Patches:
        rng = np.random.default_rng([self.metric.seed, 0, step])
        images, target = self.source.batch(rng, self.metric.batch, self._nearest(step))
        mine = self.crew.share(self.metric.batch)
        return images[mine], target[mine]

    def _nearest(self, step: int) -> float:
        return self.metric.patches.nearest_at(step / self.metric.steps)

    def terms(self, batch: Patches) -> dict[str, Tensor]:
        scores, target = self._scores(batch)
        right = ((scores.detach() * target) > 0).float()
        return {"loss": hinge(scores, target), "accuracy": right.mean()}

    def _scores(self, patches: Patches) -> tuple[Tensor, Tensor]:
        images, target = (torch.from_numpy(one).to(self.device) for one in patches)
        return self.network(images).reshape(len(target)), target

    def also_logged(self) -> dict[str, float]:
        return {"nearest_vox": self._nearest(self.step - 1)}

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, Any], bool] | None:
        if self.held_out is None:
            return None
        scores, target = self._scores(self.held_out)
        found = {
            "accuracy": float(((scores * target) > 0).float().mean()),
            "loss": float(hinge(scores, target)),
            "patches": len(target),
        }
        return found, self.best is None or found["loss"] < self.best["loss"]


def hinge(scores: Tensor, target: Tensor) -> Tensor:
    """Return the mean of ``max(0, 1 − y s)``.

    Examples
    --------
    >>> float(hinge(torch.tensor([2.0, 0.5]), torch.tensor([1.0, -1.0])))
    0.75
    """
    return torch.clamp(1 - target * scores, min=0).mean()
