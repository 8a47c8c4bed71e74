"""Intensities from 0 to 1, as every metric of the engine sees them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unit_range(
    data: NDArray[np.float32],
    percentiles: tuple[float, float],
    use: NDArray[np.bool_],
    *,
    masked: bool = False,
    finite: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32] | None:
    """Return an image clipped to percentiles of the voxels in use and scaled to 0 … 1; None where these are constant.

    Parameters
    ----------
    data : ndarray of float32
        The image.
    percentiles : tuple of 2 floats
        What becomes 0 and 1.
    use : ndarray of bool
        Voxels that count.
    masked : bool
        Whether `use` comes from a mask; else voxels that equal the first one are surround and do not count.
    finite : ndarray of bool, optional
        Voxels that are numbers, where not all are.

    Examples
    --------
    >>> image = np.linspace(-5, 5, 11, dtype=np.float32)
    >>> print(unit_range(image, (10, 90), np.ones(11, bool))[[0, 5, 10]])
    [0.        0.5494506 1.       ]
    """
    if not masked:
        surround = use & (data != data.flat[0])
        use = surround if surround.any() else use
    values = data[use]
    if values.size > 2_000_000:  # percentiles of a regular sample are as good and ten times quicker
        values = values[:: values.size // 1_000_000]
    if values.size == 0 or float(values.max()) == float(values.min()):
        return None
    low, high = (float(v) for v in np.percentile(values, percentiles))
    if not high > low:
        low, high = float(values.min()), float(values.max())
    surrounding = float(data.flat[0])
    if not masked and np.isfinite(surrounding) and surrounding < low:
        low = max(surrounding, low - 0.5 * (high - low))  # an empty surround stays below the darkest tissue
    clean = data if finite is None else np.where(finite, data, low)
    result: NDArray[np.float32] = np.clip(clean * (1 / (high - low)) - low / (high - low), 0, 1)
    return result
