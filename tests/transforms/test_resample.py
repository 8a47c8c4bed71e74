"""Resampling against SimpleITK on oblique grids, and the rules of types, borders and labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from regista.core import GeometryError, Image, LabelImage, Mesh, PlanError, PointSet, threads
from regista.transforms import (
    Affine,
    Composite,
    DisplacementField,
    Translation,
    VelocityField,
    fill_value,
    map_mesh,
    map_pointset,
    resample,
    resample_labels,
    to_displacement_field,
    with_spaces,
)

ITK = {
    "linear": sitk.sitkLinear,
    "nearest": sitk.sitkNearestNeighbor,
    "cubic": sitk.sitkBSpline,
    "lanczos": sitk.sitkLanczosWindowedSinc,
}


def to_itk(data, grid, vector=False):
    """Give an array (components last if `vector`) to SimpleITK with its grid's geometry."""
    axes = tuple(range(grid.ndim))[::-1] + ((grid.ndim,) if vector else ())
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(axes)), isVector=vector)
    spacing, origin, direction = grid.to_lps()
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    return image


def affine_to_itk(affine):
    n = affine.ndim
    flip = np.diag([-1.0, -1, 1, 1]) if n == 3 else np.diag([-1.0, -1, 1])
    matrix = flip @ affine.matrix @ flip
    out = sitk.AffineTransform(n)
    out.SetMatrix(matrix[:n, :n].ravel().tolist())
    out.SetTranslation(matrix[:n, n].tolist())
    return out


def field_to_itk(field):
    flip = np.array([-1.0, -1.0, 1.0][: field.ndim])
    vectors = np.moveaxis(field.vectors_mm, 0, -1).astype(np.float64) * flip
    return sitk.DisplacementFieldTransform(to_itk(vectors, field.grid, vector=True))


def chain_to_itk(chain):
    out = sitk.CompositeTransform(chain[0].ndim)
    for t in reversed(chain):  # ITK applies the last one added first
        out.AddTransform(affine_to_itk(t) if isinstance(t, Affine) else field_to_itk(t))
    return out


def smooth(rng, shape, sigma=1.0):
    return ndimage.gaussian_filter(rng.normal(size=shape), sigma).astype(np.float32)


def case(rng, make_grid, ndim, kind):
    """Return a moving image, a fixed grid and a chain of transforms."""
    if ndim == 3:
        fixed = make_grid()
        moving_grid = make_grid((13, 10, 12), (0.9, 1.1, 1.9), (-8, 14, 31), (30.0, -16.0, 43.0))
    else:
        fixed = make_grid((13, 10), (0.8, 1.7))
        moving_grid = make_grid((16, 12), (0.9, 1.4), (-9,), (32.0, -20.0))
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] += rng.uniform(-0.05, 0.05, (ndim, ndim))
    matrix[:ndim, ndim] = moving_grid.center_mm - matrix[:ndim, :ndim] @ fixed.center_mm
    affine = Affine(matrix)
    vectors = np.stack([smooth(rng, fixed.shape, 2) for _ in range(ndim)])
    field = DisplacementField(vectors * (1.5 / np.abs(vectors).max()), fixed)
    other = DisplacementField(
        np.stack([smooth(rng, moving_grid.shape, 2) for _ in range(ndim)]) * 3, moving_grid
    )
    chains = {
        "affine": (affine,),
        "field": (field, affine),
        "chain": (affine, other),
        "long": (field, affine, other),
    }
    return Image(smooth(rng, moving_grid.shape), moving_grid), fixed, chains[kind]


