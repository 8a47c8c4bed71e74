"""`BSplineField`: against ITK's own, on oblique lattices; in files, on grids, inverted."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from regista.core import FormatError, GeometryError, Grid, Image
from regista.io import read_transform, write_transform
from regista.transforms import (
    Affine,
    BSplineField,
    Composite,
    DisplacementField,
    resample,
    to_displacement_field,
    with_spaces,
)


def lps(points):
    return points * np.array([-1.0, -1.0, 1.0])[: points.shape[1]]


def lattice_over(grid: Grid, counts) -> Grid:
    """Return a lattice along the axes of a grid whose splines are defined over all of it."""
    step = (np.array(grid.shape)) / (np.array(counts) - 3)
    matrix = grid.grid2world @ np.diag([*step, 1.0])
    matrix[:-1, -1] = grid.index2world(-0.5 - step)
    return Grid(tuple(counts), matrix)


@pytest.fixture(params=[3, 2])
def case(request, make_grid, rng):
    """Return a grid, and a spline over it."""
    if request.param == 3:
        grid, counts = make_grid((11, 14, 9)), (5, 7, 6)
    else:
        grid, counts = make_grid((13, 17), (0.8, 1.7)), (6, 5)
    lattice = lattice_over(grid, counts)
    coefficients = rng.normal(size=(grid.ndim, *counts)) * 0.8
    return grid, BSplineField(coefficients, lattice, "f", "m")


def itk_of(spline: BSplineField) -> sitk.Transform:
    """Return ITK's transform, filled by hand."""
    spacing, origin, direction = spline.grid.to_lps()
    itk = sitk.BSplineTransform(spline.ndim, 3)
    itk.SetFixedParameters([*map(float, spline.grid.shape), *origin, *spacing, *direction.ravel()])
    signs = np.array([-1.0, -1.0, 1.0])
    parts = [signs[n] * spline.coefficients_mm[n].T.ravel() for n in range(spline.ndim)]
    itk.SetParameters(np.concatenate(parts).tolist())
    return itk


def test_points_go_where_itk_says(case, rng):
    grid, spline = case
    index = rng.uniform(-4, np.array(grid.shape) + 3, (400, grid.ndim))
    points = grid.index2world(index)
    inside = spline.contains(points)
    assert 50 < inside.sum() < 390
    itk = itk_of(spline)
    theirs = lps(np.array([itk.TransformPoint(p.tolist()) for p in lps(points)]))
    np.testing.assert_allclose(spline.map_points(points), theirs, atol=2e-6)
    assert np.abs(spline.map_points(points[inside]) - points[inside]).max() > 0.3
    assert np.array_equal(spline.map_points(points[~inside]), points[~inside])


@pytest.mark.parametrize("name", ["s.tfm", "s.h5", "s.txt"])
def test_files_are_itks_and_read_back_the_same(case, tmp_path, rng, name):
    grid, spline = case
    write_transform(tmp_path / name, spline)
    itk = sitk.ReadTransform(str(tmp_path / name))
    points = grid.index2world(rng.uniform(0, np.array(grid.shape) - 1, (60, grid.ndim)))
    theirs = lps(np.array([itk.TransformPoint(p.tolist()) for p in lps(points)]))
    np.testing.assert_allclose(spline.map_points(points), theirs, atol=2e-6)
    back = read_transform(tmp_path / name)
    assert isinstance(back, BSplineField)
    np.testing.assert_array_equal(back.coefficients_mm, spline.coefficients_mm)
    assert back.grid.same_as(spline.grid, 1e-9)
    if name.endswith("h5"):
        assert (back.fixed_space, back.moving_space) == ("f", "m")
    sitk.WriteTransform(itk, str(tmp_path / "theirs.tfm"))
    np.testing.assert_allclose(read_transform(tmp_path / "theirs.tfm").map_points(points), theirs, atol=2e-6)


