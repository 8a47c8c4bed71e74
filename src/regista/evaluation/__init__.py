"""How good a registration is: labels, landmarks, transforms, images; and which method is better."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regista.evaluation._comparison import Comparison, compare_table, higher_is_better, read_rows
    from regista.evaluation._images import ImageSimilarity, image_measures
    from regista.evaluation._labels import (
        LABEL_MEASURES,
        LabelAgreement,
        LabelScore,
        check_grid,
        label_measures,
    )
    from regista.evaluation._landmarks import LandmarkError, landmark_error, match_landmarks, tell_unmatched
    from regista.evaluation._learn2reg import (
        Learn2RegMeasure,
        Learn2RegPair,
        Learn2RegTask,
        find_field,
        learn2reg_labels,
        learn2reg_sdlogj,
        learn2reg_tre,
        read_learn2reg,
    )
    from regista.evaluation._names import parse_group, parse_labels, read_label_groups, read_label_names
    from regista.evaluation._statistics import (
        MethodSummary,
        bootstrap_interval,
        compare_methods,
        holm_correction,
    )
    from regista.evaluation._transform import TransformQuality, transform_measures

# Lazy: SciPy's statistics alone take half a second to import.
_HOME = {
    **dict.fromkeys(("Comparison", "compare_table", "higher_is_better", "read_rows"), "_comparison"),
    **dict.fromkeys(("ImageSimilarity", "image_measures"), "_images"),
    **dict.fromkeys(
        ("LABEL_MEASURES", "LabelAgreement", "LabelScore", "check_grid", "label_measures"), "_labels"
    ),
    **dict.fromkeys(("LandmarkError", "landmark_error", "match_landmarks", "tell_unmatched"), "_landmarks"),
    **dict.fromkeys(("Learn2RegMeasure", "Learn2RegPair", "Learn2RegTask", "find_field"), "_learn2reg"),
    **dict.fromkeys(
        ("learn2reg_labels", "learn2reg_sdlogj", "learn2reg_tre", "read_learn2reg"), "_learn2reg"
    ),
    **dict.fromkeys(("parse_group", "parse_labels", "read_label_groups", "read_label_names"), "_names"),
    **dict.fromkeys(
        ("MethodSummary", "bootstrap_interval", "compare_methods", "holm_correction"), "_statistics"
    ),
    **dict.fromkeys(("TransformQuality", "transform_measures"), "_transform"),
}
__all__ = [
    "LABEL_MEASURES",
    "Comparison",
    "ImageSimilarity",
    "LabelAgreement",
    "LabelScore",
    "LandmarkError",
    "Learn2RegMeasure",
    "Learn2RegPair",
    "Learn2RegTask",
    "MethodSummary",
    "TransformQuality",
    "bootstrap_interval",
    "check_grid",
    "compare_methods",
    "compare_table",
    "find_field",
    "higher_is_better",
    "holm_correction",
    "image_measures",
    "label_measures",
    "landmark_error",
    "learn2reg_labels",
    "learn2reg_sdlogj",
    "learn2reg_tre",
    "match_landmarks",
    "parse_group",
    "parse_labels",
    "read_label_groups",
    "read_label_names",
    "read_learn2reg",
    "read_rows",
    "tell_unmatched",
    "transform_measures",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'regista.evaluation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"regista.evaluation.{_HOME[name]}"), name)
