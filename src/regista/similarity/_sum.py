"""Weighted sum of similarities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from regista.core import PlanError
from regista.similarity._base import Prepared, Similarity, Volume
from regista.similarity._channels import ChannelTerm, PreparedChannels
from regista.similarity._correlation import NCC, SSD
from regista.similarity._deep import DeepMetric
from regista.similarity._demons import DemonsSSD
from regista.similarity._information import MI
from regista.similarity._ratio import CorrelationRatio


@dataclass(frozen=True, kw_only=True)
class Sum:
    """Weighted sum of similarities, ``D = Σ_t weight_t D_t``.

    The weights are of the metrics' own values, which have different scales: 0 … 1 for `MIND`, `NGF` and
    `CorrelationRatio`, −1 … 0 for `LNCC`, about −1 … 1 for `DeepMetric`, nats for `MI`, squared intensities for `SSD`.

    Parameters
    ----------
    terms : tuple of (float, Similarity)
        Weights, above 0, and metrics.
    channels : tuple of (int or None)
        The channel that each term is for, from 0; None, or no entries at all, for the mean over all channels.

    Examples
    --------
    >>> from regista.similarity import MIND, SSD
    >>> Sum(terms=((0.5, MIND()), (2.0, SSD()))).terms[1]
    (2.0, SSD())
    """

    terms: tuple[tuple[float, Similarity], ...]
    channels: tuple[int | None, ...] = ()
    name: ClassVar[str] = "sum"
    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "arbitrary_types_allowed": True}

    def __post_init__(self) -> None:
        if not self.terms:
            raise PlanError("a sum of metrics needs at least one term")
        for weight, term in self.terms:
            if not (isinstance(weight, int | float) and math.isfinite(weight) and weight > 0):
                raise PlanError(f"the weight of a metric in a sum is a number above 0, got {weight!r}")
            if isinstance(term, Sum) or not isinstance(term, Similarity):
                raise PlanError(f"a term of a sum is a single metric, got {term!r}")
        if len(self.channels) not in (0, len(self.terms)):
            raise PlanError(
                f"a sum of metrics has one channel per term ({len(self.terms)}), got {len(self.channels)}"
            )
        for channel in self.channels:
            if channel is not None and (type(channel) is not int or channel < 0):
                raise PlanError(f"the channel of a metric is a whole number from 0, got {channel!r}")
        if all(channel is None for channel in self.channels):
            object.__setattr__(self, "channels", ())  # said in one way only

    @property
    def volumes(self) -> int:
        """Volumes of the image's size held at once, beyond what every metric needs."""
        return 4 + sum(term.volumes for _, term in self.terms)

    @property
    def named(self) -> tuple[int | None, ...]:
        """The channel of every term, None for all of them."""
        return self.channels or (None,) * len(self.terms)

    def renumbered(self, kept: Sequence[int]) -> Sum:
        """Return the sum for images of which the channels `kept` are left, in this order."""
        return replace(self, channels=tuple(None if c is None else kept.index(c) for c in self.named))

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind every term to a fixed image of one channel."""
        return _PreparedSum(fixed, prepare_channels(self, (fixed,), weight))


class _PreparedSum(Prepared):
    def __init__(self, fixed: Volume, terms: PreparedChannels) -> None:
        super().__init__(fixed)
        self._terms = terms
        self.reach_vox = terms.reach_vox

    def rebind(self, fixed: Volume, weight: Volume | None) -> None:
        """Bind every term to the same image as warped anew."""
        super().rebind(fixed, weight)
        self._terms.rebind((fixed,), weight)

    def at(self, voxels: NDArray[np.int64]) -> Self:
        few = super().at(voxels)
        few._terms = self._terms.at(voxels)
        return few

    def value_and_gradient(self, warped: Volume, weight: Volume | None, out: Volume) -> float:
        self._terms.hide(self.hides)
        return self._terms.value_and_gradient((warped,), weight, (out,))

    def force(
        self,
        warped: Volume,
        weight: Volume | None,
        axis_scale: NDArray[np.float32],
        symmetric: bool,
        scratch: Volume,
        out: Volume,
        rows: NDArray[np.int32] | None = None,
    ) -> float:
        self._terms.hide(self.hides)
        return self._terms.force((warped,), weight, axis_scale, symmetric, scratch, out, rows)


_POINTWISE = (SSD, NCC, MI, DemonsSSD, CorrelationRatio)


def is_pointwise(similarity: Similarity) -> bool:
    """Tell whether a metric compares voxel by voxel, so that it can be had from some voxels alone (`Prepared.at`).

    Examples
    --------
    >>> from regista.similarity import LNCC, NMI
    >>> is_pointwise(NMI()), is_pointwise(Sum(terms=((1.0, NMI()), (1.0, LNCC()))))
    (True, False)
    """
    terms = single_metrics(similarity)
    return all(isinstance(term, _POINTWISE) for term in terms)


def exchanged(similarity: Similarity) -> Similarity:
    """Return a metric for the fixed image in the place of the moving one.

    Most metrics do not care; those that do have a method of this name.

    Examples
    --------
    >>> from regista.similarity import NMI, DeepMetric
    >>> exchanged(NMI()), exchanged(DeepMetric(model="NAME")).fixed
    (NMI(bins=32), 'second')
    """
    if isinstance(similarity, Sum):
        return replace(
            similarity, terms=tuple((weight, exchanged(term)) for weight, term in similarity.terms)
        )
    return similarity.exchanged() if isinstance(similarity, DeepMetric) else similarity


def check_metric(similarity: Similarity, ndim: int) -> None:
    """Refuse a metric that cannot compare images of `ndim` dimensions, before anything runs.

    Raises
    ------
    PlanError
        If a trained metric is missing, or was trained on images of other dimensions.
    """
    for term in single_metrics(similarity):
        if isinstance(term, DeepMetric):
            term.check(ndim)


def single_metrics(similarity: Similarity) -> list[Similarity]:
    """Return the metrics of a sum, or the one metric that it is."""
    return [term for _, term in similarity.terms] if isinstance(similarity, Sum) else [similarity]


def channel_terms(similarity: Similarity, count: int) -> list[ChannelTerm]:
    """Return what a metric is on images of `count` channels: single metrics, each on one channel.

    A metric, or a term of a sum, that names no channel is the mean of its values on all of them.

    Examples
    --------
    >>> from regista.similarity import MI, NCC
    >>> both = Sum(terms=((1.0, NCC()), (0.4, MI())), channels=(1, None))
    >>> [(term.weight, term.channel, term.metric.name) for term in channel_terms(both, 2)]
    [(1.0, 1, 'ncc'), (0.2, 0, 'mi'), (0.2, 1, 'mi')]
    """
    parts: tuple[tuple[float, Similarity], ...] = ((1.0, similarity),)
    named: tuple[int | None, ...] = (None,)
    if isinstance(similarity, Sum):
        parts, named = similarity.terms, similarity.named
    terms = []
    for (weight, metric), channel in zip(parts, named, strict=True):
        if channel is not None and channel >= count:
            raise PlanError(
                f"{metric.name} is asked for on channel {channel}, and the images have {count} "
                f"{'channels, 0 to ' + str(count - 1) if count > 1 else 'channel, 0'}"
            )
        if channel is None:
            terms += [ChannelTerm(weight / count, one, metric) for one in range(count)]
        else:
            terms.append(ChannelTerm(weight, channel, metric))
    return terms


def prepare_channels(
    similarity: Similarity, fixed: Sequence[Volume], weight: Volume | None, hides: bool = False
) -> PreparedChannels:
    """Bind a metric to the channels of a fixed image, and to the weight that they share.

    With `hides`, what has no weight is left out of windows and patches too (see `Prepared.hides`).
    """
    return PreparedChannels(channel_terms(similarity, len(fixed)), fixed, weight, hides)
