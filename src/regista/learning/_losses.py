"""What training minimizes: terms named as in the iterative engine, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from regista.core import PlanError
from regista.learning._networks import Motion
from regista.learning._ops import dissimilarity, penalty, soft_dice, warp
from regista.regularization import Bending, Diffusion, LogJacobian, Penalty
from regista.similarity import LNCC, MI, MIND, NCC, NMI, SSD, Similarity

SIMILARITY_LOSSES: dict[str, type[Any]] = {kind.name: kind for kind in (LNCC, SSD, NCC, NMI, MI, MIND)}
"""Measures of likeness that can be trained with, by name; ``ssd`` is the mean squared error."""
PENALTY_LOSSES: dict[str, type[Any]] = {kind.name: kind for kind in (Diffusion, Bending, LogJacobian)}
"""Penalties that can be trained with, by name."""


@dataclass(frozen=True, kw_only=True)
class KL:
    """Kullback–Leibler divergence of the estimated velocity from a smooth prior, per voxel (Dalca 2018).

    With prior precision ``λ L``, L the Laplacian of the voxel lattice, D its diagonal (the number of neighbours), and
    estimated mean μ and variance σ²: ``½ [tr(λ D Σ) − log |Σ| + λ μᵀ L μ]``, constants left out.

    Parameters
    ----------
    precision : float
        λ, the prior's precision: larger is smoother.
    """

    precision: float = 10.0
    name: str = field(default="kl", init=False)

    def __post_init__(self) -> None:
        if not self.precision > 0:
            raise PlanError(f"kl precision is above 0, got {self.precision}")

    def __call__(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Return the divergence, averaged over voxels and the batch.

        Parameters
        ----------
        mean, log_variance : (B, n, *shape) tensor
            Velocity in voxels, and the logarithm of its variance.
        """
        neighbours = _degrees(mean.shape[2:]).to(mean.device)
        spread = self.precision * neighbours * torch.exp(log_variance) - log_variance
        rough = mean.new_zeros(())
        for axis in range(2, mean.dim()):
            rough = rough + (torch.diff(mean, dim=axis) ** 2).sum()
        voxels = mean[:, 0].numel()
        return 0.5 * (spread.sum() + self.precision * rough) / voxels


