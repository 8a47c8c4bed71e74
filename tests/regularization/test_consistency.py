"""A map and one back: gradients by both fields, exact inverses, grids of their own."""

from __future__ import annotations

import numpy as np
import pytest

from regista.core import GeometryError, PlanError
from regista.kernels.cpu.fields import invert
from regista.regularization import PAIR_PENALTIES, GradientConsistency, InverseConsistency, PairPenalty

KINDS = [InverseConsistency, GradientConsistency]


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_match_finite_differences(kind, both_ways, make_grid, random_field, mismatch):
    one = make_grid((11, 14, 9))
    two = make_grid((10, 12, 8), (1.2, 0.9, 2.5), angles=(14.0, -8.0, 25.0))
    u, v = random_field(one.shape, 0.6), random_field(two.shape, 0.6)
    prepared = kind(weight=0.8, both_ways=both_ways).prepare(one, two)
    by_u, by_v = np.zeros_like(u), np.zeros_like(v)
    prepared.value_and_gradient(u, v, by_u, by_v)
    a, b = np.zeros_like(u), np.zeros_like(v)
    # linear interpolation has kinks at voxel centres: short steps cross few of them
    off = mismatch(lambda f: prepared.value_and_gradient(f, v, a, b), u, by_u, eps=1e-3)
    assert off < 5e-3
    off = mismatch(lambda f: prepared.value_and_gradient(u, f, a, b), v, by_v, eps=1e-3)
    assert off < 5e-3
    assert mismatch(lambda f: prepared.value_and_gradient(u, f, a, b), v, 1.02 * by_v, eps=1e-3) > 8e-3


@pytest.mark.parametrize("kind", KINDS)
def test_inverses_cost_next_to_nothing(kind, grid, random_field):
    u = random_field(grid.shape, 0.7, 2.5)
    for axis in range(3):  # at rest at the border, so that nothing leaves the lattice
        u *= np.sin(np.linspace(0, np.pi, u.shape[axis + 1])).reshape(
            [-1 if a == axis else 1 for a in range(3)]
        )
    u = u.astype(np.float32)
    w, _ = invert(u, 1e-4)
    spare = np.zeros_like(u)
    loop = kind(both_ways=False).prepare(grid)
    wrong = loop.value_and_gradient(u, np.zeros_like(u), spare, spare.copy())
    assert loop.value_and_gradient(w, u, spare, spare.copy()) < 1e-3 * wrong
    assert loop.value_and_gradient(u, -u, spare, spare.copy()) < 0.3 * wrong


def test_the_value_is_a_mean_in_mm(grid, make_grid):
    u = np.ones((3, *grid.shape), np.float32) * np.array([0.5, 0.0, 0.0], np.float32)[:, None, None, None]
    v = np.zeros_like(u)
    v[2] = 0.25
    expected = (0.5 * 1.0) ** 2 + (0.25 * 2.3) ** 2
    for both_ways in (False, True):
        loop = InverseConsistency(both_ways=both_ways).prepare(grid)
        value = loop.value_and_gradient(u, v, np.zeros_like(u), np.zeros_like(v))
        assert value == pytest.approx(expected, rel=1e-5)
    # shifts that undo each other, on grids of their own
    other = make_grid((8, 9, 7), (1.3, 1.1, 2.0), angles=(60.0, 20.0, -35.0))
    shift = np.array([1.0, -2.0, 0.5])
    there = np.broadcast_to((grid.world2grid[:3, :3] @ shift)[:, None, None, None], u.shape).astype(
        np.float32
    )
    back = np.broadcast_to((other.world2grid[:3, :3] @ -shift)[:, None, None, None], (3, *other.shape))
    back = back.astype(np.float32)
    loop = InverseConsistency().prepare(grid, other)
    assert loop.value_and_gradient(there, back, np.zeros_like(there), np.zeros_like(back)) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_one_slice_works(kind, grid_2d, random_field, mismatch):
    u, v = random_field(grid_2d.shape, 0.6), random_field(grid_2d.shape, 0.6)
    u[2], v[2] = 0, 0
    loop, by_u, by_v = kind().prepare(grid_2d), np.zeros_like(u), np.zeros_like(v)
    assert loop.value_and_gradient(u, v, by_u, by_v) > 0
    assert not by_u[2].any()
    assert not by_v[2].any()
    a, b = np.zeros_like(u), np.zeros_like(v)
    assert mismatch(lambda f: loop.value_and_gradient(f, v, a, b), u, by_u, eps=1e-3) < 5e-3


def test_they_are_pair_penalties_and_refuse_what_does_not_fit(grid, grid_2d, random_field):
    assert all(isinstance(kind(), PairPenalty) for kind in PAIR_PENALTIES.values())
    with pytest.raises(PlanError, match="weight"):
        InverseConsistency(weight=-1)
    with pytest.raises(GeometryError, match="axes"):
        InverseConsistency().prepare(grid, grid_2d)
    u = random_field(grid.shape)
    with pytest.raises(GeometryError, match="prepare it"):
        InverseConsistency().prepare(grid).value_and_gradient(u, u[:, 1:], u.copy(), u[:, 1:].copy())
