"""Which convolutions a U-Net has and what each of them sees, whoever works them out: PyTorch, or the package's own kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from regista.learning._architectures import Architecture

SLOPE = 0.2
"""What a rectifier multiplies values below 0 by."""
STAGES = ("down", "up", "at_half", "after")
"""Of the U-Net: its encoder, its decoder's levels, and the convolutions behind them, at half and at the finest resolution."""


class Layer(NamedTuple):
    """Sizes of a convolution."""

    channels_in: int
    channels_out: int
    stride: int = 1


class Steps(Protocol):
    """What works the layers out."""

    def layers(self, stage: str) -> Sequence[Any]:
        """Return the layers of one of `STAGES`."""

    def step(self, layer: Any, x: Any, beside: Any = None) -> Any:
        """Return a convolution of x, or of x at twice its resolution and what lies beside it there, rectified."""

    def pool(self, x: Any) -> Any:
        """Return the largest values at half the resolution."""


class Wiring:
    """A U-Net without its weights.

    Parameters
    ----------
    sizes : Architecture
        Channels.
    half_resolution : bool
        Stop before the last upsampling; convolutions meant for full resolution run at half.
    channels_in : int
        Channels of the input.

    Attributes
    ----------
    stages : dict
        The layers of each stage.
    channels_out : int
        Of the features of the finest resolution.
    widths : tuple of int
        Channels of the features at each resolution below that, coarse to fine.
    """

    def __init__(self, sizes: Architecture, half_resolution: bool = False, channels_in: int = 2) -> None:
        self.sizes, self.half_resolution = sizes, half_resolution
        strided = sizes.pooling == "stride"
        levels = len(sizes.encoder)
        skips = [channels_in]
        stages: dict[str, list[Layer]] = {stage: [] for stage in STAGES}
        for width in sizes.encoder:
            stages["down"].append(Layer(skips[-1], width, 2 if strided else 1))
            skips.append(width)
        # what the decoder meets on its way up: features of the level above, or the input itself
        beside = skips[:-1] if strided else skips[1:]
        width = skips[-1]
        for level, size in enumerate(sizes.decoder[:levels]):
            stages["up"].append(Layer(width, size))
            joined = beside[levels - 1 - level] if self._joins(level) else 0
            width = size + joined
        for number, size in enumerate(sizes.decoder[levels:]):
            if strided and number == sizes.at_half and not half_resolution:
                width += channels_in
            stages["at_half" if strided and number < sizes.at_half else "after"].append(Layer(width, size))
            width = size
        self.stages, self.channels_out = stages, width
        coarser = sizes.decoder[:levels]
        self.widths = tuple(coarser[:-1] if half_resolution else coarser)

    def _joins(self, level: int) -> bool:
        """Tell whether a decoder level ends with an upsampling and the encoder's features beside it.

        The strided encoder's last upsampling comes after the convolutions at half resolution.
        """
        last = level == len(self.sizes.encoder) - 1
        return not last or (self.sizes.pooling == "max" and not self.half_resolution)

    def pyramid(self, pair: Any, by: Steps) -> list[Any]:
        """Return features of every resolution, coarse to fine; each twice as fine.

        Parameters
        ----------
        pair : whatever `by` takes
            Images whose sides are multiples of the factor.
        by : Steps
            Who works the layers out.
        """
        strided = self.sizes.pooling == "stride"
        x, seen = pair, [pair]
        for layer in by.layers("down"):
            x = by.step(layer, x)
            seen.append(x)
            x = x if strided else by.pool(x)
        beside = seen[:-1] if strided else seen[1:]
        levels: list[Any] = []
        joined: Any = None  # what the next convolution sees beside x, at twice the resolution of x
        for level, layer in enumerate(by.layers("up")):
            x, joined = by.step(layer, x, joined), None
            levels.append(x)
            if self._joins(level):
                joined = beside[-1 - level]
        for layer in by.layers("at_half"):
            x, joined = by.step(layer, x, joined), None
        if strided and not self.half_resolution:
            joined = pair
        for layer in by.layers("after"):
            x, joined = by.step(layer, x, joined), None
        return [*levels[: len(self.widths)], x]
