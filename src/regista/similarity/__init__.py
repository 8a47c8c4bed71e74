"""Similarity metrics, each a configuration with `prepare(fixed) → value_and_gradient(warped)`."""

from typing import Any

from regista.similarity._base import Prepared, Similarity
from regista.similarity._channels import ChannelTerm, PreparedChannels
from regista.similarity._correlation import NCC, SSD
from regista.similarity._deep import DeepMetric
from regista.similarity._deep_model import (
    METRIC_ARCHITECTURES,
    METRIC_KIND,
    known_metrics,
    load_metric_model,
    missing_folder,
    model_folders,
    patch_network,
)
from regista.similarity._demons import DemonsSSD
from regista.similarity._information import MI, NMI
from regista.similarity._lncc import LNCC
from regista.similarity._mind import MIND
from regista.similarity._ngf import NGF
from regista.similarity._ratio import CorrelationRatio
from regista.similarity._sum import (
    Sum,
    channel_terms,
    check_metric,
    exchanged,
    is_pointwise,
    prepare_channels,
    single_metrics,
)

SIMILARITIES: dict[str, type[Any]] = {
    kind.name: kind for kind in (SSD, NCC, LNCC, MI, NMI, DemonsSSD, MIND, NGF, CorrelationRatio, DeepMetric)
}
"""The single metrics by their names in plans; a plan names a `Sum` by a list of them."""

__all__ = [
    "LNCC",
    "METRIC_ARCHITECTURES",
    "METRIC_KIND",
    "MI",
    "MIND",
    "NCC",
    "NGF",
    "NMI",
    "SIMILARITIES",
    "SSD",
    "ChannelTerm",
    "CorrelationRatio",
    "DeepMetric",
    "DemonsSSD",
    "Prepared",
    "PreparedChannels",
    "Similarity",
    "Sum",
    "channel_terms",
    "check_metric",
    "exchanged",
    "is_pointwise",
    "known_metrics",
    "load_metric_model",
    "missing_folder",
    "model_folders",
    "patch_network",
    "prepare_channels",
    "single_metrics",
]
