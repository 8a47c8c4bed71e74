"""Score of two whole images by a patch network, slab by slab, with its gradient. Needs PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from regista.similarity._base import Volume
from regista.similarity._deep_network import PATCH, STRIDE, FeatureNetwork, Network, torch_threads

RADIUS = PATCH // 2
_SLAB_VOXELS = 2_500_000
"""Voxels that go through the network at a time, with patches two voxels apart."""
_FLAT = 1e-3
"""Range of intensities, of 0 … 1, below which a patch of the fixed image shows nothing."""
Block = tuple[slice, ...]
Descriptions = dict[tuple[tuple[int, int], ...], torch.Tensor]


class DenseScore:
    """Weighted mean score of all patches of a lattice, for one fixed image.

    Parameters
    ----------
    network : PatchNetwork or FeatureNetwork
        Its weights are constants.
    fixed : ndarray of float32
        Fixed image of as many dimensions as the network's.
    stride : {1, 2}
        Distance of patch centres, voxels; the first is voxel 0.
    fixed_first : bool
        Whether the fixed image is the network's first channel.
    device : str
        Where the network is.
    """

    def __init__(self, network: Network, fixed: Volume, stride: int, fixed_first: bool, device: str) -> None:
        self._network, self._stride, self._device = network, stride, device
        self._order = (0, 1) if fixed_first else (1, 0)
        self._shape = fixed.shape
        self._fixed = _padded(fixed)
        self._shows = _local_range(self._fixed, stride) > _FLAT
        self._warped = np.empty_like(self._fixed)
        self._slopes = np.empty_like(self._fixed)
        self._descriptions: Descriptions = {}

    def __call__(self, warped: Volume, weight: Volume | None, out: Volume) -> float:
        """Return the mean score and write its derivative by the warped image; see `Prepared.value_and_gradient`."""
        share = self._shares(weight)
        total = float(share.sum(dtype=np.float64))
        self._slopes[...] = 0
        if total <= 0:
            out[...] = 0
            # without overlap nothing is worse; an image that shows nothing tells nothing
            lost = weight is not None and float(weight.sum(dtype=np.float64)) <= 0
            return float("-inf") if lost else 0.0
        _padded(warped, self._warped)
        value = 0.0
        used: Descriptions = {}
        with torch_threads():
            for centres, voxels in self._slabs(share):
                value += self._slab(voxels, share[centres] / np.float32(total), used)
        self._descriptions = used  # those of slabs that are no longer looked at go
        _fold(self._slopes, out)
        return value

    def _shares(self, weight: Volume | None) -> Volume:
        """Return the weight of every patch: that of its centre, 0 where the fixed image shows nothing."""
        shares = self._shows.astype(np.float32)
        if weight is not None:
            shares *= weight[(slice(None, None, self._stride),) * weight.ndim]
        return shares

    def _slabs(self, share: Volume) -> Iterator[tuple[Block, Block]]:
        """Yield parts of the lattice that matter, small enough for memory, and the padded voxels they see."""
        spans = []
        for axis in range(share.ndim):
            rest = tuple(a for a in range(share.ndim) if a != axis)
            used = np.flatnonzero(share.any(axis=rest))
            spans.append((int(used[0]), int(used[-1]) + 1))
        section = [self._stride * (stop - start - 1) + PATCH for start, stop in spans[1:]]
        budget = _SLAB_VOXELS if self._stride == STRIDE else _SLAB_VOXELS // 4
        rows = max(1, (budget // int(np.prod(section)) - PATCH) // self._stride + 1)
        first, last = spans[0]
        for begin in range(first, last, rows):
            parts = [(begin, min(begin + rows, last)), *spans[1:]]
            yield (
                tuple(slice(*part) for part in parts),
                tuple(slice(self._stride * a, self._stride * (b - 1) + PATCH) for a, b in parts),
            )

    def _slab(self, voxels: Block, share: Volume, used: Descriptions) -> float:
        """Return the share of one slab in the value and add its slopes."""
        if not share.any():
            return 0.0
        warped = self._tensor(self._warped, voxels).requires_grad_(True)
        scores = self._scores(voxels, warped, used)
        weights = torch.from_numpy(np.ascontiguousarray(share)).to(self._device)
        (slopes,) = torch.autograd.grad(scores, warped, weights[None, None])
        self._slopes[voxels] += slopes[0, 0].cpu().numpy()
        return float((scores.detach()[0, 0].double() * weights.double()).sum())

    def _scores(self, voxels: Block, warped: torch.Tensor, used: Descriptions) -> torch.Tensor:
        """Return the scores of one slab; what describes the fixed image is kept from call to call."""
        network, stride = self._network, self._stride
        if not isinstance(network, FeatureNetwork):
            pair = (self._tensor(self._fixed, voxels), warped)
            scores: torch.Tensor = network(torch.cat([pair[n] for n in self._order], dim=1), stride)
            return scores
        own, other = self._order
        key = tuple((part.start, part.stop) for part in voxels)
        known = self._descriptions.get(key)
        if known is None:
            with torch.no_grad():
                known = network.describe(self._tensor(self._fixed, voxels), own, stride)
        used[key] = known
        return network.compare(known, network.describe(warped, other, stride))

    def _tensor(self, image: Volume, voxels: Block) -> torch.Tensor:
        """Return part of an image as ``(1, 1, …)``."""
        return torch.from_numpy(np.ascontiguousarray(image[voxels]))[None, None].to(self._device)


def _padded(image: Volume, out: Volume | None = None) -> Volume:
    """Return an image with its border repeated outside, so that every voxel is the centre of a patch."""
    if out is None:
        out = np.empty([n + 2 * RADIUS for n in image.shape], np.float32)
    inner = tuple(slice(RADIUS, RADIUS + n) for n in image.shape)
    out[inner] = image
    for axis, n in enumerate(image.shape):
        view = np.moveaxis(out, axis, 0)
        view[:RADIUS], view[RADIUS + n :] = view[RADIUS], view[RADIUS + n - 1]
    return out


def _fold(slopes: Volume, out: Volume) -> None:
    """Write the derivative by an image, given that by its padded form, which is spoilt."""
    for axis, n in enumerate(out.shape):
        view = np.moveaxis(slopes, axis, 0)
        view[RADIUS] += view[:RADIUS].sum(axis=0)
        view[RADIUS + n - 1] += view[RADIUS + n :].sum(axis=0)
    np.copyto(out, slopes[tuple(slice(RADIUS, RADIUS + n) for n in out.shape)])


def _local_range(padded: Volume, stride: int) -> NDArray[np.float32]:
    """Return the range of intensities in every patch of the lattice."""
    high, low = padded, padded
    for axis, n in enumerate(padded.shape):
        keep = (slice(None),) * axis + (slice(RADIUS, n - RADIUS, stride),)
        high = maximum_filter1d(high, PATCH, axis=axis)[keep]
        low = minimum_filter1d(low, PATCH, axis=axis)[keep]
    return np.asarray(high - low)
