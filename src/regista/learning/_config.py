"""Everything that makes a model what it is, as values that a JSON file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from regista.core import PlanError
from regista.learning._architectures import Architecture, architecture
from regista.learning._losses import Loss

if TYPE_CHECKING:
    from regista.learning._inference import TrainedNetwork
    from regista.learning._networks import RegistrationNetwork

FORMAT = 1
"""Version of the layout of ``model.json``."""


def _number(name: str, value: Any, low: float, high: float = float("inf")) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        limit = f"between {low:g} and {high:g}" if high < float("inf") else f"at least {low:g}"
        raise PlanError(f"{name} is a number {limit}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Which network: its name or sizes, and what it estimates.

    Parameters
    ----------
    name : str
        A name in `ARCHITECTURES`.
    ndim : int
        2 or 3.
    diffeomorphic : bool
        Estimate a velocity that is integrated.
    probabilistic : bool
        Estimate its variance too (Dalca 2018).
    half_resolution : bool
        Estimate at half the resolution.
    squarings : int
        Of the integration.
    resolutions : int
        At how many resolutions it gives a field, each refining that of the one below; in training each is scored.
    edges : bool
        See how strong the edges of the images are, not their intensities: images of any contrast look more alike.
    """

    name: str = "voxelmorph-2"
    ndim: int = 3
    diffeomorphic: bool = False
    probabilistic: bool = False
    half_resolution: bool = False
    squarings: int = 7
    resolutions: int = 1
    edges: bool = False

    def __post_init__(self) -> None:
        architecture(self.name)
        if self.ndim not in (2, 3):
            raise PlanError(f"a network is for images with 2 or 3 axes, got {self.ndim}")
        if self.probabilistic and not self.diffeomorphic:
            raise PlanError("a probabilistic network estimates a velocity: make it diffeomorphic too")
        _number("squarings", self.squarings, 0, 12)
        most = len(self.sizes.encoder) + (0 if self.half_resolution else 1)
        _number("resolutions", self.resolutions, 1, most)

    @property
    def sizes(self) -> Architecture:
        """Channels of the network."""
        return architecture(self.name)

    def build(self) -> RegistrationNetwork:
        """Return a network with first weights, drawn from torch's generator."""
        from regista.learning import RegistrationNetwork  # says so where PyTorch lacks

        return RegistrationNetwork(self.ndim, self.sizes, **self._estimated())

    def trained(self, weights: Mapping[str, NDArray[np.float32]]) -> TrainedNetwork:
        """Return a network that only answers, on the CPU.

        Raises
        ------
        ValueError
            If the weights are not those of such a network.
        """
        from regista.learning._inference import TrainedNetwork

        return TrainedNetwork(self.ndim, self.sizes, weights, **self._estimated())

    def _estimated(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name not in ("name", "ndim")}


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """The images a network wants: Regista brings others there.

    Parameters
    ----------
    spacing_mm : tuple of float
        Voxel size, one per axis; axes run to the right, front and top (RAS).
    shape : tuple of int
        Size of the images it was trained on; others are welcome.
    percentiles : tuple of 2 floats
        Intensities between these percentiles go from 0 to 1: the lower one of all voxels, the upper one of the
        voxels that differ from the image's corner.
    margin_vox : int
        Voxels around the content that belong to it.
    """

    spacing_mm: tuple[float, ...]
    shape: tuple[int, ...] = ()
    percentiles: tuple[float, float] = (0.5, 99.5)
    margin_vox: int = 4

    def __post_init__(self) -> None:
        for step in self.spacing_mm:
            _number("spacing_mm", step, 1e-6, 1e6)
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise PlanError(f"percentiles are [low, high] with 0 ≤ low < high ≤ 100, got {[low, high]}")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of pose that both images of a pair undergo together.

    Parameters
    ----------
    rotation_deg : float
        Largest turn about each axis.
    scale : float
        Largest relative change of size.
    shift : float
        Largest shift, as a share of the image's size.
    flip_axes : tuple of int
        Axes that are turned round in half the cases.
    """

    rotation_deg: float = 10.0
    scale: float = 0.1
    shift: float = 0.03
    flip_axes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _number("rotation_deg", self.rotation_deg, 0, 180)
        _number("scale", self.scale, 0, 0.9)
        _number("shift", self.shift, 0, 1)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a network is trained.

    Parameters
    ----------
    steps : int
        Steps of Adam in all.
    batch : int
        Pairs per step, of all processes together.
    learning_rate : float
        Of Adam.
    schedule : {'constant', 'cosine'}
        Whether the rate falls to nearly 0 along half a cosine.
    seed : int
        Of the first weights and of every draw.
    validate_every : int
        Steps between validations, which also write a checkpoint.
    patience : int
        Validations without a gain after which training ends; 0 never ends it.
    bf16 : bool
        Convolutions in bfloat16.
    augmentation : Augmentation or None
        Random pose of each pair.
    start : str or None
        Model, by name or folder, whose weights the training begins with (default: random ones).
    """

    steps: int = 5000
    batch: int = 1
    learning_rate: float = 3e-4
    schedule: Literal["constant", "cosine"] = "cosine"
    seed: int = 0
    validate_every: int = 250
    patience: int = 0
    bf16: bool = False
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    start: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "validate_every"):
            _number(name, getattr(self, name), 1)
        _number("patience", self.patience, 0)
        _number("learning_rate", self.learning_rate, 1e-12, 10)
        if self.schedule not in ("constant", "cosine"):
            raise PlanError(f"schedule is 'constant' or 'cosine', got {self.schedule!r}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole model: network, images, loss, training; what ``model.json`` holds.

    Examples
    --------
    >>> config = ModelConfig(inputs=InputConfig(spacing_mm=(2.0, 2.0, 2.0)))
    >>> ModelConfig.from_dict(config.to_dict()) == config
    True
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    inputs: InputConfig
    loss: Loss = field(default_factory=Loss)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if len(self.inputs.spacing_mm) != self.network.ndim:
            raise PlanError(
                f"a {self.network.ndim}-D network has {self.network.ndim} voxel sizes, got "
                f"{list(self.inputs.spacing_mm)}"
            )
        if self.inputs.shape and len(self.inputs.shape) != self.network.ndim:
            raise PlanError(
                f"a {self.network.ndim}-D network sees {self.network.ndim} axes, got shape {list(self.inputs.shape)}"
            )
        pose = self.training.augmentation
        if pose is not None and not set(pose.flip_axes) <= set(range(self.network.ndim)):
            raise PlanError(
                f"axes to flip are among {list(range(self.network.ndim))}, got {list(pose.flip_axes)} (--flip-axis)"
            )
        if self.loss.bidirectional and not self.network.diffeomorphic:
            raise PlanError("a bidirectional loss needs the inverse map: make the network diffeomorphic")
        if self.loss.kl is not None and not self.network.probabilistic:
            raise PlanError("the kl term is of probabilistic networks: make the network probabilistic")

    def with_shape(self, shape: tuple[int, ...]) -> ModelConfig:
        """Return the same model for images of a size."""
        return replace(self, inputs=replace(self.inputs, shape=shape))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "format": FORMAT,
            "network": {**asdict(self.network), "sizes": self.network.sizes.to_dict()},
            "inputs": _plain(asdict(self.inputs)),
            "loss": self.loss.to_dict(),
            "training": _plain(asdict(self.training)),
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> ModelConfig:
        """Return the configuration that `to_dict` described.

        Raises
        ------
        PlanError
            If the layout is of another version, or a setting is missing, unknown or out of range.
        """
        if tree.get("format") != FORMAT:
            raise PlanError(
                f"the model's layout is version {tree.get('format')!r}, this Regista reads {FORMAT}: update Regista, or "
                "train the model again"
            )
        try:
            network = {key: value for key, value in tree["network"].items() if key != "sizes"}
            training = dict(tree["training"])
            pose = training.pop("augmentation")
            return cls(
                network=NetworkConfig(**network),
                inputs=InputConfig(**_tuples(tree["inputs"])),
                loss=Loss.from_dict(tree["loss"]),
                training=TrainingConfig(
                    **training, augmentation=None if pose is None else Augmentation(**_tuples(pose))
                ),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanError(f"the model's configuration is not complete or not known: {error}") from None


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _plain(v) if isinstance(v, dict) else list(v) if isinstance(v, tuple) else v
        for key, v in tree.items()
    }


def _tuples(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in tree.items()}
