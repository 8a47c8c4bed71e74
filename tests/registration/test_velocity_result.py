"""What a stage of a stationary velocity field leaves: the velocity, in the result and in files."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from phantoms import error_vox, grid_of, inside, pair, smooth_truth

from regista.core import Image
from regista.io import read_transform, write_transform
from regista.registration import DeformableStage, LinearStage, Plan, Start, VelocityStage, register
from regista.regularization import LogJacobian
from regista.similarity import NCC, SSD
from regista.transforms import Affine, Composite, DisplacementField, VelocityField

START = Start(search="none")
SIGNS = np.array([-1.0, -1.0, 1.0])


def scans(ndim):
    grid = grid_of((30, 36, 18), (1.0, 0.7, 1.9)) if ndim == 3 else grid_of((60, 50), (0.8, 1.3), (25.0,))
    truth = smooth_truth(grid, 2.5)
    return truth, *pair(truth, grid)


@pytest.mark.parametrize("shrink", [(2, 1), (4, 2)], ids=str)
@pytest.mark.parametrize("ndim", [3, 2])
def test_the_result_is_a_flow_and_the_flow_back_its_inverse(tmp_path, ndim, shrink):
    truth, fixed, moving = scans(ndim)
    linear = LinearStage(model="rigid", similarity=NCC(), shrink=(4,), steps=(10,))
    stage = VelocityStage(
        similarity=SSD(), shrink=shrink, steps=(25, 15), update_sigma_vox=(2.0,), squarings=5
    )
    result = register(fixed, moving, Plan(stages=(linear, stage), start=START))
    flow, affine = result.transform.flatten().transforms
    assert isinstance(flow, VelocityField)
    assert isinstance(affine, Affine)
    assert result.velocity is flow
    assert flow.grid.same_as(fixed.grid)
    assert flow.steps == 5
    assert result.record.measures["velocity"]["squarings"] == 5
    assert (flow.fixed_space, result.transform.moving_space) == ("here", "there")
    before, backward = result.inverse.flatten().transforms
    assert isinstance(backward, DisplacementField)
    np.testing.assert_allclose(before.matrix @ affine.matrix, np.eye(ndim + 1), atol=1e-10)
    still = Affine(np.eye(ndim + 1))
    errors = [error_vox(one, truth, fixed, moving).mean() for one in (still, result.transform)]
    assert errors[1] < 0.5 * errors[0]
    points = inside(fixed)
    there = result.transform.map_points(points)
    assert (
        np.linalg.norm(result.inverse.map_points(there) - points, axis=1).mean()
        < 0.1 * fixed.grid.spacing.min()
    )
    assert result.record.measures["inverse_residual_vox"] < 0.01
    back = flow.inverse().map_points(flow.map_points(points))  # integrated by linear interpolation
    assert np.linalg.norm(back - points, axis=1).mean() < 0.1 * fixed.grid.spacing.min()
    write_transform(tmp_path / "map.h5", result.transform)
    again = read_transform(tmp_path / "map.h5")
    stored, _ = again.flatten().transforms
    assert isinstance(stored, VelocityField)
    np.testing.assert_array_equal(stored.vectors_mm, flow.vectors_mm)
    assert stored.steps == 5
    assert (again.fixed_space, again.moving_space) == ("here", "there")
    itk = sitk.ReadTransform(str(tmp_path / "map.h5"))  # which sees the displacement
    some = points[::151]
    theirs = np.array([itk.TransformPoint((p * SIGNS[:ndim]).tolist()) for p in some]) * SIGNS[:ndim]
    np.testing.assert_allclose(theirs, result.transform.map_points(some), atol=2e-3)


def test_the_axes_of_the_file_do_not_matter():
    _, fixed, moving = scans(3)
    grid = fixed.grid
    stored = Image(
        np.ascontiguousarray(fixed.data.transpose(2, 0, 1)),
        type(grid)((grid.shape[2], *grid.shape[:2]), grid.grid2world[:, [2, 0, 1, 3]]),
        space=fixed.space,
    )
    short = VelocityStage(similarity=SSD(), shrink=(2,), steps=(5,))
    one, other = (register(image, moving, Plan(stages=(short,), start=START)) for image in (fixed, stored))
    np.testing.assert_allclose(other.warped.data.transpose(1, 2, 0), one.warped.data, atol=1e-4)
    assert other.velocity.grid.same_as(stored.grid)


def test_a_flow_that_is_refined_is_one_no_more():
    _, fixed, moving = scans(3)
    short = VelocityStage(similarity=SSD(), shrink=(2,), steps=(3,))
    dense = DeformableStage(similarity=SSD(), shrink=(2,), steps=(2,))
    result = register(fixed, moving, Plan(stages=(short, dense), start=START))
    assert result.velocity is None
    assert "velocity" not in result.record.measures
    assert isinstance(result.transform.flatten().transforms[0], DisplacementField)
    alone = register(fixed, moving, Plan(stages=(short,), start=START))
    assert alone.velocity is not None
    again = register(fixed, moving, Plan(stages=(dense,), start=START), initial=alone.transform)
    assert again.record.status.ok
    guarded = VelocityStage(similarity=SSD(), shrink=(2,), steps=(3,), penalties=(LogJacobian(weight=1e-4),))
    assert register(fixed, moving, Plan(stages=(guarded,), start=START)).velocity is not None


def test_flows_anywhere_in_a_chain_come_back(tmp_path, rng, grid):
    vectors = rng.normal(scale=0.3, size=(3, *grid.shape)).astype(np.float32)
    chain = Composite(
        (
            Affine(np.diag([1.1, 0.9, 1.0, 1.0]), "a", "b"),
            VelocityField(vectors, grid, 3, "b", "c"),
            DisplacementField(0.5 * vectors, grid, "c", "d"),
            VelocityField(-vectors, grid, 7, "d", "e"),
        )
    )
    write_transform(tmp_path / "chain.h5", chain)
    back = read_transform(tmp_path / "chain.h5")
    assert [type(part) for part in back.transforms] == [type(part) for part in chain.transforms]
    for one, other in zip(chain.transforms[1:], back.transforms[1:], strict=True):
        np.testing.assert_array_equal(one.vectors_mm, other.vectors_mm)
        assert getattr(one, "steps", None) == getattr(other, "steps", None)
        assert (one.fixed_space, one.moving_space) == (other.fixed_space, other.moving_space)
    write_transform(tmp_path / "alone.h5", chain.transforms[1])
    assert isinstance(read_transform(tmp_path / "alone.h5"), VelocityField)
    write_transform(tmp_path / "alone.nii.gz", chain.transforms[1])
    assert isinstance(read_transform(tmp_path / "alone.nii.gz"), DisplacementField)


def test_a_damaged_velocity_is_told(tmp_path, rng, grid):
    import h5py

    from regista.core import FormatError

    flow = VelocityField(rng.normal(scale=0.3, size=(3, *grid.shape)), grid, 3)
    for name, make in (
        ("short", lambda node: node.create_dataset("vectors", data=np.zeros(7, np.float32))),
        ("words", lambda node: node.create_dataset("vectors", data=np.arange(grid.size * 3))),
    ):
        path = tmp_path / f"{name}.h5"
        write_transform(path, flow)
        with h5py.File(path, "r+") as file:
            node = file["Regista/Velocity/0"]
            del node["vectors"]
            make(node)
        with pytest.raises(FormatError, match="velocity field"):
            read_transform(path)
