"""The networks: a U-Net that sees two images and gives a displacement, or a velocity and its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regista.learning._architectures import Architecture
from regista.learning._ops import exponential

_SLOPE = 0.2
_START_SD = 1e-5
"""Spread of the first weights of the flow: training begins next to the identity."""
_START_LOG_VARIANCE = -10.0


def convolution(ndim: int, channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
    """Return a 3-wide convolution in 2-D or 3-D, its first weights those of He et al. (ICCV 2015)."""
    kind = nn.Conv3d if ndim == 3 else nn.Conv2d
    layer = kind(channels_in, channels_out, 3, stride, 1)
    # torch's own first weights let features fade from layer to layer, and the gradient of a field near 0 with them
    nn.init.kaiming_normal_(layer.weight, _SLOPE, nonlinearity="leaky_relu")
    nn.init.zeros_(layer.bias)
    return cast(nn.Module, layer)


class UNet(nn.Module):
    """The body: features of a pair at full or half resolution.

    Parameters
    ----------
    ndim : int
        2 or 3.
    sizes : Architecture
        Channels.
    half_resolution : bool
        Stop before the last upsampling; convolutions meant for full resolution run at half.
    channels_in : int
        Channels of the input.
    """

    def __init__(
        self, ndim: int, sizes: Architecture, half_resolution: bool = False, channels_in: int = 2
    ) -> None:
        super().__init__()
        self.ndim, self.sizes, self.half_resolution = ndim, sizes, half_resolution
        strided = sizes.pooling == "stride"
        levels = len(sizes.encoder)
        skips = [channels_in]
        down = []
        for width in sizes.encoder:
            down.append(convolution(ndim, skips[-1], width, 2 if strided else 1))
            skips.append(width)
        # what the decoder meets on its way up: features of the level above, or the input itself
        beside = skips[:-1] if strided else skips[1:]
        up, width = [], skips[-1]
        for level, size in enumerate(sizes.decoder[:levels]):
            up.append(convolution(ndim, width, size))
            joined = beside[levels - 1 - level] if self._joins(level) else 0
            width = size + joined
        at_half: list[nn.Module] = []
        after: list[nn.Module] = []
        for number, size in enumerate(sizes.decoder[levels:]):
            if strided and number == sizes.at_half and not half_resolution:
                width += channels_in
            stage = at_half if strided and number < sizes.at_half else after
            stage.append(convolution(ndim, width, size))
            width = size
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.at_half, self.after = nn.ModuleList(at_half), nn.ModuleList(after)
        self.channels_out = width

    def _joins(self, level: int) -> bool:
        """Tell whether a decoder level ends with an upsampling and the encoder's features beside it.

        The strided encoder's last upsampling comes after the convolutions at half resolution.
        """
        last = level == len(self.sizes.encoder) - 1
        return not last or (self.sizes.pooling == "max" and not self.half_resolution)

    def forward(self, pair: Tensor) -> Tensor:
        """Return features ``(B, channels_out, *shape)`` of a pair whose sides are multiples of the factor."""
        strided = self.sizes.pooling == "stride"
        pool = F.max_pool3d if self.ndim == 3 else F.max_pool2d
        x, seen = pair, [pair]
        for layer in self.down:
            x = F.leaky_relu(layer(x), _SLOPE)
            seen.append(x)
            x = x if strided else pool(x, 2)
        beside = seen[:-1] if strided else seen[1:]
        for level, layer in enumerate(self.up):
            x = F.leaky_relu(layer(x), _SLOPE)
            if self._joins(level):
                x = torch.cat([F.interpolate(x, scale_factor=2), beside[-1 - level]], 1)
        for layer in self.at_half:
            x = F.leaky_relu(layer(x), _SLOPE)
        if strided and not self.half_resolution:
            x = torch.cat([F.interpolate(x, scale_factor=2), pair], 1)
        for layer in self.after:
            x = F.leaky_relu(layer(x), _SLOPE)
        return cast(Tensor, x)


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What the network says of a pair.

    Parameters
    ----------
    field : (B, n, *shape) tensor
        Displacement, voxels, fixed to moving.
    inverse : (B, n, *shape) tensor or None
        Displacement of the flow backwards, of diffeomorphic networks.
    mean, log_variance : tensor or None
        Velocity and the logarithm of its variance at the resolution they are estimated at, of probabilistic ones;
        otherwise `mean` is the field, or the velocity, before integration.
    """

    field: Tensor
    inverse: Tensor | None = None
    mean: Tensor
    log_variance: Tensor | None = None


