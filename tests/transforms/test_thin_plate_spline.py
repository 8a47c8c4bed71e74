"""Thin-plate splines: interpolation, smoothing, chains, fields, inverse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import gaussian_filter

from regista.core import GeometryError, Image, PlanError, PointSet
from regista.transforms import (
    Affine,
    Composite,
    SplineFit,
    ThinPlateSpline,
    Translation,
    compose,
    jacobian_determinant,
    map_pointset,
    resample,
    to_displacement_field,
    with_spaces,
)


def landmarks(rng, ndim, count=17, bend=3.0):
    """Return landmarks far from the origin, sheared, turned and bent."""
    fixed = rng.uniform(-40, 60, (count, ndim)) + [310.0, -120.0, 95.0][:ndim]
    linear = np.eye(ndim) + rng.uniform(-0.2, 0.2, (ndim, ndim))
    return fixed, fixed @ linear.T + rng.normal(0, 40, ndim) + rng.normal(0, bend, fixed.shape)


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3]), st.sampled_from([1e-3, 1.0, 50.0]))
@settings(max_examples=25, deadline=None)
def test_landmarks_are_met_whatever_the_unit(seed, ndim, unit):
    fixed, moving = landmarks(np.random.default_rng(seed), ndim)
    spline = ThinPlateSpline.through(fixed * unit, moving * unit)
    np.testing.assert_allclose(spline.map_points(fixed * unit), moving * unit, atol=1e-7 * unit)
    halved = ThinPlateSpline.through(fixed, moving, smoothing=0.1)
    scaled = ThinPlateSpline.through(fixed * unit, moving * unit, smoothing=0.1)
    np.testing.assert_allclose(
        scaled.map_points(fixed * unit), halved.map_points(fixed) * unit, atol=1e-7 * unit
    )


@pytest.mark.parametrize(("ndim", "kernel"), [(2, "thin_plate_spline"), (3, "linear")])
def test_between_landmarks_it_is_the_spline_of_least_bending(rng, ndim, kernel):
    fixed, moving = landmarks(rng, ndim)
    places = rng.uniform(-60, 80, (200, ndim)) + fixed.mean(axis=0)
    expected = RBFInterpolator(fixed, moving, kernel=kernel, degree=1)(places)
    np.testing.assert_allclose(ThinPlateSpline.through(fixed, moving).map_points(places), expected, atol=1e-7)


@pytest.mark.parametrize("ndim", [2, 3])
def test_smoothing_leads_from_the_landmarks_to_the_weighted_affine_fit(rng, ndim):
    fixed, moving = landmarks(rng, ndim)
    weights = rng.uniform(0.1, 5, len(fixed))
    root = np.sqrt(weights)[:, None]
    rows = np.column_stack([fixed, np.ones(len(fixed))])
    linear = rows @ np.linalg.lstsq(root * rows, root * moving, rcond=None)[0]
    off, bending = [], []
    for smoothing in (0.0, 1e-3, 1e-1, 1e1, 1e9):
        spline = ThinPlateSpline.through(fixed, moving, smoothing=smoothing, weights=weights)
        off.append(np.linalg.norm(spline.map_points(fixed) - moving, axis=1) @ weights)
        bending.append(np.abs(spline.weights).sum())
    assert off == sorted(off)
    assert bending == sorted(bending, reverse=True)
    np.testing.assert_allclose(spline.map_points(fixed), linear, atol=1e-5)


def test_more_weight_is_met_more_closely(rng):
    fixed, moving = landmarks(rng, 3)
    weights = np.ones(len(fixed))
    plain = ThinPlateSpline.through(fixed, moving, smoothing=0.3, weights=weights)
    weights[4] = 100
    sure = ThinPlateSpline.through(fixed, moving, smoothing=0.3, weights=weights)
    error = [np.linalg.norm(s.map_points(fixed[[4]]) - moving[4]) for s in (plain, sure)]
    assert error[1] < 0.1 * error[0]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_left_out_errors_are_those_of_fits_without_the_landmark(rng, ndim, smoothing):
    fixed, moving = landmarks(rng, ndim)
    weights = rng.uniform(0.5, 2, len(fixed))
    weights /= weights.mean()
    found = SplineFit(fixed, moving, smoothing=smoothing, weights=weights).left_out_mm()
    for n in range(len(fixed)):
        others = np.arange(len(fixed)) != n
        kept = weights[others]
        # the bending energy must weigh the same in mm against each landmark that is left
        sizes = [np.sqrt(((f - f.mean(axis=0)) ** 2).sum(axis=1).mean()) for f in (fixed, fixed[others])]
        same = smoothing * len(fixed) / kept.sum() * (sizes[0] / sizes[1]) ** (4 - ndim)
        spline = ThinPlateSpline.through(fixed[others], moving[others], smoothing=same, weights=kept)
        np.testing.assert_allclose(found[n], moving[n] - spline.map_points(fixed[[n]])[0], atol=1e-7)


def test_a_landmark_given_twice_counts_once(rng):
    fixed, moving = landmarks(rng, 3)
    plain = ThinPlateSpline.through(fixed, moving)
    twice = np.r_[np.arange(len(fixed)), 3, 5]
    places = rng.normal(fixed.mean(axis=0), 50, (50, 3))
    fit = SplineFit(fixed[twice], moving[twice])
    np.testing.assert_allclose(fit.spline().map_points(places), plain.map_points(places), atol=1e-8)
    assert np.abs(fit.left_out_mm()[[3, 5, -2, -1]]).max() < 1e-8
    moving = moving[twice]
    moving[-1] += [0.0, 2.0, 0.0]
    with pytest.raises(GeometryError, match=r"landmarks 6 and 19 .* 2 mm apart"):
        ThinPlateSpline.through(fixed[twice], moving)
    between = ThinPlateSpline.through(fixed[twice], moving, smoothing=1e-6).map_points(fixed[[5]])
    np.testing.assert_allclose(between, moving[[5]] + [0.0, 1.0, 0.0], atol=1e-3)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_least_number_of_landmarks_gives_their_affine_map(rng, ndim):
    fixed, moving = landmarks(rng, ndim, ndim + 1)
    fit = SplineFit(fixed, moving)
    assert np.abs(fit.spline().weights).max() == 0
    np.testing.assert_allclose(fit.spline().map_points(fixed), moving, atol=1e-9)
    assert np.isnan(fit.left_out_mm()).all()


def test_a_landmark_the_others_need_has_no_error(rng):
    fixed, moving = landmarks(rng, 3)
    fixed[1:, 2] = 7.0
    found = SplineFit(fixed, moving).left_out_mm()
    assert np.isnan(found).all(axis=1).tolist() == [True] + [False] * (len(fixed) - 1)


def spline_on(rng, grid, size_mm=1.0, ndim=3) -> ThinPlateSpline:
    """Return a gentle spline over a grid, after a shift."""
    top = np.array(grid.shape) - 1
    fixed = grid.index2world(rng.uniform(0, 1, (9, ndim)) * top)
    moving = fixed + [5.0, -3.0, 8.0][:ndim] + rng.normal(0, size_mm / 3, fixed.shape)
    return ThinPlateSpline.through(fixed, moving, fixed_space="f", moving_space="m")


@pytest.mark.parametrize("name", ["grid", "grid_2d"])
def test_chains_fields_and_images(request, rng, name):
    grid = request.getfixturevalue(name)
    n = grid.ndim
    spline = spline_on(rng, grid, ndim=n)
    centres = grid.coordinates_mm().reshape(n, -1).T
    back = Translation.by([-5.0, 3.0, -8.0][:n], "m", "e")
    chain = Composite((spline, back))
    assert (chain.fixed_space, chain.moving_space) == ("f", "e")
    assert isinstance(compose(spline, back), Composite)
    field = to_displacement_field(chain, grid)
    np.testing.assert_allclose(field.map_points(centres), chain.map_points(centres), atol=1e-4)
    image = Image(gaussian_filter(rng.normal(size=grid.shape), 1).astype(np.float32), grid)
    through = resample(image, grid, chain, fill=0.0).data
    np.testing.assert_allclose(through, resample(image, grid, field, fill=0.0).data, atol=1e-3)
    assert np.abs(through).max() > 0
    points = map_pointset(PointSet(centres[:5], space="f"), spline)
    assert points.space == "m"
    np.testing.assert_array_equal(points.points_mm, spline.map_points(centres[:5]))
    assert with_spaces(spline, "a", "b").moving_space == "b"


@pytest.mark.parametrize("name", ["grid", "grid_2d"])
def test_volume_change_is_that_between_voxels(request, rng, name):
    grid = request.getfixturevalue(name)
    n = grid.ndim
    spline, steps = spline_on(rng, grid, ndim=n), grid.grid2world[:n, :n]
    places = grid.coordinates_mm().reshape(n, -1).T
    columns = [(spline.map_points(places + step) - spline.map_points(places - step)) / 2 for step in steps.T]
    expected = (np.linalg.det(np.stack(columns, -1)) / np.linalg.det(steps)).reshape(grid.shape)
    inner = (slice(1, -1),) * n
    found = jacobian_determinant(spline, grid)[inner]
    np.testing.assert_allclose(found, expected[inner], atol=1e-4)
    assert np.ptp(found) > 0.05


@pytest.mark.parametrize("name", ["grid", "grid_2d"])
def test_the_inverse_is_on_a_grid(request, rng, name):
    grid = request.getfixturevalue(name)
    spline = spline_on(rng, grid, 0.3, ndim=grid.ndim)
    with pytest.raises(GeometryError, match="no inverse in closed form"):
        spline.inverse()
    with pytest.raises(GeometryError, match="no inverse in closed form"):
        Composite((spline, Translation.by([1.0] * grid.ndim))).inverse()
    inverse = spline.inverse(grid)
    assert (inverse.fixed_space, inverse.moving_space) == ("m", "f")
    top = np.array(grid.shape) - 1
    places = grid.index2world(rng.uniform(0.25, 0.75, (100, grid.ndim)) * top)
    np.testing.assert_allclose(inverse.map_points(spline.map_points(places)), places, atol=0.03)


def test_bending_and_affine_part_make_the_whole(rng):
    fixed, moving = landmarks(rng, 3)
    spline = ThinPlateSpline.through(fixed, moving, fixed_space="f", moving_space="m")
    bending, affine = spline.split()
    chain = Composite((bending, affine))
    places = rng.normal(fixed.mean(axis=0), 60, (80, 3))
    np.testing.assert_allclose(chain.map_points(places), spline.map_points(places), atol=1e-8)
    assert (chain.fixed_space, chain.moving_space) == ("f", "m")
    np.testing.assert_array_equal(bending.matrix, np.eye(4))
    assert isinstance(affine, Affine)


def test_nothing_it_holds_changes(rng):
    fixed, moving = landmarks(rng, 2)
    spline = ThinPlateSpline.through(fixed, moving)
    for array in (spline.centers_mm, spline.weights, spline.matrix):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_what_is_refused(rng):
    fixed, moving = landmarks(rng, 3)
    flat, line = fixed.copy(), fixed[:, :2].copy()
    flat[:, 2] = 0.3 * flat[:, 0] - 7
    line[:, 1] = 2 * line[:, 0]
    bad = fixed.copy()
    bad[3, 1] = np.nan
    for arguments, words in (
        ((fixed, moving[:-1]), r"shapes \(17, 3\) and \(16, 3\)"),
        ((fixed, moving[:, :2]), "shapes"),
        ((bad, moving), "NaN or Inf"),
        ((fixed[:3], moving[:3]), "needs 4 landmarks or more, got 3"),
        ((flat, moving), "in one plane"),
        ((line, moving[:, :2]), "on one line"),
    ):
        with pytest.raises(GeometryError, match=words):
            ThinPlateSpline.through(*arguments)
    for options, words in (
        ({"smoothing": -1.0}, "at least 0, got -1"),
        ({"smoothing": np.nan}, "at least 0"),
        ({"weights": [1.0]}, "17 numbers above 0"),
        ({"weights": np.r_[0.0, np.ones(16)]}, "above 0"),
    ):
        with pytest.raises(PlanError, match=words):
            ThinPlateSpline.through(fixed, moving, **options)
    with pytest.raises(GeometryError, match="4×4"):
        ThinPlateSpline(fixed, moving, np.eye(3))
    with pytest.raises(GeometryError, match="3-D ThinPlateSpline maps"):
        ThinPlateSpline.through(fixed, moving).map_points(fixed[:, :2])
