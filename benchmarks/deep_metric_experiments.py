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

Experiments:

trainings            patches told right, of the pairs trained on and of others
people               T1 of one person, T2 of another
known                a map that one image was moved by
function             the same with a T2 that is a function of T1
bias, noise, lesions the same with spoilt images
stains               landmarks
anatomy              labels
landscape            values around the alignment

All metrics go through the same stages from the same start, each with the smoothing that suited it (`SMOOTHING`) or all with
one (`--smoothing`); weights are the last ones of a training, so that no test case chooses them.

The same command goes on where it stopped. What the rows were made with is kept beside them, and other settings are refused:
give another --name. Results: results/NAME.csv and .md, NAME_landscape.csv, NAME_trainings.csv, NAME_settings.json.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from harness.deep_metric import SPOILT
from harness.deep_metric_arms import WIDE, Arm, arms
from harness.deep_metric_looks import REACH, look_at_landscapes, look_at_trainings
from harness.deep_metric_measures import compare
from harness.deep_metric_sets import MAPS, cases
from harness.deep_metric_tables import comparison, landscapes, publish, read_rows, sections, trainings
from harness.learning import command_line
from harness.machine import RESULTS, data_folder
from harness.tables import write_summary
from regista.core import set_threads

UNIT = {"slices": "mm", "photographs": "px", "volumes": "mm", "histology": "px", "anatomy": "mm"}
EXPERIMENTS = ("trainings", "people", "known", "function", *SPOILT, "stains", "anatomy", "landscape")
OWN = {
    "slices": ("trainings", "people", "known", *SPOILT, "landscape"),
    "photographs": ("trainings", "known", "landscape"),
    "volumes": ("trainings", "people", "known", "function", "noise", "landscape"),
    "histology": ("trainings", "stains"),
    "anatomy": ("trainings", "anatomy"),
}
"""What can be done with each set."""
SETTINGS = (
    "set", "steps", "batch", "maps", "size", "levels", "smoothing", "from_truth", "after_mi", "choosing",
)  # fmt: skip
"""What decides the figures of a metric on a case; metrics, experiments and how many cases may be added to."""


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=list(OWN), default="slices")
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


def summarize(options: argparse.Namespace, name: str, metrics: Sequence[Arm], paths: Sequence[Path]) -> None:
    """Write and print the tables of all rows there are, and put them on a page where that is asked for."""
    rows, around, learned = (in_order(path, metrics) for path in paths)
    without = ("data", "publish", "session", "minutes")
    unit = UNIT[options.set]
    tables = [
        f"`{command_line('deep_metric_experiments.py', options, without)}`",
        trainings(learned),
        *(comparison(rows, section) for section in sections(unit)),
        landscapes(around, REACH, unit),
    ]
    summary = write_summary(
        name, f"Trained metrics: {options.set}", options.threads, [one for one in tables if one]
    )
    text = summary.read_text(encoding="utf-8")
    print(text)
    if options.publish:
        picture = RESULTS / "deep_metric_landscape" / "landscape.png" if options.set == "slices" else None
        publish(options.publish, name, text.partition("\n")[2].strip(), picture)


def main() -> None:
    """Run the experiments that the set has, and write their tables."""
    options = arguments()
    set_threads(options.threads)
    data = data_folder(options.data)
    began, late = time.monotonic(), False
    smoothing = [f"{sigma:g}" for sigma in options.smoothing or ()]
    words = ["deep_metric", options.set, *(["choosing"] if options.choosing else []), *smoothing]
    name = options.name or "_".join(words)
    paths = [RESULTS / f"{name}{part}.csv" for part in ("", "_landscape", "_trainings")]
    path, around, learned = paths
    wanted = [one for one in OWN[options.set] if options.experiment is None or one in options.experiment]
    if not wanted:
        sys.exit(f"--set {options.set} has {', '.join(OWN[options.set])}")
    keep_settings(RESULTS / f"{name}_settings.json", options, paths)
    metrics, warm = arms(options, data), set()
    for experiment in wanted:
        if experiment == "trainings":
            look_at_trainings(options, data, metrics, learned)
        elif experiment == "landscape":
            if not late:
                look_at_landscapes(options, data, metrics, around)
        else:
            for case in islice(cases(options, data, experiment), options.limit):
                late = options.session is not None and time.monotonic() - began > 60 * options.session
                if late:
                    break
                compare(case, experiment, metrics, options, path, warm)
    summarize(options, name, metrics, paths)


if __name__ == "__main__":
    main()
