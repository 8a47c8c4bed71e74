"""Solvers and the stopping rule on problems with known answers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from regista.core import PlanError
from regista.kernels.cpu.bspline import spline_axis, spline_expand
from regista.kernels.cpu.fields import compose, jacobian_determinant
from regista.kernels.cpu.rows import ranges_of, rows_of
from regista.kernels.cpu.warp import warp, warp_gradient
from regista.optimization import (
    BFGS,
    Convergence,
    Demons,
    FreeForm,
    GreedyDiffeomorphic,
    StationaryVelocity,
    StochasticFreeForm,
    SymmetricDiffeomorphic,
)
from regista.optimization._stopping import shortening

HESSIAN = np.array([[4.0, 1.0, 0.0, 0.2], [1.0, 30.0, 2.0, 0.0], [0.0, 2.0, 0.5, 0.1], [0.2, 0.0, 0.1, 9.0]])
LOWEST = np.array([3.0, -2.0, 5.0, 0.5])


def quadratic(point):
    away = point - LOWEST
    return float(0.5 * away @ HESSIAN @ away + 7), HESSIAN @ away


def run(solver, evaluate, start, steps):
    state = solver.init(start, evaluate)
    values = [state.value]
    for _ in range(steps):
        state = solver.step(state, evaluate)
        values.append(state.value)
        if state.step_length == 0:
            break
    return state, values


def test_bfgs_finds_the_lowest_point_of_a_quadratic():
    state, values = run(BFGS(retract=np.add), quadratic, np.zeros(4), 25)
    np.testing.assert_allclose(state.point, LOWEST, atol=1e-3)
    assert values[-1] == pytest.approx(7, abs=1e-5)
    assert np.all(np.diff(values) <= 0)
    assert len(values) - 1 <= state.evaluations <= 4 * len(values)


def test_bfgs_walks_along_a_curved_valley():
    def rosenbrock(p):
        a, b = 1 - p[0], p[1] - p[0] ** 2
        return float(a * a + 20 * b * b), np.array([-2 * a - 80 * p[0] * b, 40 * b])

    state, values = run(BFGS(retract=np.add, first_step=0.2), rosenbrock, np.array([-1.2, 1.0]), 60)
    np.testing.assert_allclose(state.point, [1, 1], atol=1e-2)
    assert np.all(np.diff(values) <= 0)


def test_bfgs_steps_keep_to_their_limit_and_go_through_retract():
    seen = []

    def retract(point, move):
        seen.append(np.linalg.norm(move))
        return point + move

    state, _ = run(BFGS(retract=retract, first_step=0.5, max_step=0.75), quadratic, np.full(4, 40.0), 5)
    assert seen[0] == pytest.approx(0.5)
    assert max(seen) <= 0.75 + 1e-12
    assert state.step_length <= 0.75 + 1e-12


def test_bfgs_stays_where_there_is_no_way_down():
    solver = BFGS(retract=np.add)
    flat = solver.init(np.zeros(2), lambda _: (1.0, np.zeros(2)))
    stayed = solver.step(flat, lambda _: (1.0, np.zeros(2)))
    assert stayed.step_length == 0
    np.testing.assert_array_equal(stayed.point, np.zeros(2))
    # a gradient that lies about the way down, and a wall of infinite value
    for evaluate in (
        lambda p: (float(p @ p), -2 * p),
        lambda p: (1.0 if not p.any() else np.inf, np.ones(2)),
    ):
        start = np.ones(2) if evaluate(np.ones(2))[0] == 2 else np.zeros(2)
        begun = solver.init(start, evaluate)
        assert solver.step(begun, evaluate).value <= begun.value


def test_convergence_waits_for_its_window_and_sees_the_trend():
    rule = Convergence(window=5, tolerance=1e-2)
    falling = [100.0 * 0.8**n for n in range(60)]
    when = next(n for n in range(len(falling)) if rule.reached(falling[:n]))
    assert 5 <= when < 40
    assert not rule.reached(falling[:5])
    assert not rule.reached([])
    assert rule.reached([3.0] * 5)
    assert not rule.reached([3.0] * 4)
    rng = np.random.default_rng(0)
    steady = list(np.linspace(10, 0, 40) + 0.05 * rng.standard_normal(40))
    assert not any(rule.reached(steady[:n]) for n in range(41))


def test_convergence_does_not_depend_on_the_unit_of_the_value():
    values = [1.0 / (n + 1) for n in range(30)]
    rule = Convergence(window=6, tolerance=5e-3)
    expected = [rule.reached(values[:n]) for n in range(31)]
    assert True in expected
    assert False in expected
    assert [rule.reached([1e3 * v - 5 for v in values[:n]]) for n in range(31)] == expected


@pytest.mark.parametrize("settings", [{"window": 1}, {"tolerance": -0.1}, {"tolerance": float("nan")}])
def test_a_stopping_rule_checks_itself(settings):
    with pytest.raises(PlanError):
        Convergence(**settings)


def blobs(shape, seed=0):
    noise = np.random.default_rng(seed).standard_normal(shape)
    return ndimage.gaussian_filter(noise, 2.5).astype(np.float32) * 10


IDENTITY = np.eye(4)[:3]


class Squares:
    """Mean squared difference of two images as solvers ask for it, by plain NumPy."""

    def __init__(self, fixed, moving):
        self.fixed, self.moving = fixed, moving

    def warped(self, image, field):
        return warp(image, IDENTITY, field, shape=self.fixed.shape)

    def force(self, field, scratch, out):
        warped = self.warped(self.moving, field)
        out[...] = -(warped - self.fixed) * np.stack(np.gradient(warped))
        return float(((warped - self.fixed) ** 2).mean())

    def exchanged_force(self, field, scratch, out):
        return Squares(self.moving, self.fixed).force(field, scratch, out)

    def forces(self, to_fixed, to_moving, scratch, on_fixed, on_moving):
        fixed, warped = self.warped(self.fixed, to_fixed), self.warped(self.moving, to_moving)
        on_fixed[...] = -(fixed - warped) * np.stack(np.gradient(fixed))
        on_moving[...] = -(warped - fixed) * np.stack(np.gradient(warped))
        return float(((warped - fixed) ** 2).mean())

    def value_and_gradient(self, field, out):
        warped = self.warped(self.moving, field)
        slope = (2 * (warped - self.fixed) / self.fixed.size).astype(np.float32)
        warp_gradient(self.moving, IDENTITY, field, slope, out=out)
        return float(((warped - self.fixed) ** 2).mean())


@pytest.mark.parametrize("step", [0.5, 1.0, 1.7])
def test_the_first_greedy_step_has_the_length_asked_for(step):
    shape = (11, 14, 9)
    solver = GreedyDiffeomorphic(step_vox=step, update_sigma_vox=1.0, field_sigma_vox=0.0)
    state = solver.init([np.zeros((3, *shape), np.float32)])
    solver.step(state, Squares(blobs(shape), blobs(shape, 1)))
    largest = np.abs(state.field).max()
    assert 0.6 * step < largest <= step * 1.0001


def test_greedy_steps_stop_where_there_is_no_force():
    shape = (11, 14, 9)
    solver, field = GreedyDiffeomorphic(), np.zeros((3, *shape), np.float32)

    def nothing(field, scratch, out):
        out[...] = 0
        return 0.0

    def broken(field, scratch, out):
        out[...] = np.inf
        return float("nan")

    for force in (nothing, broken):
        state = solver.init([field.copy()])
        assert not solver.step(state, SimpleNamespace(force=force))
        assert np.abs(state.field).max() == 0


def test_greedy_steps_touch_only_their_rows():
    shape = (16, 15, 20)
    active = np.zeros(shape, bool)
    active[6:9, 6:9, 8:11] = True
    solver = GreedyDiffeomorphic()
    rows = rows_of(ranges_of(active.astype(np.float32), 0.0, 0.5), active.shape[2], 2, solver.reach_vox)
    here = np.arange(shape[2]) >= rows[0, ..., None]
    here &= np.arange(shape[2]) < rows[1, ..., None]
    start = np.full((3, *shape), 0.25, np.float32)
    state = solver.init([start.copy()], rows)
    for _ in range(3):
        solver.step(state, Squares(blobs(shape), blobs(shape, 1)))
    np.testing.assert_array_equal(state.field[:, ~here], start[:, ~here])
    assert (state.field[:, here] != 0.25).any()


@pytest.mark.parametrize("settings", [{"step_vox": 0}, {"step_vox": 3}, {"field_sigma_vox": -1}])
def test_a_solver_checks_itself(settings):
    with pytest.raises(PlanError):
        GreedyDiffeomorphic(**settings)


def test_what_is_left_of_the_last_step_is_continuous():
    rule = Convergence(window=4, tolerance=0.05)
    falling = [1.0, 0.6, 0.4, 0.3, 0.25]
    assert [rule.left(falling[:n]) for n in range(1, 6)] == [1.0] * 5
    # from just before the rule is met to well beyond, the share of the step falls from 1 without a jump
    shares = np.array([rule.left([*falling, last]) for last in np.linspace(0.2, 0.45, 2001)])
    assert shares[0] == 1.0
    assert 0.5 < shares[-1] < 0.7
    assert np.abs(np.diff(shares)).max() < 0.001
    # where it is met by a hair's breadth a step earlier, the share is nearly 1; where it is just not, a whole
    # step is taken, and nearly nothing of the next
    edge = 0.25 + 0.0375 - 1e-6
    while not rule.reached([*falling, edge]):
        edge += 1e-5
    assert rule.left([*falling, edge]) > 0.999
    assert rule.left([*falling, edge - 2e-5, edge + 0.1]) < 0.01
    assert rule.left([*falling, 0.45, 0.45]) == 0.0


def test_steps_shorten_smoothly_with_the_rise_of_the_value():
    factors = [shortening([1.0, 0.5, 0.5 + rise], 0.6) for rise in np.linspace(-0.1, 0.1, 401)]
    assert factors[0] == pytest.approx(1.0, abs=1e-6)
    assert factors[-1] == pytest.approx(0.6, abs=1e-6)
    assert np.diff(factors).min() > -0.02
    assert np.all(np.diff(factors) < 0)


def bent_pair(shape=(24, 30, 17)):
    """Return a fixed image that a known bend of 2 voxels makes of a moving one."""
    moving = blobs(shape)
    bend = np.stack([ndimage.gaussian_filter(blobs(shape, n), 3) for n in (1, 2, 3)])
    bend *= np.float32(2.0 / np.abs(bend).max())
    return warp(moving, IDENTITY, bend, shape=shape), moving, bend


DENSE = {
    "greedy": (GreedyDiffeomorphic(step_vox=0.3, update_sigma_vox=1.5, field_sigma_vox=0.4), 60),
    "symmetric": (
        SymmetricDiffeomorphic(
            half=GreedyDiffeomorphic(step_vox=0.2, update_sigma_vox=1.5, field_sigma_vox=0.3)
        ),
        60,
    ),
    "adjoint": (StationaryVelocity(step_vox=0.3, update_sigma_vox=1.5), 60),
    "log": (StationaryVelocity(gradient="composition", step_vox=0.3, update_sigma_vox=1.5), 60),
    "log-symmetric": (
        StationaryVelocity(gradient="composition", symmetric=True, step_vox=0.3, update_sigma_vox=1.5),
        60,
    ),
    "freeform": (FreeForm(spacing_vox=4.0), 40),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_solvers_bring_images_together_without_folds(name):
    fixed, moving, bend = bent_pair()
    solver, steps = DENSE[name]
    state = solver.init([np.zeros(bend.shape, np.float32) for _ in range(solver.parts)])
    cost = Squares(fixed, moving)
    for _ in range(steps):
        if not solver.step(state, cost):
            break
    last = solver.value(state, cost)
    assert last < state.values[0] / 10
    found = solver.displacement(solver.fields(state))
    assert jacobian_determinant(found).min() > 0
    inner = (slice(None), *[slice(4, -4)] * 3)
    # where the image is flat, nothing tells the map
    assert np.abs(found - bend)[inner].mean() < 0.6 * np.abs(bend)[inner].mean()


@pytest.mark.parametrize("name", ["symmetric", "log-symmetric"])
def test_exchanging_the_images_inverts_a_symmetric_map(name):
    fixed, moving, bend = bent_pair()
    solver, _ = DENSE[name]
    maps = []
    for one, other in ((fixed, moving), (moving, fixed)):
        state = solver.init([np.zeros(bend.shape, np.float32) for _ in range(solver.parts)])
        for _ in range(25):
            solver.step(state, Squares(one, other))
        maps.append(solver.displacement(solver.fields(state)))
    round_trip = compose(maps[0], maps[1])
    inner = (slice(None), *[slice(4, -4)] * 3)
    assert np.abs(maps[0])[inner].max() > 1
    assert np.abs(round_trip[inner]).max() < 0.1
    assert np.abs(round_trip[inner]).mean() < 0.01


@pytest.mark.parametrize("update", ["additive", "compositive", "diffeomorphic"])
def test_demons_take_the_force_as_their_step(update):
    shape = (12, 13, 11)
    solver = Demons(update=update, field_sigma_vox=0.0)
    force = np.zeros((3, *shape), np.float32)
    force[0], force[2] = 0.25, -0.5

    def steady(field, scratch, out):
        out[...] = force
        return 1.0 - float(np.abs(field).mean())

    state = solver.init([np.zeros((3, *shape), np.float32)])
    for n in (1, 2, 3):
        assert solver.step(state, SimpleNamespace(force=steady))
        np.testing.assert_allclose(solver.fields(state)[0], n * force, atol=1e-5)
    # longer forces are cut, all by one factor
    short = Demons(update=update, field_sigma_vox=0.0, step_vox=0.1)
    state = short.init([np.zeros((3, *shape), np.float32)])
    short.step(state, SimpleNamespace(force=steady))
    np.testing.assert_allclose(short.fields(state)[0], 0.2 * force, atol=1e-6)


def bends(shape, largest, seed=0):
    """Return a smooth field whose components are as large as `largest` somewhere; in a plane it has no third."""
    rng, sigma = np.random.default_rng(seed), [2.0 if n > 1 else 0.0 for n in shape]
    field = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), sigma) for _ in range(3)])
    field *= largest / np.abs(field).max(axis=(1, 2, 3), keepdims=True)
    field[np.array(shape) == 1] = 0
    return field.astype(np.float32)


def led(field, by):
    """Return ``u(x + v(x))`` of a field and the one that leads there, by SciPy."""
    places = np.indices(by.shape[1:]) + by
    return np.stack([ndimage.map_coordinates(one, places, order=1, mode="nearest") for one in field])


def flow(velocity, steps=20):
    """Return how far points go that follow a velocity for unit time, by many small steps of the midpoint rule."""
    moved = np.zeros_like(velocity)
    for _ in range(steps):
        moved += led(velocity, moved + led(velocity, moved) / (2 * steps)) / steps
    return moved


def updated(field, step):
    """Return what each update makes of a field in theory."""
    end = flow(step)
    return {
        "additive": field + step,
        "compositive": step + led(field, step),
        "diffeomorphic": end + led(field, end),
    }


@pytest.mark.parametrize("shape", [(18, 20, 15), (26, 23, 1)], ids=["3-D", "2-D"])
@pytest.mark.parametrize("update", ["additive", "compositive", "diffeomorphic"])
def test_demons_update_a_field_as_the_name_says(update, shape):
    # a force and a field that vary in space: only there do the three differ
    field, force = (bends(shape, *one).astype(np.float64) for one in ((1.5, 1), (0.95, 2)))

    def steady(field, scratch, out):
        out[...] = force
        return 1.0

    for longest in (1.0, 0.6):
        gaps = updated(field, force * min(1.0, longest / 0.95))
        solver = Demons(update=update, field_sigma_vox=0.0, step_vox=longest)
        state = solver.init([field.astype(np.float32)])
        assert solver.step(state, SimpleNamespace(force=steady))
        for name in gaps:
            gaps[name] = np.abs(solver.fields(state)[0] - gaps[name])
        own = gaps.pop(update)
        # scaling and squaring begins with straight lines of up to an eighth of a voxel, the flow does not
        assert own.max() < (0.04 if update == "diffeomorphic" else 1e-5)
        for other in gaps.values():
            assert other.max() > 0.04
            assert other.mean() > 4 * own.mean()


@pytest.mark.parametrize("shape", [(15, 18, 12), (24, 29, 1)], ids=["3-D", "2-D"])
def test_the_force_on_a_velocity_is_the_derivative_of_the_whole_value(shape):
    solver, cost, step = StationaryVelocity(), Squares(blobs(shape), blobs(shape, 1)), 0.01
    velocity = bends(shape, 4.0)
    state = solver.init([velocity.copy()])
    solver.value(state, cost)
    found, expected = [], []
    for seed, axis in np.ndindex(4, 3):
        if shape[axis] == 1:
            continue
        way = np.zeros_like(velocity)
        way[axis] = bends(shape, 1.0, seed + 1)[axis]
        ends = [solver.value(solver.init([velocity + sign * step * way]), cost) for sign in (1, -1)]
        expected.append((ends[0] - ends[1]) / (2 * step))
        found.append(-np.vdot(state.force.astype(np.float64), way))
    # without the way through scaling and squaring it is off by a fifth
    assert np.linalg.norm(np.subtract(found, expected)) < 0.02 * np.linalg.norm(expected)


def test_a_freeform_step_never_raises_the_value_and_keeps_the_start():
    fixed, moving, bend = bent_pair()
    start = (0.5 * bend).astype(np.float32)
    solver = FreeForm(spacing_vox=5.0)
    state = solver.init([start.copy()])
    cost = Squares(fixed, moving)
    assert solver.value(state, cost) == pytest.approx(cost.value_and_gradient(start, np.empty_like(start)))
    for _ in range(15):
        solver.step(state, cost)
    assert np.all(np.diff(state.values) <= 0)
    np.testing.assert_array_equal(state.start, start)


class Walled:
    """A narrow valley, infinite beyond a wall, as a function of a field's mean along the first two axes.

    The valley leads through the wall: the quasi-Newton direction ends there, the gradient leads along it.
    """

    center, curvature = np.array([-1.0, 5.0]), np.array([[1.0, 0.9], [0.9, 1.0]])

    def value_and_gradient(self, field, out):
        place = field[:2].mean(axis=(1, 2, 3), dtype=np.float64)
        away = place - self.center
        out[...] = 0
        out[:2] = (self.curvature @ away / field[0].size)[:, None, None, None]
        return float("inf") if place[0] < 0 else float(0.5 * away @ self.curvature @ away)


def test_a_freeform_step_that_finds_nothing_is_tried_again_down_the_gradient():
    solver, cost = FreeForm(spacing_vox=4.0), Walled()
    still = np.zeros((3, 7, 6, 5), np.float32)
    state = solver.init([still.copy()])  # right at the wall
    before = solver.value(state, cost)
    for axis in range(2):  # the true curvature
        beside = still.copy()
        beside[axis] = 0.5
        other = solver.init([beside])
        solver.value(other, cost)
        move = np.zeros_like(state.control)
        move[axis] = 0.5  # splines add up to one
        state.pairs.append((move, other.gradient - state.gradient))
    assert solver.step(state, cost)
    assert len(state.pairs) == 1  # what led through the wall was forgotten
    assert state.current < before
    for _ in range(30):
        solver.step(state, cost)
    assert state.current < before / 20


def test_control_points_may_lie_at_another_distance_along_each_axis():
    shape, rng = (13, 22, 9), np.random.default_rng(3)
    spacing = (3.0, 7.0, 4.5)
    solver = FreeForm(spacing_vox=spacing)
    state = solver.init([np.zeros((3, *shape), np.float32)])
    assert state.control.shape == (
        3,
        *(int((n - 1) / step) + 4 for n, step in zip(shape, spacing, strict=True)),
    )
    truth = spline_expand(
        rng.normal(size=state.control.shape), [spline_axis(*one) for one in zip(shape, spacing, strict=True)]
    )

    def squares(field, out):
        np.subtract(field, truth, out=out)
        value = float((out.astype(np.float64) ** 2).sum()) / 2
        return value

    for _ in range(60):
        solver.step(state, SimpleNamespace(value_and_gradient=squares))
    assert np.abs(state.field - truth).mean() < 0.03 < 0.2 < np.abs(truth).mean()
    assert solver.reach_vox == 14
    assert StochasticFreeForm(spacing_vox=spacing).init(
        [np.zeros((3, *shape), np.float32)]
    ).control.shape == (state.control.shape)
    for make in (FreeForm, StochasticFreeForm):
        with pytest.raises(PlanError, match=r"between 1 and 200 voxels, got 0\.5"):
            make(spacing_vox=(2.0, 0.5, 2.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Demons(update="none"),
        lambda: Demons(step_vox=1.5),
        lambda: Demons(field_sigma_vox=-1),
        lambda: StationaryVelocity(gradient="adjoint", symmetric=True),
        lambda: StationaryVelocity(squarings=1),
        lambda: FreeForm(spacing_vox=0.5),
        lambda: FreeForm(memory=0),
    ],
)
def test_dense_solvers_check_themselves(make):
    with pytest.raises(PlanError):
        make()
