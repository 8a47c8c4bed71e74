"""Our transform files, replayed by SimpleITK and ANTs, do what ours do; and theirs are read as they mean."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from regista.core import FormatError, Image
from regista.io import read_transform, write, write_transform
from regista.transforms import Affine, BSplineField, Composite, DisplacementField, Translation, resample

SHAPES = [(11, 14, 9), (13, 10)]
FIELD_FILES = ["t.h5", "t.nii.gz"]


def random_affine(rng, ndim, center=None):
    linear = Rotation.from_rotvec(rng.normal(size=3) * 0.15).as_matrix()[:ndim, :ndim]
    linear = linear @ (np.eye(ndim) + rng.normal(size=(ndim, ndim)) * 0.05)
    center = np.zeros(ndim) if center is None else center
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] = linear
    matrix[:ndim, ndim] = center - linear @ center + rng.normal(size=ndim)
    return Affine(matrix, "here", "there")


def random_field(rng, grid, size=2.0):
    vectors = rng.normal(size=(grid.ndim, *grid.shape))
    vectors = np.stack([gaussian_filter(v, 2) for v in vectors])
    return DisplacementField(
        (vectors / np.abs(vectors).max() * size).astype(np.float32), grid, "here", "here"
    )


@pytest.fixture(params=SHAPES, ids=["3-D", "2-D"])
def scene(request, make_grid, rng):
    """Fixed grid, moving image on another one, and a chain of a field and an affine."""
    shape = request.param
    fixed = make_grid(shape)
    moving = make_grid(tuple(n + 4 for n in shape), (1.2, 0.9, 1.7), (-20.0, 8.0, 31.0), (33.0, -20.0, 42.0))
    offset = fixed.center_mm - moving.center_mm
    matrix = moving.grid2world.copy()
    matrix[:-1, -1] += offset
    moving = type(moving)(moving.shape, matrix)
    data = gaussian_filter(rng.normal(size=moving.shape), 1.0).astype(np.float32)
    chain = Composite((random_field(rng, fixed), random_affine(rng, fixed.ndim, fixed.center_mm)))
    return fixed, Image(data, moving), chain


def lps(points):
    return points * np.array([-1.0, -1.0, 1.0])[: points.shape[1]]


def inside(grid, rng, count=40):
    return grid.index2world(rng.uniform(0.5, np.array(grid.shape) - 1.5, (count, grid.ndim)))


def as_itk(image):
    out = sitk.GetImageFromArray(np.ascontiguousarray(image.data.T))
    spacing, origin, direction = image.grid.to_lps()
    out.SetSpacing(spacing.tolist())
    out.SetOrigin(origin.tolist())
    out.SetDirection(direction.ravel().tolist())
    return out


def itk_warp(moving, fixed, transform):
    like = as_itk(Image(np.zeros(fixed.shape, np.float32), fixed))
    return sitk.GetArrayFromImage(sitk.Resample(as_itk(moving), like, transform, sitk.sitkLinear, 0.0)).T


def test_itk_replays_our_composite(tmp_path, scene, rng):
    fixed, moving, chain = scene
    write_transform(tmp_path / "t.h5", chain)
    itk = sitk.ReadTransform(str(tmp_path / "t.h5"))
    points = inside(fixed, rng)
    theirs = np.array([itk.TransformPoint(p.tolist()) for p in lps(points)])
    np.testing.assert_allclose(lps(theirs), chain.map_points(points), atol=1e-3)
    ours = resample(moving, fixed, chain, fill=0.0).data  # ITK's own default
    assert np.abs(ours).max() > 0
    assert np.abs(itk_warp(moving, fixed, itk) - ours).max() < 1e-3 * np.ptp(moving.data)


def test_itk_replays_our_nifti_field(tmp_path, scene):
    fixed, moving, chain = scene
    write_transform(tmp_path / "w.nii.gz", chain, fixed=fixed)
    vectors = sitk.ReadImage(str(tmp_path / "w.nii.gz"), sitk.sitkVectorFloat64)
    itk = sitk.DisplacementFieldTransform(vectors)
    ours = resample(moving, fixed, chain, fill=0.0).data  # ITK's own default
    assert np.abs(itk_warp(moving, fixed, itk) - ours).max() < 1e-3 * np.ptp(moving.data)


@pytest.mark.parametrize("files", [["t.h5"], ["w.nii.gz"], ["w.nii.gz", "a.mat"]])
def test_ants_replays_our_files(tmp_path, scene, files):
    ants = pytest.importorskip("ants", reason="antspyx is not installed (extra: peers)")
    fixed, moving, chain = scene
    field, affine = chain.transforms
    if files == ["t.h5"]:
        write_transform(tmp_path / "t.h5", chain)
    elif files == ["w.nii.gz"]:
        write_transform(tmp_path / "w.nii.gz", chain, fixed=fixed)
    else:
        write_transform(tmp_path / "w.nii.gz", field)
        write_transform(tmp_path / "a.mat", affine)
    write(tmp_path / "fixed.nii.gz", Image(np.zeros(fixed.shape, np.float32), fixed))
    write(tmp_path / "moving.nii.gz", moving)
    names = [
        str(tmp_path / name) for name in files
    ]  # ANTs too: the first one named acts first on a fixed point
    warped = ants.apply_transforms(
        ants.image_read(str(tmp_path / "fixed.nii.gz"), dimension=fixed.ndim),
        ants.image_read(str(tmp_path / "moving.nii.gz"), dimension=fixed.ndim),
        names,
        interpolator="linear",
    ).numpy()
    ours = resample(moving, fixed, chain, fill=0.0).data  # ITK's own default
    assert np.abs(warped - ours).max() < 1e-3 * np.ptp(moving.data)


@pytest.mark.parametrize("name", FIELD_FILES)
def test_fields_come_back(tmp_path, scene, name):
    fixed, _, chain = scene
    field = chain.transforms[0]
    write_transform(tmp_path / name, field)
    back = read_transform(tmp_path / name)
    assert isinstance(back, DisplacementField)
    np.testing.assert_array_equal(back.vectors_mm, field.vectors_mm)
    assert back.grid.same_as(fixed, 1e-4)


def test_composite_keeps_its_order_spaces_and_digits(tmp_path, scene, rng):
    fixed, _, chain = scene
    write_transform(tmp_path / "t.h5", chain)
    back = read_transform(tmp_path / "t.h5")
    assert [type(t).__name__ for t in back.transforms] == ["DisplacementField", "Affine"]
    assert (back.fixed_space, back.moving_space) == ("here", "there")
    np.testing.assert_allclose(back.transforms[1].matrix, chain.transforms[1].matrix, atol=1e-12)
    points = inside(fixed, rng)
    np.testing.assert_allclose(back.map_points(points), chain.map_points(points), atol=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", ["a.mat", "a.tfm", "a.txt", "a.h5"])
def test_itk_reads_our_affines(tmp_path, rng, name, ndim):
    for number, transform in enumerate((random_affine(rng, ndim), Translation.by(rng.normal(size=ndim)))):
        path = tmp_path / f"{number}{name}"
        write_transform(path, transform)
        itk = sitk.ReadTransform(str(path))
        point = rng.normal(size=(1, ndim)) * 80
        theirs = np.array([itk.TransformPoint(lps(point)[0].tolist())])
        np.testing.assert_allclose(lps(theirs), transform.map_points(point), atol=1e-9)
        np.testing.assert_allclose(read_transform(path).matrix, transform.matrix, atol=1e-12)


def test_text_chain_is_applied_in_itks_order(tmp_path, rng):
    chain = Composite((random_affine(rng, 3), Affine(random_affine(rng, 3).matrix, "there", "beyond")))
    write_transform(tmp_path / "c.tfm", chain)
    itk = sitk.ReadTransform(str(tmp_path / "c.tfm"))
    point = rng.normal(size=(1, 3)) * 80
    theirs = lps(np.array([itk.TransformPoint(lps(point)[0].tolist())]))
    np.testing.assert_allclose(theirs, chain.map_points(point), atol=1e-9)
    np.testing.assert_allclose(read_transform(tmp_path / "c.tfm").map_points(point), theirs, atol=1e-9)


@pytest.mark.parametrize("name", ["k.tfm", "k.h5"])
@pytest.mark.parametrize(
    "kind",
    [
        "Euler3DTransform",
        "VersorRigid3DTransform",
        "Similarity3DTransform",
        "ScaleTransform",
        "AffineTransform",
    ],
)
def test_itks_many_linear_kinds_are_read(tmp_path, rng, kind, name):
    maker = getattr(sitk, kind)
    itk = maker(3) if kind in ("ScaleTransform", "AffineTransform") else maker()
    values = np.array(itk.GetParameters())
    itk.SetParameters((values + rng.uniform(0.01, 0.2, len(values))).tolist())
    itk.SetFixedParameters([10.0, -20.0, 30.0, *itk.GetFixedParameters()[3:]])
    sitk.WriteTransform(itk, str(tmp_path / name))
    points = rng.normal(size=(4, 3)) * 60
    theirs = np.array([itk.TransformPoint(p.tolist()) for p in lps(points)])
    np.testing.assert_allclose(read_transform(tmp_path / name).map_points(points), lps(theirs), atol=1e-9)


def test_itks_composite_with_a_spline(tmp_path, grid, rng):
    spline = sitk.BSplineTransformInitializer(
        as_itk(Image(np.zeros(grid.shape, np.float32), grid)), [3, 3, 3]
    )
    spline.SetParameters((rng.normal(size=len(spline.GetParameters())) * 0.5).tolist())
    itk = sitk.CompositeTransform([sitk.TranslationTransform(3, [1.0, 2.0, 3.0]), spline])
    sitk.WriteTransform(itk, str(tmp_path / "s.h5"))
    places = grid.index2world(rng.uniform(-3, 3, (300, 3)) + np.array(grid.shape) / 2)
    theirs = np.array([itk.TransformPoint(p.tolist()) for p in lps(places)])
    read = read_transform(tmp_path / "s.h5")
    assert [type(part) for part in read.transforms] == [BSplineField, Translation]
    np.testing.assert_allclose(read.map_points(places), lps(theirs), atol=1e-5)


def test_field_as_itk_itself_writes_it(tmp_path, scene, rng):
    fixed, _, chain = scene
    write_transform(tmp_path / "w.nii.gz", chain.transforms[0])
    itk = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "w.nii.gz"), sitk.sitkVectorFloat64))
    sitk.WriteTransform(itk, str(tmp_path / "itk.h5"))
    points = inside(fixed, rng)
    theirs = read_transform(tmp_path / "itk.h5").map_points(points)
    np.testing.assert_allclose(theirs, chain.transforms[0].map_points(points), atol=1e-4)


def test_matlab_and_text_hold_no_field(tmp_path, scene):
    for name in ("t.mat", "t.tfm"):
        with pytest.raises(FormatError, match=r"write \.h5"):
            write_transform(tmp_path / name, scene[2])
    assert not list(tmp_path.iterdir())
