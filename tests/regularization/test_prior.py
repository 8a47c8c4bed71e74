"""The prior of expected deformations: what it learns, what it costs, its file."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from regista.core import FormatError, GeometryError, Grid, PlanError, threads
from regista.regularization import (
    DeformationPrior,
    load_deformation_model,
    penalties_from_plan,
    save_deformation_model,
)

SPREADS = np.array([3.0, 1.5])
NOISE = 0.1


def _modes(rng, shape, count=2):
    """Return smooth modes of mean squared length 1, orthogonal to each other."""
    fields = ndimage.gaussian_filter(rng.normal(size=(count, 3, *shape)), (0, 0, 2, 2, 2)).reshape(count, -1)
    q = np.linalg.qr(fields.T)[0].T * np.sqrt(np.prod(shape))
    return q.reshape(count, 3, *shape)


def _products(one, other):
    """Return the mean products of two sets of fields over the voxels."""
    return one.reshape(len(one), -1) @ other.reshape(len(other), -1).T / np.prod(one.shape[2:])


@pytest.fixture
def world(rng, grid):
    """Return modes, mean and samples in world mm."""
    modes, mean = _modes(rng, grid.shape), rng.normal(size=(3, 1, 1, 1)) * np.ones((3, *grid.shape))
    noise = NOISE / np.sqrt(3) * rng.normal(size=(40, 3, *grid.shape))
    fields = mean + np.einsum("sn,n...->s...", SPREADS * rng.normal(size=(40, 2)), modes) + noise
    return modes, mean, fields


@pytest.fixture
def voxels(grid):
    return lambda v: np.einsum("ab,b...->a...", grid.world2grid[:3, :3], v).astype(np.float32)


def test_known_modes_are_recovered(world, grid):
    modes, _, fields = world
    model = DeformationPrior.learn(fields, grid, rank=2).model
    overlap = np.abs(_products(model.modes, modes))
    np.testing.assert_allclose(overlap, np.eye(2), atol=0.15)
    np.testing.assert_allclose(
        np.linalg.norm(overlap, axis=1), 1, atol=1e-2
    )  # the span exactly, to the noise
    np.testing.assert_allclose(model.variances_mm2, SPREADS**2, rtol=0.5)
    assert model.residual_mm2 == pytest.approx(NOISE**2, rel=0.1)
    np.testing.assert_allclose(_products(model.modes, model.modes), np.eye(2), atol=1e-4)


def test_what_it_costs(world, grid, voxels, rng):
    modes, _, fields = world
    prior = DeformationPrior.learn(fields, grid, rank=2, weight=0.5)
    prepared, model = prior.prepare(grid), prior.model
    spare = np.zeros((3, *grid.shape), np.float32)

    def cost(vectors):
        return prepared.value_and_gradient(voxels(vectors), spare)

    assert cost(model.mean_mm) == pytest.approx(0, abs=1e-6)
    along = model.mean_mm + 2 * np.sqrt(model.variances_mm2[0]) * model.modes[0]
    assert cost(along) == pytest.approx(0.5 * 4, rel=1e-2)  # two standard deviations
    other = _modes(rng, grid.shape, 3)[2]
    other -= np.tensordot(_products(model.modes, other[None])[:, 0], model.modes, 1)
    length = float((other**2).sum() / grid.size)
    assert cost(model.mean_mm + other) == pytest.approx(0.5 * length / model.residual_mm2, rel=1e-3)
    unseen = fields.mean(axis=0) + 2 * modes[0] - modes[1] + NOISE / np.sqrt(3) * rng.normal(size=other.shape)
    assert cost(unseen) < 0.5 * 6


@pytest.mark.parametrize("kind", ["same", "finer", "plane"])
def test_gradient_matches_finite_differences(kind, grid, grid_2d, make_grid, random_field, mismatch, rng):
    learned = grid_2d if kind == "plane" else grid
    fields = ndimage.gaussian_filter(
        rng.normal(size=(7, learned.ndim, *learned.shape)), (0, 0, *[1.5] * learned.ndim)
    )
    prior = DeformationPrior.learn(fields, learned, rank=3)
    target = make_grid((15, 20, 12), (0.8, 0.5, 1.7)) if kind == "finer" else learned
    prepared, field = prior.prepare(target), random_field(target.shape)
    if kind == "plane":
        field[2] = 0
    gradient, spare = np.zeros_like(field), np.zeros_like(field)
    prepared.value_and_gradient(field, gradient)
    assert mismatch(lambda u: prepared.value_and_gradient(u, spare), field, gradient, eps=0.02) < 2e-3


def test_the_same_field_costs_the_same_at_another_resolution(make_grid, world_field):
    coarse = make_grid((14, 16, 12), (2.0, 1.5, 2.4))
    fine = coarse.with_spacing((1.0, 0.8, 1.2))
    fields = [world_field(coarse, 2.0, wave) for wave in (20.0, 25.0, 31.0, 40.0, 55.0)]
    fields = [np.einsum("ab,b...->a...", coarse.grid2world[:3, :3], f) for f in fields]
    prior = DeformationPrior.learn(fields, coarse, rank=2)
    costs = []
    for grid in (coarse, fine):
        field = world_field(grid, 2.0, 28.0)
        costs.append(prior.prepare(grid).value_and_gradient(field, np.zeros_like(field)))
    assert costs[1] == pytest.approx(costs[0], rel=0.1)


def test_a_model_is_kept_in_a_file(tmp_path, world, grid, voxels):
    prior = DeformationPrior.learn(world[2][:6], grid, rank=2)
    path = tmp_path / "prior.npz"
    save_deformation_model(prior.model, path)
    assert [p.name for p in tmp_path.iterdir()] == ["prior.npz"]
    again = load_deformation_model(path)
    np.testing.assert_array_equal(again.modes, prior.model.modes)
    np.testing.assert_array_equal(again.grid.grid2world, grid.grid2world)
    (named,) = penalties_from_plan([{"deformation-prior": {"model": str(path)}}])
    field, out = voxels(world[2][7]), np.zeros((3, *grid.shape), np.float32)
    value = prior.prepare(grid).value_and_gradient(field, out)
    assert named.prepare(grid).value_and_gradient(field, out) == value


def test_threads_change_no_bit(world, grid, voxels):
    prepared = DeformationPrior.learn(world[2], grid, rank=2).prepare(grid)
    field, found = voxels(world[2][3]), []
    for count in (1, 4):
        out = np.zeros_like(field)
        with threads(count):
            found.append((prepared.value_and_gradient(field, out), out))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_what_cannot_be_learned_or_read_is_refused(tmp_path, world, grid, grid_2d):
    fields = world[2]
    with pytest.raises(PlanError, match="one less than the number of fields"):
        DeformationPrior.learn(fields[:2], grid, rank=2)
    with pytest.raises(PlanError, match="fewer than 2 modes"):
        DeformationPrior.learn([fields[0], fields[1], fields[0], fields[1]], grid, rank=2)
    with pytest.raises(PlanError, match="residual_mm"):
        DeformationPrior.learn([n * fields[0] for n in range(4)], grid, rank=1)
    assert DeformationPrior.learn([n * fields[0] for n in range(4)], grid, rank=1, residual_mm=0.5)
    with pytest.raises(GeometryError, match="field 1 has shape"):
        DeformationPrior.learn([fields[0], fields[1][:, 1:]], grid, rank=1)
    with pytest.raises(GeometryError, match="NaN"):
        DeformationPrior.learn([fields[0], fields[1] * np.nan], grid, rank=1)
    prior = DeformationPrior.learn(fields, grid, rank=1)
    with pytest.raises(PlanError, match="no mask"):
        prior.prepare(grid, np.ones(grid.shape))
    with pytest.raises(GeometryError, match="does not fit"):
        prior.prepare(grid_2d)
    with pytest.raises(FormatError, match=r"\.npz"):
        save_deformation_model(prior.model, tmp_path / "prior.txt")
    with pytest.raises(FormatError, match="cannot write"):
        save_deformation_model(prior.model, tmp_path / "nowhere" / "prior.npz")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    np.savez(tmp_path / "other.npz", vol=np.zeros(3))
    for name in ("bad.npz", "other.npz", "missing.npz"):
        with pytest.raises(FormatError, match=name):
            load_deformation_model(tmp_path / name)


def test_a_plane_as_images_are_worked_on_costs_what_it_does_in_its_own_order(grid_2d, rng):
    """Images of a plane are worked on as ``(I, 1, J)``."""
    fields = ndimage.gaussian_filter(rng.normal(size=(6, 2, *grid_2d.shape)), (0, 0, 1.5, 1.5))
    prior = DeformationPrior.learn(fields, grid_2d, rank=2)
    field = (0.4 * rng.normal(size=(3, *grid_2d.shape, 1))).astype(np.float32)
    field[2] = 0
    gradient = np.zeros_like(field)
    value = prior.prepare(grid_2d).value_and_gradient(field, gradient)
    across = Grid((grid_2d.shape[0], 1, grid_2d.shape[1]), grid_2d.as_3d().grid2world[:, [0, 2, 1, 3]])
    turned = np.ascontiguousarray(field[[0, 2, 1]].transpose(0, 1, 3, 2))
    other = np.zeros_like(turned)
    assert prior.prepare(across).value_and_gradient(turned, other) == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(other[[0, 2, 1]].transpose(0, 1, 3, 2), gradient, atol=1e-6)
    lifted = across.grid2world.copy()
    lifted[2, 3] = 5.0
    with pytest.raises(GeometryError, match="does not fit"):
        prior.prepare(Grid(across.shape, lifted))  # a slice of a volume is no plane
