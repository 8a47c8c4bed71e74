"""What the networks of metrics are trained for: the loss of a batch of patches, and which of them are told right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 0.1
"""Cosines are divided by it before the softmax: smaller, and only the most confusable patches count."""


def objective(network: torch.nn.Module, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of pairs of patches, and 1 or 0 for each comparison that was right or wrong.

    Parameters
    ----------
    network : PatchNetwork or FeatureNetwork
        The one is right where its score has the sign of `target`, the other where a patch is more alike to its own than
        to one near by.
    images : (N, 2, …) Tensor
        Pairs of patches, positive and negative ones in turns.
    target : (N,) Tensor
        1 and −1.
    """
    if hasattr(network, "describe"):
        return contrast(network, images)
    scores = network(images).reshape(len(target))
    return hinge(scores, target), (scores.detach() * target > 0).float()


def hinge(scores: Tensor, target: Tensor) -> Tensor:
    """Return the mean of ``max(0, 1 − y s)``.

    Examples
    --------
    >>> float(hinge(torch.tensor([2.0, 0.5]), torch.tensor([1.0, -1.0])))
    0.75
    """
    return torch.clamp(1 - target * scores, min=0).mean()


def contrast(network: torch.nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the InfoNCE loss (van den Oord 2018) both ways, and whether each patch prefers its own to the one near by.

    The first patches of the positive pairs are told among all second patches of the batch, those of the negative pairs
    included; and the second patches of the positive pairs among all first ones.
    """
    describe: Any = network.describe  # of `FeatureNetwork`
    first, second = (
        describe(one, number).flatten(1) for number, one in enumerate((images[::2, :1], images[:, 1:]))
    )
    there = first @ second.T / TEMPERATURE
    place = torch.arange(len(first), device=images.device)
    back = second[::2] @ first.T / TEMPERATURE
    loss = 0.5 * (functional.cross_entropy(there, 2 * place) + functional.cross_entropy(back, place))
    own, near = there[place, 2 * place], there[place, 2 * place + 1]
    return loss, (own > near).detach().float()
