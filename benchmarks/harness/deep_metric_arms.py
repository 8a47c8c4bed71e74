"""The metrics that the benchmark of trained metrics compares: those of the package, and those it trains first."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.deep_metric import STAINS, Case, aligned_stains
from harness.deep_metric_sets import Pair, training_pairs
from harness.learning import Printer, command_line
from harness.machine import RESULTS
from regista.learning import AlignedPair, MetricConfig, MetricOrigin, PatchConfig, fit_metric, prepare_pair
from regista.similarity import MI, MIND, NMI, DeepMetric, Similarity, Sum, exchanged

CONTRASTS = {"photographs": ("visible", "infrared"), "histology": ("HE", "immunohistochemistry")}
SHIPPED = "brain-t1-t2"
WIDE = (32, 64, 128, 256)
SMOOTHING = {
    "people": {"MI": (1.0, 1.5), "MI with mask": (1.0, 1.0), "MIND": (1.0, 0.7), "deep": (2.0, 1.0)},
    "known": {"MI": (0.5, 2.0), "MI with mask": (1.0, 3.0), "MIND": (1.0, 2.0), "deep": (1.0, 2.0)},
}
"""How the stages smooth the update and the field, voxels: of what was tried on the people that `--choosing` compares on, what
the metric did best with, by Dice and by the error of known maps; NMI is smoothed as MI, the other experiments as known maps,
and all trained metrics as the two-channel one of k = 3."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A metric: what it is called, whether it is given masks, and, where that depends on the case, which for which.

    Without any it stands for `Case.silver`, the map between images of one contrast. `source` is the set that it was trained
    on the pairs of.
    """

    name: str
    similarity: Similarity | dict[str, Similarity] | None
    masked: bool = False
    source: str = ""

    def of(self, case: Case) -> Similarity:
        """Return the metric for a case."""
        found = self.similarity
        if isinstance(found, dict):
            found = found[case.name.rpartition("_")[0]]
        return exchanged(found) if case.swapped else found

    def smoothing(self, experiment: str) -> tuple[float, float]:
        """Return how its stages smooth the update and the field in an experiment."""
        of = SMOOTHING["people" if experiment in ("people", "anatomy") else "known"]
        return of.get("MI" if self.name == "NMI" else self.name, of["deep"])


def arms(options: argparse.Namespace, data: Path) -> list[Arm]:
    """Return all metrics, trained ones last."""
    found = [Arm(name="MI", similarity=MI())]
    if options.set == "anatomy":  # the first, so that its seconds are measured before others look at its map
        found.insert(0, Arm(name="LNCC of T1 and T1 (`2d`)", similarity=None))
    if options.set != "histology":
        found.append(Arm(name="MI with mask", similarity=MI(), masked=True))
    found += [Arm(name="NMI", similarity=NMI()), Arm(name="MIND", similarity=MIND())]
    if options.shipped:
        own = Arm(name=f"deep, {SHIPPED}", similarity=DeepMetric(model=SHIPPED), source="volumes")
        found += [own, *relatives(options, own)]
    for kind in ("deep", "features", "wide", "axial", "made-up"):
        for count in options.k if kind == "deep" else vars(options)[kind.replace("-", "_")]:
            own = (
                stained_arm(options, data, kind)
                if options.set == "histology"
                else learned_arm(options, data, kind, count)
            )
            if own is not None and own.name not in {one.name for one in found}:
                found += [own, *relatives(options, own)]
    return [one for one in found if one.name not in options.leave_out]


def relatives(options: argparse.Namespace, arm: Arm) -> list[Arm]:
    """Return a trained metric with masks, with MI added to it, and with both, as far as they are asked for."""
    if options.set == "histology":
        return []
    found = []
    if options.with_mi is not None:
        both = Sum(terms=((1.0, arm.similarity), (options.with_mi, MI())))
        found.append(replace(arm, name=f"{arm.name}, + {options.with_mi:g} MI", similarity=both))
    if options.masked:
        found += [replace(one, name=f"{one.name}, with mask", masked=True) for one in (arm, *found)]
    return found


def learned_arm(options: argparse.Namespace, data: Path, kind: str, count: str) -> Arm | None:
    """Return a metric trained on the first so many pairs."""
    source = trained_on(options.set, kind)
    there = training_pairs(source, data, options.choosing)
    k = len(there) if count == "all" else int(count)
    if not 1 <= k <= len(there):
        raise SystemExit(f"k is from 1 to {len(there)} for {options.set}, got {count}")
    metric = trained(options, kind, f"k{k}", [load() for load in there[:k]])
    return None if metric is None else Arm(name=f"{kind}, k = {k}", similarity=metric, source=source)


def stained_arm(options: argparse.Namespace, data: Path, kind: str) -> Arm | None:
    """Return metrics trained on one pair of stains each, for the other pair."""
    found: dict[str, Similarity] = {}
    for name in STAINS:
        other = next(one for one in STAINS if one != name)
        metric = trained(options, kind, other, [(other, *aligned_stains(data, other))])
        if metric is None:
            return None
        found[name] = metric
    return Arm(name=f"{kind}, k = 1 (the other pair)", similarity=found)


def trained(options: argparse.Namespace, kind: str, label: str, pairs: Sequence[Pair]) -> DeepMetric | None:
    """Train a metric, or go on; return it where the training has come to its end."""
    config = settings(options, kind)
    name = trained_on(options.set, kind)
    kind = "deep" if name == kind else kind
    folder = RESULTS / "models" / f"{kind}_{name}_{label}{'_choosing' if options.choosing else ''}"
    origin = MetricOrigin(
        contrasts=CONTRASTS.get(options.set, ("t1", "t2")),
        data=f"{name}, {len(pairs)} pairs",
        command=command_line("deep_metric_experiments.py", options, without=("data", "name", "publish")),
    )
    done = fit_metric(
        config, prepared(options, config, pairs), folder, origin, minutes=options.minutes, progress=Printer()
    )
    print(f"{folder.name}: {done.steps} steps, {done.seconds:.0f} s in this session", flush=True)
    if not done.finished:
        print(f"{folder.name} has not come to its end: run the same command again", flush=True)
        return None
    return DeepMetric(model=str(folder))


def trained_on(name: str, kind: str) -> str:
    """Return which set the metrics of a kind for a set are trained on."""
    if kind in ("axial", "made-up"):
        return kind
    return "slices" if name == "anatomy" else name


def settings(options: argparse.Namespace, kind: str) -> MetricConfig:
    """Return how a metric of a kind ('deep', 'features', 'wide') is trained."""
    return MetricConfig(
        architecture="features" if kind == "features" else "two-channel",
        ndim=3 if options.set == "volumes" else 2,
        channels=WIDE if kind == "wide" else MetricConfig.channels,
        patches=PatchConfig(shrinks=(4, 8, 16) if options.set == "histology" else (1, 2, 4)),
        steps=options.steps,
        batch=options.batch,
        learning_rate=2e-3,
    )


def prepared(options: argparse.Namespace, config: MetricConfig, pairs: Sequence[Pair]) -> list[AlignedPair]:
    """Return pairs at the levels that patches are drawn from; only scans of one head are checked for alignment."""
    check = options.set in ("slices", "volumes", "anatomy")
    return [prepare_pair(a, b, config, subject=name, check_alignment=check) for name, a, b in pairs]
