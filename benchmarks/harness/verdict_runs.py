"""Good and deliberately failed registrations, kept in a folder, each with its error by truth and its features."""

import json
import pickle
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.verdict_cases import (
    FAMILIES,
    Case,
    cropped,
    displaced,
    flipped,
    half_turned,
    made,
    magnified,
    noisy,
    ordinary,
    pushed,
    slab,
    transposed,
    turned,
    wrong_start,
)
from regista.core import Image, PlanError, PointSet, RegistaError, RunRecord, Status
from regista.evaluation import _likeness, label_measures, landmark_error, match_landmarks
from regista.registration import Result, load_plan, register
from regista.reporting import _features, _scene
from regista.reporting._features import measure_features
from regista.reporting._scene import make_scene
from regista.transforms import Affine, Composite, resample, resample_labels

SYMMETRIC = ("brain", "brain slice", "mouse", "T1-T2 slice", "T1-T2 aligned", "T1-T2 brain")
"""Families that are nearly their own mirror image from left to right: the rates are told with and without their flips."""
MIRRORED = "mirrored"
MISLABELLED = "right, header half turned"
FAILURES = ("wrong start", "flipped", "other organ", "cropped", "noise", "unmoved")
OFF_PERCENT, OFF_DEGREES = (2, 4, 8, 12), (5, 10, 20, 30)
"""How far, of the longest extent, and by what turn, good results are moved off."""


def error_by_truth(case: Case, result: Result) -> tuple[str, float]:
    """Return the kind of truth and 1 − mean Dice, or the mean error of landmarks or of the known map, mm.

    Of an image that was cut, what lies beyond its rim is left out: a crop that was put where it belongs is right, though
    most of the fixed image has no counterpart.
    """
    if case.labels is not None:
        return "1 - Dice", 1 - _dice(case, result)
    if case.points is not None:
        one, other = match_landmarks(*case.points)
        fixed, moving = case.points[0].points_mm[one], case.points[1].points_mm[other]
        kept = _seen(case, moving)
        return "TRE", landmark_error(PointSet(fixed[kept]), PointSet(moving[kept]), result.transform).mean
    assert case.truth is not None
    data = case.fixed.as_float32()
    where = np.argwhere(data > data.mean())[::7]
    here = case.fixed.grid.index2world(where)
    there = case.truth.map_points(here)
    if case.world is not None:
        there = there @ case.world[:-1, :-1].T + case.world[:-1, -1]
    kept = _seen(case, there)
    return "map error", float(
        np.linalg.norm(result.transform.map_points(here[kept]) - there[kept], axis=1).mean()
    )


def _dice(case: Case, result: Result) -> float:
    assert case.labels is not None
    fixed, moving = case.labels
    warped = resample_labels(moving, case.fixed.grid, result.transform)
    if case.partial:
        places = np.moveaxis(fixed.grid.coordinates_mm(), 0, -1).reshape(-1, fixed.ndim)
        inside = case.moving.grid.contains(result.transform.map_points(places)).reshape(fixed.grid.shape)
        fixed, warped = (x.with_data(np.where(inside, x.data, 0)) for x in (fixed, warped))
    try:
        return float(label_measures(fixed, warped, surface=None).mean()["dice"])
    except RegistaError:  # no label in common
        return 0.0


def _seen(case: Case, there: np.ndarray) -> np.ndarray:
    """Tell which places of the moving space count: all, or those that an image that was cut shows, if any."""
    seen = case.moving.grid.contains(there)
    return seen if case.partial and seen.any() else np.ones(len(there), bool)


@dataclass(frozen=True)
class Planned:
    """A run: made by registering, or, where `derive` is given, from the ordinary result of the same pair."""

    name: str
    kind: str
    case: Case
    plan: str
    options: dict[str, Any]
    source: str = ""
    derive: Callable[[Result], Result] | None = None
    same_error: bool = False
    """Whether the map is as right as the one it was made from, though the images show less."""


