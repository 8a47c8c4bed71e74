"""Transforms from landmarks alone: exact recovery, weights, outliers, refusals, real landmarks."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import error_mm, grid_of, linear_truth, pair, smooth_truth
from scipy.spatial.transform import Rotation

from regista.core import GeometryError, PlanError, PointSet
from regista.io import read_points
from regista.registration import DeformableStage, Plan, Start, fit_landmarks, register
from regista.transforms import (
    Affine,
    DisplacementField,
    Rigid,
    Similarity,
    ThinPlateSpline,
    Translation,
    to_displacement_field,
)

KINDS = {
    "translation": Translation,
    "rigid": Rigid,
    "similarity": Similarity,
    "affine": Affine,
    "tps": ThinPlateSpline,
}
LINEAR = [model for model in KINDS if model != "tps"]
LEAST = {"translation": (1, 1), "rigid": (2, 3), "similarity": (2, 3), "affine": (3, 4), "tps": (3, 4)}


def truth_of(model, rng, ndim) -> np.ndarray:
    """Return a large random map of a model's kind, as a homogeneous matrix."""
    matrix = np.eye(ndim + 1)
    matrix[:ndim, ndim] = rng.normal(0, 80, ndim)
    turn = Rotation.random(random_state=rng).as_matrix()
    if ndim == 2:
        turn = Rotation.from_euler("z", rng.uniform(-np.pi, np.pi)).as_matrix()[:2, :2]
    if model != "translation":
        matrix[:ndim, :ndim] = turn * (rng.uniform(0.4, 2.5) if model == "similarity" else 1.0)
    if model in ("affine", "tps"):
        matrix[:ndim, :ndim] = turn @ (np.eye(ndim) + rng.uniform(-0.25, 0.25, (ndim, ndim)))
    return matrix


def places(rng, count, ndim) -> np.ndarray:
    """Return points in an oblique, anisotropic box far from the origin."""
    turn = Rotation.from_euler("xyz", (17, -11, 23), degrees=True).as_matrix()[:ndim, :ndim]
    return rng.uniform(-1, 1, (count, ndim)) * [40, 25, 70][:ndim] @ turn.T + [310.0, -120.0, 95.0][:ndim]


