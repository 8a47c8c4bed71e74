"""What `regista register` leaves for real scans, replayed by other tools; and the same scan told in other ways."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from regista.core import Grid, Image
from regista.io import read, read_transform, write
from regista.transforms import resample

pytestmark = pytest.mark.data

SCENES = {
    "axis-aligned": (((3.1, 2.7, 3.4), (0, 0, 0), (-1, 1, 1)), ((3.3, 2.9, 2.6), (0, 0, 0), (-1, 1, 1))),
    "oblique": (((3.0, 2.6, 3.9), (17, -11, 23), (-1, 1, 1)), ((2.8, 3.7, 2.9), (-9, 14, -20), (1, 1, 1))),
    "flipped": (((3.4, 2.9, 2.7), (90, 0, 5), (1, -1, 1)), ((2.7, 3.2, 3.5), (0, 85, 0), (-1, -1, 1))),
}


def rescanned(path, spacing_mm, degrees, flip, space) -> Image:
    """Return a scan on a coarser grid over the same head: turned, anisotropic, flipped."""
    scan = read(path)
    shape = np.ceil(np.array([170, 215, 180]) / spacing_mm).astype(int)
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, :3] = turn @ np.diag(flip) @ np.diag(spacing_mm)
    matrix[:3, 3] = scan.grid.center_mm - matrix[:3, :3] @ ((shape - 1) / 2)
    grid = Grid(tuple(shape), matrix)
    return Image(resample(scan, grid, None, dtype=np.float32).data, grid, "scalar", space)


@pytest.fixture(scope="module", params=SCENES)
def run(request, data_dir, tmp_path_factory):
    """Return the folder of a pair of brains and what the command left for it."""
    from typer.testing import CliRunner

    from regista.cli import app

    folder = tmp_path_factory.mktemp(request.param)
    for name, number, how in zip(("fixed", "moving"), (1000, 1001), SCENES[request.param], strict=True):
        scan = rescanned(data_dir / "brain_t1" / f"{number}_t1.nii.gz", *how, name)
        write(folder / f"{name}.nii.gz", scan)
    words = ["register", folder / "fixed.nii.gz", folder / "moving.nii.gz", "-o", folder / "out"]
    done = CliRunner().invoke(app, [*map(str, words), "--preset", "fast", "--quiet"])
    assert done.exit_code == 0, done.output
    return folder


def tolerance(folder) -> float:
    return 1e-3 * float(np.ptp(read(folder / "moving.nii.gz").data))


def test_simpleitk_resamples_alike(run):
    fixed, moving = (sitk.ReadImage(str(run / f"{n}.nii.gz"), sitk.sitkFloat32) for n in ("fixed", "moving"))
    transform = sitk.ReadTransform(str(run / "out/fixed2moving.h5"))
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0)).T
    ours = read(run / "out/warped.nii.gz").data
    assert np.abs(theirs - ours).max() < tolerance(run)
    assert np.corrcoef(ours.ravel(), read(run / "fixed.nii.gz").data.ravel())[0, 1] > 0.9


def test_ants_resamples_alike(run):
    ants = pytest.importorskip("ants", reason="antspyx is not installed (extra: peers)")
    fixed, moving = (ants.image_read(str(run / f"{n}.nii.gz")) for n in ("fixed", "moving"))
    files = [str(run / "out/fixed2moving.h5")]
    theirs = ants.apply_transforms(fixed, moving, files, interpolator="linear").numpy()
    assert np.abs(theirs - read(run / "out/warped.nii.gz").data).max() < tolerance(run)


@pytest.mark.parametrize("name", ["fixed2moving", "moving2fixed"])
def test_itk_maps_points_alike(run, name):
    grid = read(run / ("fixed.nii.gz" if name == "fixed2moving" else "moving.nii.gz")).grid
    index = np.random.default_rng(5).uniform(1, np.array(grid.shape) - 2, (500, 3))
    points = grid.index2world(index)
    ours = read_transform(run / f"out/{name}.h5").map_points(points)
    itk = sitk.ReadTransform(str(run / f"out/{name}.h5"))
    lps = np.array([-1.0, -1.0, 1.0])
    theirs = np.array([itk.TransformPoint(point.tolist()) for point in points * lps]) * lps
    assert np.abs(theirs - ours).max() < 1e-3


CODES = ("LR", "PA", "IS")


def relabelled(image: Image, orientation: str) -> Image:
    """Return the same scan with its axes in another order and direction, the header to match."""
    here = image.grid.orientation
    axes = [next(a for a in range(3) if {here[a], letter} <= set(CODES[c])) for letter in orientation
            for c in range(3) if letter in CODES[c]]  # fmt: skip
    data, matrix = image.data.transpose(axes), image.grid.grid2world[:, [*axes, 3]].copy()
    for axis, letter in enumerate(orientation):
        if here[axes[axis]] != letter:
            data = np.flip(data, axis)
            matrix[:, 3] += matrix[:, axis] * (data.shape[axis] - 1)
            matrix[:, axis] *= -1
    return Image(np.ascontiguousarray(data), Grid(data.shape, matrix), image.kind, image.space)


def turned(image: Image, world: np.ndarray) -> Image:
    """Return the scan moved as a whole: voxels as they are, another header."""
    return Image(image.data, Grid(image.grid.shape, world @ image.grid.grid2world), image.kind, image.space)


QUARTER = np.array([[0.0, -1, 0, 5], [1, 0, 0, -9], [0, 0, 1, 7], [0, 0, 0, 1]])
TELLINGS = {
    "RAS and ASR": lambda f, m: (relabelled(f, "RAS"), relabelled(m, "ASR"), np.eye(4), np.eye(4)),
    "fixed turned by 90 degrees": lambda f, m: (turned(f, QUARTER), m, QUARTER, np.eye(4)),
    "moving turned by 90 degrees": lambda f, m: (f, turned(m, QUARTER), np.eye(4), QUARTER),
}


@pytest.fixture(scope="module")
def heads(data_dir):
    """Return two brains at about 2 mm, points in the fixed one, and where a rigid registration takes them."""
    from regista import register

    fixed, moving = (
        rescanned(data_dir / "brain_t1" / f"{number}_t1.nii.gz", spacing_mm, (0, 0, 0), (-1, 1, 1), name)
        for name, number, spacing_mm in (("fixed", 1000, (2.4, 2.1, 2.6)), ("moving", 1001, (2.5, 2.2, 2.0)))
    )
    points = fixed.grid.index2world(np.argwhere(fixed.data > 0.1 * fixed.data.max())[::9])
    return fixed, moving, points, register(fixed, moving, "rigid").transform.map_points(points)


@pytest.mark.parametrize("telling", TELLINGS)
def test_the_same_scans_told_otherwise_give_the_same_world_map(heads, telling):
    from regista import register
    from regista.transforms import Affine

    fixed, moving, points, expected = heads
    fixed, moving, of_fixed, of_moving = TELLINGS[telling](fixed, moving)
    found = register(fixed, moving, "rigid").transform.map_points(Affine(of_fixed).map_points(points))
    back = Affine(of_moving).inverse().map_points(found)
    assert np.linalg.norm(back - expected, axis=1).mean() < 0.05


def test_a_relabelled_scan_is_resampled_alike(run):
    fixed, moving = read(run / "fixed.nii.gz"), read(run / "moving.nii.gz")
    transform = read_transform(run / "out/fixed2moving.h5")
    warped = read(run / "out/warped.nii.gz").data
    for orientation in ("RAS", "LPS", "LAS", "ASR", "PIL"):
        again = resample(relabelled(moving, orientation), fixed.grid, transform).data
        assert np.abs(again - warped).max() < 1e-4 * np.ptp(warped)


def test_ct_is_filled_with_its_own_surround_and_replays_in_simpleitk(data_dir, tmp_path):
    import json

    from typer.testing import CliRunner

    from regista.cli import app

    fixed, moving = (data_dir / "lung_ct" / f"{name}.mha" for name in ("baseline", "followup"))
    words = ["register", fixed, moving, "-o", tmp_path, "--preset", "translation", "--quiet"]
    done = CliRunner().invoke(app, [*map(str, words), "--set", "start.search=centers"])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    value = record["measures"]["fill"]
    assert value < -900  # air or padding, not water
    images = [sitk.ReadImage(str(path), sitk.sitkFloat32) for path in (fixed, moving)]
    transform = sitk.ReadTransform(str(tmp_path / "fixed2moving.h5"))
    theirs = sitk.GetArrayFromImage(sitk.Resample(images[1], images[0], transform, sitk.sitkLinear, value)).T
    ours = read(tmp_path / "warped.nii.gz").data
    assert (ours == value).mean() > 0.01
    off = np.abs(theirs - ours) > 1e-3 * np.ptp(theirs)
    assert off.mean() < 1e-4  # voxels on a face, to within rounding
