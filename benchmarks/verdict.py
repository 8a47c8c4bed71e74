"""Fit the verdict's thresholds on good and failed registrations, and measure it on other people's.

python benchmarks/verdict.py [--data DIR] [--runs FOLDER] [--only-features] [--write]

Registrations of several anatomies are run as they should be and so that they fail (wrong start, flipped, other organ,
cropped, noise, left where it was). The truth, which the verdict does not know, says which are good and which failed.
A logistic model is fitted on one half of the people and measured on the other. ``--write`` puts the model into the
package. Runs and features are kept, so that a second call takes seconds.
"""

import argparse
import csv
import json
import pickle
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from harness.machine import RESULTS, ROOT, data_folder
from harness.verdict_cases import FAMILIES
from harness.verdict_runs import MIRRORED, make_runs
from regista.reporting._features import make_scene, measure_features
from regista.reporting._verdict import Model, conclude

MODEL = ROOT / "src" / "regista" / "reporting" / "verdict.json"
TABLE = ROOT / "benchmarks" / "verdict_features.csv"
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
    "log_scale": 1,
    "bent": 1,
    "sd_log_jacobian": 1,
    "inverse_p95": 1,
}
"""Features of the model, and whether more of them speaks for failure (1) or against it (−1)."""
PENALTY = 0.005
Row = dict[str, Any]


def measured(paths: Sequence[Path]) -> list[Row]:
    """Return the rows of runs with their features, measured unless they were before."""
    rows = []
    for path in paths:
        kept = path.with_suffix(".json")
        if not kept.exists():
            row, fixed, moving, result = pickle.loads(path.read_bytes())
            scene = make_scene(fixed, moving, result.transform)
            row |= {f"x_{k}": v for k, v in measure_features(scene, result, fixed, moving).items()}
            kept.write_text(json.dumps(row), encoding="utf-8")
        rows.append(json.loads(kept.read_text(encoding="utf-8")))
    return rows


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
            times = row["error"] / usual
            row["truly"] = "good" if times <= 2 else "failed" if times >= 4 else "between"


def features_of(row: Row) -> dict[str, float]:
    """Return the features of a row."""
    return {name[2:]: float(value) for name, value in row.items() if name.startswith("x_")}


def fit(rows: Sequence[Row]) -> Model:
    """Fit a logistic model whose weights have the signs that make sense, families weighing alike."""
    values = np.array([[features_of(row)[name] for name in SIGNS] for row in rows])
    failed = np.array([row["truly"] == "failed" for row in rows], float)
    centre = np.median(values, axis=0)
    scale = np.maximum(np.percentile(values, 84, axis=0) - np.percentile(values, 16, axis=0), 1e-3) / 2
    x = np.clip((values - centre) / scale, -3, 3)
    groups = Counter((row["family"], row["truly"]) for row in rows)
    weight = np.array([1 / np.sqrt(groups[row["family"], row["truly"]]) for row in rows])
    for value in (0.0, 1.0):
        weight[failed == value] /= weight[failed == value].sum()
    signs = np.array(list(SIGNS.values()), float)

    def cost(w: np.ndarray) -> tuple[float, np.ndarray]:
        score = w[0] + x @ w[1:]
        p = 1 / (1 + np.exp(-score))
        loss = np.logaddexp(0, score) - failed * score
        slope = weight * (p - failed)
        gradient = np.concatenate([[slope.sum()], x.T @ slope + 2 * PENALTY * w[1:]])
        return float((weight * loss).sum() + PENALTY * (w[1:] ** 2).sum()), gradient

    bounds = [(None, None), *((0, None) if s > 0 else (None, 0) for s in signs)]
    found = minimize(cost, np.zeros(len(signs) + 1), jac=True, bounds=bounds, method="L-BFGS-B").x
    weights = {
        name: (round(float(c), 5), round(float(s), 5), round(float(w), 4))
        for name, c, s, w in zip(SIGNS, centre, scale, found[1:], strict=True)
        if abs(w) > 0.02
    }
    good = [features_of(row) for row in rows if row["truly"] == "good"]
    limits = {n: float(np.percentile([g[n] for g in good], 97 if SIGNS[n] > 0 else 3)) for n in weights}
    return with_thresholds(
        Model(
            weights=weights,
            intercept=round(float(found[0]), 4),
            look_above=0.0,
            fail_above=1.0,
            limits={n: float(f"{v:.4g}") for n, v in limits.items()},
        ),
        rows,
    )


