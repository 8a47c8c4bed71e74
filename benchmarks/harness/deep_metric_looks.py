"""What trained metrics are like without a registration: landscapes around the alignment, and patches told right."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness.deep_metric import STAINS, aligned_stains
from harness.deep_metric_arms import Arm, prepared
from harness.deep_metric_sets import Pair, compared_pairs, people, training_pairs
from harness.deep_metric_tables import append, read_rows
from harness.machine import RESULTS
from regista.learning import MetricConfig, measure_metric
from regista.registration import metric_landscape
from regista.similarity import LNCC, NGF, CorrelationRatio, DeepMetric, Similarity, load_metric_model

LANDSCAPE = (
    "case",
    "metric",
    "parameter",
    "unit",
    "optimum",
    "capture_below",
    "capture_above",
    "local_minima",
)
TRAININGS = (
    "metric", "pairs", "steps", "batch", "weights", "seconds",
    "own_accuracy", "own_loss", "other_accuracy", "other_loss",
)  # fmt: skip
REACH = 30.0
"""How far landscapes go to either side, mm and degrees."""


def look_at_landscapes(options: argparse.Namespace, data: Path, metrics: Sequence[Arm], path: Path) -> None:
    """Evaluate every metric around the alignment of each test pair, and draw the first."""
    known = {(row["case"], row["metric"]) for row in read_rows(path)}
    along = ["tx", "ty", "rz"] if options.set != "volumes" else ["tx", "ty", "tz", "rx", "ry", "rz"]
    every = {one.name: one.similarity for one in metrics if not one.masked}
    every |= {"CR": CorrelationRatio(), "NGF": NGF(), "LNCC": LNCC(radius=3)}
    for place, (name, first, second) in enumerate(compared_pairs(options.set, data, options.choosing)):
        if options.limit is not None and place >= options.limit:
            break
        left = {metric: one for metric, one in every.items() if (name, metric) not in known}
        if not left:
            continue
        shrink, points = (4, 21) if options.set == "volumes" else (2, 41)
        for one in metric_landscape(first, second, left, along, reach=REACH, points=points, shrink=shrink):
            append(path, {"case": name, **one.summary()}, LANDSCAPE)
    if options.set == "slices":
        draw(data, people(options.choosing)[1][0], every)


def draw(data: Path, subject: str, metrics: dict[str, Similarity]) -> None:
    """Draw the landscapes of one test pair by the command that users have."""
    words = [sys.executable, "-m", "regista", "metric-landscape"]
    words += [str(data / "t1t2_slices_2d" / f"{subject}_{contrast}.nii.gz") for contrast in ("t1", "t2")]
    words += [
        "-o",
        str(RESULTS / "deep_metric_landscape"),
        "--reach",
        str(REACH),
        "--points",
        "61",
        "--shrink",
        "2",
    ]
    shown = ["mi", "nmi", "mind", "ngf", "{lncc = {radius = 3}}"]
    deep = [one.model for one in metrics.values() if isinstance(one, DeepMetric)]
    shown += [f"{{deep = '{Path(model).name}'}}" for model in deep[:3]]
    words += [word for one in shown for word in ("--metric", one)]
    words += ["--along", "tx,ty,rz", "--threads", "1", "--quiet"]
    subprocess.run(words, check=True, env={**os.environ, "REGISTA_MODELS": str(RESULTS / "models")})


def look_at_trainings(options: argparse.Namespace, data: Path, metrics: Sequence[Arm], path: Path) -> None:
    """Measure patches of the pairs trained on, and of others."""
    known = {row["metric"] for row in read_rows(path)}
    for name, metric, own, others in learned_from(options, data, metrics):
        if name in known:
            continue
        model = load_metric_model(metric.model)
        told, config = model.configuration, MetricConfig.from_dict(model.configuration)
        scores = {
            part: measure_metric(metric.model, prepared(options, config, pairs()))
            for part, pairs in (("own", own), ("other", others))
        }
        row = {
            "metric": name,
            "pairs": told["pairs"],
            "steps": told["steps_done"],
            "batch": config.batch,
            "weights": sum(array.size for array in model.weights.values()),
            "seconds": sum_of_seconds(metric.model),
        }
        for part, found in scores.items():
            row |= {f"{part}_accuracy": found.accuracy, f"{part}_loss": found.loss}
        append(path, row, TRAININGS)
        print(row, flush=True)


def learned_from(
    options: argparse.Namespace, data: Path, metrics: Sequence[Arm]
) -> Iterator[tuple[str, DeepMetric, Callable[[], list[Pair]], Callable[[], list[Pair]]]]:
    """Yield each trained metric with the pairs it was trained on and others, which are read when called for."""
    for arm in metrics:
        if isinstance(arm.similarity, dict):
            for name, metric in arm.similarity.items():
                other = next(one for one in STAINS if one != name)
                own, rest = (lambda who=who: [(who, *aligned_stains(data, who))] for who in (other, name))
                yield f"trained on {other}", metric, own, rest
        elif isinstance(arm.similarity, DeepMetric) and not arm.masked:
            count = load_metric_model(arm.similarity.model).configuration["pairs"]
            there = training_pairs(arm.source, data, options.choosing)[:count]
            own = lambda pairs=there: [load() for load in pairs]  # noqa: E731
            rest = lambda: list(compared_pairs(options.set, data, options.choosing))  # noqa: E731
            yield arm.name, arm.similarity, own, rest


def sum_of_seconds(model: str) -> float:
    """Return the seconds of a training over all its sessions, from its log: they count from 0 in each."""
    log = Path(model) / "log.csv"
    if not log.is_file():
        return float(load_metric_model(model).configuration["seconds_last_session"])
    seconds = [float(row["seconds"]) for row in read_rows(log)]
    return sum(now for now, after in zip(seconds, [*seconds[1:], 0.0], strict=True) if after < now)
