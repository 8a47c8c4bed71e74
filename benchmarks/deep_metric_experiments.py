"""Trained metrics against MI, NMI and MIND: people of different contrasts, maps that are known, spoilt images.

python benchmarks/deep_metric_experiments.py [--set slices|photographs|volumes|histology|anatomy] [--experiment people known …]
    [--k 1 3 6 11 all] [--features 3] [--wide 3] [--axial 6] [--made-up 6] [--shipped] [--masked] [--with-mi 1]
    [--steps 1000] [--minutes 20] [--session 60] [--publish PAGE]

Sets, and what metrics are trained on; all are compared on other people or pictures:

slices       T1 and T2 of `t1t2_slices_2d`: the first six people; beyond them coronal slices of the two patients of
             `brain_multicontrast` (18 pairs in all). Compared on the other five people.
photographs  visible and infrared: the first 40; compared on the ten after them
volumes      `brain_multicontrast`: one patient; compared on the other one and on the people of `brain_t1`
histology    two pairs of stains: each pair by the metric that the other was trained on
anatomy      compared on the labelled T1 slices of `brain_slices_2d`, one of each two made to look like T2; metrics are those of
             `slices`, and of axial slices of the two patients: `--axial` with their T2, `--made-up` with a T1 that was made to
             look like T2 in the same way

To choose settings without looking at the people compared on, `--choosing` trains on the first three people and compares
on the other three to train on; that is how `SMOOTHING` was found. With photographs it keeps to the first 30.

Experiments: 'people' (T1 of one person, T2 of another), 'known' (a map that one image was moved by), 'function' (the same with a
T2 that is a function of T1), 'bias', 'noise', 'lesions' (the same with spoilt images), 'stains' (landmarks), 'anatomy' (labels), 'landscape', 'trainings' (patches told right, of the
pairs trained on and of others). All metrics go through the same stages from the same start, each with the smoothing that
suited it (`SMOOTHING`) or all with one (`--smoothing`); weights are the last ones of a training, so that no test case
chooses them.

The same command goes on where it stopped. What the rows were made with is kept beside them, and other settings are refused:
give another --name. Results: results/NAME.csv and .md, NAME_landscape.csv, NAME_trainings.csv, NAME_settings.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.deep_metric import SPOILT, STAINS, Case, aligned_stains
from harness.deep_metric_measures import errors, overlaps
from harness.deep_metric_sets import MAPS, Pair, cases, compared_pairs, people, training_pairs
from harness.deep_metric_tables import (
    append,
    comparison,
    landscapes,
    publish,
    read_rows,
    sections,
    trainings,
)
from harness.learning import Printer, command_line
from harness.machine import RESULTS, data_folder
from harness.tables import write_summary
from regista.core import Grid, Image, set_threads
from regista.learning import (
    AlignedPair,
    MetricConfig,
    MetricOrigin,
    PatchConfig,
    fit_metric,
    measure_metric,
    prepare_pair,
)
from regista.registration import DeformableStage, LinearStage, Plan, Start, metric_landscape, register
from regista.similarity import (
    LNCC,
    MI,
    MIND,
    NGF,
    NMI,
    CorrelationRatio,
    DeepMetric,
    Similarity,
    Sum,
    exchanged,
    load_metric_model,
)
from regista.transforms import Affine

SHRINKS = {
    "slices": (4, 2, 1),
    "photographs": (4, 2, 1),
    "volumes": (4, 2),
    "histology": (16, 8, 4),
    "anatomy": (4, 2, 1),
}
UNIT = {"slices": "mm", "photographs": "px", "volumes": "mm", "histology": "px", "anatomy": "mm"}
CONTRASTS = {"photographs": ("visible", "infrared"), "histology": ("HE", "immunohistochemistry")}
SHIPPED = "brain-t1-t2"
WIDE = (32, 64, 128, 256)
EXPERIMENTS = ("trainings", "people", "known", "function", *SPOILT, "stains", "anatomy", "landscape")
OWN = {
    "slices": ("trainings", "people", "known", *SPOILT, "landscape"),
    "photographs": ("trainings", "known", "landscape"),
    "volumes": ("trainings", "people", "known", "function", "noise", "landscape"),
    "histology": ("trainings", "stains"),
    "anatomy": ("trainings", "anatomy"),
}
"""What can be done with each set."""
COLUMNS = (
    "experiment", "case", "metric", "error", "error_before", "error_lesions", "dice", "jaccard", "dice_before",
    "silver_dice", "silver_jaccard", "silver_mm", "silver_dice_before", "seconds",
)  # fmt: skip
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
SMOOTHING = {
    "people": {"MI": (1.0, 1.5), "MI with mask": (1.0, 1.0), "MIND": (1.0, 0.7), "deep": (2.0, 1.0)},
    "known": {"MI": (0.5, 2.0), "MI with mask": (1.0, 3.0), "MIND": (1.0, 2.0), "deep": (1.0, 2.0)},
}
"""How the stages smooth the update and the field, voxels: of what was tried on the people that `--choosing` compares on, what
the metric did best with, by Dice and by the error of known maps; NMI is smoothed as MI, the other experiments as known maps,
and all trained metrics as the two-channel one of k = 3."""
SETTINGS = (
    "set", "steps", "batch", "maps", "size", "levels", "smoothing", "from_truth", "after_mi", "choosing",
)  # fmt: skip
"""What decides the figures of a metric on a case; metrics, experiments and how many cases may be added to."""
REACH = 30.0
"""How far landscapes go to either side, mm and degrees."""


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


def trained_on(name: str, kind: str) -> str:
    """Return which set the metrics of a kind for a set are trained on."""
    if kind in ("axial", "made-up"):
        return kind
    return "slices" if name == "anatomy" else name


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=list(SHRINKS), default="slices")
    parser.add_argument("--experiment", nargs="+", choices=EXPERIMENTS, help="default: all that the set has")
    parser.add_argument(
        "--k",
        nargs="*",
        metavar="K",
        help="pairs to train on, or 'all'; default: 3, none with --shipped",
    )
    parser.add_argument("--features", nargs="*", default=[], metavar="K", help="the same for the features")
    parser.add_argument("--wide", nargs="*", default=[], metavar="K", help=f"the same with {WIDE} filters")
    for kind in ("axial", "made-up"):
        parser.add_argument(f"--{kind}", nargs="*", default=[], metavar="K", help="anatomy: see above")
    parser.add_argument("--shipped", action="store_true", help="the metric in the package, for volumes")
    parser.add_argument("--masked", action="store_true", help="trained metrics with masks too")
    parser.add_argument("--with-mi", type=float, metavar="WEIGHT", help="trained metrics plus so much MI too")
    parser.add_argument(
        "--leave-out", nargs="+", default=[], metavar="METRIC", help="as the tables call them"
    )
    parser.add_argument("--minutes", type=float, default=20, help="training of each metric, this session")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--maps", type=int, default=2, help="known maps per test subject")
    parser.add_argument(
        "--size", nargs=3, type=float, metavar=("WARP", "SMOOTHNESS", "AFFINE"), help=f"of known maps: {MAPS}"
    )
    parser.add_argument("--levels", nargs="+", type=int, default=[4, 2], help="of the affine stage")
    parser.add_argument(
        "--from-truth",
        action="store_true",
        help="known maps: begin at the map itself, without an affine stage",
    )
    parser.add_argument(
        "--after-mi",
        action="store_true",
        help="known maps: all stages by MI first, then deformable ones by the metric",
    )
    parser.add_argument("--limit", type=int, help="cases of each experiment")
    parser.add_argument("--session", type=float, help="minutes after which no other case is begun")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--smoothing",
        nargs=2,
        type=float,
        metavar=("UPDATE", "FIELD"),
        help="of the stages of all metrics, voxels",
    )
    parser.add_argument("--choosing", action="store_true", help="slices: keep to the six people to train on")
    parser.add_argument("--name")
    parser.add_argument("--data")
    parser.add_argument("--publish", type=Path, metavar="PAGE", help="put the tables on a page")
    options = parser.parse_args()
    if options.k is None:
        options.k = [] if options.shipped else ["3"]
    return options


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


def plan(
    similarity: Similarity, shrinks: tuple[int, ...], levels: Sequence[int], smoothing: Sequence[float]
) -> Plan:
    """Return the stages that every metric goes through; without levels no affine one."""
    dense = DeformableStage(
        similarity=similarity,
        shrink=shrinks,
        steps=(60, 60, 30)[: len(shrinks)],
        update_sigma_vox=(smoothing[0],),
        field_sigma_vox=(smoothing[1],),
        saturation=(3.0,),
        symmetric_force=False,
    )
    if not levels:
        return Plan(stages=(dense,), start=Start(search="none"))
    steps = (*[60] * (len(levels) - 1), 30)
    linear = LinearStage(model="affine", similarity=similarity, shrink=tuple(levels), steps=steps)
    return Plan(stages=(linear, dense), start=Start(search="none"))


def measure(case: Case, experiment: str, arm: Arm, options: argparse.Namespace) -> dict:
    """Register one case by one metric; return its row."""
    masks = {"fixed_mask": case.fixed_mask, "moving_mask": case.moving_mask} if arm.masked else {}
    smoothing = options.smoothing or arm.smoothing(experiment)
    began = time.perf_counter()
    if arm.similarity is None:
        found = case.silver
    else:
        start = case.truth if options.from_truth else case.start
        levels = () if case.truth is None or options.from_truth else options.levels
        shrinks = SHRINKS[options.set]
        if options.after_mi:
            before = plan(MI(), shrinks, levels, SMOOTHING["known"]["MI"])
            start, levels = register(case.fixed, case.moving, before, initial=start, **masks).transform, ()
        staged = plan(arm.of(case), shrinks, levels, smoothing)
        found = register(case.fixed, case.moving, staged, initial=start, **masks).transform
    row = {
        "experiment": experiment,
        "case": case.name,
        "metric": arm.name,
        "seconds": round(time.perf_counter() - began, 2),
    }
    if case.landmarks is not None:
        here, there = case.landmarks
        row["error"] = float(np.linalg.norm(found.map_points(here) - there, axis=1).mean())
        row["error_before"] = float(np.linalg.norm(case.start.map_points(here) - there, axis=1).mean())
    elif case.truth is not None:
        row |= errors(case, found)
    else:
        row |= overlaps(case, found)
    return row


def warm_up(case: Case, arm: Arm) -> None:
    """Compile what a metric needs, on a small image of noise, so that its first case takes as long as any other."""
    shape = (32,) * case.fixed.ndim
    noise = np.random.default_rng(0).random(shape, np.float32)
    image = Image(noise, Grid(shape, np.eye(len(shape) + 1)))
    mask = Image(np.ones(shape, np.uint8), image.grid) if arm.masked else None
    if arm.similarity is None:
        Case(name="noise", fixed=image, moving=image, same=(image, image)).silver  # noqa: B018
        return
    staged = plan(arm.of(case), (2, 1), (4, 2), arm.smoothing("known"))
    register(image, image, staged, initial=Affine(np.eye(len(shape) + 1)), fixed_mask=mask, moving_mask=mask)


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


def keep_settings(path: Path, options: argparse.Namespace, tables: Sequence[Path]) -> None:
    """Write what the rows of a run are made with beside them, or refuse to add to rows that were made otherwise."""
    own = {name: vars(options)[name] for name in SETTINGS}
    if any(table.exists() for table in tables):
        there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        other = [name for name in SETTINGS if name not in there or there[name] != own[name]]
        if other:
            told = ", ".join(f"{name} {there.get(name, 'not known')} (now {own[name]})" for name in other)
            sys.exit(
                f"the rows beside {path.name} were made with {told}: give another --name, or remove them"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")


def in_order(path: Path, metrics: Sequence[Arm]) -> list[dict]:
    """Return the rows of a table in the order of the metrics, whatever the order they were run in; others come last."""
    place = {one.name: number for number, one in enumerate(metrics)}
    return sorted(read_rows(path), key=lambda row: place.get(row["metric"], len(place)))


def sum_of_seconds(model: str) -> float:
    """Return the seconds of a training over all its sessions, from its log: they count from 0 in each."""
    log = Path(model) / "log.csv"
    if not log.is_file():
        return float(load_metric_model(model).configuration["seconds_last_session"])
    seconds = [float(row["seconds"]) for row in read_rows(log)]
    return sum(now for now, after in zip(seconds, [*seconds[1:], 0.0], strict=True) if after < now)


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    set_threads(options.threads)
    data = data_folder(options.data)
    began = time.monotonic()
    name = options.name or "_".join(
        [
            "deep_metric",
            options.set,
            *(["choosing"] if options.choosing else []),
            *(f"{sigma:g}" for sigma in options.smoothing or ()),
        ]
    )
    path, around, learned = (RESULTS / f"{name}{part}.csv" for part in ("", "_landscape", "_trainings"))
    keep_settings(RESULTS / f"{name}_settings.json", options, (path, around, learned))
    metrics = arms(options, data)
    wanted = [one for one in OWN[options.set] if options.experiment is None or one in options.experiment]
    if not wanted:
        sys.exit(f"--set {options.set} has {', '.join(OWN[options.set])}")
    late, warm = False, set()
    for experiment in wanted:
        if experiment == "trainings":
            look_at_trainings(options, data, metrics, learned)
            continue
        if experiment == "landscape":
            if not late:
                look_at_landscapes(options, data, metrics, around)
            continue
        done = {(row["experiment"], row["case"], row["metric"]) for row in read_rows(path)}
        for number, case in enumerate(cases(options, data, experiment)):
            late = options.session is not None and time.monotonic() - began > 60 * options.session
            if late or (options.limit is not None and number >= options.limit):
                break
            for arm in metrics:
                if (experiment, case.name, arm.name) not in done:
                    if arm.name not in warm:
                        warm_up(case, arm)
                        warm.add(arm.name)
                    row = measure(case, experiment, arm, options)
                    append(path, row, COLUMNS)
                    print(row, flush=True)
    without = ("data", "publish", "session", "minutes")
    tables = [
        f"`{command_line('deep_metric_experiments.py', options, without)}`",
        trainings(in_order(learned, metrics)),
    ]
    tables += [comparison(in_order(path, metrics), section) for section in sections(UNIT[options.set])]
    tables = [
        one for one in [*tables, landscapes(in_order(around, metrics), REACH, UNIT[options.set])] if one
    ]
    summary = write_summary(name, f"Trained metrics: {options.set}", options.threads, tables)
    print(summary.read_text(encoding="utf-8"))
    if options.publish:
        text = summary.read_text(encoding="utf-8").partition("\n")[2].strip()
        picture = RESULTS / "deep_metric_landscape" / "landscape.png" if options.set == "slices" else None
        publish(options.publish, name, text, picture)


if __name__ == "__main__":
    main()
