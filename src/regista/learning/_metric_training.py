"""Training of a metric on patches of aligned pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from regista.learning._metric_objectives import objective
from regista.learning._metric_patches import PatchSource
from regista.similarity import load_metric_model, patch_network

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
        Share of pairs of patches on the right side of 0; of 'features', share of patches that are more alike to their own
        than to one near by.
    loss : float
        Mean hinge loss; of 'features' the contrastive one, among as many patches as were looked at.
    patches : int
        How many pairs of patches were looked at.
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
    2016), of 'features' InfoNCE among the patches of a batch (van den Oord 2018), by Adam.

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
        If there are no pairs, the checkpoint is of another training, or several processes train 'features'.
    FormatError
        If the checkpoint is damaged.
    RegistrationError
        If the loss becomes NaN or infinite.
    """
    if not pairs:
        raise PlanError("a metric learns from aligned pairs, and there are none (k = 0): give one at least")
    folder.mkdir(parents=True, exist_ok=True)
    with patch_network().torch_threads(), crew(device, config.batch) as processes:
        if processes.size > 1 and config.architecture == "features":
            raise PlanError(
                f"architecture 'features' compares all patches of a batch and trains in one process, got {processes.size}: "
                "start it without torchrun"
            )
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
            self.held_out = _looked_at(held_out, config, _HELD_OUT, config.seed)
        torch.manual_seed(config.seed)
        network = patch_network().fresh(config.architecture, config.ndim, config.channels).to(device)
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
        loss, right = objective(self.network, *_tensors(batch, self.device))
        return {"loss": loss, "accuracy": right.mean()}

    def also_logged(self) -> dict[str, float]:
        return {"nearest_vox": self._nearest(self.step - 1)}

    def validate(self) -> tuple[dict[str, Any], bool] | None:
        if self.held_out is None:
            return None
        found = asdict(_scores(self.network, self.held_out, self.device))
        return found, self.best is None or found["loss"] < self.best["loss"]


def measure_metric(
    model: str | Path, pairs: Sequence[AlignedPair], *, patches: int = 2048, seed: int = 0
) -> MetricScores:
    """Return how well a trained metric tells patches of aligned pairs, such as those of people it was not trained on.

    Parameters
    ----------
    model : str or Path
        Its name, or its folder.
    pairs : sequence of AlignedPair
        Prepared with the model's own configuration (`MetricConfig.from_dict`).
    patches : int
        How many pairs of patches to draw; a multiple of 4.
    seed : int
        Of the draw.

    Raises
    ------
    PlanError, FormatError
        If there is no such metric, or there are no pairs.
    """
    if not pairs:
        raise PlanError("a metric is measured on aligned pairs, and there are none: give one at least")
    found = load_metric_model(str(model))
    config = MetricConfig.from_dict(found.configuration)
    with patch_network().torch_threads():
        return _scores(found.network("cpu"), _looked_at(pairs, config, patches, seed), "cpu")


def _looked_at(pairs: Sequence[AlignedPair], config: MetricConfig, count: int, seed: int) -> Patches:
    """Return patches to measure on, from a stream of their own."""
    return PatchSource(pairs, config).batch(np.random.default_rng([seed, 1]), count, _HELD_OUT_NEAREST_VOX)


def _tensors(patches: Patches, device: str) -> tuple[Tensor, Tensor]:
    images, target = (torch.from_numpy(one).to(device) for one in patches)
    return images, target


def _scores(network: torch.nn.Module, patches: Patches, device: str) -> MetricScores:
    images, target = _tensors(patches, device)
    with torch.no_grad():
        loss, right = objective(network, images, target)
    return MetricScores(accuracy=float(right.mean()), loss=float(loss), patches=len(target))
