"""Fit the verdict's model on good and failed registrations, and measure the verdict on other people's.

python benchmarks/verdict.py [--data DIR] [--runs FOLDER] [--quick] [--kept] [--families NAMES --others-from-table] [--from-table] [--write]

Registrations of several anatomies are run as they should be and so that they fail (wrong start, flipped, other organ,
cropped, noise, left where it was), and good results are moved off by known amounts. The truth, which the verdict does
not know, says which are good and which failed. A logistic model is fitted on one half of the people and measured on
the other. ``--write`` puts the model and the table of features into the clone, if the other half has 40 good and 40
failed runs. Whatever is made is kept: a run that was interrupted goes on where it stopped, and ``--kept`` fits and
measures on what there is by then. Families take turns, so that it is of all of them.

``--quick`` makes a few runs of 2-D slices, in minutes, and judges them by the model that is there: it shows that the
benchmark works, and measures nothing. ``--from-table`` fits and measures on the features kept in the clone;
``--others-from-table`` makes the runs of ``--families`` anew, whose presets have changed, and takes the rest from there.
"""

import argparse
import csv
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.stats import beta

from harness.machine import RESULTS, ROOT, data_folder
from harness.verdict_cases import FAMILIES
from harness.verdict_runs import MIRRORED, MISLABELLED, kept_runs, make_runs
from regista.reporting import _verdict
from regista.reporting._verdict import Model, conclude, load_model

MODEL = ROOT / "src" / "regista" / "reporting" / "verdict.json"
TABLE = ROOT / "benchmarks" / "verdict_features.csv"
QUICK = ("brain slice", "T1-T2 slice", "T1-T2 aligned")
DRAWS = 4000
PUSHED = ("moved off", "turned off")
"""Kinds of runs that are off by a known amount: never good, though labels that hardly tell (rings, large lobes) may say so."""
UNTOLD = (MIRRORED, MISLABELLED)
"""Kinds of runs that no likeness tells from each other: the model is fitted without them."""
ASTRAY_DEG = 60
"""A turn after which a run from a wrong start is never good, whatever labels that hardly tell say."""
SPARED = 0.95
"""Share of the good runs of anatomies left out of the fit that must not fail: above the .9 asked of other people."""
LEAST = 40
"""Good and failed runs of other people without which nothing is written."""
SIGNS = {
    "nmi": -1,
    "nmi_ratio": -1,
    "nmi_gain": -1,
    "nmi_straight": -1,
    "nmi_straight_share": -1,
    "nmi_over_mirror": -1,
    "lncc": -1,
    "lncc_ratio": -1,
    "lncc_gain": -1,
    "lncc_straight": -1,
    "lncc_straight_share": -1,
    "lncc_over_mirror": -1,
    "edges": -1,
    "edges_ratio": -1,
    "edges_gain": -1,
    "edges_straight": -1,
    "edges_straight_share": -1,
    "edges_over_mirror": -1,
    "content_dice": -1,
    "content_straight": -1,
    "log_stretch": 1,
    "bent": 1,
    "sd_log_jacobian": 1,
    "inverse_p95": 1,
    "nudged": 1,
}
"""Features of the model, and whether more of them speaks for failure (1) or against it (−1)."""
PENALTIES = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
ALIKE = {"T1-T2 aligned": "T1-T2 slice"}
"""Families of the same images as another: they are left out together."""
Row = dict[str, Any]


