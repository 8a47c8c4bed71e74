"""Prepared metrics over the channels of an image: values and forces added with weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from regista.kernels.cpu.intensity import add_weighted
from regista.similarity._base import Prepared, Similarity, Volume


class ChannelTerm(NamedTuple):
    """A single metric on one channel, with its weight in the sum."""

    weight: float
    channel: int
    metric: Similarity


class PreparedChannels:
    """Weighted sum of metrics, each on one channel, bound to the channels of a fixed image.

    Parameters
    ----------
    terms : sequence of ChannelTerm
        What is added. A single term of weight 1 costs no more than its metric.
    fixed : sequence of (I, J, K) float32 ndarray
        The fixed image's channels.
    weight : (I, J, K) float32 ndarray or None
        Weight of its voxels.
    hides : bool
        Whether what has no weight is left out of windows and patches too (see `Prepared.hides`).
    """

    def __init__(
        self,
        terms: Sequence[ChannelTerm],
        fixed: Sequence[Volume],
        weight: Volume | None,
        hides: bool = False,
    ) -> None:
        self._terms: list[tuple[float, int, Prepared]] = [
            (share, channel, metric.prepare(fixed[channel], weight)) for share, channel, metric in terms
        ]
        self._names = [metric.name for _, _, metric in terms]
        self.hide(hides)
        self.reach_vox = max(term.reach_vox for _, _, term in self._terms)
        self._gradient: Volume | None = None
        self._force: Volume | None = None

    def hide(self, hides: bool) -> None:
        """Set whether what has no weight is left out of windows and patches too."""
        for _, _, term in self._terms:
            term.hides = hides

    def blind(self, weight: Volume) -> list[str]:
        """Return the names of the metrics that see nothing to compare; see `Prepared.sees`."""
        pairs = zip(self._names, self._terms, strict=True)
        return list(dict.fromkeys(name for name, (_, _, term) in pairs if not term.sees(weight)))

    def rebind(self, fixed: Sequence[Volume], weight: Volume | None) -> None:
        """Bind to the same channels as warped anew; see `Prepared`."""
        for _, channel, term in self._terms:
            term.rebind(fixed[channel], weight)

    def at(self, voxels: NDArray[np.int64]) -> Self:
        """Return the sum bound to some voxels of the fixed image alone; see `Prepared`."""
        few = copy.copy(self)
        few._terms = [(share, channel, term.at(voxels)) for share, channel, term in self._terms]
        few._gradient = few._force = None
        return few

    def value_and_gradient(
        self, warped: Sequence[Volume], weight: Volume | None, out: Sequence[Volume]
    ) -> float:
        """Return D and write its derivative by every channel of the warped image; see `Prepared`."""
        value, written = 0.0, set()
        for share, channel, term in self._terms:
            target = out[channel]
            if channel not in written:
                value += share * term.value_and_gradient(warped[channel], weight, target)
                if share != 1.0:
                    add_weighted(target[None], target[None], share, 0.0)
                written.add(channel)
                continue
            if self._gradient is None:
                self._gradient = np.empty(target.shape, np.float32)
            value += share * term.value_and_gradient(warped[channel], weight, self._gradient)
            add_weighted(target[None], self._gradient[None], 1.0, share)
        for channel in set(range(len(out))) - written:
            out[channel][...] = 0
        return value

    def force(
        self,
        warped: Sequence[Volume],
        weight: Volume | None,
        axis_scale: NDArray[np.float32],
        symmetric: bool,
        scratch: Volume,
        out: Volume,
        rows: NDArray[np.int32] | None = None,
    ) -> float:
        """Return D and write the descent force of all terms together; see `Prepared`."""
        value = 0.0
        for number, (share, channel, term) in enumerate(self._terms):
            if number and self._force is None:
                self._force = np.empty(out.shape, np.float32)
            target = self._force if number and self._force is not None else out
            value += share * term.force(warped[channel], weight, axis_scale, symmetric, scratch, target, rows)
            if number:
                add_weighted(out, target, 1.0, share, rows=rows)
            elif share != 1.0:
                add_weighted(out, out, share, 0.0, rows=rows)
        return value