def planned(data: Path, folder: Path, families: Sequence[str], pairs: int | None = None) -> Iterator[Planned]:
    """Return every run; other organs come from the same families.

    All families by turns, so that a benchmark that is interrupted has some of each.

    Parameters
    ----------
    pairs : int, optional
        Pairs of each family and half; by default all.
    """
    count: Counter[tuple[str, str]] = Counter()
    ranked = []
    for case in ordinary(data, folder, families):
        rank = count[case.family, case.half]
        count[case.family, case.half] += 1
        if pairs is None or rank < pairs:
            ranked.append((rank, case))
    ranked.sort(key=lambda pair: pair[0])  # stable: the first pair of each family, then the second
    firsts = [case for rank, case in ranked if rank == 0]  # the same however many pairs are asked for
    order = list(FAMILIES)
    for rank, case in ranked:
        number = rank + order.index(case.family)  # families with few pairs fail in different ways
        rng = np.random.default_rng(zlib.crc32(f"{case.family} {case.name}".encode()))
        name = f"{case.family}_{case.name}".replace(" ", "-")
        yield Planned(f"{name}_good", "good", case, case.preset, {})
        if number % 2 and case.family not in ("heart", "lung CT"):
            plan = "affine" if case.truth is None else "affine-mi"
            yield Planned(f"{name}_affine", "good", case, plan, {})
        kinds = [FAILURES[(number + step) % len(FAILURES)] for step in (0, 1, 3)]
        for kind in kinds if not case.aligned else ():
            changed, options = _failing(kind, case, firsts, rng)
            told = "wrong start" if kind == "other organ" and "initial" in options else kind
            # half turned, a brain flipped along any axis is a brain mirrored from left to right
            told = MIRRORED if kind == "flipped" and case.family in SYMMETRIC else told
            yield Planned(f"{name}_{kind.replace(' ', '-')}", told, changed, case.preset, options)
        if case.family in ("brain", "brain slice", "mouse") and number % 3 == 1:
            yield Planned(f"{name}_transposed", MIRRORED, transposed(case), case.preset, {})
        if case.family == "brain" and number % 3 == 0:
            yield Planned(f"{name}_mirror", MIRRORED, flipped(case, 0), case.preset, {})
        yield from _derived(name, case, number)


def _derived(name: str, case: Case, number: int) -> Iterator[Planned]:
    """Return runs made from the ordinary one: off by a known amount, the start returned, and right ones that look odd."""
    source = f"{name}_good"

    def rng(of: object) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(f"{name} {of}".encode()))

    def run(suffix: str, kind: str, derive: Callable[[Result], Result], **more: Any) -> Planned:
        return Planned(
            f"{name}_{suffix}", kind, more.pop("case", case), case.preset, {}, source, derive, **more
        )

    for percent in (OFF_PERCENT[number % 4], OFF_PERCENT[(number + 2) % 4]):
        yield run(
            f"off-{percent}", f"moved off {percent} %", lambda r, p=percent: pushed(case, r, p / 100, rng(p))
        )
    degrees = OFF_DEGREES[number % 4]
    yield run(f"turned-{degrees}", f"turned off {degrees}°", lambda r: turned(case, r, degrees, rng(degrees)))
    if case.aligned:  # a start that is right must not be accused
        stays = Affine.identity(case.fixed.ndim)
        yield run("stayed", "aligned, identity returned", lambda r: made(case, stays, stays))
        mirror = flipped(case, 0)
        yield run("mirror", MIRRORED, lambda r: made(mirror, stays, stays), case=mirror)
        return
    away = displaced(case, rng("identity"))
    stays = Affine.identity(case.fixed.ndim)
    yield run("identity", "identity returned", lambda r: made(away, stays, stays), case=away)
    if case.fixed.ndim == 3 and number % 2 == 0:
        part = slab(case, rng("slab"))
        yield run(
            "slab",
            "right, in a slab",
            lambda r: made(part, r.transform, r.inverse, r),
            case=part,
            same_error=True,
        )
    if case.fixed.oriented and case.moving.oriented and number % 2:
        round_, turn = half_turned(case)
        yield run(
            "half-turned",
            MISLABELLED,
            lambda r: made(round_, Composite((r.transform, turn)), Composite((turn.inverse(), r.inverse)), r),
            case=round_,
            same_error=True,
        )
    if case.fixed.ndim == 2 and number % 2 == 0:
        large, scale = magnified(case, 3.0)
        yield run(
            "magnified",
            "right, 3 times as large",
            lambda r: made(
                large, Composite((r.transform, scale)), Composite((scale.inverse(), r.inverse)), r
            ),
            case=large,
            same_error=True,
        )


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


