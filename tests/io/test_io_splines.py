"""Thin-plate splines in files: fields on a grid, refused without one."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from regista.core import FormatError
from regista.io import read_point_values, read_transform, write, write_transform
from regista.transforms import Affine, Composite, DisplacementField, ThinPlateSpline, Translation

SIGNS = np.array([-1.0, -1.0, 1.0])


@pytest.fixture
def spline(rng, grid) -> ThinPlateSpline:
    fixed = grid.index2world(rng.uniform(0, 1, (9, 3)) * (np.array(grid.shape) - 1))
    moving = fixed + rng.normal([30.0, -12.0, 8.0], 0.5, fixed.shape)
    return ThinPlateSpline.through(fixed, moving, fixed_space="f", moving_space="m")


def test_a_chain_keeps_the_affine_part_beyond_the_grid(tmp_path, grid, spline):
    path, centres = tmp_path / "s.h5", grid.coordinates_mm().reshape(3, -1).T
    write_transform(path, spline, fixed=grid)
    back = read_transform(path)
    assert [type(part) for part in back.transforms] == [DisplacementField, Affine]
    assert (back.fixed_space, back.moving_space) == ("f", "m")
    np.testing.assert_allclose(back.map_points(centres), spline.map_points(centres), atol=1e-4)
    far = grid.center_mm[None] + [500.0, 0, 0]
    np.testing.assert_allclose(back.map_points(far), Affine(spline.matrix).map_points(far), atol=1e-6)
    itk = sitk.ReadTransform(str(path))
    theirs = [itk.TransformPoint((place * SIGNS).tolist()) for place in centres[::97]]
    np.testing.assert_allclose(theirs * SIGNS, spline.map_points(centres[::97]), atol=1e-3)


def test_splines_within_chains(tmp_path, grid, spline):
    chain = Composite(
        (
            Translation.by([0.3, 0.2, -0.5], "e", "f"),
            spline,
            Translation.by([1.0, 0, 0], "m", "n"),
            spline_to(spline),
            Translation.by([0.0, 2.0, 1.0], "o", "p"),
        )
    )
    write_transform(tmp_path / "c.h5", chain, fixed=grid)
    back = read_transform(tmp_path / "c.h5")
    centres = grid.coordinates_mm().reshape(3, -1).T
    np.testing.assert_allclose(back.map_points(centres), chain.map_points(centres), atol=1e-3)
    assert (back.fixed_space, back.moving_space) == ("e", "p")


def spline_to(spline: ThinPlateSpline) -> ThinPlateSpline:
    """Return a spline from the space n to the space o."""
    return ThinPlateSpline(spline.centers_mm, spline.weights, np.eye(4), "n", "o")


@pytest.mark.parametrize(
    ("name", "format"), [("s.nii.gz", None), ("s.x5", None), ("s.nii.gz", "fsl"), ("s.npz", "voxelmorph")]
)
def test_one_field(tmp_path, grid, spline, name, format):
    write_transform(tmp_path / name, spline, format=format, fixed=grid, moving=grid)
    back = read_transform(tmp_path / name, format=format, fixed=grid, moving=grid)
    centres = grid.coordinates_mm().reshape(3, -1).T
    np.testing.assert_allclose(back.map_points(centres), spline.map_points(centres), atol=1e-3)


@pytest.mark.parametrize("name", ["s.h5", "s.nii.gz", "s.x5"])
def test_without_a_grid_the_message_asks_for_one(tmp_path, spline, name):
    with pytest.raises(FormatError, match=r"displacement field on the fixed image's grid: --like FIXED"):
        write(tmp_path / name, spline)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["s.mat", "s.tfm", "s.lta", "s.1D"])
def test_linear_files_hold_none(tmp_path, grid, spline, name):
    with pytest.raises(FormatError, match=r"\.h5"):
        write_transform(tmp_path / name, spline, fixed=grid, moving=grid)
    assert not (tmp_path / name).exists()


def test_numbers_beside_points(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("# made by hand\nlabel;x;y;z;Sure\na;1;2;3;0.5\nb;4;5;6;2\n", encoding="utf-8")
    assert read_point_values(path, "sure").tolist() == [0.5, 2.0]
    for text, words in (
        ("x,y,z\n1,2,3\n", "no column 'sure', only x, y, z"),
        ("x,y,sure\n1,2,3\n4,5,\n", "holds '' for point 2"),
        ("x,y,sure\n1,2\n", "holds nothing for point 1"),
        ("", "empty"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(FormatError, match=words):
            read_point_values(path, "sure")
    (tmp_path / "p.txt").write_text("1 2 3\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"only a \.csv"):
        read_point_values(tmp_path / "p.txt", "sure")
