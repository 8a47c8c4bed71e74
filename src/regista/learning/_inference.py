"""A trained network's answer by the package's own convolutions: on the CPU, without gradients and without PyTorch.

The same sums as those of `RegistrationNetwork.forward`, in another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from regista.core import RegistrationError
from regista.kernels.cpu.convolution import (
    Features,
    Part,
    convolve,
    features,
    halved,
    maxima,
    part,
    planes,
    planes_part,
)
from regista.kernels.cpu.fields import exponential
from regista.kernels.cpu.warp import warp
from regista.learning._architectures import Architecture
from regista.learning._wiring import SLOPE, STAGES, Layer, Wiring

Floats = NDArray[np.float32]
AROUND = 4
"""Voxels of the blocks whose mean edges are compared with."""
LEAST = 0.2
"""Share of an image's mean edge that counts as nothing: what is flat stays so, for all its noise."""
_SLAB = 16
"""Planes at full resolution that are worked out at a time: even."""
_KEPT = 1 << 29
"""Bytes of room that a network keeps for its next answer: memory that is new to a process costs up to half of one."""


@dataclass(frozen=True, eq=False)
class _Weights:
    """A layer: weights ``(M, C, *taps)`` and biases ``(M,)``."""

    weight: Floats
    bias: Floats
    stride: int


class _Room:
    """Room for features, found again by the next answer, which asks in the same order.

    Parameters
    ----------
    sides : tuple of int
        Of the images that are answered.
    """

    def __init__(self, sides: tuple[int, int, int]) -> None:
        self.sides = sides
        self._held: list[Features] = []
        self._asked = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(one.nbytes for one in self._held)

    def again(self) -> None:
        """Begin with the first."""
        self._asked = 0

    def features(self, shape: tuple[int, int, int], channels: int) -> Features:
        """Return room for features, its border 0; what lies within is of an answer before."""
        if self._asked == len(self._held):
            self._held.append(features(shape, channels))
        self._asked += 1
        return self._held[self._asked - 1]