def _run(case: Case, name: str, options: dict[str, Any]) -> Result:
    plan = load_plan("affine" if name == "affine-mi" else name)
    if name == "affine-mi":
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
    data: Path,
    folder: Path,
    families: Sequence[str] = tuple(FAMILIES),
    pairs: int | None = None,
) -> list[dict[str, Any]]:
    """Make what is not there yet, and measure it; return a row of each run.

    Every run is a file ``NAME.json``; what registered also keeps ``NAME.pickle``. A second call goes on where the
    first stopped, and measures anew what was measured by other code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    code = _code()
    rows = []
    for run in planned(data, folder, families, pairs):
        kept = folder / f"{run.name}.json"
        row = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        if not row.get("refused") and row.get("features of") != code:
            row = _row(run, folder) | {"features of": code}
            part = kept.with_suffix(".part")
            part.write_text(json.dumps(row), encoding="utf-8")
            part.rename(kept)
            print(f"{run.name}: {row.get('refused') or '{truth} {error:.3f}'.format(**row)}", flush=True)
        if not row.get("refused"):
            rows.append({k: v for k, v in row.items() if k != "features of"})
    return rows


def kept_runs(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a folder that the present code measured, though not all may be there yet."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    mine = [row for row in rows if row.get("features of") == _code() and not row.get("refused")]
    return [{k: v for k, v in row.items() if k != "features of"} for row in mine]


def _code() -> int:
    """Return what tells by which code features were measured."""
    files = (_features.__file__, _likeness.__file__, _scene.__file__)
    return zlib.crc32(b"".join(Path(name).read_bytes() for name in files))


def _row(run: Planned, folder: Path) -> dict[str, Any]:
    """Return a run with its error and features; a refusal, which needs no verdict, with its words."""
    path = folder / f"{run.source or run.name}.pickle"
    if run.derive is not None and not path.exists():
        return {"refused": f"{run.source} was"}
    if path.exists():
        # the images are made again from the data: a pickle keeps the result alone
        error, result = pickle.loads(path.read_bytes())
    else:
        try:
            result = _run(run.case, run.plan, run.options)
        except PlanError:
            raise
        except RegistaError as refusal:
            return {"refused": f"refused: {refusal}"}
        error = _error(run.case, result)
        part = path.with_suffix(".part")
        part.write_bytes(pickle.dumps((error, result)))
        part.rename(path)
    if run.derive is not None:
        result = run.derive(result)
        error = error if run.same_error else _error(run.case, result)
    mask = run.case.masks and run.case.masks[0]
    scene = make_scene(run.case.fixed, run.case.moving, result.transform, mask)
    features = measure_features(scene, result, run.case.fixed, run.case.moving)
    return {
        "run": run.name,
        "family": run.case.family,
        "half": run.case.half,
        "kind": run.kind,
        "plan": run.plan,
        "truth": error[0],
        "error": error[1],
        "voxel": float(run.case.fixed.grid.spacing.max()),
        "status": str(result.record.status),
        **{f"x_{name}": value for name, value in features.items()},
    }


def _error(case: Case, result: Result) -> tuple[str, float]:
    known = case.labels or case.points or case.truth
    return error_by_truth(case, result) if known else ("none", float("nan"))
