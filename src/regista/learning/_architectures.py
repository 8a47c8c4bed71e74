"""Which networks there are: their published sizes as values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from regista.core import PlanError

Pooling = Literal["stride", "max"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of a U-Net that takes a moving and a fixed image and gives a field.

    Parameters
    ----------
    encoder : tuple of int
        Channels of the encoder's convolutions; the resolution is halved after each ('max') or by each ('stride').
    decoder : tuple of int
        Channels of the decoder's convolutions: one per level of the encoder from the coarsest up, then those that
        follow at the finest resolution.
    pooling : {'stride', 'max'}
        Strided convolutions, or convolutions and maxima.
    at_half : int
        How many of the convolutions after the decoder's levels come before the last upsampling.
    source : str
        Where the sizes were published.

    Raises
    ------
    PlanError
        If a size is not a whole number above 0, or the decoder has no convolution at full resolution.
    """

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    pooling: Pooling = "stride"
    at_half: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        for name, sizes in (("encoder", self.encoder), ("decoder", self.decoder)):
            if not sizes or any(not isinstance(n, int) or n < 1 for n in sizes):
                raise PlanError(f"{name} channels are whole numbers above 0, got {list(sizes)}")
        if self.pooling not in ("stride", "max"):
            raise PlanError(f"pooling is 'stride' or 'max', got {self.pooling!r}")
        before = len(self.encoder) + (self.at_half if self.pooling == "stride" else 0)
        if len(self.decoder) <= before:
            raise PlanError(
                f"the decoder has a convolution for each of the encoder's {len(self.encoder)} levels, {before - len(self.encoder)} at "
                f"half and at least one at full resolution, got {len(self.decoder)}"
            )

    @property
    def factor(self) -> int:
        """What the sides of an image must be multiples of; others are padded."""
        return 1 << len(self.encoder)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


_CVPR = "Balakrishnan et al., CVPR 2018, channels of the authors' code"
ARCHITECTURES: dict[str, Architecture] = {
    "voxelmorph-1": Architecture(
        encoder=(16, 32, 32, 32), decoder=(32, 32, 32, 32, 8, 8), at_half=1, source=_CVPR
    ),
    "voxelmorph-2": Architecture(
        encoder=(16, 32, 32, 32), decoder=(32, 32, 32, 32, 32, 16, 16), at_half=1, source=_CVPR
    ),
    "unet-2019": Architecture(
        encoder=(16, 32, 32, 32),
        decoder=(32, 32, 32, 32, 32, 16, 16),
        pooling="max",
        source="Balakrishnan et al., IEEE TMI 38(8), 2019, channels of the authors' later code",
    ),
    "synthmorph": Architecture(
        encoder=(64,) * 4,
        decoder=(64,) * 6,
        pooling="max",
        source="Hoffmann et al., IEEE TMI 41(3), 2022, its smaller width",
    ),
}
"""Networks by name."""


def architecture(name: str) -> Architecture:
    """Return an architecture by its name.

    Raises
    ------
    PlanError
        If there is none of this name.

    Examples
    --------
    >>> architecture("voxelmorph-2").decoder
    (32, 32, 32, 32, 32, 16, 16)
    """
    if name not in ARCHITECTURES:
        raise PlanError(f"the networks are {', '.join(ARCHITECTURES)}; got {name!r}")
    return ARCHITECTURES[name]
