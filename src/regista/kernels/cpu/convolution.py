"""Convolutions 3 wide for networks that only answer: channels last, several layers' work in one pass.

Features are arrays ``(I + 2, J + 2, K + 2, C)`` with a border of zeros, so that no tap needs a test; slices have I = 1.
A layer's convolution, what is joined to its input, the upsampling before it and its rectifier are one pass over memory. The
innermost loop is written in LLVM's vector types, since no compiler finds a tile of accumulators by itself: it runs near
the processor's peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined, njit

Features = NDArray[np.float32]
_SAME, _HALVED, _DOUBLED = 0, 1, 2
_SUMS = 12
"""Vectors of 8 floats that a tile adds up: as many as leave room for the rest in 16 registers."""
_WIDE, _NARROW = 16, 8
"""Outputs of a tile, channels last. What is wider than registers is split by the compiler."""
_PLACES_WIDE, _PLACES_NARROW = 8 * _SUMS // _WIDE, 8 * _SUMS // _NARROW
_BEHIND = 64
"""Places that the last tile of a row reads on behind it: the next row, or room after the last. At most (12 - 1) 4 + 4 + 2, of
`planes` of 2 outputs."""
_LOWEST = np.float32(-3.4e38)
_FLOAT, _WHOLE = ir.FloatType(), ir.IntType(64)
_SIZE = ir.Constant(_WHOLE, 4)


class _Vector:
    """Vectors of floats in LLVM's terms; addresses are in bytes, and need not be those of whole vectors."""

    def __init__(self, lanes: int) -> None:
        self.kind = ir.VectorType(_FLOAT, lanes)
        self.size = ir.Constant(_WHOLE, 4 * lanes)
        self._zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        self._undefined = ir.Constant(self.kind, ir.Undefined)

    def load(self, b: ir.IRBuilder, address: Any) -> Any:
        found = b.load(b.inttoptr(address, self.kind.as_pointer()))
        found.align = 4
        return found

    def store(self, b: ir.IRBuilder, value: Any, address: Any) -> None:
        b.store(value, b.inttoptr(address, self.kind.as_pointer())).align = 4

    def everywhere(self, b: ir.IRBuilder, address: Any) -> Any:
        """Return the one float at an address in every lane."""
        value = b.load(b.inttoptr(address, _FLOAT.as_pointer()))
        first = b.insert_element(self._undefined, value, ir.Constant(ir.IntType(32), 0))
        return b.shuffle_vector(first, self._undefined, self._zeros)

    def add_product(self, b: ir.IRBuilder, held: Any, x: Any, y: Any) -> None:
        b.store(b.fadd(b.load(held), b.fmul(x, y, flags=("fast",)), flags=("fast",)), held)


def _tile(places: int, lanes: int) -> Any:
    """Return the innermost loop: ``out[p, l] += Σ_runs Σ_c x[offset[run] + p·step + c] · w[run, c, l]``, for some places p."""
    vector = _Vector(lanes)

    @intrinsic
    def tile(
        typing: Any, out: Any, x: Any, step: Any, offsets: Any, runs: Any, length: Any, weights: Any
    ) -> Any:
        def generate(context: Any, b: ir.IRBuilder, signature: Any, given: Sequence[Any]) -> Any:
            out, x, step, offsets, runs, length, weights = given
            sums = [cgutils.alloca_once(b, vector.kind) for _ in range(places)]
            goals = [b.add(out, ir.Constant(_WHOLE, 4 * lanes * p)) for p in range(places)]
            for held, goal in zip(sums, goals, strict=True):
                b.store(vector.load(b, goal), held)
            apart = b.mul(step, _SIZE)
            weight = cgutils.alloca_once(b, _WHOLE)
            b.store(weights, weight)
            table = b.inttoptr(offsets, _WHOLE.as_pointer())
            with cgutils.for_range(b, runs) as run:
                rows = [b.add(x, b.mul(b.load(b.gep(table, [run.index])), _SIZE))]
                for _ in range(1, places):
                    rows.append(b.add(rows[-1], apart))
                with cgutils.for_range(b, length) as term:
                    column = vector.load(b, b.load(weight))
                    beside = b.mul(term.index, _SIZE)
                    for row, held in zip(rows, sums, strict=True):
                        vector.add_product(b, held, vector.everywhere(b, b.add(row, beside)), column)
                    b.store(b.add(b.load(weight), vector.size), weight)
            for held, goal in zip(sums, goals, strict=True):
                vector.store(b, b.load(held), goal)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 7), generate

    return tile


