"""Everything that makes a trained metric what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from regista.core import PlanError
from regista.similarity import METRIC_ARCHITECTURES, METRIC_KIND

FORMAT = 1
"""Version of the layout of ``model.json``."""


def _between(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise PlanError(f"{name} is a number between {low:g} and {high:g}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """How pairs of patches are drawn from aligned images.

    Both patches of a positive pair are read through one random map T, those of a negative pair through T and through T
    after a shift of `nearest_vox` to `farthest_vox` voxels, in half the cases with a turn and a change of size too.
    What `nearest_vox` is falls from its first value to its second along the training: negatives get harder.

    Parameters
    ----------
    shrinks : tuple of int
        Levels that patches come from, as a registration makes them: each smoothed and shrunk by such a factor. The
        first ones are drawn more often.
    rotation_deg, scale, shear : float
        Largest turn, relative change of size and shear of T.
    wave_vox : float
        Largest amplitude of each of the two waves that bend T, voxels.
    flips : bool
        Whether T turns axes round in half the cases.
    nearest_vox : tuple of 2 floats
        Least shift of negatives, voxels: at the beginning and at the end of the training.
    farthest_vox : float
        Largest shift of negatives, voxels.
    noise, gamma : float
        Largest standard deviation of noise and largest logarithm of an exponent on the intensities.
    """

    shrinks: tuple[int, ...] = (1, 2, 4)
    rotation_deg: float = 30.0
    scale: float = 0.15
    shear: float = 0.1
    wave_vox: float = 0.8
    flips: bool = True
    nearest_vox: tuple[float, float] = (4.0, 1.5)
    farthest_vox: float = 10.0
    noise: float = 0.02
    gamma: float = 0.25

    def __post_init__(self) -> None:
        if not self.shrinks or any(type(s) is not int or not 1 <= s <= 32 for s in self.shrinks):
            raise PlanError(f"shrinks are whole numbers from 1 to 32, got {list(self.shrinks)}")
        for name, high in (
            ("rotation_deg", 180),
            ("scale", 0.5),
            ("shear", 0.5),
            ("wave_vox", 4),
            ("noise", 1),
        ):
            _between(name, getattr(self, name), 0, high)
        _between("gamma", self.gamma, 0, 2)
        for value in self.nearest_vox:
            _between("nearest_vox", value, 0.5, self.farthest_vox)

    def nearest_at(self, progress: float) -> float:
        """Return the least shift of negatives at a share of the training done."""
        begin, end = self.nearest_vox
        return begin + (end - begin) * min(max(progress, 0.0), 1.0)


@dataclass(frozen=True, kw_only=True)
class MetricConfig:
    """A metric's network and how it is trained.

    Parameters
    ----------
    architecture : {'two-channel', 'features'}
        One network that scores pairs of patches, trained by a hinge loss (Simonovsky 2016); or one for each contrast that
        describes a patch by features, trained contrastively.
    ndim : {2, 3}
        Dimensions of the images.
    channels : tuple of 4 int
        Filters of each layer.
    patches : PatchConfig
        How pairs of patches are drawn.
    percentiles : tuple of 2 floats
        Intensities between these percentiles of the foreground go from 0 to 1; those of a plan's default.
    steps, batch : int
        Steps of Adam, and pairs of patches in each, half of them positive.
    learning_rate : float
        Of Adam; it falls to nearly 0 along half a cosine.
    decay : float
        Weight of the penalty on the squared weights of the network.
    seed : int
        Of the first weights and of every draw.
    validate_every : int
        Steps between looks at held-out pairs, which also write a checkpoint.
    patience : int
        Looks without a gain after which training ends; 0 never ends it.

    Examples
    --------
    >>> config = MetricConfig(ndim=2, steps=100)
    >>> MetricConfig.from_dict(config.to_dict()) == config
    True
    """

    architecture: str = METRIC_ARCHITECTURES[0]
    ndim: int = 3
    channels: tuple[int, ...] = (16, 32, 32, 64)
    patches: PatchConfig = field(default_factory=PatchConfig)
    percentiles: tuple[float, float] = (0.1, 99.9)
    steps: int = 10_000
    batch: int = 64
    learning_rate: float = 1e-3
    decay: float = 1e-5
    seed: int = 0
    validate_every: int = 250
    patience: int = 0
    schedule: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        if self.architecture not in METRIC_ARCHITECTURES:
            raise PlanError(
                f"architecture is {' or '.join(map(repr, METRIC_ARCHITECTURES))}, got {self.architecture!r}"
            )
        if self.ndim not in (2, 3):
            raise PlanError(f"a metric is for images with 2 or 3 axes, got {self.ndim}")
        if len(self.channels) != 4 or any(type(n) is not int or not 1 <= n <= 1024 for n in self.channels):
            raise PlanError(
                f"channels are 4 whole numbers, one per layer, between 1 and 1024, got {self.channels}"
            )
        for name, low, high in (
            ("steps", 1, 1e8),
            ("batch", 4, 1e5),
            ("validate_every", 1, 1e8),
            ("patience", 0, 1e8),
        ):
            _between(name, getattr(self, name), low, high)
        if self.batch % 4:
            raise PlanError(f"batch is a multiple of 4, got {self.batch}")
        _between("learning_rate", self.learning_rate, 1e-8, 1)
        _between("decay", self.decay, 0, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``model.json`` holds them."""
        tree = asdict(self)
        network = {name: tree.pop(name) for name in ("architecture", "ndim", "channels")}
        training = {
            name: tree.pop(name)
            for name in ("steps", "batch", "learning_rate", "decay", "seed", "validate_every", "patience")
        }
        return {"format": FORMAT, "kind": METRIC_KIND, "network": network, "training": training, **tree}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> MetricConfig:
        """Build a configuration from what `to_dict` returned, or a JSON file holds; other keys are left aside.

        Raises
        ------
        PlanError
            If it is of another kind or version, or a key is unknown.
        """
        if tree.get("kind") != METRIC_KIND or tree.get("format") != FORMAT:
            raise PlanError(
                f"expected the settings of a {METRIC_KIND} in format {FORMAT}, got {tree.get('kind')!r} in format "
                f"{tree.get('format')!r}"
            )
        try:
            patches = PatchConfig(**_tuples(tree["patches"]))
            values = {**tree["network"], **tree["training"], "percentiles": tree["percentiles"]}
            return cls(patches=patches, **_tuples(values))
        except (KeyError, TypeError) as error:
            known = ", ".join(f.name for f in (*fields(cls), *fields(PatchConfig)))
            raise PlanError(f"settings of a metric are {known}: {error}") from None


def _tuples(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in tree.items()}
