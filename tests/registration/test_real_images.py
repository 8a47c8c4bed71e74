"""Real scans, with margins that leave room: the figures themselves are measured in benchmarks/."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regista import read, read_labels, register
from regista.core import Grid, Image
from regista.registration import LinearStage, Plan, Start, load_plan
from regista.similarity import MIND, NGF, CorrelationRatio
from regista.transforms import Affine, resample, resample_labels

pytestmark = pytest.mark.data


def mean_dice(one: np.ndarray, other: np.ndarray) -> float:
    labels = [label for label in np.union1d(one, other) if label != 0]
    overlap = [
        2 * np.sum((one == n) & (other == n)) / (np.sum(one == n) + np.sum(other == n)) for n in labels
    ]
    return float(np.mean(overlap))


def test_mouse_brains_overlap_once_registered(data_dir):
    folder = data_dir / "mouse_brain"
    fixed, moving = (read(folder / f"{n}_mri.nii.gz") for n in (1, 2))
    target, labels = (read_labels(folder / f"{n}_labels.nii.gz") for n in (1, 2))
    result = register(fixed, moving, load_plan("brain-t1", ["stages.diffeomorphic.steps=[60, 50, 20, 3]"]))
    unmoved = resample_labels(labels, target.grid, None)
    moved = resample_labels(labels, target.grid, result.transform.flatten())
    assert result.record.status.ok
    assert result.record.measures["folded_percent"] < 0.01
    before, after = mean_dice(target.data, unmoved.data), mean_dice(target.data, moved.data)
    assert after > before + 0.3


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("syn-cc", ["stages.syn.shrink=[8, 4, 2]", "stages.syn.steps=[40, 30, 12]"]),
        ("diffeomorphic-demons", ["stages.demons.shrink=[4, 2]", "stages.demons.steps=[50, 25]"]),
        ("bspline-mi", ["stages.bspline.steps=[25, 20, 15]"]),
    ],
)
def test_mouse_brains_overlap_by_other_models(data_dir, preset, settings):
    folder = data_dir / "mouse_brain"
    fixed, moving = (read(folder / f"{n}_mri.nii.gz") for n in (1, 2))
    target, labels = (read_labels(folder / f"{n}_labels.nii.gz") for n in (1, 2))
    result = register(fixed, moving, load_plan(preset, settings))
    unmoved = resample_labels(labels, target.grid, None)
    moved = resample_labels(labels, target.grid, result.transform.flatten())
    assert result.record.status.ok
    assert mean_dice(target.data, moved.data) > mean_dice(target.data, unmoved.data) + 0.25


def test_the_inverse_of_a_run_starts_the_other_direction(data_dir):
    folder = data_dir / "mouse_brain"
    fixed, moving = (read(folder / f"{n}_mri.nii.gz") for n in (1, 2))
    target, labels = (read_labels(folder / f"{n}_labels.nii.gz") for n in (1, 2))
    whole = load_plan("brain-t1", ["stages.diffeomorphic.steps=[60, 50, 20, 3]"])
    bends_first, bends_last = register(fixed, moving, whole).transform, register(moving, fixed, whole).inverse
    plan = load_plan("deformable", ["stages.diffeomorphic.steps=[30, 20, 10, 3]"])
    overlap, folded = [], []
    for start in (bends_first, bends_last):
        result = register(fixed, moving, plan, initial=start)
        moved = resample_labels(labels, target.grid, result.transform)
        overlap.append(mean_dice(target.data, moved.data))
        folded.append(result.record.measures["folded_percent"])
    assert folded[1] <= folded[0]
    assert overlap[1] > overlap[0] - 0.005


def landmarks(path) -> np.ndarray:
    """Return an elastix point file's points (LPS mm) in RAS."""
    return np.loadtxt(path, skiprows=2) * (-1, -1, 1)


def test_lung_landmarks_meet(data_dir):
    folder = data_dir / "lung_ct"
    fixed, moving = (read(folder / f"{name}.mha") for name in ("baseline", "followup"))
    masks = {
        role: read(folder / f"{name}_mask.mha")
        for role, name in (("fixed_mask", "baseline"), ("moving_mask", "followup"))
    }
    here, there = (landmarks(folder / f"{name}_landmarks.txt") for name in ("baseline", "followup"))
    plan = load_plan("lung-ct", ["stages.diffeomorphic.steps=[80, 80, 40, 8]"])
    transform = register(fixed, moving, plan, **masks).transform
    errors = np.linalg.norm(transform.map_points(here) - there, axis=1)
    unmoved = np.linalg.norm(Affine(np.eye(4)).map_points(here) - there, axis=1)
    assert unmoved.mean() > 20
    assert errors.mean() < 2.0


