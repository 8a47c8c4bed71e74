"""Good and deliberately failed registrations, kept in a folder, each with its error by truth."""

import pickle
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.verdict_cases import FAMILIES, Case, cropped, flipped, noisy, ordinary, wrong_start
from regista.core import Image, PlanError, RegistaError, RunRecord, Status
from regista.evaluation import label_measures, landmark_error
from regista.registration import Result, load_plan, register
from regista.transforms import Affine, resample, resample_labels

SYMMETRIC = ("brain", "brain slice", "mouse", "T1-T2 slice", "T1-T2 brain")
"""Families that are nearly their own mirror image from left to right: flips of them are measured apart."""
MIRRORED = "mirrored"
FAILURES = ("wrong start", "flipped", "other organ", "cropped", "noise", "unmoved")


def error_by_truth(case: Case, result: Result) -> tuple[str, float]:
    """Return the kind of truth and 1 − mean Dice, or the mean error of landmarks or of the known map, mm."""
    if case.labels is not None:
        warped = resample_labels(case.labels[1], case.fixed.grid, result.transform)
        try:
            dice = label_measures(case.labels[0], warped, surface=None).mean()["dice"]
        except RegistaError:  # no label in common
            dice = 0.0
        return "1 - Dice", 1 - dice
    if case.points is not None:
        return "TRE", landmark_error(*case.points, result.transform).mean
    assert case.truth is not None
    data = case.fixed.as_float32()
    where = np.argwhere(data > data.mean())[::7]
    here = case.fixed.grid.index2world(where)
    there = case.truth.map_points(here)
    if case.world is not None:
        there = there @ case.world[:-1, :-1].T + case.world[:-1, -1]
    return "map error", float(np.linalg.norm(result.transform.map_points(here) - there, axis=1).mean())


def planned(
    data: Path, folder: Path, families: Sequence[str]
) -> Iterator[tuple[str, str, Case, dict[str, Any]]]:
    """Return (id, what was done, case, options of the run) of every run; other organs come from the same families."""
    cases = list(ordinary(data, folder, families))
    for number, case in enumerate(cases):
        rng = np.random.default_rng(zlib.crc32(f"{case.family} {case.name}".encode()))
        name = f"{case.family}_{case.name}".replace(" ", "-")
        yield f"{name}_good", "good", case, {"plan": case.preset}
        if number % 2 and case.family not in ("heart", "lung CT"):
            yield f"{name}_affine", "good", case, {"plan": "affine" if case.truth is None else "affine-mi"}
        kinds = [FAILURES[(number + step) % len(FAILURES)] for step in (0, 1, 3)]
        for kind in kinds:
            changed, options = _failing(kind, case, cases, rng)
            told = "wrong start" if kind == "other organ" and "initial" in options else kind
            # half turned, a brain flipped along any axis is a brain mirrored from left to right
            told = MIRRORED if kind == "flipped" and case.family in SYMMETRIC else told
            yield f"{name}_{kind.replace(' ', '-')}", told, changed, {"plan": case.preset, **options}
        if case.family == "brain" and number % 3 == 0:
            yield f"{name}_mirror", MIRRORED, flipped(case, 0), {"plan": case.preset}


def _failing(
    kind: str, case: Case, cases: list[Case], rng: np.random.Generator
) -> tuple[Case, dict[str, Any]]:
    if kind == "wrong start":
        return case, {"initial": wrong_start(case, rng)}
    if kind == "flipped":
        return flipped(
            case, 1 if case.family in SYMMETRIC or case.moving.ndim == 2 else int(rng.integers(0, 2))
        ), {}
    if kind == "other organ":
        others = [
            c
            for c in cases
            if c.half == case.half
            and c.moving.ndim == case.moving.ndim
            and c.moving.kind == case.moving.kind
            and c.family.split()[0] not in case.family
            and not ("brain" in c.family + case.family and "T1-T2" in c.family + case.family)
        ]
        if not others:
            return case, {"initial": wrong_start(case, rng)}
        other = others[int(rng.integers(len(others)))]
        return replace(case, moving=other.moving, masks=None, labels=None, points=None, truth=None), {}
    if kind == "cropped":
        return cropped(case, rng), {}
    if kind == "noise":
        return noisy(case, rng), {}
    return case, {"unmoved": True}


def _run(case: Case, options: dict[str, Any]) -> Result:
    plan = load_plan("affine" if options["plan"] == "affine-mi" else options["plan"])
    if options["plan"] == "affine-mi":
        multi = load_plan("multimodal")
        plan = replace(multi, stages=multi.stages[:-1])
    if options.get("unmoved"):  # what a tool gives that stopped at its start, the headers being wrong
        start = wrong_start(case, np.random.default_rng(len(case.name)))
        matrix = start.matrix.copy()
        n = case.fixed.ndim
        size = float(np.linalg.norm(np.array(case.fixed.grid.shape) * case.fixed.grid.spacing))
        matrix[:-1, :-1] = np.eye(n)
        middle = case.moving.grid.center_mm - case.fixed.grid.center_mm
        matrix[:-1, -1] = middle + 0.12 * size * np.eye(n)[0]
        map_ = Affine(matrix)
        warped = resample(case.moving, case.fixed.grid, map_, dtype=np.float32)
        record = RunRecord(status=Status.CONVERGED, measures={"linear_fixed2moving": matrix})
        return Result(map_, map_.inverse(), warped, record)
    masks = case.masks or (None, None)
    return register(
        case.fixed,
        case.moving,
        plan,
        initial=options.get("initial"),
        fixed_mask=masks[0] and Image(masks[0].data, masks[0].grid),
        moving_mask=masks[1] and Image(masks[1].data, masks[1].grid),
    )


def make_runs(
    data: Path, folder: Path, families: Sequence[str] = tuple(FAMILIES)
) -> Iterator[dict[str, Any]]:
    """Run what is not there yet; return the rows of all runs, with the file of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind, case, options in planned(data, folder, families):
        path = folder / f"{name}.pickle"
        if not path.exists():
            try:
                result = _run(case, options)
            except PlanError:
                raise
            except RegistaError as error:  # a refusal needs no verdict
                print(f"{name}: refused: {error}", flush=True)
                continue
            known = case.labels or case.points or case.truth
            what, error = error_by_truth(case, result) if known else ("none", float("nan"))
            row = {
                "run": name,
                "family": case.family,
                "half": case.half,
                "kind": kind,
                "plan": options["plan"],
                "truth": what,
                "error": error,
                "status": str(result.record.status),
            }
            part = path.with_suffix(".part")
            part.write_bytes(pickle.dumps((row, case.fixed, case.moving, result)))
            part.rename(path)
            print(f"{name}: {what} {error:.3f}", flush=True)
        yield {"path": path}
