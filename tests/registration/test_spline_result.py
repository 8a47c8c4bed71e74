"""What a B-spline stage leaves: control points, which other tools replay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from phantoms import error_vox, grid_of, pair, smooth_truth

from regista.core import Grid, Image, PlanError
from regista.io import read_transform, write, write_transform
from regista.kernels.cpu.bspline import spline_axis, spline_expand
from regista.registration import DeformableStage, FreeFormStage, LinearStage, Plan, Start, register
from regista.registration._control_points import fit_control_points
from regista.registration._deformable import VoxelField
from regista.registration._inputs import embedded, plane
from regista.similarity import NCC, SSD
from regista.transforms import Affine, BSplineField, DisplacementField, to_displacement_field

STAGE = FreeFormStage(similarity=SSD(), shrink=(4, 2), steps=(25, 15), spacing_vox=(5.0,))


@pytest.mark.parametrize(
    ("shape", "spacing_vox"), [((23, 18, 14), 4.5), ((23, 18, 1), 3.0), ((21, 26), 5.0), ((9, 30, 12), 12.0)]
)
def test_control_points_are_found_again(rng, shape, spacing_vox):
    flat = grid_of(shape, (0.8, 1.3, 2.1)[: len(shape)], origin=(-40.0, 12.0, 5.0)[: len(shape)])
    grid = embedded(flat)
    axes = [spline_axis(n, spacing_vox) for n in grid.shape]
    control = rng.normal(size=(3, *(axis.controls for axis in axes)))
    control[np.array([0, 1, 2])[np.array(grid.shape) == 1]] = 0
    field = VoxelField(spline_expand(control, axes), grid)
    spline, rms_mm = fit_control_points(field, spacing_vox, len(shape))
    assert rms_mm < 1e-5
    expected = field.vectors_mm(grid)
    expected = expected[:2, :, 0] if len(shape) == 2 else expected
    np.testing.assert_allclose(spline.displacement(flat).vectors_mm, expected, atol=2e-5)
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in shape])).reshape(len(shape), -1).T
    assert spline.contains(flat.index2world(0.999 * corners)).all()
    other = rng.normal(size=field.vectors_vox.shape).astype(np.float32)  # which no spline of this lattice is
    assert fit_control_points(VoxelField(other, grid), spacing_vox, len(shape))[1] > 0.1
    assert plane(embedded(flat)).same_as(flat) if len(shape) == 2 else True


def as_itk(image: Image) -> sitk.Image:
    spacing, origin, direction = image.grid.to_lps()
    itk = sitk.GetImageFromArray(image.data.astype(np.float32).T)
    itk.SetSpacing(spacing.tolist())
    itk.SetOrigin(origin.tolist())
    itk.SetDirection(direction.ravel().tolist())
    return itk


def replayed(path, fixed: Image, moving: Image) -> np.ndarray:
    itk = sitk.ReadTransform(str(path))
    return sitk.GetArrayFromImage(sitk.Resample(as_itk(moving), as_itk(fixed), itk, sitk.sitkLinear, 0.0)).T


@pytest.mark.parametrize("optimizer", ["lbfgs", "asgd"])
@pytest.mark.parametrize("ndim", [3, 2])
def test_other_tools_replay_the_result(tmp_path, optimizer, ndim):
    grid = grid_of() if ndim == 3 else grid_of((60, 50), (0.8, 1.3), (25.0,), (-40.0, 12.0))
    truth = smooth_truth(grid, 3.0)
    fixed, moving = pair(truth, grid)
    stage = replace(STAGE, similarity=NCC(), optimizer=optimizer, samples=1500)
    linear = LinearStage(model="affine", similarity=NCC(), shrink=(4,), steps=(20,))
    result = register(fixed, moving, Plan(stages=(linear, stage), start=Start(search="none")))
    spline, affine = result.transform.flatten().transforms
    assert isinstance(spline, BSplineField)
    assert isinstance(affine, Affine)
    assert result.record.measures["control_points"] == list(spline.grid.shape)
    assert result.record.measures["control_points_rms_mm"] < 0.1 * grid.spacing.min()
    still = Affine(np.eye(ndim + 1))
    before, after = (error_vox(t, truth, fixed, moving).mean() for t in (still, result.transform))
    assert after < (0.5 if optimizer == "lbfgs" else 1.0) * before  # which takes more steps than this
    for name in ("map.h5", "map.tfm"):
        write_transform(tmp_path / name, result.transform)
        theirs = replayed(tmp_path / name, fixed, moving)
        inner = tuple(slice(1, -1) for _ in range(ndim))
        np.testing.assert_allclose(theirs[inner], result.warped.data[inner], atol=2e-3)
        back = read_transform(tmp_path / name)
        assert isinstance(back.flatten().transforms[0], BSplineField)
    inner_points = grid.index2world(np.array(grid.shape) / 2 + np.zeros((1, ndim)))
    there = result.transform.map_points(inner_points)
    np.testing.assert_allclose(result.inverse.map_points(there), inner_points, atol=0.05)
    assert (tmp_path / "map.h5").stat().st_size < 200_000  # a dense field of this grid takes 720 kB


def test_only_what_is_a_spline_is_kept_as_one(tmp_path):
    grid = grid_of((26, 30, 18), (1.0, 0.7, 2.3))
    fixed, moving = pair(smooth_truth(grid, 2.0), grid)
    dense = DeformableStage(shrink=(2,), steps=(2,))
    short = replace(STAGE, shrink=(2,), steps=(3,))
    start = Start(search="none")
    then_dense = register(fixed, moving, Plan(stages=(short, dense), start=start))
    after_dense = register(fixed, moving, Plan(stages=(dense, short), start=start))
    twice = register(fixed, moving, Plan(stages=(short, short), start=start))
    field = to_displacement_field(then_dense.transform, grid)
    field = DisplacementField(field.vectors_mm, grid)
    refined = register(fixed, moving, Plan(stages=(short,), start=start), initial=field)
    for result in (then_dense, after_dense, twice, refined):
        assert isinstance(result.transform.flatten().transforms[0], DisplacementField)
    alone = register(fixed, moving, Plan(stages=(short,), start=start))
    assert isinstance(alone.transform.flatten().transforms[0], BSplineField)
    write(tmp_path / "alone.h5", alone.transform)
    again = register(
        fixed, moving, Plan(stages=(short,), start=start), initial=read_transform(tmp_path / "alone.h5")
    )
    assert isinstance(again.transform.flatten().transforms[0], DisplacementField)


@pytest.mark.parametrize("optimizer", ["lbfgs", "asgd"])
def test_control_points_lie_so_many_mm_apart(optimizer):
    grid = grid_of((26, 30, 12), (1.0, 0.7, 4.6))
    fixed, moving = pair(smooth_truth(grid, 2.0), grid)
    stage = FreeFormStage(
        similarity=NCC(), shrink=(2,), steps=(4,), spacing_mm=(6.0,), optimizer=optimizer, samples=500
    )
    result = register(fixed, moving, Plan(stages=(stage,), start=Start(search="none")))
    spline = result.transform.flatten().transforms[0]
    # the first two axes shrink to about 1.4 mm; slices, not halved, of 4.6 mm hold a point each 6 mm
    np.testing.assert_allclose(spline.grid.spacing, 6.0, atol=1e-9)
    assert any("samples has no effect" in warning for warning in result.record.warnings) == (
        optimizer == "lbfgs"
    )
    # refused before anything runs, though the level is the last of the second stage
    close = replace(stage, shrink=(4, 2), steps=(4, 4), spacing_mm=(6.0, 0.5))
    first = LinearStage(model="translation", similarity=NCC(), shrink=(4,), steps=(2,))
    told: list[object] = []
    with pytest.raises(PlanError, match=r"^stages\.1: bspline: control points 0\.5 mm apart .* on level 1"):
        register(fixed, moving, Plan(stages=(first, close), start=Start(search="none")), progress=told.append)
    assert not told


def test_the_axes_of_the_file_do_not_matter():
    grid = grid_of((30, 34, 20), (1.0, 0.8, 2.0))
    fixed, moving = pair(smooth_truth(grid, 2.0), grid)
    turned = grid.grid2world[:, [2, 0, 1, 3]].copy()
    stored = Image(
        np.ascontiguousarray(fixed.data.transpose(2, 0, 1)), Grid((20, 30, 34), turned), space=fixed.space
    )
    plan = Plan(stages=(replace(STAGE, shrink=(2,), steps=(5,)),), start=Start(search="none"))
    one, other = (register(image, moving, plan) for image in (fixed, stored))
    np.testing.assert_allclose(other.warped.data.transpose(1, 2, 0), one.warped.data, atol=1e-4)
    assert isinstance(other.transform.flatten().transforms[0], BSplineField)
