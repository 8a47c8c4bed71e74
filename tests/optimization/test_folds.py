"""Maps that must not fold: how they are mended, and solvers that keep to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from regista.kernels.cpu.folds import smallest_corners
from regista.kernels.cpu.warp import warp, warp_gradient
from regista.optimization import (
    LEAST_DETERMINANT,
    Demons,
    FreeForm,
    FreeFormPair,
    GreedyDiffeomorphic,
    StationaryVelocity,
    SymmetricDiffeomorphic,
    folds,
    unfold,
)

SHAPE = (22, 25, 19)
IDENTITY = np.eye(4)[:3]


def smooth(rng, shape=SHAPE, size=1.0, sigma=3.0):
    field = ndimage.gaussian_filter(rng.normal(size=(3, *shape)), (0, sigma, sigma, sigma))
    return (size * field / np.abs(field).max()).astype(np.float32)


def test_only_what_folds_is_mended(rng):
    field = smooth(rng)
    assert not folds(field)
    before = field.copy()
    assert unfold(field) == 0
    np.testing.assert_array_equal(field, before)
    field[:, 11, 12, 9] += [3.0, -2.0, 2.5]  # one voxel, pulled past its neighbours
    spiked = field.copy()
    assert folds(field)
    assert folds(before, field)
    assert unfold(field) > 0
    assert smallest_corners(field).min() > LEAST_DETERMINANT
    changed = np.abs(field - spiked).max(axis=0) > 0
    away = np.linalg.norm(np.indices(SHAPE) - np.array([11, 12, 9])[:, None, None, None], axis=0)
    assert away[changed].max() < 9
    assert np.abs(field - before).max() < 1.0


@pytest.mark.parametrize("shape", [(30, 1, 26), (2, 9, 8), (24, 20, 16)])
def test_steep_folds_are_mended_wherever_they_lie(shape, rng):
    field = rng.normal(scale=1.5, size=(3, *shape)).astype(np.float32)
    field[[n == 1 for n in shape]] = 0
    assert folds(field)
    unfold(field)
    assert not folds(field)
    assert np.isfinite(field).all()


def test_a_mirrored_map_is_shortened_and_a_broken_one_left_alone():
    mirror = np.zeros((3, 9, 8, 7), np.float32)
    mirror[0] = -2.0 * np.arange(9)[:, None, None]
    unfold(mirror)
    assert not folds(mirror)
    broken = np.zeros((3, 9, 8, 7), np.float32)
    broken[0, 4], broken[1, 2, 2, 2] = 2.0, np.nan
    before = broken.copy()
    assert unfold(broken) == 0
    np.testing.assert_array_equal(broken, before)


class Pull:
    """Squared differences of two unlike images, as solvers ask for it: they ask for folds."""

    def __init__(self, rng):
        self.fixed, self.moving = (
            (10 * ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.2)).astype(np.float32) for _ in range(2)
        )

    def _pulled(self, image, field):
        return warp(image, IDENTITY, field, shape=SHAPE)

    def force(self, field, scratch, out):
        warped = self._pulled(self.moving, field)
        out[...] = -(warped - self.fixed) * np.stack(np.gradient(warped))
        return float(((warped - self.fixed) ** 2).mean())

    def exchanged_force(self, field, scratch, out):
        warped = self._pulled(self.fixed, field)
        out[...] = -(warped - self.moving) * np.stack(np.gradient(warped))
        return float(((warped - self.moving) ** 2).mean())

    def forces(self, to_fixed, to_moving, scratch, on_fixed, on_moving):
        fixed, warped = self._pulled(self.fixed, to_fixed), self._pulled(self.moving, to_moving)
        on_fixed[...] = -(fixed - warped) * np.stack(np.gradient(fixed))
        on_moving[...] = -(warped - fixed) * np.stack(np.gradient(warped))
        return float(((warped - fixed) ** 2).mean())

    def value_and_gradient(self, field, out):
        pairs = [(self.fixed, self.moving), (self.moving, self.fixed)][-len(field) // 3 :]
        value = 0.0
        for number, (still, pulled) in enumerate(pairs):
            part = field[3 * number : 3 * number + 3]
            warped = self._pulled(pulled, part)
            slope = (2 * (warped - still) / still.size).astype(np.float32)
            warp_gradient(pulled, IDENTITY, part, slope, out=out[3 * number : 3 * number + 3])
            value += float(((warped - still) ** 2).mean())
        return value


ROUGH = GreedyDiffeomorphic(step_vox=1.5, step_decay=1.0, update_sigma_vox=0.4, field_sigma_vox=0.2)
SOLVERS = {
    "greedy": ROUGH,
    "symmetric": SymmetricDiffeomorphic(half=ROUGH),
    "additive demons": Demons(update="additive", field_sigma_vox=0.3),
    "diffeomorphic demons": Demons(update="diffeomorphic", field_sigma_vox=0.3),
    "adjoint": StationaryVelocity(step_vox=2.0, step_decay=1.0, update_sigma_vox=0.4, squarings=2),
    "log-symmetric": StationaryVelocity(
        gradient="composition",
        symmetric=True,
        step_vox=2.0,
        step_decay=1.0,
        update_sigma_vox=0.4,
        squarings=2,
    ),
    "freeform": FreeForm(spacing_vox=2.0, max_step_vox=4.0),
    "freeform pair": FreeFormPair(spacing_vox=2.0, max_step_vox=4.0),
}


def guarded(solver):
    if isinstance(solver, SymmetricDiffeomorphic):
        return replace(solver, half=guarded(solver.half))
    return replace(solver, forbid_folds=True)


def maps(solver, state):
    """Return every displacement that must not fold."""
    fields = solver.fields(state)
    return [solver.displacement(fields)] if isinstance(solver, StationaryVelocity) else fields


@pytest.mark.parametrize("name", SOLVERS)
def test_a_guarded_solver_never_folds_where_a_free_one_does(name, rng):
    cost, ends = Pull(rng), {}
    for guard in (False, True):
        solver = guarded(SOLVERS[name]) if guard else SOLVERS[name]
        fields = [np.zeros((3, *SHAPE), np.float32) for _ in range(solver.parts)]
        solver.admit(fields)
        state = solver.init(fields)
        for _ in range(15):
            if not solver.step(state, cost):
                break
            if guard:
                solver.value(state, cost)
                assert not folds(*maps(solver, state))
        ends[guard] = folds(*maps(solver, state)), solver.value(state, cost) / state.values[0]
    assert ends[False][0], "the test must ask for folds"
    assert not ends[True][0]
    assert ends[True][1] < 0.9  # it goes on all the same


@pytest.mark.parametrize("name", SOLVERS)
def test_a_start_that_folds_is_mended_before_a_guarded_level(name, rng):
    solver = SOLVERS[name]
    start = smooth(rng, size=0.5)
    start[:, 10:12, 12, 9] += 5.0
    for one in (solver, guarded(solver)):
        fields = [start.copy() for _ in range(solver.parts)]
        one.admit(fields)
        there = [
            one.displacement([field]) if isinstance(one, StationaryVelocity) else field for field in fields
        ]
        assert folds(*there) == (one is solver)


class Torn:
    """Pulls one end of a volume 3 voxels along the last axis, gently, and tears it at one place of the other end."""

    shape = (60, 12, 12)

    def __init__(self):
        i = np.arange(60, dtype=np.float32)[:, None, None]
        self.goal = np.zeros((3, *self.shape), np.float32)
        self.goal[2] = 3 / (1 + np.exp((i - 25) / 3))
        self.goal[0] = -9 * np.clip(1 - np.abs(i - 52) / 3, 0, 1)

    def value_and_gradient(self, field, out):
        away = field - self.goal
        out[...] = away / field[0].size
        return float(0.5 * (away**2).sum() / field[0].size)


def test_a_fold_at_one_place_does_not_hold_the_rest():
    cost, solver = Torn(), FreeForm(spacing_vox=4.0, forbid_folds=True)
    state = solver.init([np.zeros((3, *cost.shape), np.float32)])
    for _ in range(40):
        if not solver.step(state, cost):
            break
        assert not folds(state.field)
    assert folds(cost.goal)
    assert np.abs(state.field[2] - cost.goal[2])[:40].max() < 0.5  # of 3; 2 where whole steps are shortened