def judged_by_truth(rows: Sequence[Row]) -> None:
    """Write into each row whether the truth calls it good, failed, or neither.

    The ordinary error of a family and plan is the median over its ordinary runs. Another organ has no truth: failed.
    """
    ordinary = defaultdict(list)
    for row in rows:
        if row["kind"] == "good":
            ordinary[row["family"], row["plan"]].append(row["error"])
    for row in rows:
        if row["truth"] == "none":  # another organ: nothing corresponds
            row["truly"] = "failed"
            continue
        usual = float(np.median(ordinary.get((row["family"], row["plan"]), [np.nan])))
        if row["truth"] == "1 - Dice":  # an overlap lost by half
            dice, best = 1 - row["error"], 1 - usual
            row["truly"] = "good" if dice >= 0.8 * best else "failed" if dice <= 0.6 * best else "between"
        else:
            # of pairs that are aligned already the median is next to nothing: half a voxel is no failure
            times = row["error"] / max(usual, 0.5 * float(row.get("voxel") or 0))
            row["truly"] = "good" if times <= 2 else "failed" if times >= 4 else "between"
        astray = row["kind"] == "wrong start" and float(row["x_turned_deg"]) > ASTRAY_DEG
        if row["truly"] == "good" and (row["kind"].startswith(PUSHED) or astray):
            row["truly"] = "between"


def features_of(row: Row) -> dict[str, float]:
    """Return the features of a row; of an older table, those that follow from others."""
    found = {name[2:]: float(value) for name, value in row.items() if name.startswith("x_") and value != ""}
    if "log_stretch" not in found:
        found["log_stretch"] = float(np.log(found["largest_scale"] / found["smallest_scale"]))
    return found


def fit(rows: Sequence[Row]) -> Model:
    """Fit the model and its thresholds, each as it does best on an anatomy that was left out of the fit.

    What will be judged is rarely an anatomy of ours: the penalty of the weights and the thresholds are those that tell best
    where the model comes of the other anatomies alone.
    """
    anatomy = [ALIKE.get(row["family"], row["family"]) for row in rows]
    weight = group_weights(rows)
    failed = np.array([row["truly"] == "failed" for row in rows])
    best, least = None, np.inf
    for penalty in PENALTIES:
        fold = {
            one: logistic([r for r, a in zip(rows, anatomy, strict=True) if a != one], penalty)
            for one in set(anatomy)
        }
        models = [fold[a] for a in anatomy]
        p = np.array([m.probability(features_of(r)) for r, m in zip(rows, models, strict=True)])
        loss = -float(weight @ np.log(np.clip(np.where(failed, p, 1 - p), 1e-4, 1)))
        print(f"penalty {penalty:g}: log loss of the anatomy left out {loss / 2:.3f}")
        if loss < least:
            best, least = (penalty, models), loss
    assert best is not None
    penalty, models = best
    return with_thresholds(logistic(rows, penalty), rows, models)


def group_weights(rows: Sequence[Row]) -> np.ndarray:
    """Return weights by which families count alike, and the failed as much as the good."""
    groups = Counter((row["family"], row["truly"]) for row in rows)
    weight = np.array([1 / np.sqrt(groups[row["family"], row["truly"]]) for row in rows])
    for truly in ("failed", "good"):
        mine = np.array([row["truly"] == truly for row in rows])
        weight[mine] /= weight[mine].sum()
    return weight