class RegistrationNetwork(nn.Module):
    """A pair of images in, a displacement field out.

    Parameters
    ----------
    ndim : int
        2 or 3.
    sizes : Architecture
        Channels of the U-Net.
    diffeomorphic : bool
        The network estimates a stationary velocity, which is integrated by scaling and squaring.
    probabilistic : bool
        It estimates the velocity's variance too, and training draws from it (diffeomorphic only).
    half_resolution : bool
        Estimate at half the resolution and interpolate.
    squarings : int
        Of the integration.

    Notes
    -----
    G. Balakrishnan et al., CVPR 2018 and IEEE TMI 38(8), 2019; A. V. Dalca et al., MICCAI 2018.

    Examples
    --------
    >>> from regista.learning._architectures import architecture
    >>> network = RegistrationNetwork(2, architecture("voxelmorph-1"))
    >>> tuple(network(torch.zeros(1, 1, 33, 20), torch.zeros(1, 1, 33, 20)).field.shape)
    (1, 2, 33, 20)
    """

    def __init__(
        self,
        ndim: int,
        sizes: Architecture,
        *,
        diffeomorphic: bool = False,
        probabilistic: bool = False,
        half_resolution: bool = False,
        squarings: int = 7,
    ) -> None:
        super().__init__()
        self.ndim, self.factor = ndim, sizes.factor
        self.diffeomorphic, self.probabilistic = diffeomorphic, probabilistic
        self.half_resolution, self.squarings = half_resolution, squarings
        self.body = UNet(ndim, sizes, half_resolution)
        self.flow = convolution(ndim, self.body.channels_out, ndim)
        nn.init.normal_(self.flow.weight, 0.0, _START_SD)
        nn.init.zeros_(self.flow.bias)
        self.spread: nn.Module | None = None
        if probabilistic:
            self.spread = convolution(ndim, self.body.channels_out, ndim)
            nn.init.normal_(self.spread.weight, 0.0, 1e-10)
            nn.init.constant_(self.spread.bias, _START_LOG_VARIANCE)

    def forward(
        self,
        moving: Tensor,
        fixed: Tensor,
        noise: Sequence[torch.Generator] | None = None,
        backwards: bool = False,
    ) -> Motion:
        """Return the motion of a batch of pairs.

        Parameters
        ----------
        moving, fixed : (B, 1, *shape) tensor
            Images of any size.
        noise : sequence of torch.Generator, optional
            Draw each pair's velocity from its distribution (probabilistic networks) instead of taking the mean.
        backwards : bool
            Give the inverse too (diffeomorphic networks).
        """
        shape = moving.shape[2:]
        features = self._features(torch.cat([moving, fixed], 1))
        mean = self.flow(features).float()
        spread = None if self.spread is None else self.spread(features).float()
        velocity = mean
        if spread is not None and noise is not None:
            drawn = torch.stack([torch.randn(mean.shape[1:], generator=one) for one in noise])
            velocity = mean + torch.exp(0.5 * spread) * drawn.to(mean.device)
        inverse = None
        if self.diffeomorphic:
            if backwards:
                inverse = self._whole(exponential(-velocity, self.squarings), shape)
            velocity = exponential(velocity, self.squarings)
        return Motion(field=self._whole(velocity, shape), inverse=inverse, mean=mean, log_variance=spread)

    def _features(self, pair: Tensor) -> Tensor:
        """Pad to a size that halves evenly, the image staying at the start of each axis."""
        missing = [-n % self.factor for n in pair.shape[2:]]
        if any(missing):
            pair = F.pad(pair, [part for n in reversed(missing) for part in (0, n)])
        return cast(Tensor, self.body(pair))

    def _whole(self, field: Tensor, shape: torch.Size) -> Tensor:
        """Bring a field to the images' resolution and size."""
        if self.half_resolution:
            mode = "trilinear" if self.ndim == 3 else "bilinear"
            field = 2 * F.interpolate(field, scale_factor=2, mode=mode, align_corners=False)
        return field[(..., *(slice(n) for n in shape))].contiguous()
