"""Real scans, with margins that leave room: the figures themselves are measured in benchmarks/."""

from __future__ import annotations

import numpy as np
import pytest

from regista import read, read_labels, register
from regista.registration import load_plan
from regista.transforms import Affine, resample_labels

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


def test_a_brain_s_map_is_undone_by_its_inverse_everywhere(data_dir):
    fixed, moving = (read(data_dir / "brain_t1" / f"{n}_t1.nii.gz") for n in (1036, 1000))
    result = register(fixed, moving, "brain-t1")
    assert result.record.measures["folded_percent"] < 0.001
    assert result.record.measures["inverse_residual_vox"] < 0.01  # one voxel in this pair is hard to find
