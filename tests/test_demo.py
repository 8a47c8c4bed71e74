"""The demo's known pair: is its truth the truth, and would a wrong answer show?"""

from pathlib import Path

import numpy as np
import pytest

from regista import demo
from regista.core import GeometryError, Grid, Image, PlanError, RegistrationError
from regista.io import read_transform, write
from regista.transforms import Translation, jacobian_determinant, resample

pytest.importorskip("nilearn", reason="the MNI152 brain ships inside nilearn")
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def pair():
    return demo.make_known_pair(fixed_spacing_mm=3, moving_spacing_mm=(3.3, 2.7, 3.6), noise=0.0, bias=0.0)


def brain_points(mask: Image, step: int = 7) -> np.ndarray:
    return mask.grid.index2world(np.argwhere(mask.data != 0)[::step])


def test_truth_brings_the_moving_image_onto_the_fixed_one(pair) -> None:
    warped = resample(Image(pair.moving.data, pair.moving.grid, space="moved"), pair.fixed.grid, pair.truth)
    inside = pair.mask.data != 0
    after = np.corrcoef(warped.data[inside], pair.fixed.data[inside])[0, 1]
    before = resample(Image(pair.moving.data, pair.moving.grid), pair.fixed.grid)
    assert np.corrcoef(before.data[inside], pair.fixed.data[inside])[0, 1] < 0.5
    assert after > 0.85  # both are blurred by a 3 mm grid


def test_truth_undoes_the_map_that_made_the_image(pair) -> None:
    known = demo.make_known_map(pair.mask)
    points = brain_points(pair.mask)
    back = known.moving2fixed.map_points(known.fixed2moving.map_points(points))
    assert np.abs(back - points).max() < 0.05
    assert known.residual_mm < 0.1


def test_map_is_large_and_does_not_fold(pair) -> None:
    field = pair.truth.transforms[0]
    points = brain_points(pair.mask, step=1)
    size = np.linalg.norm(field.map_points(points) - points, axis=1)
    assert 12.0 < size.max() < 18.0
    assert jacobian_determinant(field, pair.mask.grid).min() > 0.05


def test_moving_grid_is_oblique_anisotropic_and_holds_the_brain(pair) -> None:
    grid = pair.moving.grid
    assert grid.orientation == "LAS"
    assert np.allclose(grid.spacing, (3.3, 2.7, 3.6))
    assert np.abs(grid.direction).max() < 0.99
    assert grid.contains(pair.truth.map_points(brain_points(pair.mask))).all()


def test_same_seed_same_pair_other_seed_other_pair(pair) -> None:
    options = {"fixed_spacing_mm": 3, "moving_spacing_mm": (3.3, 2.7, 3.6), "noise": 0.0, "bias": 0.0}
    again = demo.make_known_pair(**options)
    other = demo.make_known_pair(**options, seed=5)
    assert np.array_equal(again.moving.data, pair.moving.data)
    assert demo.transform_error(other.truth, pair.truth, pair.mask).mean_mm > 1.0


def test_error_measures_a_known_shift() -> None:
    shift = np.eye(4)
    shift[:3, 3] = (2.0, -3.0, 6.0)
    mask = Image(np.ones((4, 5, 3), np.uint8), Grid((4, 5, 3), np.diag([1.0, 0.7, 2.3, 1.0])))
    summary = demo.transform_error(Translation(np.eye(4)), Translation(shift), mask)
    assert summary.mean_mm == pytest.approx(7.0)
    assert summary.p95_mm == pytest.approx(7.0)
    assert summary.points == 60


def test_error_over_nothing_is_refused() -> None:
    mask = Image(np.zeros((4, 5, 3), np.uint8), Grid((4, 5, 3), np.eye(4)))
    with pytest.raises(GeometryError, match="empty"):
        demo.transform_error(None, Translation(np.eye(4)), mask)


def test_field_too_wild_to_invert_is_refused(pair) -> None:
    with pytest.raises(RegistrationError, match="smoother"):
        demo.make_known_map(pair.mask, displacement_mm=400.0, smoothness_mm=8.0)


def test_picture_is_written_whole_or_not_at_all(pair, tmp_path: Path) -> None:
    target = tmp_path / "montage.png"
    demo.write_montage(target, pair.fixed, pair.moving, pair.fixed, caption="caption")
    assert target.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(FileNotFoundError):
        demo.write_montage(tmp_path / "absent" / "montage.png", pair.fixed, pair.moving, pair.fixed)
    assert [path.name for path in tmp_path.iterdir()] == ["montage.png"]


def test_one_file_of_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="both"):
        demo.run_demo(tmp_path, fixed="only.nii.gz")


def test_run_on_own_files_leaves_what_register_leaves(pair, tmp_path: Path) -> None:
    write(tmp_path / "f.nii.gz", pair.fixed)
    write(tmp_path / "m.nii.gz", pair.moving)
    figures = demo.run_demo(
        tmp_path / "out", fixed=tmp_path / "f.nii.gz", moving=tmp_path / "m.nii.gz", preset="rigid"
    )
    names = {path.name for path in (tmp_path / "out").iterdir()}
    expected = {
        "warped.nii.gz",
        "fixed2moving.h5",
        "moving2fixed.h5",
        "record.json",
        "montage.png",
        "report.html",
    }
    assert names == expected
    assert set(figures["outputs"].values()) == {str(tmp_path / "out" / name) for name in expected}
    assert "error" not in figures
    found = read_transform(tmp_path / "out" / "fixed2moving.h5")
    after = demo.transform_error(found, pair.truth, pair.mask)
    assert after.mean_mm < 0.6 * demo.transform_error(None, pair.truth, pair.mask).mean_mm