def logistic(rows: Sequence[Row], penalty: float) -> Model:
    """Fit a logistic model whose weights have the signs that make sense; its thresholds are not set yet."""
    features = [features_of(row) for row in rows]
    names = [name for name in SIGNS if all(name in one for one in features)]  # older tables have not all
    values = np.array([[one[name] for name in names] for one in features])
    failed = np.array([row["truly"] == "failed" for row in rows], float)
    centre = np.median(values, axis=0)
    scale = np.maximum(np.percentile(values, 84, axis=0) - np.percentile(values, 16, axis=0), 1e-3) / 2
    x = np.clip((values - centre) / scale, -3, 3)
    weight = group_weights(rows)
    signs = np.array([SIGNS[name] for name in names], float)

    def cost(w: np.ndarray) -> tuple[float, np.ndarray]:
        score = w[0] + x @ w[1:]
        p = 1 / (1 + np.exp(-score))
        loss = np.logaddexp(0, score) - failed * score
        slope = weight * (p - failed)
        gradient = np.concatenate([[slope.sum()], x.T @ slope + 2 * penalty * w[1:]])
        return float((weight * loss).sum() + penalty * (w[1:] ** 2).sum()), gradient

    bounds = [(None, None), *((0, None) if s > 0 else (None, 0) for s in signs)]
    found = minimize(cost, np.zeros(len(signs) + 1), jac=True, bounds=bounds, method="L-BFGS-B").x
    weights = {
        name: (round(float(c), 5), round(float(s), 5), round(float(w), 4))
        for name, c, s, w in zip(names, centre, scale, found[1:], strict=True)
        if abs(w) > 0.02
    }
    good = [features_of(row) for row in rows if row["truly"] == "good"]
    limits = {n: float(np.percentile([g[n] for g in good], 97 if SIGNS[n] > 0 else 3)) for n in weights}
    return Model(
        weights=weights,
        intercept=round(float(found[0]), 4),
        look_above=0.0,
        fail_above=1.0,
        limits={n: float(f"{v:.4g}") for n, v in limits.items()},
    )


