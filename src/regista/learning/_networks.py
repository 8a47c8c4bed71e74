"""The networks: a U-Net that sees two images and gives a displacement, or a velocity and its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regista.learning._architectures import Architecture
from regista.learning._inference import AROUND, LEAST, TrainedNetwork
from regista.learning._ops import exponential
from regista.learning._wiring import SLOPE, Wiring

_START_SD = 1e-5
"""Spread of the first weights of the flow: training begins next to the identity."""
_START_LOG_VARIANCE = -10.0
_SLOW = 20480
"""PyTorch's convolution of a single volume on the CPU takes a slow route where channels × rows × columns are no more."""
_MOST_ZEROS = 3
"""How many times as many channels are worth the fast route."""


def convolution(ndim: int, channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
    """Return a 3-wide convolution in 2-D or 3-D, its first weights those of He et al. (ICCV 2015)."""
    kind = Conv3d if ndim == 3 else nn.Conv2d
    layer = kind(channels_in, channels_out, 3, stride, 1)
    # torch's own first weights let features fade from layer to layer, and the gradient of a field near 0 with them
    nn.init.kaiming_normal_(layer.weight, SLOPE, nonlinearity="leaky_relu")
    nn.init.zeros_(layer.bias)
    return cast(nn.Module, layer)


class Conv3d(nn.Conv3d):
    """A convolution that small single volumes do not take the slow route of."""

    def forward(self, x: Tensor) -> Tensor:
        """Return features of x."""
        return convolved(x, self.weight, self.bias, self.stride[0])


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """Return a 3-wide convolution, its sides padded by zeros.

    Where PyTorch would take a route two to nine times slower, single volumes on the CPU, channels of zeros are added: the same
    to rounding.
    """
    if x.dim() == 4:
        return F.conv2d(x, weight, bias, stride, 1)
    batch, channels, *sides = x.shape
    if batch == 1 and x.device.type == "cpu":
        enough = _SLOW // (sides[0] * sides[1]) + 1
        if channels < enough <= _MOST_ZEROS * channels:
            more = [0] * 6 + [0, enough - channels]
            x, weight = F.pad(x, more), F.pad(weight, more)
    return F.conv3d(x, weight, bias, stride, 1)


@torch.no_grad()
def edge_strength(images: Tensor) -> Tensor:
    """Return how strong edges are beside others around, 0 to 1: the same for an image and its negative.

    Parameters
    ----------
    images : (B, C, *shape) tensor
        Images of any contrast.

    Returns
    -------
    (B, C, *shape) float32 tensor
        Length of the gradient by its mean around, some eight voxels wide, 1 where it is four times that or more.
    """
    ndim = images.dim() - 2
    squares = torch.zeros_like(images, dtype=torch.float32)
    for axis in range(ndim):
        steps = torch.diff(images.float(), dim=axis + 2)
        behind = [0, 0] * (ndim - 1 - axis)
        squares += (0.5 * (F.pad(steps, [*behind, 0, 1]) + F.pad(steps, [*behind, 1, 0]))) ** 2
    strength = squares.sqrt()
    pool = F.avg_pool3d if ndim == 3 else F.avg_pool2d
    blocks = [min(AROUND, n) for n in images.shape[2:]]
    around = pool(strength, blocks, ceil_mode=True, count_include_pad=False)
    for axis, n in enumerate(around.shape[2:], 2):  # means of 3, which torch pools of no fewer than 3
        wide = F.pad(around, [*[0, 0] * (ndim + 1 - axis), 1, 1])
        counts = torch.tensor([3 - (k == 0) - (k == n - 1) for k in range(n)], device=images.device)
        around = sum(wide.narrow(axis, k, n) for k in range(3)) / counts.reshape(-1, *[1] * (ndim + 1 - axis))
    mode = "trilinear" if ndim == 3 else "bilinear"
    around = F.interpolate(around, scale_factor=tuple(map(float, blocks)), mode=mode, align_corners=False)
    around = around[(..., *(slice(n) for n in images.shape[2:]))]
    typical = strength.mean(tuple(range(2, ndim + 2)), keepdim=True)
    return (strength / (4 * (around + LEAST * typical) + 1e-9)).clamp(max=1)


def upsampled_convolution(layer: nn.Module, x: Tensor, beside: Tensor) -> Tensor:
    """Return ``layer(cat(repeat(x, 2), beside))`` with fewer products, and without the copies.

    A 3-wide convolution of an image whose voxels are repeated is a transposed convolution of the image itself, 4 wide and
    of stride 2: per axis 2 products in place of 3.

    Parameters
    ----------
    layer : Conv2d or Conv3d
        A convolution of `convolution`.
    x : (B, C, *shape) tensor
        What is repeated along every axis.
    beside : (B, D, *2 shape) tensor
        Channels that follow.
    """
    weight, count, ndim = layer.weight, x.shape[1], x.dim() - 2
    kernel = weight[:, :count].flip(tuple(range(2, ndim + 2))).transpose(0, 1)
    for axis in range(ndim):
        along = [0, 0] * axis
        kernel = F.pad(kernel, [*along, 0, 1]) + F.pad(kernel, [*along, 1, 0])
    transposed = F.conv_transpose3d if ndim == 3 else F.conv_transpose2d
    above = transposed(x, kernel, layer.bias, stride=2, padding=1)
    return cast(Tensor, above + convolved(beside, weight[:, count:]))


class UNet(nn.Module):
    """The body: features of a pair at full or half resolution.

    Parameters
    ----------
    ndim : int
        2 or 3.
    wiring : Wiring
        Which layers it has.

    Attributes
    ----------
    folded : bool
        Upsample by `upsampled_convolution`: the same to rounding.
    """

    def __init__(self, ndim: int, wiring: Wiring) -> None:
        super().__init__()
        self.ndim, self.wiring = ndim, wiring
        self.folded = True
        for stage, layers in wiring.stages.items():
            setattr(self, stage, nn.ModuleList(convolution(ndim, *layer) for layer in layers))

    def pyramid(self, pair: Tensor) -> list[Tensor]:
        """Return features of every resolution, coarse to fine, of a pair whose sides are multiples of the factor."""
        return self.wiring.pyramid(pair, self)

    def layers(self, stage: str) -> Sequence[nn.Module]:
        """Return the layers of a stage."""
        return cast(Sequence[nn.Module], getattr(self, stage))

    def pool(self, x: Tensor) -> Tensor:
        """Return the largest values at half the resolution."""
        return F.max_pool3d(x, 2) if self.ndim == 3 else F.max_pool2d(x, 2)

    def step(self, layer: nn.Module, x: Tensor, beside: Tensor | None = None) -> Tensor:
        """Return a convolution of x, or of x at twice its resolution and what lies beside it there, rectified."""
        if beside is None:
            found = layer(x)
        elif self.folded:
            found = upsampled_convolution(layer, x, beside)
        else:
            found = layer(torch.cat([F.interpolate(x, scale_factor=2), beside], 1))
        return F.leaky_relu(found, SLOPE, inplace=True)


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What the network says of a pair.

    Parameters
    ----------
    field : (B, n, *shape) tensor
        Displacement, voxels, fixed to moving.
    inverse : (B, n, *shape) tensor or None
        Displacement of the flow backwards, of diffeomorphic networks.
    coarser : tuple of (int, (B, n, *shape) tensor)
        Of networks with several resolutions, while they train: voxel size as a multiple of the images', and displacement in
        such voxels, on a grid that may reach beyond the images; fine to coarse.
    mean, log_variance : tensor or None
        Velocity and the logarithm of its variance at the resolution they are estimated at, of probabilistic ones;
        otherwise `mean` is the field, or the velocity, before integration.
    """

    field: Tensor
    inverse: Tensor | None = None
    mean: Tensor
    log_variance: Tensor | None = None
    coarser: tuple[tuple[int, Tensor], ...] = ()


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
    resolutions : int
        Number of resolutions at which the network gives a field (or velocity): each adds to that of the one below, which
        is interpolated. In training every one of them is scored.
    edges : bool
        See `edge_strength` of the images, not the images.

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
        resolutions: int = 1,
        edges: bool = False,
    ) -> None:
        super().__init__()
        self.edges = edges
        self.ndim, self.factor = ndim, sizes.factor
        self.diffeomorphic, self.probabilistic = diffeomorphic, probabilistic
        self.half_resolution, self.squarings = half_resolution, squarings
        wiring = Wiring(sizes, half_resolution)
        self.body = UNet(ndim, wiring)
        self.flow = convolution(ndim, wiring.channels_out, ndim)
        nn.init.normal_(self.flow.weight, 0.0, _START_SD)
        nn.init.zeros_(self.flow.bias)
        coarser = wiring.widths[len(wiring.widths) - (resolutions - 1) :]
        self.coarser_flows = nn.ModuleList(convolution(ndim, width, ndim) for width in coarser)
        for flow in self.coarser_flows:
            nn.init.normal_(flow.weight, 0.0, _START_SD)
        self.spread: nn.Module | None = None
        if probabilistic:
            self.spread = convolution(ndim, wiring.channels_out, ndim)
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
        pair = torch.cat([moving, fixed], 1)
        *below, features = self._features(edge_strength(pair) if self.edges else pair)
        *coarser, mean = self._estimates(below, features)
        spread = None if self.spread is None else self.spread(features).float()
        velocity = mean
        if spread is not None and noise is not None:
            drawn = torch.stack([torch.randn(mean.shape[1:], generator=one) for one in noise])
            velocity = mean + torch.exp(0.5 * spread) * drawn.to(mean.device)
        if not self.training:
            coarser = []
        elif self.diffeomorphic:
            coarser = [exponential(one, self.squarings) for one in coarser]
        least = 4 if self.half_resolution else 2
        return Motion(
            field=self._displacement(velocity, shape),
            inverse=self._displacement(-velocity, shape) if self.diffeomorphic and backwards else None,
            mean=mean,
            log_variance=spread,
            coarser=tuple((least << depth, one) for depth, one in enumerate(reversed(coarser))),
        )

    def trained(self) -> TrainedNetwork:
        """Return the network as it answers on the CPU without PyTorch, of the weights as they are now."""
        return TrainedNetwork(
            self.ndim,
            self.body.wiring.sizes,
            {name: value.detach().cpu().float().numpy() for name, value in self.state_dict().items()},
            diffeomorphic=self.diffeomorphic,
            probabilistic=self.probabilistic,
            half_resolution=self.half_resolution,
            squarings=self.squarings,
            resolutions=1 + len(self.coarser_flows),
            edges=self.edges,
        )

    def _estimates(self, below: Sequence[Tensor], features: Tensor) -> list[Tensor]:
        """Return the fields or velocities of every resolution that has one, coarse to fine."""
        levels = [*below[len(below) - len(self.coarser_flows) :], features]
        found: list[Tensor] = []
        for flow, seen in zip([*self.coarser_flows, self.flow], levels, strict=True):
            step = flow(seen).float()
            found.append(step + self._doubled(found[-1]) if found else step)
        return found

    def _doubled(self, field: Tensor) -> Tensor:
        """Return a field at twice the resolution, in voxels half as large."""
        mode = "trilinear" if self.ndim == 3 else "bilinear"
        return 2 * F.interpolate(field, scale_factor=2, mode=mode, align_corners=False)

    def _features(self, pair: Tensor) -> list[Tensor]:
        """Pad to a size that halves evenly, the image staying at the start of each axis."""
        missing = [-n % self.factor for n in pair.shape[2:]]
        if any(missing):
            pair = F.pad(pair, [part for n in reversed(missing) for part in (0, n)])
        return self.body.pyramid(pair)

    def _displacement(self, estimate: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the displacement on the images' grid of a field, or of a velocity, as the network estimates it."""
        field = exponential(estimate, self.squarings) if self.diffeomorphic else estimate
        if self.half_resolution:
            field = self._doubled(field)
        return field[(..., *(slice(n) for n in shape))].contiguous()
