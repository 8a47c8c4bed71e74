"""Networks that register: training (extra ``learn``, PyTorch), weights, and prediction of a `Transform`, which needs neither."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regista.learning._architectures import ARCHITECTURES, Architecture
    from regista.learning._card import Provenance
    from regista.learning._config import (
        Augmentation,
        InputConfig,
        ModelConfig,
        NetworkConfig,
        TrainingConfig,
    )
    from regista.learning._data import Dataset, ScanFile, read_dataset, split_subjects
    from regista.learning._fit import Parts, fit, prepare_parts
    from regista.learning._losses import KL, Loss
    from regista.learning._metric_config import MetricConfig, PatchConfig
    from regista.learning._metric_data import (
        AlignedPair,
        PairFile,
        load_pairs,
        prepare_pair,
        read_pairs,
        split_pairs,
    )
    from regista.learning._metric_fit import MetricOrigin, fit_metric
    from regista.learning._metric_patches import PatchSource
    from regista.learning._metric_training import (
        MetricScores,
        MetricTraining,
        measure_metric,
        train_metric,
    )
    from regista.learning._model import Prediction, RegistrationModel, list_models, load_model, verify_model
    from regista.learning._networks import Motion, RegistrationNetwork
    from regista.learning._ops import dissimilarity, exponential, penalty, soft_dice, warp
    from regista.learning._prepare import PreparedScans, prepare_scans
    from regista.learning._sources import PairSource, Sample
    from regista.learning._synthesis import SynthesisSource, random_shapes
    from regista.learning._train import TrainingResult, train
    from regista.learning._validation import Scores, score

# Lazy: torch alone takes seconds to import.
_HOME = {
    **dict.fromkeys(("ARCHITECTURES", "Architecture"), "_architectures"),
    "Provenance": "_card",
    **dict.fromkeys(
        ("Augmentation", "InputConfig", "ModelConfig", "NetworkConfig", "TrainingConfig"), "_config"
    ),
    **dict.fromkeys(("Dataset", "ScanFile", "read_dataset", "split_subjects"), "_data"),
    **dict.fromkeys(("Parts", "fit", "prepare_parts"), "_fit"),
    **dict.fromkeys(("KL", "Loss"), "_losses"),
    **dict.fromkeys(
        ("Prediction", "RegistrationModel", "list_models", "load_model", "verify_model"), "_model"
    ),
    **dict.fromkeys(("Motion", "RegistrationNetwork"), "_networks"),
    **dict.fromkeys(("dissimilarity", "exponential", "penalty", "soft_dice", "warp"), "_ops"),
    **dict.fromkeys(("PreparedScans", "prepare_scans"), "_prepare"),
    **dict.fromkeys(("PairSource", "Sample"), "_sources"),
    **dict.fromkeys(("SynthesisSource", "random_shapes"), "_synthesis"),
    **dict.fromkeys(("TrainingResult", "train"), "_train"),
    **dict.fromkeys(("Scores", "score"), "_validation"),
    **dict.fromkeys(
        (
            "MetricConfig",
            "PatchConfig",
        ),
        "_metric_config",
    ),
    **dict.fromkeys(
        (
            "AlignedPair",
            "PairFile",
            "load_pairs",
            "prepare_pair",
            "read_pairs",
            "split_pairs",
        ),
        "_metric_data",
    ),
    **dict.fromkeys(
        (
            "MetricOrigin",
            "fit_metric",
        ),
        "_metric_fit",
    ),
    **dict.fromkeys(("PatchSource",), "_metric_patches"),
    **dict.fromkeys(
        (
            "MetricScores",
            "MetricTraining",
            "measure_metric",
            "train_metric",
        ),
        "_metric_training",
    ),
}
__all__ = [
    "ARCHITECTURES",
    "KL",
    "AlignedPair",
    "Architecture",
    "Augmentation",
    "Dataset",
    "InputConfig",
    "Loss",
    "MetricConfig",
    "MetricOrigin",
    "MetricScores",
    "MetricTraining",
    "ModelConfig",
    "Motion",
    "NetworkConfig",
    "PairFile",
    "PairSource",
    "Parts",
    "PatchConfig",
    "PatchSource",
    "Prediction",
    "PreparedScans",
    "Provenance",
    "RegistrationModel",
    "RegistrationNetwork",
    "Sample",
    "ScanFile",
    "Scores",
    "SynthesisSource",
    "TrainingConfig",
    "TrainingResult",
    "dissimilarity",
    "exponential",
    "fit",
    "fit_metric",
    "list_models",
    "load_model",
    "load_pairs",
    "measure_metric",
    "penalty",
    "prepare_pair",
    "prepare_parts",
    "prepare_scans",
    "random_shapes",
    "read_dataset",
    "read_pairs",
    "score",
    "soft_dice",
    "split_pairs",
    "split_subjects",
    "train",
    "train_metric",
    "verify_model",
    "warp",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'regista.learning' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"regista.learning.{_HOME[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from regista.core import PlanError

        raise PlanError(
            "training, and networks as PyTorch's modules, need torch, which is not installed: pip install 'regista[learn]'"
        ) from None
    return getattr(module, name)
