"""The brain's edge by intensity and morphology, within a narrow band about the registered one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


def refine(
    data: NDArray[np.float32],
    mask: Mask,
    distance_mm: NDArray[np.float32],
    spacing_mm: NDArray[np.float64],
    band_mm: float,
) -> tuple[Mask, dict[str, float]]:
    """Move the edge of a brain mask by at most `band_mm`.

    Fat and marrow, brighter than any tissue well inside the brain, are taken off the outer band; what is as
    bright as grey and white matter and hangs together with the brain by more than a thread is added.

    Parameters
    ----------
    data : ndarray
        Intensities of the scan.
    mask : ndarray of bool
        The registered mask.
    distance_mm : ndarray
        About how far each voxel lies outside the mask (inside: negative).
    spacing_mm : ndarray
        Voxel size.
    band_mm : float
        Half the width of the band; 0 leaves only the cleaning.

    Returns
    -------
    tuple of ndarray and dict
        The mask, and the thresholds and volumes (ml) that made it.
    """
    if not mask.any():
        return mask, {}
    box = _box(mask, np.ceil((band_mm + 4) / spacing_mm).astype(int))
    inside, values, distance = mask[box], data[box], distance_mm[box]
    measured: dict[str, float] = {}
    out = inside
    core = values[inside & (distance < -max(3 * band_mm, 6.0))]
    if band_mm > 0 and core.size > 1000:
        low, middle, high = (float(v) for v in np.percentile(core, (10, 50, 99)))
        bright = high + 0.25 * (high - low)
        floor = (low + _dark(values[~inside & (distance <= 2 * band_mm)], middle)) / 2
        fat = (values > bright) & (distance >= -band_mm)
        tissue = (values > floor) & (values <= bright) & (distance <= band_mm)
        solid = _opened((inside & ~fat) | tissue, _ball(1.5, spacing_mm))
        out = (inside & ~fat) | (solid & ~inside & _touching(solid, inside))
        unit = float(np.prod(spacing_mm)) / 1000
        measured = {
            "bright_above": bright,
            "tissue_above": floor,
            "taken_off_ml": unit * float(np.count_nonzero(inside & ~out)),
            "added_ml": unit * float(np.count_nonzero(out & ~inside)),
        }
    refined = np.zeros_like(mask)
    refined[box] = _cleaned(out, spacing_mm)
    return refined, measured


def _dark(values: NDArray[np.float32], middle: float) -> float:
    """Return the level of skull and fluid: the median of what is darker than tissue around the brain."""
    dark = values[values < 0.7 * middle]
    return float(np.median(dark)) if dark.size else 0.0


def _touching(solid: Mask, inside: Mask) -> Mask:
    labels, _ = ndimage.label(solid)
    kept = np.unique(labels[inside])
    return np.asarray(np.isin(labels, kept[kept > 0]))


def _ball(radius_mm: float, spacing_mm: NDArray[np.float64]) -> Mask:
    """Return a ball as a structuring element, at least one voxel wide along the finest axis."""
    radius_mm = max(radius_mm, 1.01 * float(np.min(spacing_mm)))
    reach = np.floor(radius_mm / spacing_mm).astype(int)
    axes = np.meshgrid(*(np.arange(-n, n + 1) * s for n, s in zip(reach, spacing_mm)), indexing="ij")
    return np.asarray(sum(axis**2 for axis in axes) <= radius_mm**2)


def _opened(mask: Mask, ball: Mask) -> Mask:
    kept = ndimage.binary_erosion(mask, ball, border_value=1)
    return np.asarray(ndimage.binary_dilation(kept, ball))


def _cleaned(mask: Mask, spacing_mm: NDArray[np.float64]) -> Mask:
    """Return the largest piece without holes, its edge smoothed by a closing and an opening."""
    ball = _ball(0.0, spacing_mm)
    closed = ndimage.binary_erosion(ndimage.binary_dilation(mask, ball), ball, border_value=1)
    opened = _opened(closed | mask, ball)
    labels, count = ndimage.label(opened)
    if count == 0:
        return mask
    largest = int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
    return np.asarray(ndimage.binary_fill_holes(labels == largest))


def _box(mask: Mask, margin: NDArray[np.int64]) -> tuple[slice, ...]:
    box = []
    for axis, count in enumerate(mask.shape):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        low, high = (used[0], used[-1] + 1) if used.size else (0, count)
        box.append(slice(max(0, int(low - margin[axis])), min(count, int(high + margin[axis]))))
    return tuple(box)