_tile_wide = _tile(_PLACES_WIDE, _WIDE)
_tile_narrow = _tile(_PLACES_NARROW, _NARROW)


def features(shape: tuple[int, int, int], channels: int) -> Features:
    """Return room for features, its border 0.

    Parameters
    ----------
    shape : (3,) tuple of int
        Voxels along each axis.
    channels : int
        How many.
    """
    sides = (*(n + 2 for n in shape), channels)
    count = int(np.prod(sides))
    return np.zeros(count + _BEHIND * channels, np.float32)[:count].reshape(sides)


@dataclass(frozen=True, eq=False)
class Part:
    """What a convolution takes from one input: weights as the kernel reads them.

    Parameters
    ----------
    kind : int
        The input is as large as the output, twice as large, or half.
    weights : (P, blocks, runs, taps × C, lanes) float32 ndarray
        Of each parity of the output's place (of inputs half as large: 8, or 4 in slices), of blocks of outputs. A run is what
        lies side by side in memory: taps along the last axis, with all channels.
    runs : (runs, 2) int ndarray
        Where each run begins along the first two axes of the bordered input.
    """

    kind: int
    weights: NDArray[np.float32]
    runs: NDArray[np.int64]


def part(weight: NDArray[np.float32], kind: str = "same", narrow: bool = False) -> Part:
    """Return weights laid out for the kernel.

    Parameters
    ----------
    weight : (M, C, *taps) float32 ndarray
        As PyTorch keeps it, 3 wide along 2 or 3 axes (along the last axis it may be wider).
    kind : {'same', 'halved', 'doubled'}
        The convolution keeps the input's size, takes every other place of it, or follows a repetition of every place
        along every axis; then each output sees 2 places of the input per axis, whose weights are sums of the 3.
    narrow : bool
        Blocks of 8 outputs, however many there are; otherwise of 16, where they divide the outputs.
    """
    if weight.ndim == 4:
        weight = weight[:, :, None]
    outputs, channels, *sides = weight.shape
    lanes = _WIDE if outputs % _WIDE == 0 and not narrow else _NARROW
    blocks = -(-outputs // lanes)
    full = np.zeros((blocks * lanes, channels, *sides), np.float32)
    full[:outputs] = weight
    parities = [full]
    if kind == "doubled":
        for axis in range(2, 5):
            if full.shape[axis] == 3:
                parities = [half for one in parities for half in _halves(one, axis)]
    sides = list(parities[0].shape[2:])
    laid = [one.reshape(blocks, lanes, channels, -1, sides[2]).transpose(0, 3, 4, 2, 1) for one in parities]
    weights = np.stack(laid).reshape(len(laid), blocks, -1, sides[2] * channels, lanes)
    # a slice lies in the middle of its border
    runs = [(i + (sides[0] == 1), j) for i in range(sides[0]) for j in range(sides[1])]
    number = {"same": _SAME, "halved": _HALVED, "doubled": _DOUBLED}[kind]
    return Part(number, np.ascontiguousarray(weights), np.array(runs))


def _halves(weight: NDArray[np.float32], axis: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the 2 weights along an axis for outputs at even and at odd places of a repeated input."""
    a, b, c = np.split(weight, 3, axis)
    return np.concatenate([a, b + c], axis), np.concatenate([a + b, c], axis)


def convolve(
    parts: Sequence[tuple[Part, Features]], bias: NDArray[np.float32], slope: float, out: Features
) -> Features:
    """Write the sum of convolutions of one or two inputs, and a bias, rectified.

    Parameters
    ----------
    parts : sequence of (Part, Features)
        Inputs side by side, as if they were joined: first the one of half the size, where there is one. They, and `out`,
        may be planes out of features, with a plane before and one behind them; the first is then an even one of `out`'s.
    bias : (M,) float32 ndarray
        Of each output.
    slope : float
        What values below 0 are multiplied by; 1 leaves them.
    out : Features
        From `features`, M channels.
    """
    (first, x), (second, y) = parts[0], parts[-1]
    _, blocks, *_, lanes = first.weights.shape
    w_b = second.weights if len(parts) == 2 else np.zeros((1, blocks, 0, 0, lanes), np.float32)
    shifts = np.zeros(blocks * lanes, np.float32)
    shifts[: len(bias)] = bias
    depth, rows = out.shape[0] - 2, out.shape[1] - 2
    from_a = (first.kind, first.weights, _offsets(first, x), x)
    from_b = (second.kind, w_b, _offsets(second, y), y)
    args = (*from_a, *from_b, shifts, np.float32(slope), out)
    parallel_for(lambda a, b: _rows(a, b, *args), depth * rows)
    return out


def planes(
    one: Part, x: Features, bias: NDArray[np.float32], out: NDArray[np.float32], first: int = 0
) -> None:
    """Write a convolution to few outputs, channels first and not rectified, as fields are kept.

    Parameters
    ----------
    one : Part
        From `planes_part`.
    x : Features
        Input.
    bias : (n,) float32 ndarray
        Of each output.
    out : (n, I, J, K) float32 ndarray
        Written, as many planes as x has.
    first : int
        Plane of `out` that is the first of x.
    """
    count = len(bias)
    together = _NARROW // count
    shifts = np.zeros(_NARROW, np.float32)
    shifts[: together * count] = np.tile(bias, together)
    args = one.weights[0, 0], _offsets(one, x), x, shifts, together, first, out
    parallel_for(lambda a, b: _planes(a, b, *args), (x.shape[0] - 2) * out.shape[2])


def planes_part(weight: NDArray[np.float32]) -> Part:
    """Return the weights of a convolution to n outputs, 2 to 4, for `planes`.

    A vector holds the outputs of 8 // n neighbours along the last axis: one convolution that is as much wider.
    """
    count = len(weight)
    if not 2 <= count <= 4:
        raise ValueError(f"planes are of 2 to 4 outputs, got {count}")
    together = _NARROW // count
    wide = np.zeros((together * count, *weight.shape[1:-1], together + 2), np.float32)
    for p in range(together):
        wide[p * count : (p + 1) * count, ..., p : p + 3] = weight
    return part(wide, narrow=True)


def halved(x: Features) -> tuple[int, int, int]:
    """Return the voxels along each axis, without the border, of features of half the resolution: a slice stays one deep."""
    depth, rows, width = (n - 2 for n in x.shape[:3])
    return depth // 2 if depth > 1 else 1, rows // 2, width // 2


def maxima(x: Features, out: Features) -> Features:
    """Write the largest value of every 2 × 2 (× 2) places, of features whose sides are even.

    Parameters
    ----------
    x : Features
        Input.
    out : Features
        From `features`, of the sides of `halved`.
    """
    parallel_for(lambda a, b: _maxima(a, b, x, out), out.shape[0] - 2)
    return out


def _offsets(one: Part, x: Features) -> NDArray[np.int64]:
    """Return where the runs begin, in floats from the first."""
    return np.ascontiguousarray(one.runs @ (np.array(x.strides[:2]) // x.itemsize), np.int64)


@inlined
def _first(kind, shape, z, y, odd):
    """Return the place of a row's first output in an input, before its taps, and how far outputs are apart there."""
    if kind == _DOUBLED:
        z, y, x, apart = (z >> 1) + (z & 1), (y >> 1) + (y & 1), odd, 1
    elif kind == _HALVED:
        z, y, x, apart = 2 * z, 2 * y, 0, 2
    else:
        x, apart = odd, 1
    return ((z * shape[1] + y) * shape[2] + x) * shape[3], apart * shape[3]


@inlined
def _row_sums(sums, step, x, from_x, offsets, weights):
    """Add to the sums of a row of outputs, tile by tile, what an input gives."""
    lanes = sums.shape[1]
    places = _PLACES_WIDE if lanes == _WIDE else _PLACES_NARROW
    runs, length, table, values = weights.shape[0], weights.shape[1], offsets.ctypes.data, weights.ctypes.data
    for t in range(sums.shape[0] // places):
        here = sums.ctypes.data + 4 * t * places * lanes
        there = x.ctypes.data + 4 * (from_x + t * places * step)
        if lanes == _WIDE:
            _tile_wide(here, there, step, table, runs, length, values)
        else:
            _tile_narrow(here, there, step, table, runs, length, values)


@inlined
def _room(count, lanes):
    """Return room for the sums of a row of outputs: whole tiles."""
    places = _PLACES_WIDE if lanes == _WIDE else _PLACES_NARROW
    return np.empty((-(-count // places) * places, lanes), np.float32)


@inlined
def _start(sums, bias):
    for p in range(sums.shape[0]):
        for lane in range(sums.shape[1]):
            sums[p, lane] = bias[lane]


@njit
def _rows(start, stop, kind_a, w_a, off_a, a, kind_b, w_b, off_b, b, bias, slope, out):
    rows, width, lanes = out.shape[1] - 2, out.shape[2] - 2, w_a.shape[4]
    split = 2 if kind_a == _DOUBLED else 1  # even and odd places have weights of their own
    count = width // split
    sums = _room(count, lanes)
    for row in range(start, stop):
        z, y = row // rows, row % rows
        for odd in range(split):
            from_a, step_a = _first(kind_a, a.shape, z, y, odd)
            from_b, step_b = _first(kind_b, b.shape, z, y, odd)
            # the last 4 or 8 of (z, y, x)'s parities
            parity = (4 * (z & 1) + 2 * (y & 1) + odd) & (w_a.shape[0] - 1)
            for block in range(w_a.shape[1]):
                lane = block * lanes
                _start(sums, bias[lane : lane + lanes])
                _row_sums(sums, step_a, a, from_a, off_a, w_a[parity, block])
                _row_sums(sums, step_b * split, b, from_b, off_b, w_b[0, block])
                goal = out[z + 1, y + 1, 1:]
                used = min(lanes, out.shape[3] - lane)
                for p in range(count):
                    for n in range(used):
                        value = sums[p, n]
                        goal[p * split + odd, lane + n] = max(value, value * slope)


@njit
def _planes(start, stop, weights, offsets, x, bias, together, first, out):
    rows, width, count = out.shape[2], out.shape[3], out.shape[0]
    sums = _room(-(-width // together), _NARROW)
    for row in range(start, stop):
        z, y = row // rows, row % rows
        from_x, _ = _first(0, x.shape, z, y, 0)
        _start(sums, bias)
        _row_sums(sums, together * x.shape[3], x, from_x, offsets, weights)
        for n in range(count):
            for k in range(width):
                out[n, first + z, y, k] = sums[k // together, (k % together) * count + n]


@njit
def _maxima(start, stop, x, out):
    depth = 2 if x.shape[0] > 3 else 1
    for i in range(start, stop):
        for j in range(out.shape[1] - 2):
            goal = out[i + 1, j + 1]
            goal[1:-1] = _LOWEST
            for a in range(depth):
                for b in range(2):
                    row = x[depth * i + a + 1, 2 * j + b + 1]
                    for k in range(2 * (out.shape[2] - 2)):
                        for n in range(out.shape[3]):
                            goal[1 + (k >> 1), n] = max(goal[1 + (k >> 1), n], row[1 + k, n])
