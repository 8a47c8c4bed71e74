"""The sum that training minimizes, worked out on tensors: what `Loss` and `KL` describe."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from regista.learning._losses import KL, Loss
from regista.learning._networks import Motion
from regista.learning._ops import dissimilarity, penalty, soft_dice, warp

_BLUNT_VOX = 0.1
"""Below this an end-point error counts by its square."""


def terms_of(
    loss: Loss,
    motion: Motion,
    fixed: Tensor,
    moving: Tensor,
    spacing: tuple[float, ...],
    labels: tuple[Tensor, Tensor, int] | None,
    known: Sequence[Tensor | None] = (),
) -> dict[str, Tensor]:
    """Return every term of a loss, its weight included, and their sum as ``loss``: see `Loss`."""
    terms: dict[str, Tensor] = {}
    if loss.similarity_weight:
        value = dissimilarity(loss.similarity, fixed, warp(moving, motion.field))
        if loss.bidirectional and motion.inverse is not None:
            back = dissimilarity(loss.similarity, moving, warp(fixed, motion.inverse))
            value = 0.5 * (value + back)
        terms[loss.similarity.name] = loss.similarity_weight * value
    for one in loss.penalties:
        if one.weight:
            terms[one.name] = penalty(one, motion.field, spacing)
    if loss.kl is not None and motion.log_variance is not None:
        terms["kl"] = loss.kl_weight * divergence(loss.kl, motion.mean, motion.log_variance)
    if loss.dice_weight and labels is not None:
        here, there, count = labels
        terms["dice"] = loss.dice_weight * (1 - soft_dice(here, there, motion.field, count))
    if loss.endpoint_weight and known:
        where = None if labels is None else labels[0] > 0
        terms["endpoint"] = loss.endpoint_weight * endpoint_error(motion.field, known, where)
    if motion.coarser:
        terms["coarser"] = _coarser(loss, motion, fixed, moving, spacing)
    total = sum(terms.values(), motion.field.sum() * 0)
    return {"loss": total, **terms}


def endpoint_error(field: Tensor, known: Sequence[Tensor | None], where: Tensor | None) -> Tensor:
    """Return how far, voxels, displacements are from those that are known, averaged over the pairs; a pair of which none is known gives 0.

    Parameters
    ----------
    field : (B, n, *shape) tensor
        Voxels.
    known : sequence of ((n, *shape) tensor or None)
        Of each pair; NaN where it is not known.
    where : (B, 1, *shape) bool tensor or None
        Voxels that count.
    """
    total = field.new_zeros(())
    for number, truth in enumerate(known):
        if truth is None:
            continue
        sure = torch.isfinite(truth).all(dim=0)
        square = ((field[number].float() - torch.where(sure, truth, 0)) ** 2).sum(dim=0)
        far = torch.sqrt(square + _BLUNT_VOX**2) - _BLUNT_VOX
        inside = (sure if where is None else sure & where[number, 0]).to(far.dtype)
        total = total + (far * inside).sum() / inside.sum().clamp(min=1)
    return total / len(known)


def divergence(kl: KL, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the divergence from a prior, averaged over voxels and the batch: see `KL`."""
    neighbours = _degrees(mean.shape[2:]).to(mean.device)
    spread = kl.precision * neighbours * torch.exp(log_variance) - log_variance
    rough = mean.new_zeros(())
    for axis in range(2, mean.dim()):
        rough = rough + (torch.diff(mean, dim=axis) ** 2).sum()
    voxels = mean[:, 0].numel()
    return 0.5 * (spread.sum() + kl.precision * rough) / voxels


def _degrees(shape: torch.Size) -> Tensor:
    """Return how many neighbours each voxel has."""
    total = torch.zeros(shape)
    for axis, n in enumerate(shape):
        along = torch.full((n,), 2.0)
        along[0] -= 1
        along[-1] -= 1
        view = [1] * len(shape)
        view[axis] = n
        total = total + along.reshape(view)
    return total


def _coarser(loss: Loss, motion: Motion, fixed: Tensor, moving: Tensor, spacing: tuple[float, ...]) -> Tensor:
    """Return similarity and penalties at the resolutions below the finest, weighted."""
    total = motion.field.new_zeros(())
    for depth, (shrink, coarse) in enumerate(motion.coarser, 1):
        factor = loss.coarser_weight**depth
        here, there = (_shrunk(one, shrink, coarse.shape[2:]) for one in (fixed, moving))
        if loss.similarity_weight:
            value = dissimilarity(loss.similarity, here, warp(there, coarse))
            total = total + factor * loss.similarity_weight * value
        steps = tuple(shrink * step for step in spacing)
        for one in loss.penalties:
            if one.weight:
                total = total + factor * penalty(one, coarse, steps)
    return total


def _shrunk(image: Tensor, shrink: int, shape: torch.Size) -> Tensor:
    """Return means over blocks of voxels, on the grid of a coarser field; an image is padded as networks pad it."""
    missing = [shrink * n - m for n, m in zip(shape, image.shape[2:], strict=True)]
    padded = functional.pad(image, [part for n in reversed(missing) for part in (0, n)])
    pool = functional.avg_pool3d if len(shape) == 3 else functional.avg_pool2d
    return pool(padded, shrink)
