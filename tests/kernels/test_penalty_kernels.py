"""Penalty kernels against their references, and the references' gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from regista.core import threads
from regista.kernels.cpu import bending as bending_fast
from regista.kernels.cpu import consistency as loops_fast
from regista.kernels.cpu import modes as modes_fast
from regista.kernels.cpu import penalties as fast
from regista.kernels.reference import bending as bending_slow
from regista.kernels.reference import consistency as loops_slow
from regista.kernels.reference import modes as modes_slow
from regista.kernels.reference import penalties as slow

SHAPES = [(11, 14, 9), (13, 10, 1), (1, 9, 12), (3, 2, 4), (2, 2, 2), (1, 1, 1), (4, 3, 330)]
FRAMES = {
    "spacing": np.diag([1.0, 0.7, 2.3]),
    "sheared": np.array([[1.0, 0.2, 0.1], [0.1, 0.7, -0.2], [0.05, 0.1, 2.3]]),
}
TERMS = {
    "diffusion": {},
    "elastic": {"mu": 1.3, "lam": 0.7},
    "total_variation": {"epsilon": 0.1},
    "rigidity": {"orthonormality": 1.2, "properness": 0.6},
    "bending": {},
    "log_determinant": {"logarithm": True, "threshold": 0.4},
    "barrier": {"logarithm": True, "threshold": 0.0},
    "determinant": {"logarithm": False, "threshold": 0.0},
}


def smooth(rng, shape, size=0.6):
    field = ndimage.gaussian_filter(rng.normal(size=(3, *shape)), (0, 1, 1, 1))
    return (size * field / max(np.abs(field).max(), 1e-9)).astype(np.float32)


def evaluate(fast_one, name, u, frame, weight, factor=0.5, start=None):
    """Return value and gradient by the kernel or the reference."""
    kernels, bending = (fast, bending_fast) if fast_one else (slow, bending_slow)
    out = np.zeros(u.shape, np.float32 if fast_one else np.float64)
    if start is not None:
        out += start
    if name == "bending":
        value = bending.bending(u, frame, weight, factor=factor, out=out)
    elif name in ("log_determinant", "barrier", "determinant"):
        value = kernels.determinant(u, weight, factor=factor, out=out, **TERMS[name])
    else:
        value = (getattr(kernels, name)(u, frame, weight, factor=factor, out=out, **TERMS[name]),)
    return np.array(value, np.float64), out


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", TERMS)
def test_value_and_gradient_equal_the_reference(rng, name, shape, frame):
    u = smooth(rng, shape)
    some = (rng.uniform(0, 1, shape) * (rng.random(shape) < 0.7)).astype(np.float32)
    for weight in (None, some):
        value, gradient = evaluate(True, name, u, FRAMES[frame], weight)
        expected, slope = evaluate(False, name, u, FRAMES[frame], weight)
        np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(gradient, slope, atol=2e-5 * max(1.0, np.abs(slope).max()))


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 1), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("name", TERMS)
def test_gradient_of_the_reference_is_the_derivative(rng, name, shape):
    u = smooth(rng, shape, 0.3).astype(np.float64)
    weight, frame, step = rng.uniform(0.2, 1, shape), FRAMES["sheared"], 1e-6
    _, gradient = evaluate(False, name, u, frame, weight, factor=1.0)
    if (
        name == "log_determinant"
    ):  # some corners lie below the threshold, where the penalty is a straight line
        u *= 4
        _, gradient = evaluate(False, name, u, frame, weight, factor=1.0)
    for index in rng.permutation(u.size)[:25]:
        at = np.unravel_index(index, u.shape)
        sides = []
        for sign in (1, -1):
            moved = u.copy()
            moved[at] += sign * step
            sides.append(evaluate(False, name, moved, frame, weight)[0][0])
        assert gradient[at] == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_added_to_what_is_there(rng, name):
    u = smooth(rng, (5, 6, 7))
    start = rng.normal(size=u.shape).astype(np.float32)
    _, alone = evaluate(True, name, u, FRAMES["spacing"], None)
    _, added = evaluate(True, name, u, FRAMES["spacing"], None, start=start)
    np.testing.assert_allclose(added - start, alone, atol=1e-5 * max(1.0, np.abs(alone).max()))


@pytest.mark.parametrize("name", TERMS)
def test_thread_count_changes_no_bit(rng, name):
    u = smooth(rng, (13, 6, 11))
    weight = (rng.random(u.shape[1:]) < 0.6).astype(np.float32)
    found = []
    for count in (1, 2, 5, 13):
        with threads(count):
            found.append(evaluate(True, name, u, FRAMES["sheared"], weight))
    for value, gradient in found[1:]:
        np.testing.assert_array_equal(value, found[0][0])
        np.testing.assert_array_equal(gradient, found[0][1])


@pytest.mark.parametrize("name", TERMS)
def test_strided_fields_are_accepted(rng, name):
    u = smooth(rng, (9, 14, 11)).transpose(0, 3, 2, 1)[:, :, ::2]
    value, gradient = evaluate(True, name, u, FRAMES["spacing"], None)
    expected, slope = evaluate(True, name, u.copy(), FRAMES["spacing"], None)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(gradient, slope)


@pytest.mark.parametrize(
    "name", ["diffusion", "elastic", "total_variation", "determinant", "log_determinant"]
)
def test_what_alternates_from_voxel_to_voxel_is_seen(name):
    u = np.zeros((3, 8, 8, 8), np.float32)
    u[0] = 0.2 * (-1.0) ** np.indices((8, 8, 8))[0]
    inside = np.zeros((8, 8, 8), np.float32)
    inside[1:-1] = 1
    blind, _ = evaluate(True, "rigidity", u, np.eye(3), inside)  # by central differences alone
    assert blind == pytest.approx(0, abs=1e-9)
    value, _ = evaluate(True, name, u, np.eye(3), None)
    assert value[0] / 8**3 > 0.03


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("name", TERMS)
def test_an_axis_turned_round_changes_nothing(rng, name, axis):
    u = smooth(rng, (7, 8, 9))
    turned = np.flip(u, axis + 1).copy()
    turned[axis] *= -1
    value, gradient = evaluate(True, name, u, FRAMES["spacing"], None)
    other, slope = evaluate(True, name, turned, FRAMES["spacing"], None)
    slope[axis] *= -1
    np.testing.assert_allclose(other, value, rtol=1e-5)
    np.testing.assert_allclose(np.flip(slope, axis + 1), gradient, atol=1e-5 * np.abs(gradient).max())


def test_a_fold_is_counted_and_the_others_go_on():
    u = np.zeros((3, 6, 5, 4), np.float32)
    u[0, 2:] = -1.5  # voxels 1 and 2 change places
    out = np.zeros_like(u)
    _, folded = fast.determinant(u, logarithm=True, threshold=0.0, factor=1.0, out=out)
    assert folded == 2 * 5 * 4 * 4  # two voxels of each row, half of their corners
    assert np.isfinite(out).all()


LOOPS = {
    "same": (np.eye(3, 4), np.eye(3)),
    "other": (
        np.array([[0.7, 0.2, 0.0, 0.3], [-0.1, 0.9, 0.1, 0.2], [0.0, 0.1, 0.8, -0.4]]),
        np.array([[1.2, 0.1, 0.0], [0.0, 1.1, 0.2], [0.1, 0.0, 0.9]]),
    ),
}


@pytest.mark.parametrize("maps", LOOPS)
@pytest.mark.parametrize(
    "shapes", [((11, 14, 9), (8, 13, 10)), ((7, 9, 1), (8, 6, 1)), ((1, 5, 6), (1, 5, 6))], ids=str
)
def test_loops_equal_the_reference(rng, shapes, maps):
    to_other, to_own = LOOPS[maps]
    if 1 in shapes[0]:
        to_other, to_own = LOOPS["same"]
    u, v = smooth(rng, shapes[0], 2.0), smooth(rng, shapes[1], 2.0)
    slope = rng.normal(size=u.shape).astype(np.float32)
    found = []
    for kernels, kind in ((loops_fast, np.float32), (loops_slow, np.float64)):
        residual, a, b = np.zeros(u.shape, kind), np.ones(u.shape, kind), np.ones(v.shape, kind)
        kernels.loop_residual(u, v, to_other, to_own, out=residual)
        kernels.loop_adjoint(u, v, to_other, to_own, slope, out_forward=a, out_backward=b)
        found.append((residual, a, b))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=3e-5)


def test_loop_gradients_do_not_depend_on_threads(rng):
    u, v = smooth(rng, (13, 6, 11), 3.0), smooth(rng, (12, 7, 10), 3.0)
    slope = rng.normal(size=u.shape).astype(np.float32)
    found = []
    for count in (1, 2, 5):
        a, b = np.zeros_like(u), np.zeros_like(v)
        with threads(count):
            loops_fast.loop_adjoint(u, v, *LOOPS["other"], slope, out_forward=a, out_backward=b)
        found.append((a, b))
    for a, b in found[1:]:
        np.testing.assert_array_equal(a, found[0][0])
        np.testing.assert_array_equal(b, found[0][1])


@pytest.mark.parametrize("shape", [(7, 6, 5), (7, 6, 1)], ids=str)
@pytest.mark.parametrize("rank", [0, 3])
def test_modes_equal_the_reference(rng, shape, rank):
    u, mean = smooth(rng, shape), smooth(rng, shape)
    modes = rng.normal(size=(rank, *u.shape)).astype(np.float32)
    metric = FRAMES["sheared"].T @ FRAMES["sheared"]
    products, square = modes_fast.project(u, mean, modes, metric)
    expected, length = modes_slow.project(u, mean, modes, metric)
    np.testing.assert_allclose(products, expected, rtol=1e-4, atol=1e-4)
    assert square == pytest.approx(length, rel=1e-5)
    weights, out, slow_out = rng.normal(size=rank), np.ones_like(u), np.ones(u.shape)
    modes_fast.combine_modes(u, mean, modes, metric, weights, factor=0.3, out=out)
    modes_slow.combine_modes(u, mean, modes, metric, weights, factor=0.3, out=slow_out)
    np.testing.assert_allclose(out, slow_out, atol=1e-5)
