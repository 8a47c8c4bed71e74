"""The picture of ``regista motion``: translations, rotations, framewise displacement."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

_DPI = 110
# Okabe and Ito's colours, told apart by the colour-blind
_COLOURS = {"x": "#0072B2", "y": "#E69F00", "z": "#009E73"}
_DISTANCES = {
    "framewise_mm": ("framewise displacement", "#000000"),
    "rms_mm": ("from the reference, RMS", "#CC79A7"),
}


def available() -> bool:
    """Tell whether Matplotlib is installed."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def draw(table: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Draw the columns of `MotionResult.table` over the volumes."""
    # not pyplot: a library has no business with the user's windows and open figures
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    for place, (unit, label) in zip(axes, (("mm", "translation, mm"), ("deg", "rotation, °")), strict=False):
        for axis, colour in _COLOURS.items():
            if f"{axis}_{unit}" in table:
                place.plot(table["volume"], table[f"{axis}_{unit}"], color=colour, lw=1.2, label=axis)
        place.set_ylabel(label)
    for name, (label, colour) in _DISTANCES.items():
        axes[2].plot(table["volume"], table[name], color=colour, lw=1.2, label=label)
    axes[2].set_ylabel("displacement, mm")
    axes[2].set_xlabel("volume")
    for place in axes:
        place.grid(alpha=0.3)
        place.legend(fontsize=8, loc="upper right", ncols=3)
    figure.savefig(path, dpi=_DPI, format="png")
