"""A trained metric against MI, NMI and MIND: people of different contrasts, and maps that are known.

python benchmarks/deep_metric_experiments.py [--set slices|photographs|volumes] [--experiment known people] [--k 1 3 6]
    [--minutes 20] [--steps 4000] [--maps 4] [--limit N] [--threads 2] [--data DIR] [--name NAME]

Metrics are trained on k people and compared on others: 6 subjects of `t1t2_slices_2d` to train, 5 to test; 40 and 10
photographs; one patient of `brain_multicontrast` to train and the other to test. All metrics go through the same stages.
'known': the error in mm of the map that an image was moved by. 'people': Dice and Jaccard of three classes of T1
intensity of two people, which stand in for labels (there are none; the same rule draws them in everyone).

The same command goes on where it stopped, in training and in registering. Results: results/NAME.csv and .md.
"""

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.deep_metric import (
    PATIENTS,
    SUBJECTS,
    Case,
    moved_case,
    people_cases,
    photographs,
    slices,
    volumes,
)
from harness.learning import Printer
from harness.machine import RESULTS, data_folder
from harness.tables import markdown, spread, write_summary
from regista.core import Image, LabelImage, set_threads
from regista.evaluation import compare_methods, label_measures
from regista.learning import AlignedPair, MetricConfig, MetricOrigin, PatchConfig, fit_metric, prepare_pair
from regista.registration import DeformableStage, LinearStage, Plan, Start, register
from regista.similarity import MI, MIND, NMI, DeepMetric, Similarity
from regista.transforms import resample

TRAIN, TEST = SUBJECTS[:6], SUBJECTS[6:]
PHOTOGRAPHS = 40
COLUMNS = (
    "experiment",
    "case",
    "metric",
    "error",
    "error_before",
    "dice",
    "jaccard",
    "dice_before",
    "seconds",
)
SHRINKS = {"slices": (4, 2, 1), "photographs": (4, 2, 1), "volumes": (4, 2)}
MAPS = {"slices": (6.0, 18.0), "photographs": (10.0, 40.0), "volumes": (8.0, 20.0)}
"""Largest displacement of known maps and their smoothness, mm (pixels of photographs)."""


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=list(SHRINKS), default="slices")
    parser.add_argument("--experiment", nargs="+", choices=("known", "people"), default=["known", "people"])
    parser.add_argument("--k", nargs="+", type=int, default=[1, 3, 6])
    parser.add_argument("--minutes", type=float, default=20, help="training of each metric, this session")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--maps", type=int, default=4, help="known maps per test subject")
    parser.add_argument("--limit", type=int, help="cases of each experiment")
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name")
    parser.add_argument("--data")
    return parser.parse_args()


def training_pairs(options: argparse.Namespace, data: Path, k: int) -> list[tuple[str, Image, Image]]:
    """Return the first k pairs to train on."""
    if options.set == "slices":
        found = [(name, *slices(data, name)) for name in TRAIN[:k]]
    elif options.set == "photographs":
        found = [(f"photograph {n}", *photographs(data, n)) for n in range(min(k, PHOTOGRAPHS))]
    else:
        found = [(PATIENTS[0], *volumes(data, PATIENTS[0]))]
    if len(found) < k:
        raise SystemExit(f"--k {k}: {options.set} has {len(found)} pairs to train on")
    return found


def trained(options: argparse.Namespace, data: Path, k: int) -> DeepMetric:
    """Train a metric on k pairs, or go on, and return it."""
    ndim = 3 if options.set == "volumes" else 2
    config = MetricConfig(
        ndim=ndim,
        patches=PatchConfig(shrinks=(1, 2, 4)),
        steps=options.steps,
        batch=options.batch,
        learning_rate=2e-3,
    )
    pairs: list[AlignedPair] = [
        prepare_pair(a, b, config, subject=name, check_alignment=options.set != "photographs")
        for name, a, b in training_pairs(options, data, k)
    ]
    folder = RESULTS / "models" / f"deep_{options.set}_k{k}"
    origin = MetricOrigin(
        contrasts=("visible", "infrared") if options.set == "photographs" else ("t1", "t2"),
        data=f"{options.set}, {k} pairs",
        command="python benchmarks/deep_metric_experiments.py",
    )
    # the weights are the last ones: no test case may choose them
    done = fit_metric(config, pairs, folder, origin, minutes=options.minutes, progress=Printer())
    print(f"{folder.name}: {done.steps} steps, {done.seconds:.0f} s in this session", flush=True)
    return DeepMetric(model=str(folder))


def cases(options: argparse.Namespace, data: Path, experiment: str) -> Iterator[Case]:
    """Yield the test cases of an experiment."""
    largest, smoothness = MAPS[options.set]
    if experiment == "people":
        if options.set == "slices":
            yield from people_cases(data, TEST)
        return
    for number in range(options.maps):
        if options.set == "slices":
            tests = [(name, *slices(data, name)) for name in TEST]
        elif options.set == "photographs":
            tests = [(f"photograph{n}", *photographs(data, n)) for n in range(PHOTOGRAPHS, PHOTOGRAPHS + 10)]
        else:
            tests = [(PATIENTS[1], *volumes(data, PATIENTS[1]))]
        for place, (name, first, second) in enumerate(tests):
            yield moved_case(f"{name}_map{number}", first, second, 100 * number + place, largest, smoothness)