def with_thresholds(model: Model, rows: Sequence[Row]) -> Model:
    """Put 'fail' between the good and the failed of the fitting half, and 'look' a little below."""
    good = np.sort([model.probability(features_of(r)) for r in rows if r["truly"] == "good"])
    bad = np.sort([model.probability(features_of(r)) for r in rows if r["truly"] == "failed"])
    candidates = np.linspace(0.2, 0.8, 61)
    score = [np.mean(bad >= t) + np.mean(good < t) for t in candidates]
    best = candidates[np.flatnonzero(np.isclose(score, max(score)))]
    fail = float(np.median(best))
    look = min(float(np.percentile(good, 92)), fail - 0.1)
    return Model(
        weights=model.weights,
        intercept=model.intercept,
        look_above=round(max(look, 0.05), 3),
        fail_above=round(fail, 3),
        limits=model.limits,
    )


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


def tell(rows: Sequence[Row], model: Model) -> None:
    """Print what was measured."""
    counted = [row for row in rows if row["kind"] != MIRRORED]
    for half in ("fit", "test"):
        part = [row for row in counted if row["half"] == half]
        result = rates(part, model)
        print(f"\n{half}: " + ", ".join(f"{k} {v:.3g}" for k, v in result.items() if k != "wrong"))
        for name in sorted({row["family"] for row in part}):
            one = rates([row for row in part if row["family"] == name], model)
            print(
                f"  {name}: sensitivity {one['sensitivity']:.2f} of {one['failed']}, "
                f"specificity {one['specificity']:.2f} of {one['good']}"
            )
        for line in result["wrong"]:
            print("  wrong:", *line)
        for kind in sorted({row["kind"] for row in part}):
            one = [row for row in part if row["kind"] == kind and row["truly"] == "failed"]
            if one:
                print(f"  {kind}: {rates(one, model)['sensitivity']:.2f} of {len(one)} found")
    mirrored = [row for row in rows if row["kind"] == MIRRORED]
    between = [row for row in counted if row["truly"] == "between"]
    everything = rates([row for row in rows if row["half"] == "test"], model)
    print(f"\ntest, mirrored ones too: sensitivity {everything['sensitivity']:.3f} of {everything['failed']}")
    for name, part in ((MIRRORED, mirrored), ("between good and failed", between)):
        outcomes = Counter(str(conclude(features_of(r), r["status"], model).outcome) for r in part)
        print(f"{name}: {dict(outcomes)}")


def main() -> None:
    """Run, fit, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data")
    parser.add_argument("--runs", type=Path, default=RESULTS / "verdict")
    parser.add_argument("--families", default=",".join(FAMILIES), help="whose runs to make (default: all)")
    parser.add_argument("--only-features", action="store_true", help="of the runs that are there")
    parser.add_argument(
        "--from-table", action="store_true", help="fit and measure on the features kept in the clone"
    )
    parser.add_argument("--write", action="store_true", help="put the model and the features into the clone")
    options = parser.parse_args()
    if options.from_table:
        with TABLE.open(encoding="utf-8", newline="") as stream:
            rows: list[Row] = [{**r, "error": float(r["error"])} for r in csv.DictReader(stream)]
    else:
        if not options.only_features:
            for _ in make_runs(data_folder(options.data), options.runs, options.families.split(",")):
                pass
        rows = measured(sorted(options.runs.glob("*.pickle")))
    judged_by_truth(rows)
    print(Counter((row["half"], row["truly"]) for row in rows))
    fitting = [r for r in rows if r["half"] == "fit" and r["truly"] != "between" and r["kind"] != MIRRORED]
    model = fit(fitting)
    for name, (centre, scale, weight) in sorted(model.weights.items(), key=lambda item: -abs(item[1][2])):
        print(f"{name:18} centre {centre:8.3f} scale {scale:7.3f} weight {weight:6.2f}")
    print(f"intercept {model.intercept}, look above {model.look_above}, fail above {model.fail_above}")
    tell(rows, model)
    if options.write:
        tree = {
            "weights": {name: list(w) for name, w in model.weights.items()},
            "intercept": model.intercept,
            "look_above": model.look_above,
            "fail_above": model.fail_above,
            "limits": dict(model.limits),
        }
        MODEL.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
        if not options.from_table:
            with TABLE.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(
                    stream, [k for k in rows[0] if k != "truly"], extrasaction="ignore", lineterminator="\n"
                )
                writer.writeheader()
                for row in rows:
                    writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main()
