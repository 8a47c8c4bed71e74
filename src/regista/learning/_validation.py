"""How well a network does on pairs it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from regista.kernels.cpu.fields import jacobian_determinant
from regista.kernels.cpu.labels import overlap_counts
from regista.learning._losses import Loss
from regista.learning._networks import RegistrationNetwork
from regista.learning._ops import as_vectors, warp
from regista.learning._prepare import Codes, PreparedScans
from regista.similarity import LNCC


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Means over pairs.

    Parameters
    ----------
    pairs : int
        Number of pairs.
    loss : float
        What training minimizes, on these pairs.
    lncc : float
        Mean squared local correlation, radius 4 voxels, higher is better.
    dice, dice_before : float
        Mean Dice of the labels after and before, NaN without labels.
    folded_percent : float
        Share of voxels whose Jacobian is not above 0.
    """

    pairs: int
    loss: float
    lncc: float
    dice: float
    dice_before: float
    folded_percent: float

    @property
    def better(self) -> float:
        """The number whose growth counts as progress: Dice, without labels minus the loss."""
        return self.dice if np.isfinite(self.dice) else -self.loss


def mean_dice(fixed: Codes, moving: Codes, count: int) -> float:
    """Return the mean Dice of the labels that either map has."""
    shape = fixed.shape if fixed.ndim == 3 else (*fixed.shape, 1)
    counts = overlap_counts(
        np.ascontiguousarray(fixed).reshape(shape), np.ascontiguousarray(moving).reshape(shape), count
    )
    sizes = (counts[0] + counts[1])[1:]
    return float(np.mean(2 * counts[2][1:][sizes > 0] / sizes[sizes > 0])) if (sizes > 0).any() else np.nan


def warped_codes(codes: Codes, field: torch.Tensor) -> Codes:
    """Return label codes through a displacement ``(n, *shape)`` in voxels, by the nearest voxel."""
    places = np.indices(codes.shape) + field.numpy()
    at = [np.clip(np.rint(p), 0, n - 1).astype(np.intp) for p, n in zip(places, codes.shape, strict=True)]
    return np.asarray(codes[tuple(at)])


def chosen_pairs(scans: PreparedScans, most: int) -> list[tuple[int, int]]:
    """Return at most so many pairs, spread evenly over all."""
    every = scans.pairs
    if len(every) <= most:
        return list(every)
    return [every[n] for n in np.linspace(0, len(every) - 1, most).round().astype(int)]


@torch.no_grad()
def score(
    network: RegistrationNetwork,
    scans: PreparedScans,
    loss: Loss,
    spacing: tuple[float, ...],
    most: int = 24,
    device: str = "cpu",
) -> Scores:
    """Register pairs of prepared scans and measure.

    Parameters
    ----------
    network : RegistrationNetwork
        The network.
    scans : PreparedScans
        Scans it has not seen.
    loss : Loss
        What it is trained with.
    spacing : tuple of float
        Voxel size, mm.
    most : int
        Pairs at most, spread evenly over all.
    device : str
        Where the network lies.
    """
    training = network.training
    network.eval()
    rows = []
    for a, b in chosen_pairs(scans, most):
        fixed, moving = (torch.from_numpy(scans.images[n])[None, None] for n in (a, b))
        motion = network(moving.to(device), fixed.to(device), backwards=loss.bidirectional)
        labels = None
        if scans.codes is not None:
            here, there = (torch.from_numpy(scans.codes[n])[None, None] for n in (a, b))
            labels = (here.to(device), there.to(device), len(scans.values))
        terms = loss(motion, fixed.to(device), moving.to(device), spacing, labels)
        rows.append(_measure(motion.field[0].cpu(), float(terms["loss"]), scans, a, b))
    network.train(training)
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return Scores(pairs=len(rows), **means)


def _measure(field: torch.Tensor, loss: float, scans: PreparedScans, a: int, b: int) -> dict[str, Any]:
    fixed, moving = torch.from_numpy(scans.images[a]), torch.from_numpy(scans.images[b])
    warped = warp(moving[None, None], field[None])[0, 0].numpy()
    flat = [one if one.ndim == 3 else one[:, None, :] for one in (fixed.numpy(), warped)]
    metric = LNCC(radius=4).prepare(flat[0], None)
    folded = 100 * float(np.mean(jacobian_determinant(as_vectors(field)) <= 0))
    row = {
        "loss": loss,
        "lncc": -metric.value_and_gradient(flat[1], None, np.empty_like(flat[1])),
        "dice": np.nan,
        "dice_before": np.nan,
        "folded_percent": folded,
    }
    if scans.codes is not None:
        count = len(scans.values)
        row["dice"] = mean_dice(scans.codes[a], warped_codes(scans.codes[b], field), count)
        row["dice_before"] = mean_dice(scans.codes[a], scans.codes[b], count)
    return row