def plan(similarity: Similarity, shrinks: tuple[int, ...], affine: bool) -> Plan:
    """Return the stages that every metric goes through."""
    dense = DeformableStage(
        similarity=similarity,
        shrink=shrinks,
        steps=(60, 60, 30)[: len(shrinks)],
        update_sigma_vox=(3.0,),
        field_sigma_vox=(0.7,),
        saturation=(3.0,),
        symmetric_force=False,
    )
    linear = LinearStage(model="affine", similarity=similarity, shrink=(4, 2), steps=(60, 30))
    return Plan(stages=(linear, dense) if affine else (dense,), start=Start(search="none"))


def measure(
    case: Case, experiment: str, name: str, similarity: Similarity, options: argparse.Namespace
) -> dict:
    """Register one case by one metric; return its row."""
    masks = {}
    if name.endswith("with mask"):
        masks = {"fixed_mask": case.fixed_mask, "moving_mask": case.moving_mask}
    began = time.perf_counter()
    result = register(
        case.fixed, case.moving, plan(similarity, SHRINKS[options.set], case.truth is not None), **masks
    )
    row = {
        "experiment": experiment,
        "case": case.name,
        "metric": name,
        "seconds": round(time.perf_counter() - began, 2),
    }
    if case.truth is not None:
        index = np.argwhere(case.fixed_mask.data > 0)[:: 7 if case.fixed.ndim == 2 else 97]
        points = case.fixed.grid.index2world(index)
        true = case.truth.map_points(points)
        inside = case.moving.grid.contains(true)
        row["error"] = float(
            np.linalg.norm(result.transform.map_points(points) - true, axis=1)[inside].mean()
        )
        row["error_before"] = float(np.linalg.norm(points - true, axis=1)[inside].mean())
        return row
    there = case.moving_classes
    warped = resample(there, case.fixed.grid, result.transform, interpolation="nearest")
    row["dice"], row["jaccard"] = overlap(case.fixed_classes, warped)
    row["dice_before"] = overlap(case.fixed_classes, there)[0]
    return row


def overlap(fixed: LabelImage, moving: Image) -> tuple[float, float]:
    """Return mean Dice and Jaccard of the classes."""
    found = label_measures(fixed, LabelImage(moving.data.astype(np.uint8), fixed.grid), surface=None).labels
    dice = np.array([one.dice for one in found])
    return float(dice.mean()), float((dice / (2 - dice)).mean())


def tables(rows: list[dict]) -> list[str]:
    """Return the summaries: mean and deviation, and the paired signed-rank test against MI."""
    parts = []
    for experiment, measure_name, better in (("known", "error", "lower"), ("people", "dice", "higher")):
        own = [row for row in rows if row["experiment"] == experiment]
        names = list(dict.fromkeys(row["metric"] for row in own))
        if not own:
            continue
        values = {
            name: {row["case"]: float(row[measure_name]) for row in own if row["metric"] == name}
            for name in names
        }
        lines = []
        tests = {
            reference: {one.method: one for one in compare_methods(values, reference=reference)}
            for reference in ("MI", "MI with mask")
            if reference in values
        }
        for name in names:
            mine = [row for row in own if row["metric"] == name]
            cells = [name, len(mine), spread([float(row[measure_name]) for row in mine])]
            if experiment == "people":
                cells.append(spread([float(row["jaccard"]) for row in mine]))
            for reference in ("MI", "MI with mask"):
                test = tests.get(reference, {}).get(name)
                same = test is None or name == reference or not np.isfinite(test.p_wilcoxon)
                cells.append("–" if same else f"{test.difference:+.3f}, p = {test.p_wilcoxon:.2g}")
            cells.append(spread([float(row["seconds"]) for row in mine], 1))
            lines.append(cells)
        before = spread([float(row[f"{measure_name}_before"]) for row in own if row["metric"] == names[0]])
        header = ["metric", "n", f"{measure_name} ({better} is better)"]
        header += ["Jaccard"] if experiment == "people" else []
        header += ["against MI", "against MI with mask", "s per pair"]
        parts.append(f"## {experiment}\n\nBefore: {before}.\n\n{markdown(header, lines)}")
    return parts


def read_rows(path: Path) -> list[dict]:
    """Return the rows of an earlier session."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def append(path: Path, row: dict) -> None:
    """Add a row to the table, so that nothing is lost when the session ends."""
    fresh = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    set_threads(options.threads)
    data = data_folder(options.data)
    name = options.name or f"deep_metric_{options.set}"
    path = RESULTS / f"{name}.csv"
    metrics: dict[str, Similarity] = {"MI": MI(), "MI with mask": MI(), "NMI": NMI(), "MIND": MIND()}
    for k in [1] if options.set == "volumes" else options.k:
        metrics[f"deep, k = {k}"] = metrics[f"deep, k = {k}, with mask"] = trained(options, data, k)
    if options.train_only:
        return
    done = {(row["experiment"], row["case"], row["metric"]) for row in read_rows(path)}
    for experiment in options.experiment:
        for number, case in enumerate(cases(options, data, experiment)):
            if options.limit is not None and number >= options.limit:
                break
            for metric, similarity in metrics.items():
                if (experiment, case.name, metric) not in done:
                    row = measure(case, experiment, metric, similarity, options)
                    append(path, row)
                    print(row, flush=True)
    title = f"A trained metric against others: {options.set}"
    print(write_summary(name, title, options.threads, tables(read_rows(path))).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
