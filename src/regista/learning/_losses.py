"""What training minimizes: terms named as in the iterative engine, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from regista.core import PlanError
from regista.regularization import Bending, Diffusion, LogJacobian, Penalty
from regista.similarity import LNCC, MI, MIND, NCC, NMI, SSD, Similarity

if TYPE_CHECKING:
    from torch import Tensor

    from regista.learning._networks import Motion

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
        from regista.learning._objective import divergence  # needs PyTorch

        return divergence(self, mean, log_variance)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The sum that training minimizes.

    ``similarity_weight · D(F, M∘φ) + R(φ) + dice_weight · (1 − Dice) + endpoint_weight · E(φ)``; of probabilistic networks
    ``+ kl_weight · KL``.
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
    endpoint_weight : float
        Factor on the end-point error E of pairs made up from one label map, whose displacement is known: how far from it the network's
        displacement is, voxels, averaged over what the fixed image's labels cover (everywhere without labels).
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
    endpoint_weight: float = 0.0
    bidirectional: bool = False
    coarser_weight: float = 0.5

    def __post_init__(self) -> None:
        for name in ("similarity_weight", "kl_weight", "dice_weight", "endpoint_weight", "coarser_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise PlanError(f"{name} is a finite number of at least 0, got {getattr(self, name)}")
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
        known: Sequence[Tensor | None] = (),
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
        known : sequence of ((n, *shape) tensor or None), optional
            Of each pair the displacement that is known, voxels, if any is.
        """
        from regista.learning._objective import terms_of  # needs PyTorch

        return terms_of(self, motion, fixed, moving, spacing, labels, known)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "similarity": {"name": self.similarity.name, **_settings(self.similarity)},
            "penalties": [{"name": one.name, **_settings(one)} for one in self.penalties],
            "similarity_weight": self.similarity_weight,
            "kl_precision": None if self.kl is None else self.kl.precision,
            "kl_weight": self.kl_weight,
            "dice_weight": self.dice_weight,
            "endpoint_weight": self.endpoint_weight,
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


def _settings(term: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(term).items() if key != "name"}


def _made(kinds: Mapping[str, type[Any]], tree: Mapping[str, Any], what: str) -> Any:
    settings = dict(tree)
    name = settings.pop("name")
    if name not in kinds:
        raise PlanError(f"the {what} is one of {', '.join(kinds)}; got {name!r}")
    return kinds[name](**settings)