def with_thresholds(model: Model, rows: Sequence[Row], models: Sequence[Model]) -> Model:
    """Put 'fail' amid what good and failed runs of an anatomy that was left out allow, and 'look' a little below.

    The lowest spares good ones; higher ones do too, up to the first that loses a failure: the middle is furthest from both.

    What the rules find needs no probability: the whole verdict is counted, each run's by the model that has not seen its
    anatomy.
    """
    good, bad = (
        [(row, one) for row, one in zip(rows, models, strict=True) if row["truly"] == truly]
        for truly in ("good", "failed")
    )
    usual = float(np.percentile([m.probability(features_of(r)) for r, m in good], 92))
    allowed: list[Model] = []
    most = -1
    for fail in np.linspace(0.2, 0.8, 61).round(3):
        look = round(max(min(usual, float(fail) - 0.1), 0.05), 3)
        there = {"look_above": look, "fail_above": float(fail)}
        spared, found = (
            [outcome(row, replace(one, **there)) == "fail" for row, one in part] for part in (good, bad)
        )
        if most < 0 and 1 - np.mean(spared) < SPARED:
            continue
        if sum(found) < most:
            break
        most = sum(found)
        allowed.append(replace(model, **there))
    return allowed[len(allowed) // 2] if allowed else model


def rates(rows: Sequence[Row], model: Model) -> dict[str, Any]:
    """Return how often the verdict is right."""
    found = [(row, str(conclude(features_of(row), row["status"], model).outcome)) for row in rows]
    bad = [outcome for row, outcome in found if row["truly"] == "failed"]
    good = [outcome for row, outcome in found if row["truly"] == "good"]
    return {
        "failed": len(bad),
        "good": len(good),
        "sensitivity": sum(o == "fail" for o in bad) / max(len(bad), 1),
        "specificity": sum(o != "fail" for o in good) / max(len(good), 1),
        "failed not passed": sum(o != "pass" for o in bad) / max(len(bad), 1),
        "good passed": sum(o == "pass" for o in good) / max(len(good), 1),
        "wrong": [
            (row["run"], row["truly"], outcome, round(model.probability(features_of(row)), 2))
            for row, outcome in found
            if (row["truly"] == "failed" and outcome != "fail")
            or (row["truly"] == "good" and outcome == "fail")
        ],
    }


def interval(rows: Sequence[Row], right: Callable[[Row], bool], seed: int = 0) -> str:
    """Return the 95 % interval of a share of runs, in words, by resampling pairs: runs of one pair are alike.

    Where hardly a run is wrong, resampling shows no spread. So the exact interval (Clopper & Pearson) of the share of
    pairs without a mistake is there too.
    """
    pairs = defaultdict(list)
    for row in rows:
        pairs[row["run"].rsplit("_", 1)[0]].append(right(row))
    if not pairs:
        return "no run"
    hits = np.array([[sum(found), len(found)] for found in pairs.values()], float)
    draw = np.random.default_rng(seed).integers(0, len(hits), (DRAWS, len(hits)))
    sums = hits[draw].sum(axis=1)
    low, high = np.percentile(sums[:, 0] / sums[:, 1], [2.5, 97.5])
    n, k = len(hits), int((hits[:, 0] == hits[:, 1]).sum())
    least = beta.ppf(0.025, k, n - k + 1) if k else 0.0
    most = beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    share = hits[:, 0].sum() / hits[:, 1].sum()
    return (
        f"{share:.3f} of {int(hits[:, 1].sum())} runs (by pairs {low:.3f} … {high:.3f}); "
        f"{k} of {n} pairs without a mistake ({least:.2f} … {most:.2f})"
    )


def outcome(row: Row, model: Model) -> str:
    """Return what the verdict says of a row."""
    return str(conclude(features_of(row), row["status"], model).outcome)


def tell(rows: Sequence[Row], model: Model) -> None:
    """Print what was measured, mirror images of nearly symmetric organs counted as the failures they are."""
    limits_of_rules([r for r in rows if r["half"] == "fit" and r["truly"] == "good"])
    for half in sorted({row["half"] for row in rows}):
        part = [row for row in rows if row["half"] == half]
        failed = [row for row in part if row["truly"] == "failed"]
        told = [row for row in failed if row["kind"] != MIRRORED]
        good = [row for row in part if row["truly"] == "good"]
        print(f"\n{half}: {len(failed)} failed, {len(good)} good")
        for name, some, right in (
            ("sensitivity, all failures", failed, ("fail",)),
            ("sensitivity, without mirror images of symmetric organs", told, ("fail",)),
            ("failed and not passed, all", failed, ("fail", "look")),
            ("failed and not passed, without mirror images", told, ("fail", "look")),
            ("specificity (good and not failed)", good, ("pass", "look")),
            ("good and passed", good, ("pass",)),
        ):
            print(f"  {name}: {interval(some, lambda r, ok=right: outcome(r, model) in ok)}")
        for name in sorted({row["family"] for row in part}):
            one = rates([row for row in part if row["family"] == name], model)
            print(
                f"  {name}: {one['sensitivity']:.2f} of {one['failed']} failed runs found, "
                f"{one['specificity']:.2f} of {one['good']} good ones not failed"
            )
        for kind in sorted({row["kind"] for row in part}):
            for truly in ("failed", "between", "good"):
                said = Counter(
                    outcome(row, model) for row in part if row["kind"] == kind and row["truly"] == truly
                )
                if said:
                    print(f"  {kind}, truly {truly}: {dict(sorted(said.items()))}")
        for line in rates(part, model)["wrong"]:
            print("  wrong:", *line)


def limits_of_rules(good: Sequence[Row]) -> None:
    """Print where the good runs of the fitting half lie against the limits of the rules in the code."""
    features = [features_of(row) for row in good]
    measures: dict[str, tuple[Callable[[dict[str, float]], float], tuple[float, float]]] = {
        "stretch": (_verdict._stretch, _verdict.STRETCH),
        "folded_percent": (lambda x: x["folded_percent"], _verdict.FOLDED_PERCENT),
        "inverse_p95": (lambda x: x["inverse_p95"], _verdict.INVERSE),
        "inverse_voxels": (lambda x: x.get("inverse_voxels", np.nan), _verdict.INVERSE_VOXELS),
        "nudged": (lambda x: x.get("nudged", np.nan), _verdict.NUDGED),
        "likeness over the start": (_verdict._worse, _verdict.WORSE),
        "likeness over mirrored": (_verdict._over_mirror, _verdict.MIRRORED),
    }
    print("\ngood runs of the fitting half against the rules: least, 3 %, median, 97 %, most; look, fail")
    for name, (of, limits) in measures.items():
        values = np.array([of(x) for x in features])
        values = values[np.isfinite(values)]
        if len(values):
            places = ", ".join(f"{v:.4g}" for v in np.percentile(values, [0, 3, 50, 97, 100]))
            print(f"  {name}: {places}; {limits[0]:g}, {limits[1]:g}")


def read_table() -> list[Row]:
    """Return the rows of the table in the clone."""
    with TABLE.open(encoding="utf-8", newline="") as stream:
        return [{**row, "error": float(row["error"])} for row in csv.DictReader(stream)]


def write(rows: Sequence[Row], model: Model, table: bool) -> None:
    """Put the model, and the features if they are new, into the clone."""
    tree = {
        "weights": {name: list(w) for name, w in model.weights.items()},
        "intercept": model.intercept,
        "look_above": model.look_above,
        "fail_above": model.fail_above,
        "limits": dict(model.limits),
    }
    MODEL.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    if table:
        with TABLE.open("w", encoding="utf-8", newline="") as stream:
            names = list(dict.fromkeys(name for row in rows for name in row if name != "truly"))
            writer = csv.DictWriter(stream, names, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def main() -> None:
    """Run, fit, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data")
    parser.add_argument("--runs", type=Path, default=RESULTS / "verdict")
    parser.add_argument("--families", default=",".join(FAMILIES), help="whose runs to make (default: all)")
    parser.add_argument("--pairs", type=int, help="of each family and half (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="two pairs of 2-D slices of each half; fits nothing"
    )
    parser.add_argument(
        "--kept", action="store_true", help="fit and measure on what the folder of runs has, and make none"
    )
    parser.add_argument(
        "--shipped", action="store_true", help="judge by the model that is there, and fit nothing"
    )
    parser.add_argument(
        "--from-table", action="store_true", help="fit and measure on the features kept in the clone"
    )
    parser.add_argument(
        "--others-from-table",
        action="store_true",
        help="take families that are not made from the clone's table",
    )
    parser.add_argument("--write", action="store_true", help="put the model and the features into the clone")
    options = parser.parse_args()
    others = options.others_from_table
    partly = options.quick or (not others and options.families != ",".join(FAMILIES))
    if options.write and (partly or options.shipped):
        parser.error(
            "--write takes all anatomies and a new fit: leave out --quick, --shipped and --families (or add --others-from-table)"
        )
    families = QUICK if options.quick else options.families.split(",")
    if options.from_table:
        rows = [row for row in read_table() if row["family"] in families]
    elif options.kept:
        rows = [row for row in kept_runs(options.runs) if row["family"] in families]
    else:
        pairs = 2 if options.quick else options.pairs
        rows = make_runs(data_folder(options.data), options.runs, families, pairs)
    if others:
        rows = [*(row for row in read_table() if row["family"] not in families), *rows]
    judged_by_truth(rows)
    print(Counter((row["half"], row["truly"]) for row in rows))
    if options.quick or options.shipped:
        tell(rows, load_model())
        return
    fitting = [r for r in rows if r["half"] == "fit" and r["truly"] != "between" and r["kind"] not in UNTOLD]
    model = fit(fitting)
    for name, (centre, scale, weight) in sorted(model.weights.items(), key=lambda item: -abs(item[1][2])):
        print(f"{name:18} centre {centre:8.3f} scale {scale:7.3f} weight {weight:6.2f}")
    print(f"intercept {model.intercept}, look above {model.look_above}, fail above {model.fail_above}")
    tell(rows, model)
    if options.write:
        counts = Counter(row["truly"] for row in rows if row["half"] == "test")
        if min(counts["good"], counts["failed"]) < LEAST:
            raise SystemExit(
                f"not written: {dict(counts)} of other people, expected {LEAST} good and {LEAST} failed"
            )
        write(rows, model, not options.from_table)


if __name__ == "__main__":
    main()
