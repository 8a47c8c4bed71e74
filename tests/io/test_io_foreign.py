"""Transforms of other tools, against what their own definitions say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from regista.core import FormatError, Grid, Image
from regista.io import read_transform, write_transform
from regista.transforms import Affine, Composite, DisplacementField


@pytest.fixture
def affine(rng) -> Affine:
    matrix = np.eye(4)
    matrix[:3, :3] += rng.normal(size=(3, 3)) * 0.1
    matrix[:3, 3] = rng.normal(size=3) * 20
    return Affine(matrix)


@pytest.fixture
def moving(make_grid) -> Grid:
    """Return a grid of the other handedness (RAS) than the default one (LAS)."""
    grid = make_grid((12, 10, 15), (0.9, 1.3, 1.1), (-14.0, 9.0, 4.0), (-12.0, 25.0, -7.0))
    matrix = grid.grid2world.copy()
    matrix[:, 0] *= -1
    return Grid(grid.shape, matrix)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.lta", None),
        ("a.aff12.1D", None),
        ("a.x5", None),
        ("a.mat", "fsl"),
        ("a.txt", "greedy"),
        ("a.mat", "greedy"),
    ],
)
def test_linear_round_trip(tmp_path, grid, moving, affine, name, format):
    options = {"format": format, "fixed": grid, "moving": moving}
    write_transform(tmp_path / name, affine, **options)
    back = read_transform(tmp_path / name, **options)
    np.testing.assert_allclose(back.matrix, affine.matrix, atol=2e-5)


def test_fsl_matrix_is_what_flirt_means(tmp_path, grid, moving, affine):
    """flirt maps moving to fixed in mm of voxels, the first axis mirrored where the determinant is positive."""
    write_transform(tmp_path / "a.mat", affine, format="fsl", fixed=grid, moving=moving)
    flirt = np.loadtxt(tmp_path / "a.mat")

    def scaled(g):
        matrix = np.diag([*g.spacing, 1.0])
        if np.linalg.det(g.grid2world) > 0:
            mirror = np.diag([-1.0, 1, 1, 1])
            mirror[0, 3] = (g.shape[0] - 1) * g.spacing[0]
            matrix = mirror @ matrix
        return matrix

    index = np.array([3.0, 7.0, 2.0, 1.0])
    there = affine.map_points(grid.index2world(index[:3])[None])
    in_moving = np.append(moving.world2index(there)[0], 1)
    np.testing.assert_allclose(flirt @ scaled(moving) @ in_moving, scaled(grid) @ index, atol=1e-4)


def test_lta_source_is_the_moving_volume(tmp_path, grid, moving, affine):
    write_transform(tmp_path / "a.lta", affine, fixed=grid, moving=moving)
    text = (tmp_path / "a.lta").read_text(encoding="utf-8")
    source = text.split("src volume info")[1].split("dst volume info")[0]
    volume = next(line for line in source.splitlines() if line.startswith("volume"))
    assert volume.split("=")[1].split() == [str(n) for n in moving.shape]
    rows = [line.split() for line in text.split("1 4 4\n")[1].splitlines()[:4]]
    np.testing.assert_allclose(np.array(rows, float), np.linalg.inv(affine.matrix), atol=1e-9)


def test_afni_rows_are_lps_and_precise(tmp_path, affine):
    write_transform(tmp_path / "a.1D", affine)
    values = np.loadtxt(tmp_path / "a.1D").reshape(3, 4)
    flip = np.diag([-1.0, -1, 1, 1])
    np.testing.assert_allclose(values, (flip @ affine.matrix @ flip)[:3], atol=1e-9)


def test_bare_matrix_is_not_guessed(tmp_path, affine):
    for name in ("a.mat", "a.txt"):
        write_transform(tmp_path / name, affine, format="greedy")
        with pytest.raises(FormatError, match=r"FSL and Greedy.*--format greedy"):
            read_transform(tmp_path / name)
    with pytest.raises(FormatError, match=r"FSL.*--like FIXED --moving MOVING"):
        read_transform(tmp_path / "a.mat", format="fsl")


def smooth(rng, grid) -> DisplacementField:
    vectors = np.stack([gaussian_filter(v, 2) for v in rng.normal(size=(grid.ndim, *grid.shape))])
    return DisplacementField((vectors * 10).astype(np.float32), grid)


@pytest.mark.parametrize("name", ["learn2reg", "voxelmorph"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".npz"])
@pytest.mark.parametrize("shape", [(11, 14, 9), (13, 10)])
def test_voxel_fields(tmp_path, make_grid, rng, name, suffix, shape):
    fixed = make_grid(shape)
    moving = make_grid(tuple(n + 2 for n in shape), (0.8, 1.1, 2.0), (30.0, 2.0, -9.0))
    field = smooth(rng, fixed)
    path = tmp_path / f"disp{suffix}"
    write_transform(path, field, format=name, fixed=fixed, moving=moving)
    back = read_transform(path, format=name, fixed=fixed, moving=moving)
    np.testing.assert_allclose(back.vectors_mm, field.vectors_mm, atol=1e-4)
    with pytest.raises(FormatError, match="give the images"):
        read_transform(path, format=name)


def test_voxel_field_means_moving_voxel_minus_fixed_voxel(tmp_path, grid, moving):
    field = np.zeros((3, *grid.shape), np.float32)
    field[0] = 2.0
    np.savez(tmp_path / "v.npz", field)
    transform = read_transform(tmp_path / "v.npz", format="voxelmorph", fixed=grid, moving=moving)
    mapped = transform.map_points(grid.index2world([[1, 2, 3]]))
    np.testing.assert_allclose(moving.world2index(mapped), [[3, 2, 3]], atol=1e-4)


def test_x5_field_and_composed_chain(tmp_path, grid, rng, affine):
    chain = Composite((smooth(rng, grid), affine))
    write_transform(tmp_path / "c.x5", chain)
    centers = grid.index2world([[3, 4, 5], [7, 6, 2]])
    got = read_transform(tmp_path / "c.x5").map_points(centers)
    np.testing.assert_allclose(got, chain.map_points(centers), atol=1e-3)


def test_linear_formats_refuse_fields_and_planes(tmp_path, grid, grid_2d, rng):
    with pytest.raises(FormatError, match="holds a linear transform"):
        write_transform(tmp_path / "a.lta", smooth(rng, grid), fixed=grid, moving=grid)
    with pytest.raises(FormatError, match="3-D, got a 2-D"):
        write_transform(tmp_path / "a.lta", Affine(np.eye(3)), fixed=grid_2d, moving=grid_2d)
    with pytest.raises(FormatError, match="needs the fixed image's grid"):
        write_transform(tmp_path / "a.nii.gz", Affine(np.eye(4)))
    assert not list(tmp_path.iterdir())


def test_images_name_the_spaces_of_files_that_do_not(tmp_path, grid, affine):
    write_transform(tmp_path / "a.tfm", affine)
    image = Image(np.zeros(grid.shape, np.uint8), grid, space="scan")
    assert read_transform(tmp_path / "a.tfm", fixed=image).fixed_space == "scan"