def _degrees(shape: torch.Size) -> Tensor:
    total = torch.zeros(shape)
    for axis, n in enumerate(shape):
        along = torch.full((n,), 2.0)
        along[0] -= 1
        along[-1] -= 1
        view = [1] * len(shape)
        view[axis] = n
        total = total + along.reshape(view)
    return total


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The sum that training minimizes.

    ``similarity_weight · D(F, M∘φ) + R(φ) + dice_weight · (1 − Dice)``; of probabilistic networks ``+ kl_weight · KL``.
    Bidirectional losses add D of the fixed image warped onto the moving one through the inverse.

    Parameters
    ----------
    similarity : Similarity
        Any of `SIMILARITY_LOSSES`.
    penalties : tuple of Penalty
        On the displacement, with their weights; gradients are in mm per mm.
    similarity_weight : float
        Factor on the similarity.
    kl : KL or None
        Prior of probabilistic networks.
    kl_weight : float
        Factor on it.
    dice_weight : float
        Factor on ``1 − Dice`` of the labels (semi-supervised training); 0 leaves labels out.
    bidirectional : bool
        Compare in both directions (diffeomorphic networks).
    coarser_weight : float
        Factor on similarity and penalties at the resolution below the finest, of networks with several; at the next below
        its square, and so on.
    """

    similarity: Similarity = field(default_factory=lambda: LNCC(radius=4))
    penalties: tuple[Penalty, ...] = (Diffusion(weight=1.0),)
    similarity_weight: float = 1.0
    kl: KL | None = None
    kl_weight: float = 0.01
    dice_weight: float = 0.0
    bidirectional: bool = False
    coarser_weight: float = 0.5

    def __post_init__(self) -> None:
        for name in ("similarity_weight", "kl_weight", "dice_weight", "coarser_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise PlanError(f"{name} is a number of at least 0, got {getattr(self, name)}")
        if self.bidirectional and not isinstance(self.similarity, (LNCC, SSD)):
            raise PlanError(
                f"a bidirectional loss compares by lncc or ssd, got {self.similarity.name}: leave it in one direction"
            )

    def __call__(
        self,
        motion: Motion,
        fixed: Tensor,
        moving: Tensor,
        spacing: tuple[float, ...],
        labels: tuple[Tensor, Tensor, int] | None = None,
    ) -> dict[str, Tensor]:
        """Return every term, its weight included, and their sum as ``loss``.

        Parameters
        ----------
        motion : Motion
            What the network gave.
        fixed, moving : (B, 1, *shape) tensor
            Images.
        spacing : tuple of float
            Voxel size, mm.
        labels : tuple, optional
            Codes of the fixed and of the moving image, and how many codes there are.
        """
        terms: dict[str, Tensor] = {}
        if self.similarity_weight:
            value = dissimilarity(self.similarity, fixed, warp(moving, motion.field))
            if self.bidirectional and motion.inverse is not None:
                back = dissimilarity(self.similarity, moving, warp(fixed, motion.inverse))
                value = 0.5 * (value + back)
            terms[self.similarity.name] = self.similarity_weight * value
        for one in self.penalties:
            if one.weight:
                terms[one.name] = penalty(one, motion.field, spacing)
        if self.kl is not None and motion.log_variance is not None:
            terms["kl"] = self.kl_weight * self.kl(motion.mean, motion.log_variance)
        if self.dice_weight and labels is not None:
            here, there, count = labels
            terms["dice"] = self.dice_weight * (1 - soft_dice(here, there, motion.field, count))
        if motion.coarser:
            terms["coarser"] = self._coarser(motion, fixed, moving, spacing)
        total = sum(terms.values(), motion.field.sum() * 0)
        return {"loss": total, **terms}

    def _coarser(self, motion: Motion, fixed: Tensor, moving: Tensor, spacing: tuple[float, ...]) -> Tensor:
        """Return similarity and penalties at the resolutions below the finest, weighted."""
        total = motion.field.new_zeros(())
        for depth, (shrink, coarse) in enumerate(motion.coarser, 1):
            factor = self.coarser_weight**depth
            here, there = (_shrunk(one, shrink, coarse.shape[2:]) for one in (fixed, moving))
            if self.similarity_weight:
                value = dissimilarity(self.similarity, here, warp(there, coarse))
                total = total + factor * self.similarity_weight * value
            steps = tuple(shrink * step for step in spacing)
            for one in self.penalties:
                if one.weight:
                    total = total + factor * penalty(one, coarse, steps)
        return total

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "similarity": {"name": self.similarity.name, **_settings(self.similarity)},
            "penalties": [{"name": one.name, **_settings(one)} for one in self.penalties],
            "similarity_weight": self.similarity_weight,
            "kl_precision": None if self.kl is None else self.kl.precision,
            "kl_weight": self.kl_weight,
            "dice_weight": self.dice_weight,
            "bidirectional": self.bidirectional,
            "coarser_weight": self.coarser_weight,
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Loss:
        """Return the loss that `to_dict` described."""
        settings = dict(tree)
        precision = settings.pop("kl_precision", None)
        return cls(
            similarity=_made(SIMILARITY_LOSSES, settings.pop("similarity"), "similarity"),
            penalties=tuple(_made(PENALTY_LOSSES, one, "penalty") for one in settings.pop("penalties")),
            kl=None if precision is None else KL(precision=precision),
            **settings,
        )


def _shrunk(image: Tensor, shrink: int, shape: torch.Size) -> Tensor:
    """Return means over blocks of voxels, on the grid of a coarser field; an image is padded as networks pad it."""
    missing = [shrink * n - m for n, m in zip(shape, image.shape[2:], strict=True)]
    padded = functional.pad(image, [part for n in reversed(missing) for part in (0, n)])
    pool = functional.avg_pool3d if len(shape) == 3 else functional.avg_pool2d
    return pool(padded, shrink)


def _settings(term: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(term).items() if key != "name"}


def _made(kinds: Mapping[str, type[Any]], tree: Mapping[str, Any], what: str) -> Any:
    settings = dict(tree)
    name = settings.pop("name")
    if name not in kinds:
        raise PlanError(f"the {what} is one of {', '.join(kinds)}; got {name!r}")
    return kinds[name](**settings)
