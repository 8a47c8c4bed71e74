"""Medical image registration: two scans in, a trustworthy alignment out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regista.core import Grid, Image, LabelImage, Mesh, PointSet
    from regista.io import read, read_labels, read_points, read_transform, write
    from regista.registration import (
        MotionResult,
        Plan,
        Result,
        SlicesResult,
        correct_motion,
        load_plan,
        register,
        register_slices,
    )
    from regista.reporting import view
    from regista.transforms import resample

# Lazy, so that `import regista` stays quick: name -> module that defines it.
_HOME = {
    **dict.fromkeys(("Grid", "Image", "LabelImage", "Mesh", "PointSet"), "regista.core"),
    **dict.fromkeys(("read", "read_labels", "read_points", "read_transform", "write"), "regista.io"),
    **dict.fromkeys(
        (
            "MotionResult",
            "Plan",
            "Result",
            "SlicesResult",
            "correct_motion",
            "load_plan",
            "register",
            "register_slices",
        ),
        "regista.registration",
    ),
    "resample": "regista.transforms",
    "view": "regista.reporting",
}
__version__ = "0.1.0"
__all__ = [
    "Grid",
    "Image",
    "LabelImage",
    "Mesh",
    "MotionResult",
    "Plan",
    "PointSet",
    "Result",
    "SlicesResult",
    "__version__",
    "correct_motion",
    "load_plan",
    "read",
    "read_labels",
    "read_points",
    "read_transform",
    "register",
    "register_slices",
    "resample",
    "view",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'regista' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
