"""Convolutions for networks that only answer, against their reference."""

from __future__ import annotations

import numpy as np
import pytest

from regista.core import threads
from regista.kernels.cpu import convolution as fast
from regista.kernels.reference import convolution as slow


def bordered(x):
    """Return channels first as the kernel takes them."""
    volume = x if x.ndim == 4 else x[:, None]
    out = fast.features(volume.shape[1:], len(x))
    out[1:-1, 1:-1, 1:-1] = np.moveaxis(volume, 0, -1)
    return out


def inner(x, ndim):
    """Return channels first, without the border, which has to be 0."""
    border = x.copy()
    border[1:-1, 1:-1, 1:-1] = 0
    assert not border.any()
    found = np.moveaxis(x[1:-1, 1:-1, 1:-1], -1, 0)
    return found if ndim == 3 else found[:, 0]


def values(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(6, 4, 26), (4, 6, 2), (8, 30), (2, 2)])
@pytest.mark.parametrize("outputs", [32, 16, 8, 5])
@pytest.mark.parametrize("kind", ["same", "halved", "doubled"])
@pytest.mark.parametrize("channels", [1, 6])
def test_convolutions_are_those_of_the_reference(rng, shape, outputs, kind, channels):
    ndim = len(shape)
    here = tuple(n // 2 for n in shape) if kind == "doubled" else shape
    there = tuple(n // 2 for n in shape) if kind == "halved" else shape
    x, weight = values(rng, channels, *here), values(rng, outputs, channels, *[3] * ndim)
    bias = values(rng, outputs)
    seen = slow.repeated(x) if kind == "doubled" else x
    expected = slow.convolve(seen, weight, bias, 2 if kind == "halved" else 1, 0.2)
    parts = [(fast.part(weight, kind), bordered(x))]
    found = {}
    for count in (1, 2):
        with threads(count):
            out = fast.features(there if ndim == 3 else (1, *there), outputs)
            found[count] = inner(fast.convolve(parts, bias, 0.2, out), ndim)
    np.testing.assert_allclose(found[1], expected, rtol=1e-5, atol=3e-5)
    np.testing.assert_array_equal(found[1], found[2])


@pytest.mark.parametrize("shape", [(4, 6, 14), (6, 22)])
@pytest.mark.parametrize("kind", ["same", "doubled"])
def test_two_inputs_count_as_joined(rng, shape, kind):
    ndim = len(shape)
    x = values(rng, 4, *(n // 2 for n in shape) if kind == "doubled" else shape)
    beside, weight, bias = values(rng, 3, *shape), values(rng, 8, 7, *[3] * ndim), values(rng, 8)
    joined = np.concatenate([slow.repeated(x) if kind == "doubled" else x, beside])
    out = fast.features(shape if ndim == 3 else (1, *shape), 8)
    parts = [(fast.part(weight[:, :4], kind), bordered(x)), (fast.part(weight[:, 4:]), bordered(beside))]
    found = inner(fast.convolve(parts, bias, 1.0, out), ndim)
    np.testing.assert_allclose(found, slow.convolve(joined, weight, bias), rtol=1e-5, atol=3e-5)


def test_some_planes_are_those_of_the_whole(rng):
    coarse, beside = bordered(values(rng, 4, 4, 3, 7)), bordered(values(rng, 2, 8, 6, 14))
    weight, bias = values(rng, 8, 6, 3, 3, 3), values(rng, 8)
    first, second = fast.part(weight[:, :4], "doubled"), fast.part(weight[:, 4:])
    whole = fast.convolve([(first, coarse), (second, beside)], bias, 0.2, fast.features((8, 6, 14), 8))
    some = fast.features((8, 6, 14), 8)
    fast.convolve([(first, coarse[1:5]), (second, beside[2:8])], bias, 0.2, some[2:8])
    np.testing.assert_array_equal(some[3:7], whole[3:7])
    assert not some[:3].any()
    assert not some[7:].any()


@pytest.mark.parametrize("shape", [(3, 4, 25), (5, 31), (4, 1)])
@pytest.mark.parametrize("outputs", [2, 3, 4])
def test_planes_are_those_of_the_reference(rng, shape, outputs):
    ndim = len(shape)
    x, weight, bias = values(rng, 5, *shape), values(rng, outputs, 5, *[3] * ndim), values(rng, outputs)
    out = np.full((outputs, *(shape if ndim == 3 else (1, *shape))), np.nan, np.float32)
    fast.planes(fast.planes_part(weight), bordered(x), bias, out)
    np.testing.assert_allclose(
        out.reshape(outputs, *shape), slow.convolve(x, weight, bias), rtol=1e-5, atol=3e-5
    )


@pytest.mark.parametrize("shape", [(4, 6, 10), (6, 8)])
def test_maxima_are_of_every_two_places(rng, shape):
    x = values(rng, 3, *shape)
    blocks = x.reshape(3, *(m for n in shape for m in (n // 2, 2)))
    expected = blocks.max(tuple(range(2, blocks.ndim, 2)))
    seen = bordered(x)
    out = fast.maxima(seen, fast.features(fast.halved(seen), 3))
    np.testing.assert_array_equal(inner(out, len(shape)), expected)


def test_planes_go_to_their_place_in_a_field(rng):
    x, weight, bias = values(rng, 5, 6, 4, 9), values(rng, 3, 5, 3, 3, 3), values(rng, 3)
    whole, some = np.zeros((2, 3, 6, 4, 9), np.float32)
    fast.planes(fast.planes_part(weight), bordered(x), bias, whole)
    fast.planes(fast.planes_part(weight), bordered(x)[2:6], bias, some, 2)
    np.testing.assert_array_equal(some[:, 2:4], whole[:, 2:4])
    assert not some[:, :2].any()
    assert not some[:, 4:].any()


def test_planes_are_of_few_outputs():
    with pytest.raises(ValueError, match="2 to 4 outputs, got 1"):
        fast.planes_part(np.zeros((1, 5, 3, 3), np.float32))