@pytest.mark.parametrize("interpolation", ["linear", "nearest", "cubic", "lanczos"])
@pytest.mark.parametrize("kind", ["affine", "field", "chain", "long"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_voxels_and_points_equal_itk(rng, make_grid, ndim, kind, interpolation):
    image, fixed, chain = case(rng, make_grid, ndim, kind)
    got = resample(image, fixed, chain, interpolation=interpolation, fill=-2.0).data
    itk = chain_to_itk(chain)
    reference = to_itk(np.zeros(fixed.shape, np.float32), fixed)
    expected = sitk.Resample(to_itk(image.data, image.grid), reference, itk, ITK[interpolation], -2.0)
    expected = sitk.GetArrayFromImage(expected).T
    inside = expected > -2
    assert inside.mean() > 0.3
    # a handful of voxels may lie on a face or between two voxels to within rounding
    scale = np.ptp(image.data)
    # our sinc weights are made to sum to 1, ITK's are not
    off = np.abs(got - expected) > (1e-3 if interpolation != "lanczos" else 3e-3) * scale
    assert off.mean() <= (0.003 if interpolation == "nearest" else 0.001)
    points = fixed.coordinates_mm().reshape(ndim, -1).T[::17]
    flip = np.array([-1.0, -1.0, 1.0][:ndim])
    theirs = np.array([itk.TransformPoint((p * flip).tolist()) for p in points]) * flip
    np.testing.assert_allclose(Composite(chain).map_points(points), theirs, atol=1e-3)


def test_half_a_voxel_beyond_the_centres_still_belongs_to_the_image(make_grid):
    grid = make_grid()
    image = Image(np.full(grid.shape, 5.0, np.float32), grid)
    for shift_vox, inside in ((0.49, True), (0.51, False)):
        shift = Translation.by(grid.index2world([-shift_vox, 0, 0]) - grid.origin)
        assert (resample(image, grid, shift).data[0] == (5 if inside else 0)).all()


def test_a_field_and_its_flow_give_the_same_image_as_the_merged_field(rng, make_grid):
    image, fixed, (field, affine) = case(rng, make_grid, 3, "field")
    flow = VelocityField(field.vectors_mm, fixed)
    whole = resample(image, fixed, (flow, affine)).data
    parts = resample(image, fixed, to_displacement_field(Composite((flow, affine)), fixed)).data
    np.testing.assert_allclose(whole, parts, atol=1e-4)


def test_identity_keeps_every_type_and_bit(rng, grid):
    for dtype in (bool, np.uint8, np.int16, np.int32, np.uint32, np.float32, np.float64):
        data = rng.integers(0, 2 if dtype is bool else 100, grid.shape).astype(dtype)
        for interpolation in ("linear", "nearest", "cubic"):
            got = resample(Image(data, grid), grid, interpolation=interpolation).data
            assert got.dtype == dtype
            np.testing.assert_allclose(got, data, atol=0 if got.dtype.kind != "f" else 1e-4)


def test_whole_numbers_are_rounded_and_clipped(grid):
    data = np.zeros(grid.shape, np.uint8)
    data[:6] = 255
    half = Translation.by(grid.index2world([0.4, 0, 0]) - grid.origin)
    linear = resample(Image(data, grid), grid, half).data
    assert linear[5, 5, 5] == 153
    cubic = resample(Image(data, grid), grid, half, interpolation="cubic").data
    wide = resample(Image(data, grid), grid, half, interpolation="cubic", dtype=np.float32).data
    assert wide.max() > 256
    assert wide.min() < -1
    np.testing.assert_array_equal(cubic, np.clip(np.rint(wide), 0, 255))
    assert resample(Image(data > 0, grid), grid, half).data[5, 5, 5]


def test_nearest_keeps_large_integers_exactly(grid):
    data = np.full(grid.shape, 2**40 + 1, np.int64)
    assert (resample(Image(data, grid), grid, interpolation="nearest").data == 2**40 + 1).all()
    labels = LabelImage(data, grid)
    assert (resample_labels(labels, grid, interpolation="smooth").data == 2**40 + 1).all()


@pytest.mark.parametrize("interpolation", ["linear", "cubic", "nearest"])
def test_a_nan_voxel_stays_where_it_is(grid, interpolation):
    data = np.ones(grid.shape, np.float32)
    data[5, 6, 4] = np.nan
    shift = Translation.by(grid.index2world([0.3, 0.2, 0]) - grid.origin)
    got = resample(Image(data, grid), grid, shift, interpolation=interpolation, fill=1).data
    assert np.isnan(got).sum() == 1
    np.testing.assert_allclose(got[np.isfinite(got)], 1, atol=1e-4)


def test_channels_and_series_are_kept(rng, grid, make_grid):
    other = make_grid((6, 7, 8))
    data = rng.normal(size=(19, *grid.shape)).astype(np.float32)
    got = resample(Image(data, grid, "series", "a"), other)
    assert got.kind == "series"
    assert got.data.shape == (19, 6, 7, 8)
    frame = resample(Image(data[18], grid), other)
    np.testing.assert_array_equal(got.data[18], frame.data)


def test_space_of_the_result(grid):
    image = Image(np.zeros(grid.shape), grid, space="moving")
    fixed = Image(np.zeros(grid.shape), grid, space="fixed")
    assert resample(image, fixed, Affine.identity()).space == "fixed"
    assert resample(image, grid, Affine.identity(3, "f", "moving")).space == "f"
    assert resample(image, grid).space == "moving"


@pytest.mark.parametrize("ndim", [2, 3])
def test_smooth_labels_equal_the_largest_interpolated_indicator(rng, make_grid, ndim):
    image, fixed, chain = case(rng, make_grid, ndim, "long")
    data = np.digitize(image.data, np.quantile(image.data, [0.4, 0.6, 0.8])).astype(np.int16) * 11
    labels = LabelImage(data, image.grid, names={11: "one"})
    got = resample_labels(labels, fixed, chain, interpolation="smooth")
    shares = [
        resample(Image((data == v).astype(np.float32), image.grid), fixed, chain, fill=float(v == 0)).data
        for v in (0, 11, 22, 33)
    ]
    top = np.sort(shares, axis=0)
    clear = top[-1] - top[-2] > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(got.data[clear], 11 * np.argmax(shares, axis=0)[clear])
    assert got.data.dtype == np.int16
    assert got.names == {11: "one"}
    nearest = resample_labels(labels, fixed, chain)
    assert 0 < (nearest.data != got.data).mean() < 0.3
    as_image = resample(Image(data, image.grid), fixed, chain, interpolation="nearest")
    np.testing.assert_array_equal(nearest.data, as_image.data)


def test_thread_count_changes_no_bit(rng, make_grid):
    image, fixed, chain = case(rng, make_grid, 3, "long")
    results = []
    for count in (1, 2, 3):
        with threads(count):
            results.append(resample(image, fixed, chain, interpolation="cubic").data)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_what_cannot_be_done_is_refused(grid, grid_2d):
    image = Image(np.zeros(grid.shape, np.uint8), grid)
    with pytest.raises(GeometryError, match="the grid is 2-D"):
        resample(image, grid_2d)
    with pytest.raises(GeometryError, match="the transform is 2-D"):
        resample(image, grid, Affine.identity(2))
    with pytest.raises(GeometryError, match="starts elsewhere"):
        resample(image, grid, (Affine.identity(3, "a", "b"), Affine.identity(3, "a", "b")))
    with pytest.raises(PlanError, match="'spline'"):
        resample(image, grid, interpolation="spline")
    with pytest.raises(PlanError, match="fill -1"):
        resample(image, grid, fill=-1)
    with pytest.raises(PlanError, match="complex"):
        resample(Image(np.zeros(grid.shape, complex), grid), grid)
    with pytest.raises(PlanError, match="'linear'"):
        resample_labels(LabelImage(image.data, grid), grid, interpolation="linear")


def hounsfield(rng, grid):
    data = (smooth(rng, grid.shape) * 3000).astype(np.int16)
    data[data < 0] = -1000
    data[[0, -1]] = -1000
    return Image(data, grid)


@pytest.mark.parametrize("interpolation", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("fill", ["auto", "min", "edge"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_fill_found_in_the_image_replays_in_itk_with_that_number(rng, make_grid, ndim, fill, interpolation):
    image, fixed, chain = case(rng, make_grid, ndim, "long")
    image = hounsfield(rng, image.grid)
    image.data[tuple(n // 2 for n in image.data.shape)] = -3024
    got = resample(image, fixed, chain, interpolation=interpolation, fill=fill, dtype=np.float32).data
    value = fill_value(image, fill)
    assert value == {"auto": -1000, "min": -3024, "edge": -1000}[fill]
    moving = to_itk(image.data.astype(np.float32), image.grid)
    reference = to_itk(np.zeros(fixed.shape, np.float32), fixed)
    method = {**ITK, "nearest": sitk.sitkNearestNeighbor}[interpolation]
    expected = sitk.Resample(moving, reference, chain_to_itk(chain), method, value)
    off = np.abs(got - sitk.GetArrayFromImage(expected).T) > 1e-3 * np.ptp(image.data)
    outside = ~image.grid.contains(Composite(chain).map_points(fixed.coordinates_mm().reshape(ndim, -1).T))
    outside = outside.reshape(fixed.shape)
    assert outside.mean() > 0.05
    limit = 0.003 if interpolation == "nearest" else 0.001
    assert off[~outside].mean() <= limit
    if fill != "edge":
        assert (got[outside] == value).mean() > 0.99


def test_the_edge_goes_on_beyond_the_border(rng, make_grid):
    grid = make_grid()
    data = rng.normal(size=grid.shape).astype(np.float32)
    shift = Translation.by(grid.index2world([0, 0, 4]) - grid.origin)
    got = resample(Image(data, grid), grid, shift, fill="edge").data
    np.testing.assert_allclose(got[..., :-4], data[..., 4:], atol=1e-4)
    np.testing.assert_allclose(got[..., -4:], np.repeat(data[..., -1:], 4, axis=2), atol=1e-4)


def test_what_auto_finds(grid):
    ones = np.ones(grid.shape, np.float32)
    assert fill_value(Image(ones, grid)) == 0  # the field of view, and whatever has no negative voxels
    assert fill_value(Image(ones.astype(np.uint8) * 255, grid)) == 0
    statistic = np.zeros(grid.shape, np.float32)
    statistic[3:6, 4:8, 2:5] = -7.5
    assert fill_value(Image(statistic, grid)) == 0
    ct = np.full(grid.shape, -1000, np.float32)
    ct[0, 0, 0] = np.nan
    ct[-1, -1, -1] = 40
    assert fill_value(Image(ct, grid)) == -1000
    assert fill_value(Image(np.stack([ct, ct]), grid, "channels")) == -1000
    assert fill_value(Image(ct, grid), "min") == -1000
    assert fill_value(Image(ct, grid), 7) == 7
    assert fill_value(Image(np.full(grid.shape, np.nan), grid)) == 0
    with pytest.raises(PlanError, match="'air'"):
        fill_value(Image(ct, grid), "air")


NAMED = {"image": "moving", "like": "fixed"}


@pytest.mark.parametrize("known", ["both", "image", "like"])
def test_a_chain_the_wrong_way_round_is_refused(grid, known):
    names = {role: name if known in ("both", role) else None for role, name in NAMED.items()}
    image = Image(np.zeros(grid.shape, np.int16), grid, space=names["image"])
    labels = LabelImage(image.data, grid, space=names["image"])
    like = Image(image.data, grid, space=names["like"])
    backward = Composite((Affine.identity(3, "moving", "half"), Affine.identity(3, "half", "fixed")))
    for wrong in (backward, (backward,)):
        with pytest.raises(GeometryError, match=r"leads from 'moving' to 'fixed'.*transform.inverse\(\)"):
            resample(image, like, wrong)
        with pytest.raises(GeometryError, match="wrong way round"):
            resample_labels(labels, like, wrong)
    resample(image, like, backward.inverse())
    resample(image, like, with_spaces(backward, None, None))
    resample(image, like, Affine.identity(3, "elsewhere", "another"))  # proves nothing


def test_points_and_meshes_of_the_moving_space_are_refused(grid):
    there = Translation.by([1.0, 2.0, 3.0], "fixed", "moving")
    for carry, thing in (
        (map_pointset, PointSet(np.zeros((2, 3)), space="moving")),
        (map_mesh, Mesh(np.eye(3), np.array([[0, 1, 2]]), space="moving")),
    ):
        with pytest.raises(GeometryError, match="expected one that leads from 'moving'"):
            carry(thing, there)
        assert carry(thing, there.inverse()).space == "fixed"
        assert carry(replace(thing, space="fixed_landmarks"), there).space == "moving"
        assert carry(replace(thing, space=None), there).space == "moving"