class TrainedNetwork:
    """A network that only answers.

    It keeps the room that it worked in for its next answer.

    Parameters
    ----------
    ndim : int
        2 or 3.
    sizes : Architecture
        Channels of the U-Net.
    weights : mapping of str to ndarray
        As `RegistrationNetwork.state_dict` names them.
    diffeomorphic, probabilistic, half_resolution, squarings, resolutions, edges
        As of `RegistrationNetwork`.

    Raises
    ------
    ValueError
        If the weights are not those of such a network.
    """

    def __init__(
        self,
        ndim: int,
        sizes: Architecture,
        weights: Mapping[str, Floats],
        *,
        diffeomorphic: bool = False,
        probabilistic: bool = False,
        half_resolution: bool = False,
        squarings: int = 7,
        resolutions: int = 1,
        edges: bool = False,
    ) -> None:
        self.ndim, self.factor, self.edges = ndim, sizes.factor, edges
        self.diffeomorphic, self.half_resolution, self.squarings = diffeomorphic, half_resolution, squarings
        self.wiring = Wiring(sizes, half_resolution)
        expected = {
            f"body.{stage}.{number}": layer
            for stage in STAGES
            for number, layer in enumerate(self.wiring.stages[stage])
        }
        coarser = self.wiring.widths[len(self.wiring.widths) - (resolutions - 1) :]
        flows = {f"coarser_flows.{number}": Layer(width, ndim) for number, width in enumerate(coarser)}
        flows["flow"] = Layer(self.wiring.channels_out, ndim)
        # how sure a network is decides nothing here
        unused = {"spread": flows["flow"]} if probabilistic else {}
        self._named = _named(ndim, weights, expected | flows | unused)
        self.flows = [self._named[name] for name in flows]
        self._laid_out: dict[_Weights, list[Part]] = {}
        self._idle: list[_Room] = []

    def displacement_vox(self, fixed: Floats, moving: Floats) -> Floats:
        """Return the displacement, voxels ``(n, *shape)``, for images ``(*shape)`` from 0 to 1.

        Parameters
        ----------
        fixed, moving : (*shape) float32 ndarray
            Images on the network's grid.

        Raises
        ------
        RegistrationError
            If it is not finite.
        """
        return self.displacement(self.estimate(fixed, moving), fixed.shape)

    def estimate(self, fixed: Floats, moving: Floats) -> Floats:
        """Return the field, or the velocity, as the network gives it: on its own lattice, ``(n, I, J, K)``, I being 1 of a slice.

        It takes, and refuses, what `displacement_vox` does.
        """
        pair = [edge_strength(one) if self.edges else one for one in (moving, fixed)]
        sides = _sides(fixed.shape)
        padded = _sides([-(-n // self.factor) * self.factor for n in fixed.shape])
        room = self._room(sides)
        seen = room.features(padded, 2)
        inside = tuple(slice(1, 1 + n) for n in sides)
        for channel, image in enumerate(pair):
            seen[inside][..., channel] = image.reshape(sides)
        answer = _Answer(self, room)
        levels = self.wiring.pyramid(seen, answer)[-len(self.flows) :]
        field = answer.flow(self.flows[0], levels[0])
        for flow, level in zip(self.flows[1:], levels[1:], strict=True):
            field = answer.flow(flow, level) + _doubled(field)
        if room.size <= _KEPT:
            self._idle = [room]
        check_finite(field)
        return field

    def displacement(self, estimate: Floats, shape: tuple[int, ...]) -> Floats:
        """Return the displacement, voxels ``(n, *shape)``, of an estimate.

        Parameters
        ----------
        estimate : (n, I, J, K) float32 ndarray
            As `estimate` gives it, or a multiple or sum of such.
        shape : tuple of int
            Of the images.
        """
        field = _flown(estimate, self.squarings) if self.diffeomorphic else estimate
        if self.half_resolution:
            field = _doubled(field)
        within = tuple(slice(n) for n in _sides(shape))
        return np.ascontiguousarray(field[(slice(None), *within)]).reshape(-1, *shape)

    def _room(self, sides: tuple[int, int, int]) -> _Room:
        """Return the room that is idle, or a new one where there is none or the last images were of another size."""
        try:
            room = self._idle.pop()  # whoever asks meanwhile, in another thread, gets a new one
        except IndexError:
            return _Room(sides)
        room.again()
        return room if room.sides == sides else _Room(sides)

    def layers(self, stage: str) -> list[_Weights]:
        """Return the layers of a stage of the U-Net."""
        return [self._named[f"body.{stage}.{n}"] for n in range(len(self.wiring.stages[stage]))]

    def laid_out(self, layer: _Weights, own: int) -> list[Part]:
        """Return a layer's weights as the kernels read them: for `own` channels of x, and for what lies beside it."""
        if layer not in self._laid_out:
            weight, rest = layer.weight[:, :own], layer.weight[:, own:]
            kind = "halved" if layer.stride == 2 else "doubled" if rest.size else "same"
            self._laid_out[layer] = [part(weight, kind), *([part(rest)] if rest.size else [])]
        return self._laid_out[layer]

    def laid_out_flow(self, layer: _Weights) -> Part:
        """Return the weights of a layer that gives a field as the kernels read them."""
        if layer not in self._laid_out:
            self._laid_out[layer] = [planes_part(layer.weight)]
        return self._laid_out[layer][0]


def check_finite(field: Floats) -> None:
    """Refuse a field that the kernels, which ask nothing, would follow out of the image.

    Raises
    ------
    RegistrationError
        If it is not finite.
    """
    if not np.isfinite(field).all():
        raise RegistrationError(
            "the network's field holds NaN or Inf: train it again, at a lower learning rate"
        )


def _named(ndim: int, weights: Mapping[str, Floats], expected: Mapping[str, Layer]) -> dict[str, _Weights]:
    """Return the layers by their names; refuse weights that are missing, too many or of other sizes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in expected.items():
        shapes[f"{name}.weight"] = (layer.channels_out, layer.channels_in, *[3] * ndim)
        shapes[f"{name}.bias"] = (layer.channels_out,)
    found = {name: tuple(value.shape) for name, value in weights.items()}
    for name in dict.fromkeys([*shapes, *found]):
        if found.get(name) != shapes.get(name):
            told = [" × ".join(map(str, one[name])) if name in one else "none" for one in (found, shapes)]
            raise ValueError(f"{name}: got {told[0]}, expected {told[1]}")
    return {
        name: _Weights(
            np.array(weights[f"{name}.weight"], np.float32),
            np.array(weights[f"{name}.bias"], np.float32),
            layer.stride,
        )
        for name, layer in expected.items()
    }


class _Answer:
    """Works the layers out, in one answer.

    Parameters
    ----------
    network : TrainedNetwork
        Whose layers.
    room : _Room
        Where features lie.
    """

    def __init__(self, network: TrainedNetwork, room: _Room) -> None:
        self.network, self.room = network, room
        # from the last level on, features are the largest, and only the next layer looks at them
        self._tail = self.layers("up")[-1] if network.ndim == 3 and len(network.flows) == 1 else None
        # each layer runs ahead of the next by up to 2 planes
        self.margin = 4 + 2 * (1 + len(self.layers("at_half")) + len(self.layers("after")))

    def layers(self, stage: str) -> list[_Weights]:
        """Return the layers of a stage."""
        return self.network.layers(stage)

    def step(self, layer: _Weights, x: Features | _Tail, beside: Features | None = None) -> Features | _Tail:
        """Return a convolution of x, or of x at twice its resolution and what lies beside it there, rectified."""
        if isinstance(x, _Tail) or layer is self._tail:
            return _Tail(self, layer, x, beside)
        inputs = [x] if beside is None else [x, beside]
        out = self.room.features(_sides([-(-n // layer.stride) for n in _inner(inputs[-1])]), len(layer.bias))
        self.convolve(layer, inputs, out)
        return out

    def convolve(self, layer: _Weights, inputs: Sequence[Features], out: Features) -> None:
        """Write the rectified convolution of the inputs of a layer; where there are two, the first is half as large."""
        parts = self.network.laid_out(layer, inputs[0].shape[3])
        convolve(list(zip(parts, inputs, strict=True)), layer.bias, SLOPE, out)

    def pool(self, x: Features) -> Features:
        """Return the largest values at half the resolution."""
        return maxima(x, self.room.features(halved(x), x.shape[3]))

    def flow(self, layer: _Weights, x: Features | _Tail) -> Floats:
        """Return a field ``(n, I, J, K)``, not rectified; of a slice I is 1."""
        one = self.network.laid_out_flow(layer)
        field = np.empty((len(layer.bias), *(x.shape if isinstance(x, _Tail) else _inner(x))), np.float32)
        for a in range(0, field.shape[1], _SLAB):
            b = min(a + _SLAB, field.shape[1])
            planes(one, _planes(x, a, b), layer.bias, field, a)
        return field


class _Tail:
    """Features at full resolution, of which a few planes at a time are worked out, from the first to the last.

    Whole they would be the most memory that a network takes, several times its answer.

    Parameters
    ----------
    answer : _Answer
        Who works layers out.
    layer : _Weights
        The layer that gives these features.
    x : Features or _Tail
        What it sees: features of half the resolution, or those of the layer before.
    beside : Features or None
        What lies beside features of half the resolution.
    """

    def __init__(
        self, answer: _Answer, layer: _Weights, x: Features | _Tail, beside: Features | None
    ) -> None:
        self._answer, self._layer, self._x, self._beside = answer, layer, x, beside
        self.shape: tuple[int, ...] = x.shape if isinstance(x, _Tail) else _inner(x)
        if beside is not None:
            self.shape = _inner(beside)
        sides = _sides([_SLAB + answer.margin, *self.shape[1:]])
        self._held = answer.room.features(sides, len(layer.bias))
        self._held[0] = 0
        self._first = -1  # the plane that is held first
        self._done = 0  # the first that is not worked out yet

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
            for plane in range(kept):
                self._held[plane] = self._held[plane + gone]
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


def _enlarged(volume: Floats, factors: Sequence[int]) -> Floats:
    """Return a volume of so many times as many voxels along each axis, linear in between, beyond the last as there."""
    steps = 1 / np.array(factors, np.float64)
    places = np.column_stack([np.diag(steps), 0.5 * steps - 0.5])
    shape = tuple(n * factor for n, factor in zip(volume.shape, factors, strict=True))
    return np.asarray(warp(np.ascontiguousarray(volume), places, shape=shape))


def _doubled(field: Floats) -> Floats:
    """Return a field at twice the resolution, in voxels half as large."""
    factors = [2 if len(field) == 3 or axis else 1 for axis in range(3)]
    return 2 * np.stack([_enlarged(one, factors) for one in field])


def _flown(velocity: Floats, squarings: int) -> Floats:
    """Return the displacement reached by flowing along a velocity for unit time."""
    still = np.zeros((3 - len(velocity), *velocity.shape[1:]), np.float32)
    return exponential(np.concatenate([still, velocity]), squarings)[len(still) :]


def edge_strength(image: Floats) -> Floats:
    """Return how strong edges are beside others around, 0 to 1: the same for an image and its negative.

    Parameters
    ----------
    image : (*shape) float32 ndarray
        Of any contrast.

    Returns
    -------
    (*shape) float32 ndarray
        Length of the gradient by its mean around, some eight voxels wide, 1 where it is four times that or more.
    """
    volume = image.reshape(_sides(image.shape))
    squares = np.zeros(volume.shape, np.float32)
    for axis in range(3):
        ends = [(0, 0)] * 3
        ends[axis] = (1, 1)
        steps = np.pad(np.diff(volume, axis=axis), ends)
        squares += (0.5 * (np.delete(steps, 0, axis) + np.delete(steps, -1, axis))) ** 2
    strength = np.sqrt(squares)
    factors = [1 if image.ndim == 2 and axis == 0 else AROUND for axis in range(3)]
    around = strength
    for axis, factor in enumerate(factors):
        around = _means(around, factor, axis)
    for axis, factor in enumerate(factors):
        around = _means_of_neighbours(around, axis) if factor > 1 else around
    around = _enlarged(around, factors)[tuple(slice(n) for n in volume.shape)]
    typical = strength.mean(dtype=np.float64)
    relative: Floats = strength / (4 * (around + np.float32(LEAST * typical)) + np.float32(1e-9))
    return np.minimum(relative, np.float32(1)).reshape(image.shape)


def _means(x: Floats, factor: int, axis: int) -> Floats:
    """Return the means of blocks along an axis, of which the last may be shorter."""
    starts = np.arange(0, x.shape[axis], factor)
    sizes = np.diff(np.append(starts, x.shape[axis])).astype(np.float32)
    return cast(Floats, np.add.reduceat(x, starts, axis) / _along(sizes, axis))


def _means_of_neighbours(x: Floats, axis: int) -> Floats:
    """Return the means of each place and the two beside it, or the one at an end."""
    ends = [(0, 0)] * 3
    ends[axis] = (1, 1)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ends), 3, axis)
    counts = np.full(x.shape[axis], 3, np.float32)
    counts[0] -= 1
    counts[-1] -= 1
    return cast(Floats, windows.sum(-1) / _along(counts, axis))


def _along(values: Floats, axis: int) -> Floats:
    """Return values along an axis of a volume."""
    return values.reshape([-1 if a == axis else 1 for a in range(3)])
