"""A network's answer by the package's own convolutions: on the CPU, without gradients.

The same sums as those of `RegistrationNetwork.forward`, in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regista.kernels.cpu.convolution import (
    Features,
    Part,
    convolve,
    features,
    maxima,
    part,
    planes,
    planes_part,
)
from regista.learning._networks import SLOPE, RegistrationNetwork, edge_strength

Floats = NDArray[np.float32]
_SLAB = 16
"""Planes at full resolution that are worked out at a time: even."""


def displacement_vox(network: RegistrationNetwork, fixed: Floats, moving: Floats) -> Floats:
    """Return the displacement, voxels ``(n, *shape)``, for images ``(*shape)`` from 0 to 1.

    Parameters
    ----------
    network : RegistrationNetwork
        On the CPU.
    fixed, moving : (*shape) float32 ndarray
        Images on the network's grid.
    """
    shape = fixed.shape
    pair = [moving, fixed]
    with torch.inference_mode():
        if network.edges:
            pair = [edge_strength(torch.tensor(one.copy())[None, None])[0, 0].numpy() for one in pair]
        seen = features(_sides([-(-n // network.factor) * network.factor for n in shape]), 2)
        inside = tuple(slice(1, 1 + n) for n in _sides(shape))
        for channel, image in enumerate(pair):
            seen[inside][..., channel] = image.reshape(_sides(shape))
        answer = _Answer(network)
        *below, finest = network.body.pyramid(seen, by=answer)
        estimate = network.estimates(below, finest, by=answer.flow)[-1]
        return cast(Floats, network.displacement(estimate, shape)[0].numpy())


class _Answer:
    """Works the layers out, in one answer: `UNet.pyramid` and `RegistrationNetwork.estimates` ask it in PyTorch's place.

    Parameters
    ----------
    network : RegistrationNetwork
        On the CPU.
    """

    def __init__(self, network: RegistrationNetwork) -> None:
        self.network = network
        self._laid_out: dict[nn.Module, list[Part]] = {}
        body = network.body
        # from the last level on, features are the largest, and only the next layer looks at them
        self._tail = body.up[-1] if body.ndim == 3 and not network.coarser_flows else None
        # each layer runs ahead of the next by up to 2 planes
        self.margin = 4 + 2 * (1 + len(body.at_half) + len(body.after))

    def step(self, layer: nn.Module, x: Features | _Tail, beside: Features | None = None) -> Features | _Tail:
        """Return a convolution of x, or of x at twice its resolution and what lies beside it there, rectified."""
        if isinstance(x, _Tail) or layer is self._tail:
            return _Tail(self, layer, x, beside)
        inputs = [x] if beside is None else [x, beside]
        stride = _stride(layer)
        out = features(_sides([-(-n // stride) for n in _inner(inputs[-1])]), _outputs(layer))
        self.convolve(layer, inputs, out)
        return out

    def convolve(self, layer: nn.Module, inputs: Sequence[Features], out: Features) -> None:
        """Write the rectified convolution of the inputs of a layer; where there are two, the first is half as large."""
        weight, bias = _values(layer)
        if layer not in self._laid_out:
            own = inputs[0].shape[3]
            kind = "halved" if _stride(layer) == 2 else "doubled" if len(inputs) == 2 else "same"
            rest = [part(weight[:, own:])] if len(inputs) == 2 else []
            self._laid_out[layer] = [part(weight[:, :own], kind), *rest]
        convolve(list(zip(self._laid_out[layer], inputs, strict=True)), bias, SLOPE, out)

    def pool(self, x: Features) -> Features:
        """Return the largest values at half the resolution."""
        return maxima(x)

    def flow(self, layer: nn.Module, x: Features | _Tail) -> Tensor:
        """Return a field ``(1, n, *shape)``, not rectified."""
        weight, bias = _values(layer)
        if layer not in self._laid_out:
            self._laid_out[layer] = [planes_part(weight)]
        one = self._laid_out[layer][0]
        field = np.empty((len(bias), *(x.shape if isinstance(x, _Tail) else _inner(x))), np.float32)
        for a in range(0, field.shape[1], _SLAB):
            b = min(a + _SLAB, field.shape[1])
            planes(one, _planes(x, a, b), bias, field, a)
        return torch.from_numpy(field if self.network.ndim == 3 else field[:, 0])[None]


class _Tail:
    """Features at full resolution, of which a few planes at a time are worked out, from the first to the last.

    Whole they would be the most memory that a network takes, several times its answer.

    Parameters
    ----------
    answer : _Answer
        Who works layers out.
    layer : nn.Module
        The layer that gives these features.
    x : Features or _Tail
        What it sees: features of half the resolution, or those of the layer before.
    beside : Features or None
        What lies beside features of half the resolution.
    """

    def __init__(
        self, answer: _Answer, layer: nn.Module, x: Features | _Tail, beside: Features | None
    ) -> None:
        self._answer, self._layer, self._x, self._beside = answer, layer, x, beside
        self.shape: tuple[int, ...] = x.shape if isinstance(x, _Tail) else _inner(x)
        if beside is not None:
            self.shape = _inner(beside)
        sides = _sides([_SLAB + answer.margin, *self.shape[1:]])
        self._held = features(sides, _outputs(layer))
        self._first, self._done = (
            -1,
            0,
        )  # the plane that is held first, and the first that is not worked out yet

    def planes(self, start: int, stop: int) -> Features:
        """Return planes with one before and one behind; they may not begin before those asked for last."""
        self._forget(start - 1)
        goal = min(stop + 1, self.shape[0])
        if self._beside is not None:
            goal += goal % 2  # a repeated plane is two
        if goal > self._done:
            inputs = self._inputs(self._done, goal)
            self._answer.convolve(self._layer, inputs, self._between(self._done, goal))
            self._done = goal
        if goal == self.shape[0]:
            self._held[goal - self._first] = 0
        return self._between(start, stop)

    def _between(self, start: int, stop: int) -> Features:
        return self._held[start - 1 - self._first : stop + 1 - self._first]

    def _forget(self, first: int) -> None:
        """Hold no plane before this one."""
        gone, kept = first - self._first, self._done - first
        if gone > 0:
            self._held[:kept] = self._held[gone : gone + kept].copy()
            self._first = first

    def _inputs(self, start: int, stop: int) -> list[Features]:
        if self._beside is None:
            return [_planes(self._x, start, stop)]
        return [_planes(self._x, start // 2, stop // 2), _planes(self._beside, start, stop)]


def _planes(x: Features | _Tail, start: int, stop: int) -> Features:
    """Return planes with one before and one behind."""
    return x.planes(start, stop) if isinstance(x, _Tail) else x[start : stop + 2]


def _inner(x: Features) -> tuple[int, ...]:
    """Return the sides without the border."""
    return tuple(n - 2 for n in x.shape[:3])


def _sides(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the sides of a volume; a slice is one voxel deep."""
    return cast(tuple[int, int, int], (1, *shape) if len(shape) == 2 else tuple(shape))


def _stride(layer: nn.Module) -> int:
    return int(cast(nn.Conv3d, layer).stride[0])


def _outputs(layer: nn.Module) -> int:
    return int(cast(nn.Conv3d, layer).out_channels)


def _values(layer: nn.Module) -> tuple[Floats, Floats]:
    convolution = cast(nn.Conv3d, layer)
    return convolution.weight.detach().numpy(), cast(Tensor, convolution.bias).detach().numpy()
