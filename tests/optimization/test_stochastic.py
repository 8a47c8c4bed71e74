"""Adaptive stochastic gradient descent on problems with known answers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from regista.core import PlanError
from regista.kernels.cpu.samples import warp_at
from regista.kernels.cpu.warp import warp
from regista.optimization import StochasticFreeForm
from regista.optimization._stochastic import StochasticState, _sigmoid

IDENTITY = np.eye(4)[:3]
SHAPE = (24, 30, 17)


class Squares:
    """Mean squared difference at voxels, by plain NumPy."""

    penalized = False

    def __init__(self, fixed, moving, axis_scale=(1, 1, 1)):
        self.fixed, self.moving = fixed, moving
        self.axis_scale = np.array(axis_scale, np.float32)
        self.rng = np.random.default_rng(2)

    def draw(self, count):
        return self.rng.integers(self.fixed.size, size=count)

    def value_and_gradient_at(self, voxels, disp, out):
        warped, slopes, _ = warp_at(self.moving, IDENTITY, disp, voxels, self.fixed.shape)
        away = warped - self.fixed.reshape(-1)[voxels]
        out[...] = 2 * away * slopes / len(voxels)
        return float((away.astype(np.float64) ** 2).mean())


def smooth(seed, sigma=3.0):
    return ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), sigma).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def bent():
    """Return a fixed image that a known bend of 2 voxels makes of a moving one, and the bend."""
    moving = 10 * smooth(0, 2.5)
    bend = np.stack([smooth(n, 4.0) for n in (1, 2, 3)])
    bend *= np.float32(2 / np.abs(bend).max())
    return warp(moving, IDENTITY, bend, shape=SHAPE), moving, bend


def run(solver, cost, steps, start=None):
    state = solver.init([np.zeros((3, *SHAPE), np.float32) if start is None else start])
    for _ in range(steps):
        assert solver.step(state, cost)
    return state


def test_a_smooth_bend_is_found(bent):
    fixed, moving, bend = bent
    solver = StochasticFreeForm(spacing_vox=4, samples=1500)
    state = run(solver, Squares(fixed, moving), 300)
    assert solver.value(state, Squares(fixed, moving)) < state.values[0] / 20
    inner = (slice(None), *[slice(4, -4)] * 3)
    assert np.abs(solver.fields(state)[0] - bend)[inner].mean() < 0.5 * np.abs(bend)[inner].mean()


def test_a_start_is_kept_beneath(bent):
    fixed, moving, bend = bent
    solver = StochasticFreeForm(spacing_vox=4, samples=1500)
    state = run(solver, Squares(fixed, moving), 1, start=bend.copy())
    assert state.values[0] < 1e-8  # it is exact, and there is next to no way down
    np.testing.assert_array_equal(state.start, bend)


def test_the_gradient_of_samples_is_exact_and_without_bias(bent):
    fixed, moving, _ = bent
    solver, cost = StochasticFreeForm(spacing_vox=6, samples=800), Squares(fixed, moving, (1, 0.5, 0.1))
    state = run(solver, cost, 3)
    everything = np.arange(fixed.size)
    _, full = solver._evaluate(state, cost, everything)
    # finite differences, control points measured in voxels of the finest axis
    voxels, rng = cost.draw(800), np.random.default_rng(5)
    _, gradient = solver._evaluate(state, cost, voxels)
    along = gradient / np.abs(gradient).max() + 0.1 * rng.standard_normal(gradient.shape)
    at, h = state.control, 2e-3  # short: the interpolant has kinks between voxels
    ends = []
    for side in (-h, h):
        state.control = at + side * along
        ends.append(solver._evaluate(state, cost, voxels)[0])
    state.control = at
    assert np.vdot(gradient, along) == pytest.approx((ends[1] - ends[0]) / (2 * h), rel=0.02)
    found = np.array([solver._evaluate(state, cost, cost.draw(800))[1] for _ in range(400)])
    noise = found.std(axis=0) / np.sqrt(len(found))
    # the mean of 400 lies within its own error of the whole image's gradient
    away = (found.mean(axis=0) - full)[noise > 0] / noise[noise > 0]
    assert np.sqrt(np.mean(away**2)) < 1.3
    assert np.linalg.norm(found.mean(axis=0) - full) < 0.2 * np.linalg.norm(full)


def test_the_first_step_moves_voxels_as_far_as_asked():
    ramp = np.arange(24, dtype=np.float32)[:, None, None] * np.ones(SHAPE, np.float32)
    for length in (0.2, 0.6):
        solver = StochasticFreeForm(spacing_vox=5, samples=20_000, first_step_vox=length)
        state = run(solver, Squares(ramp, ramp + 3), 1)
        moved = np.linalg.norm(solver.fields(state)[0], axis=0)
        assert moved.mean() + 2 * moved.std() == pytest.approx(length, rel=0.1)


def test_time_goes_on_where_gradients_contradict_and_back_where_they_agree():
    state = StochasticState(np.empty(0), (), np.empty(0), slowest=-0.6, width=2.0)
    assert _sigmoid(state, 0.0) == pytest.approx(0.0, abs=1e-12)
    assert _sigmoid(state, 100.0) == pytest.approx(1.0)
    assert _sigmoid(state, -100.0) == pytest.approx(-0.6)
    steady = run(StochasticFreeForm(samples=20_000), Squares(smooth(0), smooth(0) + 1e-3 * smooth(1)), 4)
    assert steady.time < 4


def test_steps_lessen_with_time():
    solver = StochasticFreeForm(decay_steps=10, decay_power=0.5)
    assert solver.gain(2.0, 0.0) == 2.0
    assert solver.gain(2.0, 30.0) == pytest.approx(1.0)
    assert StochasticFreeForm(decay_power=0).gain(2.0, 1e6) == 2.0


def test_equal_images_are_left_alone():
    image = np.ones(SHAPE, np.float32)
    solver = StochasticFreeForm()
    state = solver.init([np.zeros((3, *SHAPE), np.float32)])
    assert not solver.step(state, Squares(image, image))
    assert np.abs(solver.fields(state)[0]).max() == 0
    broken = SimpleNamespace(
        axis_scale=np.ones(3, np.float32),
        penalized=False,
        draw=Squares(image, image).draw,
        value_and_gradient_at=lambda voxels, disp, out: float("nan"),
    )
    assert not solver.step(solver.init([np.zeros((3, *SHAPE), np.float32)]), broken)


@pytest.mark.parametrize(
    "settings",
    [
        {"spacing_vox": 0.5},
        {"samples": 50},
        {"first_step_vox": 0},
        {"decay_steps": 0},
        {"decay_power": 1.1},
        {"decay_power": -0.1},
    ],
)
def test_the_solver_checks_itself(settings):
    with pytest.raises(PlanError, match=next(iter(settings))):
        StochasticFreeForm(**settings)