def applied(matrix, points) -> np.ndarray:
    return points @ matrix[:-1, :-1].T + matrix[:-1, -1]


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(KINDS)), st.sampled_from([2, 3]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_map_is_found_again(seed, model, ndim, few):
    rng = np.random.default_rng(seed)
    count = LEAST[model][ndim - 2] if few else 12
    fixed, matrix = places(rng, count, ndim), truth_of(model, rng, ndim)
    fit = fit_landmarks(
        PointSet(fixed, space="f"),
        PointSet(applied(matrix, fixed), space="m"),
        model,
        weights=rng.uniform(0.1, 9, count),
    )
    assert type(fit.transform) is KINDS[model]
    assert (fit.transform.fixed_space, fit.transform.moving_space) == ("f", "m")
    np.testing.assert_allclose(
        fit.transform.matrix, matrix, atol=1e-3 if few else 1e-6
    )  # few may be nearly flat
    assert fit.residuals_mm.max() < 1e-6
    assert not fit.outliers.any()
    if few:
        assert np.isnan(fit.left_out_mm).all()
        assert np.isnan(fit.summary()["left_out_mean_mm"])
    else:
        assert fit.left_out_mm.max() < 1e-6


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("model", LINEAR)
def test_no_map_of_the_kind_fits_better(rng, model, ndim):
    fixed = places(rng, 14, ndim)
    moving, weights = (
        applied(truth_of(model, rng, ndim), fixed) + rng.normal(0, 3, fixed.shape),
        rng.uniform(0, 4, 14),
    )
    matrix = fit_landmarks(fixed, moving, model, weights=weights).transform.matrix
    middle = weights @ fixed / weights.sum()

    def cost(linear, shift):
        there = (fixed - middle) @ linear.T @ matrix[:-1, :-1].T + applied(matrix, middle) + shift
        return weights @ ((there - moving) ** 2).sum(axis=1)

    best, still, step = cost(np.eye(ndim), np.zeros(ndim)), np.zeros(ndim), 1e-3
    assert best > 1
    changes = [step * shift for shift in (*np.eye(ndim), *-np.eye(ndim))]
    nearby = [cost(np.eye(ndim), change) for change in changes]
    for i, j in np.ndindex(ndim, ndim):
        for sign in (-step, step):
            linear = np.eye(ndim)
            if model == "affine":
                linear[i, j] += sign
            elif model in ("rigid", "similarity") and i < j:
                linear[[i, i, j, j], [i, j, i, j]] = [np.cos(sign), -np.sin(sign), np.sin(sign), np.cos(sign)]
            elif model == "similarity" and i == j:
                linear *= 1 + sign
            else:
                continue
            nearby.append(cost(linear, still))
    assert min(nearby) > best


def test_weights_count_as_repeated_landmarks(rng):
    fixed = places(rng, 8, 3)
    moving, counts = fixed + rng.normal(0, 4, fixed.shape), np.array([1, 3, 1, 2, 1, 1, 4, 0])
    many = np.repeat(np.arange(8), counts)
    for model in LINEAR:
        weighted = fit_landmarks(fixed, moving, model, weights=counts)
        repeated = fit_landmarks(fixed[many], moving[many], model)
        np.testing.assert_allclose(weighted.transform.matrix, repeated.transform.matrix, atol=1e-9)
        assert weighted.residuals_mm[7] > 0.1  # it had no say, but is measured
        assert weighted.left_out_mm[7] == weighted.residuals_mm[7]


@pytest.mark.parametrize("model", KINDS)
def test_left_out_errors_are_those_of_fits_without_the_landmark(rng, model):
    fixed = places(rng, 9, 3)
    moving = applied(truth_of(model, rng, 3), fixed) + rng.normal(0, 3, fixed.shape)
    fit = fit_landmarks(fixed, moving, model)
    for n in range(9):
        others = np.arange(9) != n
        there = fit_landmarks(fixed[others], moving[others], model).transform.map_points(fixed[[n]])
        assert fit.left_out_mm[n] == pytest.approx(np.linalg.norm(there - moving[n]), rel=1e-6)
    if model != "translation":
        assert fit.summary()["left_out_mean_mm"] > fit.summary()["residual_mean_mm"]


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(KINDS)), st.sampled_from([2, 3]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_fifth_of_outliers_is_set_aside(seed, model, ndim, alike):
    rng = np.random.default_rng(seed)
    fixed, matrix = places(rng, 30, ndim), truth_of(model, rng, ndim)
    moving = applied(matrix, fixed) + rng.normal(0, 0.2, fixed.shape)
    wrong = rng.permutation(30)[:6]
    direction = rng.normal(size=(1 if alike else 6, ndim))
    moving[wrong] += 40 * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    fit = fit_landmarks(fixed, moving, model, robust=True, smoothing=0.01 if model == "tps" else 0.0)
    assert set(wrong) <= set(np.flatnonzero(fit.outliers))
    assert fit.outliers.sum() <= 8  # few of the good ones with them
    assert (fit.weights[fit.outliers] == 0).all()
    error = np.linalg.norm(fit.transform.map_points(fixed) - applied(matrix, fixed), axis=1)
    assert error.mean() < 0.35
    if alike:  # else they may cancel out
        plain = fit_landmarks(fixed, moving, model).transform.map_points(fixed)
        assert error.mean() < 0.2 * np.linalg.norm(plain - applied(matrix, fixed), axis=1).mean()
    assert fit.residuals_mm[wrong].min() > 30
    assert fit.summary()["residual_max_mm"] < 2


@pytest.mark.parametrize("model", KINDS)
def test_robust_changes_nothing_where_all_agree(rng, model):
    fixed = places(rng, 20, 3)
    moving = applied(truth_of(model, rng, 3), fixed)
    fit = fit_landmarks(fixed, moving, model, robust=True)
    assert not fit.outliers.any()
    assert fit.residuals_mm.max() < 1e-6
    least = fit_landmarks(fixed[: LEAST[model][1]], moving[: LEAST[model][1]], model, robust=True)
    assert not least.outliers.any()


@pytest.mark.parametrize("model", LINEAR)
@pytest.mark.parametrize("seed", range(5))
def test_one_landmark_more_than_needed_is_not_called_an_outlier(model, seed):
    rng = np.random.default_rng(seed)
    fixed = places(rng, LEAST[model][1] + 1, 3)
    moving = applied(truth_of(model, rng, 3), fixed) + rng.normal(0, 2, fixed.shape)
    assert not fit_landmarks(
        fixed, moving, model, robust=True
    ).outliers.any()  # which one is wrong cannot be told


@pytest.mark.parametrize("model", LINEAR)
@pytest.mark.parametrize("seed", range(5))
def test_two_fifths_of_outliers_that_agree_with_each_other(model, seed):
    rng = np.random.default_rng(seed)
    fixed, matrix = places(rng, 40, 3), truth_of(model, rng, 3)
    moving = applied(matrix, fixed) + rng.normal(0, 0.2, fixed.shape)
    moving[:15] += [8.0, -6.0, 3.0]
    fit = fit_landmarks(fixed, moving, model, robust=True)
    assert np.linalg.norm(fit.transform.map_points(fixed) - applied(matrix, fixed), axis=1).max() < 1


def test_exchanged_landmarks_are_named(rng):
    fixed = places(rng, 12, 3)
    moving = applied(truth_of("rigid", rng, 3), fixed) + rng.normal(0, 0.1, fixed.shape)
    moving[[2, 9]] = moving[[9, 2]]
    fit = fit_landmarks(fixed, moving, "rigid", robust=True)
    assert np.flatnonzero(fit.outliers).tolist() == [2, 9]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("model", ["rigid", "similarity", "affine", "tps"])
def test_mirrored_landmarks_are_refused(rng, model, ndim):
    fixed, matrix = places(rng, 12, ndim), truth_of(model, rng, ndim)
    matrix[:ndim, 0] *= -1
    with pytest.raises(GeometryError, match="mirror"):
        fit_landmarks(fixed, applied(matrix, fixed) + rng.normal(0, 0.5, fixed.shape), model)


def test_noise_across_a_plane_does_not_mirror_a_rigid_fit(rng):
    fixed = places(rng, 20, 3)
    fixed[:, 2] = 40.0
    matrix = truth_of("rigid", rng, 3)
    for _ in range(20):
        thick = fixed + rng.normal(0, 0.2, fixed.shape)
        fit = fit_landmarks(thick, applied(matrix, fixed) + rng.normal(0, 0.2, fixed.shape), "rigid")
        assert np.linalg.det(fit.transform.matrix) == pytest.approx(1)
        assert fit.residuals_mm.max() < 2


def test_landmarks_are_paired_by_name(rng):
    fixed, matrix = places(rng, 7, 3), truth_of("affine", rng, 3)
    order = [4, 0, 6, 2, 1]
    here = PointSet(fixed, tuple("abcdefg"))
    there = PointSet(applied(matrix, fixed)[order], tuple("abcdefg"[n] for n in order))
    fit = fit_landmarks(here, there, "affine", weights=[1, 1, 1, 5, 1, 5, 1])
    np.testing.assert_allclose(fit.transform.matrix, matrix, atol=1e-8)
    assert fit.names == tuple("abceg")
    assert fit.fixed_numbers.tolist() == [0, 1, 2, 4, 6]
    assert fit.weights.tolist() == [1] * 5  # those of the landmarks that were used


LINE, PLANE, ONE = (
    np.outer(np.arange(6), [1, 2, 3]),
    np.indices((3, 3, 1)).reshape(3, -1).T,
    np.zeros((6, 3)),
)
BAD = np.where(np.arange(18).reshape(6, 3) == 7, np.nan, 1.0)
REFUSED = [
    (ONE[:2], ONE[:2], "rigid", "needs 3 landmarks or more, got 2"),
    (ONE[:3], ONE[:3], "affine", "needs 4 landmarks or more, got 3"),
    (ONE[:3], ONE[:3], "tps", "needs 4 landmarks or more, got 3"),
    (ONE[:1, :2], ONE[:1, :2], "similarity", "in 2-D needs 2 landmarks or more, got 1"),
    (ONE, ONE, "rigid", "fixed landmarks are all in one place"),
    (LINE, LINE, "rigid", "fixed landmarks lie on one line"),
    (PLANE[:6], LINE, "similarity", "moving landmarks lie on one line"),
    (PLANE, PLANE, "affine", "lie in one plane.*--like IMAGE"),
    (PLANE, PLANE, "tps", "lie in one plane"),
    (LINE[:, :2], LINE[:, :2], "affine", "lie on one line"),
    (PLANE, PLANE[:, :2], "rigid", "fixed landmarks are 3-D, the moving ones 2-D"),
    (PLANE, PLANE[:-1], "rigid", "9 fixed landmarks but 8 moving ones"),
    (BAD, ONE, "rigid", "the fixed landmarks: point 2 has a NaN"),
    (ONE, BAD, "translation", "the moving landmarks: point 2 has a NaN"),
    (ONE, ["a", "b"], "translation", "the moving landmarks: could not convert"),
    (ONE[:0], ONE[:0], "translation", "no fixed landmarks"),
]


@pytest.mark.parametrize(("fixed", "moving", "model", "words"), REFUSED)
def test_landmarks_that_determine_nothing_are_refused(fixed, moving, model, words):
    with pytest.raises(GeometryError, match=words):
        fit_landmarks(fixed, moving, model)


def test_settings_that_make_no_sense_are_refused(rng):
    fixed = places(rng, 6, 3)
    for options, words in (
        ({"model": "bspline"}, "translation, rigid, similarity, affine, tps, got 'bspline'"),
        ({"model": "affine", "smoothing": 0.1}, "belongs to the model 'tps'"),
        ({"model": "tps", "smoothing": -0.1}, "at least 0"),
        ({"weights": [1, 2]}, r"6, got shape \(2,\)"),
        ({"weights": [1, 2, 3, -4, 5, 6]}, "at least 0, got .*-4.* for landmark 4"),
        ({"weights": [1, 2, np.nan, 4, 5, 6]}, "for landmark 3"),
    ):
        with pytest.raises(PlanError, match=words):
            fit_landmarks(fixed, fixed, **options)
    with pytest.raises(GeometryError, match="needs 3 landmarks or more, got 2"):
        fit_landmarks(fixed, fixed, weights=[1, 0, 0, 0, 0, 1])


def test_one_place_that_goes_to_two_is_refused_in_a_spline(rng):
    fixed = places(rng, 8, 3)
    fixed[5] = fixed[2]
    moving = fixed + rng.normal(0, 2, fixed.shape)
    with pytest.raises(GeometryError, match=r"landmarks 3 and 6 are one place.*--smoothing"):
        fit_landmarks(fixed, moving, "tps")
    assert fit_landmarks(fixed, moving, "tps", smoothing=0.1).residuals_mm.max() < 10
    weights = [0, 1, 1, 1, 1, 1, 1, 1]  # the others keep their numbers
    with pytest.raises(GeometryError, match="landmarks 3 and 6"):
        fit_landmarks(fixed, moving, "tps", weights=weights)
    named = [PointSet(points, tuple("abcdefgh")) for points in (fixed, moving)]
    with pytest.raises(GeometryError, match="landmarks c and f"):
        fit_landmarks(*named, "tps", weights=weights)


def test_landmarks_start_a_registration():
    """An affine fit starts any plan, a spline or its field deformable ones."""
    grid = grid_of()
    bend, move = smooth_truth(grid, 4.0), linear_truth(grid, (6, -9, 12), (30.0, -20.0, 25.0))
    truth = lambda points: move(bend(points))  # noqa: E731
    there = np.eye(4)
    there[:3, 3] = (30.0, -20.0, 25.0)
    fixed, moving = pair(truth, moving_grid=type(grid)(grid.shape, there @ grid.grid2world))
    rng = np.random.default_rng(5)
    cells = rng.uniform(0.1, 0.9, (18, 3)) * (np.array(grid.shape) - 1)
    here = PointSet(grid.index2world(cells), space="here")
    goal = PointSet(truth(here.points_mm), space="there")
    idle = Plan(stages=(DeformableStage(shrink=(1,), steps=(0,)),), start=Start(search="none"))
    fine = Plan(stages=(DeformableStage(shrink=(2, 1), steps=(30, 8)),), start=Start(search="none"))
    spline = fit_landmarks(here, goal, "tps").transform
    start = error_mm(spline, truth, fixed).mean()
    assert start < 1.0
    for initial in (spline, to_displacement_field(spline, grid)):
        kept = register(fixed, moving, idle, initial=initial)
        np.testing.assert_allclose(
            kept.transform.map_points(here.points_mm), goal.points_mm, atol=0.3
        )  # linear between voxels
        assert error_mm(kept.transform, truth, fixed).mean() == pytest.approx(start, abs=0.05)
    assert isinstance(kept.transform.flatten().transforms[0], DisplacementField)
    result = register(fixed, moving, fine, initial=spline)
    assert error_mm(result.transform, truth, fixed).mean() < 0.8 * start
    whole = result.transform.flatten().transforms[-1].matrix
    np.testing.assert_allclose(whole, spline.matrix)  # what moves the image as a whole stays out of the field
    with pytest.raises(GeometryError, match="a spline, which linear stages would undo"):
        register(fixed, moving, "rigid", initial=spline)
    affine = fit_landmarks(here, goal, "affine").transform
    linear = register(fixed, moving, Plan(stages=(DeformableStage(shrink=(2,), steps=(0,)),)), initial=affine)
    np.testing.assert_allclose(linear.transform.flatten().transforms[-1].matrix, affine.matrix, atol=1e-9)


@pytest.mark.data
def test_half_of_the_lung_landmarks_foretell_the_others(data_dir):
    names = ("baseline", "followup")
    here, there = (read_points(data_dir / "lung_ct" / f"{n}_landmarks.txt").points_mm for n in names)
    rng, errors = np.random.default_rng(0), {"affine": [], "tps": []}
    for _ in range(6):
        seen = np.isin(np.arange(51), rng.permutation(51)[:26])
        for model, found in errors.items():
            transform = fit_landmarks(here[seen], there[seen], model).transform
            found.append(np.linalg.norm(transform.map_points(here[~seen]) - there[~seen], axis=1).mean())
    assert np.mean(errors["affine"]) < 3.1
    assert np.mean(errors["tps"]) < 2.6
    assert np.less(errors["tps"], errors["affine"]).all()
    fit = fit_landmarks(here, there, "tps")
    unseen = np.mean(errors["tps"])
    assert fit.residuals_mm.max() < 1e-6
    assert 0.6 * unseen < fit.summary()["left_out_mean_mm"] < 1.3 * unseen  # the honest estimate


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "stains", "affine_px", "spline_px"),
    [
        ("lesions", ("Izd2-29-041-w35_HE", "Izd2-29-041-w35_proSPC"), 7.5, 6.5),
        ("rat-kidney", ("Rat-Kidney_HE", "Rat-Kidney_PanCytokeratin"), 6.0, 5.5),
    ],
)
def test_half_of_the_histology_landmarks_foretell_the_others(data_dir, folder, stains, affine_px, spline_px):
    tables = []
    for stain in stains:
        with open(data_dir / "histology" / folder / f"{stain}.csv", encoding="utf-8", newline="") as stream:
            tables.append({row[""]: (float(row["X"]), float(row["Y"])) for row in csv.DictReader(stream)})
    shared = [number for number in tables[0] if number in tables[1]]
    here, there = (np.array([table[number] for number in shared]) for table in tables)
    seen = np.arange(len(shared)) % 2 == 0

    def error(model, **options):
        transform = fit_landmarks(here[seen], there[seen], model, **options).transform
        return np.linalg.norm(transform.map_points(here[~seen]) - there[~seen], axis=1).mean()

    affine, spline = error("affine"), error("tps", smoothing=0.1)
    assert np.linalg.norm(here - there, axis=1).mean() > 25
    assert affine < affine_px
    assert spline < min(affine, spline_px)