def test_files_that_hold_none_say_so(case, tmp_path):
    grid, spline = case
    with pytest.raises(FormatError, match=r"got a B-spline; write \.tfm or \.h5"):
        write_transform(tmp_path / "s.mat", spline)
    if grid.ndim == 3:
        with pytest.raises(FormatError, match="--like FIXED"):
            write_transform(tmp_path / "s.nii.gz", spline)
        write_transform(tmp_path / "s.nii.gz", spline, fixed=grid)
        centres = grid.coordinates_mm().reshape(3, -1).T
        back = read_transform(tmp_path / "s.nii.gz")
        np.testing.assert_allclose(back.map_points(centres), spline.map_points(centres), atol=1e-5)


def test_a_dense_field_holds_the_same_on_any_grid(case, rng):
    grid, spline = case
    n = grid.ndim
    turned = np.eye(n + 1)
    turned[:n, :n] = np.eye(n)[::-1]
    turned[0, -1] = 0.4
    flipped = grid.grid2world @ turned @ np.diag([-1.0, *[1.0] * n])
    flipped[:-1, -1] = grid.index2world(np.array(grid.shape) - 2.0)
    sheared = grid.grid2world.copy()
    sheared[:n, 0] += 0.1 * sheared[:n, 1]
    for other in (grid, Grid(grid.shape[::-1], flipped), Grid(grid.shape, sheared)):
        field = to_displacement_field(spline, other)
        centres = other.coordinates_mm().reshape(n, -1).T
        expected = (spline.map_points(centres) - centres).T.reshape(field.vectors_mm.shape)
        np.testing.assert_allclose(field.vectors_mm, expected, atol=5e-6)
    assert field.fixed_space == "f"


def test_images_through_a_chain_are_those_of_itk(case, rng):
    grid, spline = case
    n = grid.ndim
    moving = Image(rng.normal(size=grid.shape).astype(np.float32), grid)
    shift = np.eye(n + 1)
    shift[:n, -1] = 0.4
    chain = Composite((with_spaces(spline, None, None), Affine(shift)))
    ours = resample(moving, grid, chain, fill=-7.0).data
    spacing, origin, direction = grid.to_lps()
    image = sitk.GetImageFromArray(moving.data.T)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    itk = sitk.CompositeTransform(
        [sitk.TranslationTransform(n, lps(shift[None, :n, -1])[0].tolist()), itk_of(spline)]
    )
    theirs = sitk.GetArrayFromImage(sitk.Resample(image, image, itk, sitk.sitkLinear, -7.0)).T
    same = np.isclose(ours, theirs, atol=1e-3)
    assert same.mean() > 0.999  # at the very faces either may find itself outside


def test_the_inverse_brings_back(make_grid, rng):
    grid = make_grid((15, 18, 12))
    spline = BSplineField(rng.normal(size=(3, 7, 8, 6)) * 0.25, lattice_over(grid, (7, 8, 6)), "f", "m")
    inner = grid.index2world(rng.uniform(4, np.array(grid.shape) - 5, (200, 3)))
    for back, most in ((spline.inverse(), 0.02), (spline.inverse(grid), 0.05)):
        assert isinstance(back, DisplacementField)
        assert (back.fixed_space, back.moving_space) == ("m", "f")
        missed = np.linalg.norm(back.map_points(spline.map_points(inner)) - inner, axis=1)
        assert missed.max() < most
    chain = Composite((spline,)).inverse()
    assert isinstance(chain.transforms[0], DisplacementField)
    domain = spline.domain(refine=2)
    assert domain.shape == (9, 11, 7)
    corners = domain.index2world(np.array([[0, 0, 0], np.array(domain.shape) - 1]))
    np.testing.assert_allclose(spline.grid.world2index(corners), [[1, 1, 1], [5, 6, 4]], atol=1e-9)


def test_what_is_no_spline_is_refused(make_grid):
    lattice = make_grid((4, 5, 6))
    for bad, words in (
        (np.zeros((3, 4, 5, 5)), "coefficients of shape"),
        (np.full((3, 4, 5, 6), np.nan), "NaN or Inf"),
    ):
        with pytest.raises(GeometryError, match=words):
            BSplineField(bad, lattice)
    with pytest.raises(GeometryError, match="4 control points along each axis"):
        BSplineField(np.zeros((3, 3, 5, 6)), make_grid((3, 5, 6)))
    with pytest.raises(GeometryError, match="refine"):
        BSplineField(np.zeros((3, 4, 5, 6)), lattice).domain(0)
