"""Channels of a pair: which are compared, by which metrics, and what is said about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from regista.core import GeometryError, Grid, Image, PlanError
from regista.registration._levels import Scan
from regista.registration._plan import Plan
from regista.registration._stages import ConvexStage, DenseStage, IterativeStage, LinearStage
from regista.similarity import DeepMetric, Similarity, Sum, channel_terms, check_metric, single_metrics


@dataclass(frozen=True)
class Channels:
    """How many channels both images of a pair have, and whether those of one are averaged to one.

    Raises
    ------
    GeometryError
        From `check`, if the numbers differ and a metric names no channel.
    PlanError
        From `check`, if a metric names a channel that not both images have.
    """

    fixed: int
    moving: int

    @classmethod
    def of(cls, fixed: Image, moving: Image) -> Channels:
        """Count the channels of a pair."""
        return cls(*(len(one.data) if one.kind == "channels" else 1 for one in (fixed, moving)))

    @property
    def common(self) -> int:
        """Channels that both images have."""
        return min(self.fixed, self.moving)

    @property
    def averaged(self) -> str | None:
        """The image whose channels are averaged, the other having one only."""
        if self.fixed == self.moving or self.common > 1:
            return None
        return "fixed" if self.fixed > 1 else "moving"

    def check(self, plan: Plan, search: bool) -> None:
        """Refuse a plan whose metrics ask for channels that are not there; `search` tells if a start is sought."""
        for where, similarity in _metrics(plan, search):
            named = similarity.named if isinstance(similarity, Sum) else (None,)
            for channel in named:
                if channel is not None and channel >= self.common:
                    raise PlanError(
                        f"{where} names channel {channel}; {self._told()}: channels that both have are "
                        f"{', '.join(map(str, range(self.common)))}, counted from 0"
                    )
            if None in named and self.common > 1 and self.fixed != self.moving:
                raise GeometryError(
                    f"{self._told()}, and {where} compares all channels: give images of equally many, or name the "
                    "channel in every term of every metric of the plan, as in similarity = [{weight = 1, channel = 0, "
                    "lncc = {radius = 2}}]"
                )

    def _told(self) -> str:
        words = [
            f"the {role} image has {count} {'channel' if count == 1 else 'channels'}"
            for role, count in (("fixed", self.fixed), ("moving", self.moving))
        ]
        averaged = f" (those of the {self.averaged} image are averaged)" if self.averaged else ""
        return " and ".join(words) + averaged

    def warning(self) -> list[str]:
        """Say so where channels are averaged."""
        if self.averaged is None:
            return []
        other = "moving" if self.averaged == "fixed" else "fixed"
        count = max(self.fixed, self.moving)
        return [
            f"the {count} channels of the {self.averaged} image were averaged, since the {other} image has one"
        ]

    def measure(self, plan: Plan) -> dict[str, object] | None:
        """Return what the record says: how many there are, and the numbers of those compared, or 'average'."""
        if self.fixed == self.moving == 1:
            return None
        used: set[int] = set()
        for _, similarity in _metrics(plan, search=False):
            terms = channel_terms(similarity, self.common) if isinstance(similarity, Sum) else None
            used |= set(range(self.common)) if terms is None else {term.channel for term in terms}
        compared = "average" if self.averaged else sorted(used)
        return {"fixed": self.fixed, "moving": self.moving, "compared": compared}


def _metrics(plan: Plan, search: bool) -> Iterator[tuple[str, Similarity | None]]:
    """Yield what a run compares by, with its name; None is a model's own way, on all channels."""
    if search and plan.start.search == "rotations":
        yield "start.similarity", plan.start.similarity
    for number, stage in enumerate(plan.stages):
        where = f"stages.{number} ({stage.model})"
        yield where, stage.similarity if isinstance(stage, LinearStage | IterativeStage) else None


def check_metrics(plan: Plan, search: bool, grid: Grid) -> None:
    """Refuse a plan with a metric that cannot compare images as the fixed one, naming its stage; one slice is 2-D."""
    ndim = 2 if 1 in grid.shape else grid.ndim
    for where, similarity in _metrics(plan, search):
        if similarity is not None:
            try:
                check_metric(similarity, ndim)
            except PlanError as error:
                raise PlanError(f"{where}: {error}") from None


def trained_metrics(plan: Plan, search: bool = True) -> dict[str, dict[str, str]]:
    """Return what a record says of a plan's trained metrics: the SHA-256 of their weights by name; nothing without any."""
    metrics = [similarity for _, similarity in _metrics(plan, search) if similarity is not None]
    terms = [term for one in metrics for term in single_metrics(one)]
    found = {term.model: term.weights_sha256 for term in terms if isinstance(term, DeepMetric)}
    return {"trained_metrics": found} if found else {}


def flat_warning(scan: Scan, role: str) -> list[str]:
    """Say so where a channel, among several, is constant."""
    flat = [str(n) for n, one in enumerate(scan.channels) if scan.others and one.max() == one.min()]
    return [f"channel {n} of the {role} image is constant and tells nothing" for n in flat]


def in_use(fixed: Scan, moving: Scan, similarity: Similarity) -> tuple[Scan, Scan, Similarity]:
    """Return both scans with the channels that a metric compares, and the metric with their new numbers."""
    named = similarity.named if isinstance(similarity, Sum) else (None,)
    kept = sorted({channel for channel in named if channel is not None})
    if None in named or not (fixed.others or moving.others):
        return fixed, moving, similarity
    assert isinstance(similarity, Sum)
    scans = [scan.with_channels([scan.channels[n] for n in kept]) for scan in (fixed, moving)]
    return scans[0], scans[1], similarity.renumbered(kept)


def metric_volumes(stage: LinearStage | DenseStage, count: int) -> int:
    """Return the volumes of a level's size that a stage holds at once, `count` channels being compared."""
    if count == 1:
        return stage.volumes
    if isinstance(stage, ConvexStage):
        return stage.volumes + 30 * (count - 1)  # descriptors, and both images
    assert isinstance(stage, LinearStage | IterativeStage)
    terms = channel_terms(stage.similarity, count)
    own = sum(term.metric.volumes for term in terms) + len(terms)
    # a force or its part besides the sum; then the fixed, the moving and the warped image and a gradient of each
    more = own + 4 + 4 * (count - 1) - stage.similarity.volumes
    return stage.volumes + stage.directions * more
