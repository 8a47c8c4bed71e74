"""Convergence curves as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_WIDTH, _HEIGHT, _PAD = 168.0, 70.0, 4.0
_MOST_POINTS = 120


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A level's course, as a polyline's points.

    Parameters
    ----------
    title : str
        Stage and level.
    points : str
        ``x,y`` pairs in a box of `width` by `height`.
    first, last : float
        Cost at both ends (lower is better).
    steps : int
        Steps taken.
    seconds : float
        Time spent.
    status : str
        Why it ended.
    """

    title: str
    points: str
    first: float
    last: float
    steps: int
    seconds: float
    status: str
    width: float = _WIDTH
    height: float = _HEIGHT


def curves(history: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Return the course of each level; levels do not compare with each other, so each has its own scale.

    Parameters
    ----------
    history : sequence of mapping
        ``record.to_dict()["history"]``.

    Examples
    --------
    >>> level = {"stage": "rigid", "level": 0, "shrink": (4, 4), "values": (1.0, 0.5), "status": "converged", "seconds": 1}
    >>> curves([level])[0].points
    '4.0,4.0 164.0,66.0'
    """
    found = []
    for level in history:
        values = np.asarray([v for v in level["values"] if np.isfinite(v)], dtype=float)
        if not len(values):
            continue
        shrink = "×".join(str(n) for n in level["shrink"])
        found.append(
            Curve(
                title=f"{level['stage']}, shrink {shrink}",
                points=_polyline(values),
                first=float(values[0]),
                last=float(values[-1]),
                steps=len(values) - 1,
                seconds=float(level["seconds"]),
                status=str(level["status"]),
            )
        )
    return found


def _polyline(values: np.ndarray) -> str:
    at = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MOST_POINTS)).round().astype(int))
    span = float(np.ptp(values)) or 1.0
    x = _PAD + (_WIDTH - 2 * _PAD) * at / max(1, len(values) - 1)
    y = _HEIGHT - _PAD - (_HEIGHT - 2 * _PAD) * (values[at] - values.min()) / span
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
