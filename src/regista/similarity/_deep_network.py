"""The networks of trained metrics, applied to whole images at once. The one module here that needs PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from regista.core import get_threads

PATCH = 17
"""Side of a patch, voxels: what one output of a network sees."""
STRIDE = 2
"""Distance of the patches that one pass of a network compares, voxels."""
KERNELS = (5, 3, 3, 3)
"""Sides of the filters; the first goes in steps of `STRIDE`, and their reach adds up to `PATCH`."""
FEATURES = 16
"""How many numbers `FeatureNetwork` describes a place by."""


class _Layers(nn.Module):
    """Convolutions without padding, each followed by a rectifier, and a last linear layer: 17 voxels become one.

    The first convolution goes in steps of two voxels instead of pooling. On a larger image the same layers see all
    patches, two voxels apart; with ``stride=1`` the first takes every step and those after it skip every other value,
    which yields all patches.
    """

    def __init__(self, ndim: int, inputs: int, channels: Sequence[int], outputs: int) -> None:
        super().__init__()
        kind: type[nn.Conv2d] | type[nn.Conv3d] = nn.Conv2d if ndim == 2 else nn.Conv3d
        self.ndim, self.channels = ndim, tuple(channels)
        widths = (inputs, *self.channels)
        self.layers = nn.ModuleList(kind(*widths[n : n + 2], side) for n, side in enumerate(KERNELS))
        self.score = kind(widths[-1], outputs, 1)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, stride: int = STRIDE) -> Tensor:
        """Return what the layers make of patches `stride` voxels apart, ``(N, outputs, …)``."""
        convolve = functional.conv2d if self.ndim == 2 else functional.conv3d
        dilation = STRIDE // stride
        values = 4.0 * images - 2.0  # intensities span 0 … 1
        for number, layer in enumerate(self.layers):
            step = {"stride": stride} if number == 0 else {"dilation": dilation}
            values = functional.relu(convolve(values, layer.weight, layer.bias, **step), inplace=True)  # type: ignore[arg-type]
        scores: Tensor = self.score(values)
        return scores


class PatchNetwork(_Layers):
    """Score how well two patches correspond: above 0 aligned, below 0 not (Simonovsky 2016).

    Both patches enter as channels of one image. Convolutions without padding, the first in steps of two voxels instead
    of pooling, each followed by a rectifier, shrink a patch of 17 voxels to a single one; a last, linear, layer weighs
    its channels to the score. On a larger image the same layers score all patches, two voxels apart. Patch, strides and
    channels follow the paper; the sizes of the filters are ours.

    Parameters
    ----------
    ndim : {2, 3}
        Dimensions of the images.
    channels : sequence of 4 int
        Filters of each layer.

    Examples
    --------
    >>> network = PatchNetwork(2, (4, 4, 4, 4))
    >>> network(torch.zeros(5, 2, 17, 17)).shape, network(torch.zeros(1, 2, 31, 21)).shape
    (torch.Size([5, 1, 1, 1]), torch.Size([1, 1, 8, 3]))
    """

    def __init__(self, ndim: int, channels: Sequence[int]) -> None:
        super().__init__(ndim, 2, channels, 1)


class FeatureNetwork(nn.Module):
    """Describe each patch by features of its own contrast's network; the score is the cosine between two descriptions.

    Each contrast has layers of the same form as `PatchNetwork`, with one channel in and `FEATURES` numbers out, which are
    scaled to length 1. What describes the fixed image does not change while the moving one is warped, so it is computed
    once.

    Parameters
    ----------
    ndim : {2, 3}
        Dimensions of the images.
    channels : sequence of 4 int
        Filters of each layer, the same for both contrasts.

    Examples
    --------
    >>> network = FeatureNetwork(2, (4, 4, 4, 4))
    >>> network.describe(torch.zeros(1, 1, 31, 21), 0).shape, network(torch.zeros(5, 2, 17, 17)).shape
    (torch.Size([1, 16, 8, 3]), torch.Size([5, 1, 1, 1]))
    """

    def __init__(self, ndim: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.ndim, self.channels = ndim, tuple(channels)
        self.towers = nn.ModuleList(_Layers(ndim, 1, channels, FEATURES) for _ in range(2))

    def describe(self, image: Tensor, contrast: int, stride: int = STRIDE) -> Tensor:
        """Return the features ``(N, FEATURES, …)`` of patches of images ``(N, 1, …)`` of the first or second contrast."""
        return functional.normalize(self.towers[contrast](image, stride), dim=1, eps=1e-6)

    def compare(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the cosines ``(N, 1, …)`` between features."""
        return (one * other).sum(dim=1, keepdim=True)

    def forward(self, images: Tensor, stride: int = STRIDE) -> Tensor:
        """Return the scores ``(N, 1, …)``, from −1 to 1, of patches `stride` voxels apart, in images ``(N, 2, …)``."""
        first, second = (self.describe(images[:, n : n + 1], n, stride) for n in (0, 1))
        return self.compare(first, second)


Network = PatchNetwork | FeatureNetwork


@contextmanager
def torch_threads() -> Iterator[None]:
    """Let PyTorch use the package's number of threads for a while."""
    before, wanted = torch.get_num_threads(), get_threads()
    if wanted != before:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        if wanted != before:
            torch.set_num_threads(before)


def fresh(architecture: str, ndim: int, channels: Sequence[int]) -> Network:
    """Return a network of an architecture (`regista.similarity.METRIC_ARCHITECTURES`) with random weights."""
    if architecture == "features":
        return FeatureNetwork(ndim, channels)
    return PatchNetwork(ndim, channels)


def build(architecture: str, ndim: int, channels: Sequence[int], weights: dict[str, Tensor]) -> Network:
    """Return a network with given weights, on the CPU, whose weights are constants."""
    network = fresh(architecture, ndim, channels)
    network.load_state_dict(weights)
    network.eval().requires_grad_(False)
    return network


def best_device() -> str:
    """Return 'cuda' where there is a graphics card that PyTorch can use, else 'cpu'."""
    return "cuda" if torch.cuda.is_available() else "cpu"
