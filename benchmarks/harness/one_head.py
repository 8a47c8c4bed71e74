"""Where scans of one head lie: the rigid map that other tools find, SimpleITK and ANTs, each in both orders.

Scans that somebody brought to one grid lie there to the error of that registration, which may be more than what is measured.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from harness.machine import RESULTS
from harness.trained import ants_method
from regista.io import read

_EVERY = 97
"""Of the voxels that the fixed scan shows, every so many is a point at which maps are compared."""
_LPS = np.array([-1.0, -1.0, 1.0])
Map = Callable[[np.ndarray], np.ndarray]


def rigid_truth(fixed: Path, moving: Path) -> tuple[np.ndarray, float]:
    """Return the mean rigid map fixed → moving, ``(4, 4)`` in mm, and the largest mean distance of one tool's map from it, mm."""
    if moving.name < fixed.name:  # kept for one order
        matrix, spread_mm = rigid_truth(moving, fixed)
        return np.linalg.inv(matrix), spread_mm
    kept = RESULTS / "cases" / f"rigid_{fixed.name[:-7]}_{moving.name[:-7]}.json"
    if not kept.exists():
        shown = read(fixed)
        points = shown.grid.index2world(np.argwhere(shown.as_float32() > 0)[::_EVERY])
        matrices = []
        for tool in (_by_ants, _by_simpleitk):
            matrices.append(_fitted(points, tool(fixed, moving)(points)))
            matrices.append(np.linalg.inv(_fitted(points, tool(moving, fixed)(points))))
        found = np.stack([mapped(one, points) for one in matrices])
        mean = _fitted(points, found.mean(axis=0))
        apart = np.linalg.norm(found - mapped(mean, points), axis=2).mean(axis=1)
        kept.parent.mkdir(parents=True, exist_ok=True)
        told = {"matrix": mean.tolist(), "spread_mm": float(apart.max())}
        kept.write_text(json.dumps(told), encoding="utf-8")
    told = json.loads(kept.read_text(encoding="utf-8"))
    return np.array(told["matrix"]), told["spread_mm"]


def mapped(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return where a homogeneous matrix leads points."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _by_ants(fixed: Path, moving: Path) -> Map:
    return ants_method("Rigid")(read(fixed), read(moving)).map_points


def _by_simpleitk(fixed: Path, moving: Path) -> Map:
    """Return the rigid map by Mattes' mutual information over three levels, all voxels of a regular quarter."""
    images = [sitk.ReadImage(str(one), sitk.sitkFloat32) for one in (fixed, moving)]
    start = sitk.CenteredTransformInitializer(
        *images, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.25)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(*images)
    return lambda points: np.array([start.TransformPoint(p) for p in (points * _LPS).tolist()]) * _LPS


def _fitted(points: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return the rigid map that leads points to others with the least squares (Kabsch 1976)."""
    middle, other = points.mean(axis=0), there.mean(axis=0)
    left, _, right = np.linalg.svd((points - middle).T @ (there - other))
    handed = np.diag([1.0, 1.0, np.sign(np.linalg.det(right.T @ left.T))])
    matrix = np.eye(4)
    matrix[:3, :3] = right.T @ handed @ left.T
    matrix[:3, 3] = other - matrix[:3, :3] @ middle
    return matrix