def test_lobes_overlap_where_masks_leave_a_margin_to_see(data_dir):
    folder = data_dir / "lung_mri"
    fixed, moving, fixed_mask, moving_mask = (
        read(folder / f"{n}_{part}.nii.gz") for part in ("h1", "mask") for n in ("0006", "0007")
    )
    target, labels = (read_labels(folder / f"{n}_lobes.nii.gz") for n in ("0006", "0007"))
    overlap = []
    for margin in ("16", "0"):
        plan = load_plan("lung-mri", [f"mask_margin_mm={margin}"])
        result = register(fixed, moving, plan, fixed_mask=fixed_mask, moving_mask=moving_mask)
        overlap.append(mean_dice(target.data, resample_labels(labels, target.grid, result.transform).data))
    assert overlap[0] > 0.88
    assert overlap[0] > overlap[1] + 0.05


def test_a_brain_s_map_is_undone_by_its_inverse_everywhere(data_dir):
    fixed, moving = (read(data_dir / "brain_t1" / f"{n}_t1.nii.gz") for n in (1036, 1000))
    result = register(fixed, moving, "brain-t1")
    assert result.record.measures["folded_percent"] < 0.001
    assert result.record.measures["inverse_residual_vox"] < 0.01  # one voxel in this pair is hard to find


TURN = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def turned(image: Image) -> Image:
    """Return a scan of the same head, lying turned by 90° in the scanner."""
    return Image(image.data, Grid(image.grid.shape, TURN @ image.grid.grid2world))


def scanned_again(image: Image) -> Image:
    """Return the head on an oblique grid of other spacings."""
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("zx", (20, -12), degrees=True).as_matrix()
    spacing, shape = np.array([1.1, 0.9, 1.2]), np.array([172, 256, 175])
    grid2world = tilt @ np.diag([*spacing, 1.0])
    grid2world[:3, 3] = image.grid.center_mm - grid2world[:3, :3] @ ((shape - 1) / 2)
    return resample(image, Grid(tuple(int(n) for n in shape), grid2world), interpolation="cubic")


def error_mm(transform, truth, mask) -> float:
    points = mask.grid.index2world(np.argwhere(mask.data > 0)[::500])
    return float(
        np.linalg.norm(transform.map_points(points) - Affine(truth).map_points(points), axis=1).mean()
    )


@pytest.mark.parametrize(("preset", "limit_mm"), [("rigid", 0.02), ("affine", 0.25), ("brain-t1", 0.25)])
@pytest.mark.parametrize(("change", "truth"), [(turned, TURN), (scanned_again, np.eye(4))])
def test_a_head_meets_itself_turned_or_scanned_on_another_grid(data_dir, preset, limit_mm, change, truth):
    fixed, mask = (read(data_dir / "brain_t1" / f"1000_{name}.nii.gz") for name in ("t1", "mask"))
    transform = register(fixed, change(fixed), preset).transform
    assert error_mm(transform, truth, mask) < limit_mm


def test_a_start_moved_by_rounding_ends_where_the_other_did(data_dir):
    fixed, moving = (read(data_dir / "brain_t1" / f"{n}_t1.nii.gz") for n in (1000, 1001))
    start = register(fixed, moving, "affine").transform.matrix
    nudged = start.copy()
    nudged[0, 3] += 1e-6
    fields = [register(fixed, moving, "deformable", initial=Affine(m)).transform for m in (start, nudged)]
    one, other = (field.transforms[0].vectors_mm for field in fields)
    assert np.sqrt(((one - other) ** 2).sum(axis=0))[fixed.data > 0].mean() < 0.05


@pytest.mark.parametrize("metric", [MIND(), NGF(), CorrelationRatio()], ids=lambda m: m.name)
def test_a_t2_scan_that_was_moved_meets_the_t1_scan(data_dir, metric):
    folder = data_dir / "brain_multicontrast"
    fixed, moving = (read(folder / f"patient07_{name}.nii.gz") for name in ("t1", "t2"))
    truth = np.eye(4)
    truth[:3, :3] = Rotation.from_euler("xyz", (4, -3, 6), degrees=True).as_matrix()
    center = fixed.grid.center_mm
    truth[:3, 3] = center - truth[:3, :3] @ center + (5.0, -4.0, 6.0)
    moved = Image(moving.data, Grid(moving.grid.shape, truth @ moving.grid.grid2world))
    stage = LinearStage(model="rigid", similarity=metric, shrink=(4, 2), steps=(60, 30))
    transform = register(fixed, moved, Plan(stages=(stage,), start=Start(search="none"))).transform
    brain = Image((fixed.data > 0).astype(np.uint8), fixed.grid)
    assert error_mm(Affine(np.eye(4)), truth, brain) > 8
    assert error_mm(transform, truth, brain) < 0.6
