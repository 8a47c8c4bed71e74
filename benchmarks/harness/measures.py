"""Measures taken the same way for every tool, by SimpleITK and NumPy alone, from the files it left."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


def load_map(files: Sequence[Path]) -> sitk.Transform:
    """Return the point map fixed → moving (LPS); the first file is applied first."""
    parts = [_load_one(path) for path in files]
    return sitk.CompositeTransform(parts[::-1]) if len(parts) > 1 else parts[0]


def _load_one(path: Path) -> sitk.Transform:
    name = path.name
    if name.endswith((".nii", ".nii.gz")):
        return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    if name.endswith(".ras.txt"):
        matrix = _FLIP @ np.loadtxt(path) @ _FLIP
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(matrix[:3, :3].ravel().tolist())
        affine.SetTranslation(matrix[:3, 3].tolist())
        return affine
    return sitk.ReadTransform(str(path))


def mean_dice(fixed_labels: str, moving_labels: str, mapping: sitk.Transform) -> tuple[float, int]:
    """Return the mean Dice over all labels either image holds, and their number.

    The moving labels are sampled once, nearest neighbour, through the whole map.
    """
    target = sitk.ReadImage(fixed_labels)
    moved = sitk.Resample(sitk.ReadImage(moving_labels), target, mapping, sitk.sitkNearestNeighbor, 0)
    a = np.rint(sitk.GetArrayViewFromImage(target)).astype(np.int64).ravel()
    b = np.rint(sitk.GetArrayViewFromImage(moved)).astype(np.int64).ravel()
    count = int(max(a.max(), b.max())) + 1
    sizes = np.bincount(a, minlength=count) + np.bincount(b, minlength=count)
    both = np.bincount(a[a == b], minlength=count)
    present = np.flatnonzero(sizes[1:]) + 1
    return float((2 * both[present] / sizes[present]).mean()), len(present)


def dense_map(like: sitk.Image, mapping: sitk.Transform) -> np.ndarray:
    """Return displacements (LPS mm) at the voxels of `like`, ``(K, J, I, 3)``."""
    field = sitk.TransformToDisplacementField(
        mapping,
        sitk.sitkVectorFloat64,
        like.GetSize(),
        like.GetOrigin(),
        like.GetSpacing(),
        like.GetDirection(),
    )
    return sitk.GetArrayFromImage(field)


def folded_percent(like_file: str, mapping: sitk.Transform) -> float:
    """Return the share of voxels, in percent, whose Jacobian determinant is not positive.

    Central differences on the fixed grid, all voxels counted but those of the outermost layer.
    """
    like = sitk.ReadImage(like_file)
    field = dense_map(like, mapping)
    axes = np.array(like.GetDirection()).reshape(3, 3) * np.array(like.GetSpacing())
    inner = (slice(1, -1),) * 3
    columns = []
    for index_axis, array_axis in enumerate((2, 1, 0)):  # SimpleITK arrays are (k, j, i)
        ahead = [slice(1, -1)] * 3
        behind = [slice(1, -1)] * 3
        ahead[array_axis], behind[array_axis] = slice(2, None), slice(None, -2)
        step = (field[tuple(ahead)] - field[tuple(behind)]) / 2
        columns.append(step + axes[:, index_axis])
    a, b, c = columns
    determinant = np.einsum("...i,...i->...", a, np.cross(b, c)) * np.sign(np.linalg.det(axes))
    return 100.0 * float((determinant <= 0).mean()) if field[inner].size else 0.0
