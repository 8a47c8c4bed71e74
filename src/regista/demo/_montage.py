"""A picture of a pair before and after."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError, Image
from regista.transforms import resample


def write_montage(path: Path, fixed: Image, moving: Image, warped: Image, *, caption: str = "") -> Path:
    """Write a PNG of three planes: fixed, moving before, moving after, and fixed edges over moving.

    Parameters
    ----------
    path : Path
        Where to write; replaced atomically.
    fixed, moving, warped : Image
        Scalar 2-D or 3-D images; `warped` is on the grid of `fixed`.
    caption : str
        One line under the picture.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    FormatError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # heavy, and an extra
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FormatError(
            "the picture needs matplotlib, which is not installed: pip install 'regista[demo]'"
        ) from error
    before = resample(Image(moving.data, moving.grid), fixed.grid)
    planes = list(_planes(fixed))
    figure = Figure(figsize=(12.8, 3.2 * len(planes) + 0.5), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(planes), 4, squeeze=False)
    titles = ("fixed", "moving, as stored", "moving, registered", "registered + edges of fixed")
    for row, (axis, index) in enumerate(planes):
        target = _slice(fixed, axis, index)
        after = _slice(warped, axis, index)
        for column, picture in enumerate((target, _slice(before, axis, index), after, after)):
            _show(axes[row][column], picture, fixed, axis)
            if row == 0:
                axes[row][column].set_title(titles[column], color="white", fontsize=11)
        axes[row][3].contour(target, levels=_levels(target), colors="#ff9f1c", linewidths=0.6)
    if caption:
        figure.supxlabel(caption, color="white", fontsize=11)
    _save(figure, path)
    return path


def _planes(image: Image) -> list[tuple[int | None, int]]:
    """Return (axis, index) of the slices to show, through the centre of what is not background."""
    if image.ndim == 2:
        return [(None, 0)]
    data = image.as_float32()
    where = np.argwhere(data[::2, ::2, ::2] > data.mean())
    center = (where.mean(axis=0) * 2).astype(int) if len(where) else np.array(image.grid.shape) // 2
    center[0] -= round(14 / image.grid.spacing[0])  # beside the midline, where there is more to see
    center = np.clip(center, 0, np.array(image.grid.shape) - 1)
    return [(axis, int(center[axis])) for axis in (2, 1, 0)]


def _slice(image: Image, axis: int | None, index: int) -> NDArray[np.float32]:
    data = image.as_float32() if axis is None else np.take(image.as_float32(), index, axis=axis)
    return np.asarray(np.flipud(data.T)) if axis is not None else np.asarray(data.T)


def _levels(picture: NDArray[np.float32]) -> list[float]:
    inside = picture[picture > 0]
    if inside.size < 16:
        return [float(picture.mean())]
    levels = np.unique(np.percentile(inside, [8, 50]))
    return [float(v) for v in levels]


def _show(axes: Any, picture: NDArray[np.float32], fixed: Image, axis: int | None) -> None:
    spacing = fixed.grid.spacing
    kept = [n for n in range(fixed.ndim) if n != axis]
    bright = float(np.percentile(picture, 99.5)) or 1.0
    axes.imshow(picture, cmap="gray", vmin=0, vmax=bright, aspect=spacing[kept[1]] / spacing[kept[0]])
    axes.set_axis_off()


def _save(figure: Any, path: Path) -> None:
    path = Path(path)
    handle, name = tempfile.mkstemp(suffix=".png", dir=path.parent)
    os.close(handle)
    try:
        figure.savefig(name, dpi=100, format="png")
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
