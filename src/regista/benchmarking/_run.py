"""`run_benchmark`: every case by every method, one process at a time."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regista.benchmarking._cases import Case, check_files
from regista.benchmarking._machine import describe, machine
from regista.benchmarking._methods import Method
from regista.benchmarking._process import Outcome, run_job
from regista.benchmarking._setup import Setup, Tally
from regista.benchmarking._store import Row, Store, key_of, write_table
from regista.core import FormatError, PlanError, available_threads
from regista.evaluation._names import UNREGISTERED
from regista.io import read_labels, write_text

FORMAT = 1
"""Changed when results of an earlier version can no longer be kept."""

LEAST_LIMIT_S = 600.0
"""Measuring and warming up get the time limit of a registration, but no less: kernels may have to be compiled."""

Tell = Callable[[str], None]
_SHARED = "the shared affine"
WRITTEN = ("raw.csv", "regions.csv", "summary.md", "summary.html", "machine.json")
"""What a benchmark writes into its folder, besides the folders of its own."""
NOT_RECORDED = "not recorded"
"""Stands for machine and sources of results that an earlier version left."""


def run_benchmark(
    cases: Sequence[Case], methods: Sequence[Method], setup: Setup, *, tell: Tell = lambda text: None
) -> Tally:
    """Run methods on cases and measure what they leave.

    Every registration, and every measurement, has a process of its own; one runs at a time. Whatever happens to
    it, a row says so and the others go on. Stopped or killed, the next call with the same folder takes up where
    it ended.

    Parameters
    ----------
    cases : sequence of Case
        The pairs.
    methods : sequence of Method
        The methods, in the order of tables.
    setup : Setup
        How.
    tell : callable
        Gets a line after each case and method.

    Returns
    -------
    Tally
        All rows, counts and failures. ``raw.csv`` and ``machine.json`` are in the folder; see `write_report` for
        the rest.

    Raises
    ------
    FormatError
        If files are missing (all of them are named, before anything starts), the folder cannot be written, or
        another benchmark runs in it, it holds one with another shared start, or files of the user's that would be
        replaced.
    PlanError
        If there are no cases or methods, `redo` names another method, or `labels` names labels that no map has.
    """
    if not cases or not methods:
        raise PlanError("a benchmark needs at least one case and one method")
    named = [m.name for m in (*methods, *([setup.equal_affine] if setup.equal_affine else []))]
    for name in setup.redo:
        if name not in named:
            raise PlanError(f"the method to run anew is one of {', '.join(named)}; got {name!r}")
    missing = check_files(cases)
    if missing and not setup.keep_going:
        lines = "\n  ".join(missing.values())
        raise FormatError(
            f"{len(missing)} of {len(cases)} cases lack files:\n  {lines}\nMend the table, or go on without these "
            "cases with --keep-going"
        )
    store = Store(setup.output)
    store.check_foreign(WRITTEN)
    with store.locked():
        store.check_start(None if setup.equal_affine is None else setup.equal_affine.name)
        return _Run(tuple(cases), tuple(methods), setup, store, tell, missing).all()


class _Run:
    def __init__(
        self,
        cases: tuple[Case, ...],
        methods: tuple[Method, ...],
        setup: Setup,
        store: Store,
        tell: Tell,
        missing: Mapping[str, str],
    ) -> None:
        self.cases, self.setup, self.store, self.tell, self.missing = cases, setup, store, tell, missing
        shared = setup.equal_affine
        first = () if shared is None or shared.name in (m.name for m in methods) else (shared,)
        # the shared start comes first, whatever its place in the list
        self.methods = (*first, *sorted(methods, key=lambda m: shared is None or m.name != shared.name))
        self.threads = setup.threads or available_threads()
        self.machine = machine(self.threads)
        self.patience_s = max(setup.limit_s, LEAST_LIMIT_S)
        self.results: dict[tuple[str, str], dict[str, Any]] = {}
        self.chosen: dict[str, set[int]] = {}
        self.kept, self.changed, self.bare, self.count, self.warm = 0, 0, 0, 0, set[str]()
        self.raw = setup.output / "raw.csv"

    def all(self) -> Tally:
        shared = self.setup.equal_affine
        told = {**self.machine, "equal_affine": None if shared is None else shared.name}
        write_text(self.setup.output / "machine.json", json.dumps(told, indent=1) + "\n")
        # all inputs first: what is wrong with them shows before hours are spent
        for case in self.cases:
            self._look_at(case)
        self.chosen = {name: self._choose(name) for name in self.setup.labels}
        self._write()
        for case in self.cases:
            for method in self.methods:
                self._one(case, method)
        self._write()
        return self._tally()

    def _look_at(self, case: Case) -> None:
        """Measure a case as it came, and make what peers can read."""
        key = self._key(case, None)
        known = self.store.read(case.name, UNREGISTERED)
        if known is not None and known["key"] == key and known["status"] == "done" and _pair_exists(known):
            self.results[case.name, UNREGISTERED] = known
            return
        if case.name in self.missing:
            self.results[case.name, UNREGISTERED] = _failure(key, self.missing[case.name])
            return
        self.store.clear(case.name, UNREGISTERED)
        folder = self.store.place(case.name, UNREGISTERED)
        job = {"case": case.to_dict(), "transforms": None, "prepare": True, **self._measuring()}
        outcome = run_job("_measure", job, folder, self.threads, self.patience_s)
        errors = outcome.error or "; ".join(outcome.content.get("errors", []))
        result = {
            "key": key,
            "status": "failed" if errors else "done",
            "error": f"input: {errors}" if errors else "",
            "rows": outcome.content.get("rows", []),
            "pair": outcome.content.get("pair"),
        }
        self.store.write(case.name, UNREGISTERED, result)
        self.results[case.name, UNREGISTERED] = result
        self.tell(f"looked at {case.name}: " + (result["error"] or _dice(result["rows"]) or "fine"))

    def _choose(self, name: str) -> set[int]:
        """Return the labels of a set that the tables count."""
        cases = [c for c in self.cases if self.results[c.name, UNREGISTERED]["status"] == "done"]
        files = dict.fromkeys(path for case in cases for path in case.labels.get(name, ()))
        found = [set(np.unique(read_labels(path).data).tolist()) - {0} for path in files]
        wanted = self.setup.labels[name]
        if wanted == "common":
            shared = set[int].intersection(*found) if found else set[int]()
            if found and not shared:
                raise PlanError(f"no label of the set {name!r} is in every map: name labels with --labels")
            return shared
        chosen = {int(label) for label in wanted}
        absent = chosen - set[int]().union(*found)
        if found and absent:
            texts = [", ".join(map(str, sorted(labels))) for labels in (absent, set[int]().union(*found))]
            raise PlanError(f"--labels: no map of the set {name!r} has {texts[0]}; there are {texts[1]}")
        return chosen

    def _counts(self, row: Row) -> bool:
        chosen = self.chosen.get(row["set"]) if row["kind"] == "labels" else None
        return chosen is None or row["label"] in chosen

    def _one(self, case: Case, method: Method) -> None:
        self.count += 1
        place = f"[{self.count}/{len(self.cases) * len(self.methods)}] {case.name}, {method.name}: "
        key = self._key(case, method)
        known = self.store.read(case.name, method.name)
        if known is not None and known["key"] == key and self._keeps(known, method, case):
            self.kept += 1
            changed = self._changed(known, method)
            self.changed += changed
            self.bare += known["status"] == "done" and not self.store.has_transforms(case.name, method.name)
            self.results[case.name, method.name] = known
            kept = "kept, of other sources" if changed else "kept"
            rows = list(filter(self._counts, known["rows"]))
            self.tell(f"{place}{kept}, {known['error'] or _dice(rows) or 'done'}")
            return
        began = _failure(key, self._obstacle(case, method))
        result = began if began["error"] else self._register(case, method, key)
        result |= {"limit_s": self.setup.limit_s, "machine": self.machine}
        self.store.write(case.name, method.name, result)
        self.results[case.name, method.name] = result
        self._write()
        self.tell(place + (result["error"] or _summary(list(filter(self._counts, result["rows"])))))

    def _keeps(self, known: Mapping[str, Any], method: Method, case: Case) -> bool:
        if method.name in self.setup.redo or (self.setup.retry_changed and self._changed(known, method)):
            return False
        if known["status"] == "done":
            return not self._is_shared(method) or (self._shared_files(case) is not None)
        # what failed for want of something else is always tried again: that may be there by now
        again = (
            self.setup.retry_failed or not known.get("tried") or known.get("limit_s") != self.setup.limit_s
        )
        return not again

    def _changed(self, known: Mapping[str, Any], method: Method) -> bool:
        """Tell whether a result is of other sources of Regista than the present ones."""
        made = known.get("machine", {}).get("sources")
        return method.tool == "regista" and made != self.machine["sources"]

    def _obstacle(self, case: Case, method: Method) -> str:
        """Return why a method cannot even start on a case; empty where it can."""
        lacking = method.lacking()
        if lacking:
            return lacking
        looked = self.results[case.name, UNREGISTERED]
        if looked["status"] != "done":
            return str(looked["error"])
        shared = self.setup.equal_affine
        if shared is not None and not self._is_shared(method) and self._shared_files(case) is None:
            return f"{_SHARED}, {shared.name}, failed"
        return ""

    def _register(self, case: Case, method: Method, key: str) -> dict[str, Any]:
        self.store.clear(case.name, method.name)
        folder = self.store.place(case.name, method.name)
        job = self._job(case, method)
        if method.tool == "regista" and method.name not in self.warm:
            self.warm.add(method.name)  # compiled once, before any clock runs
            run_job("_register", {**job, "tool": "warmup"}, folder, self.threads, self.patience_s)
        outcomes: list[Outcome] = []
        found: list[Row] = []
        error = ""
        while not error and len(outcomes) < self.setup.repeats:
            outcomes.append(run_job("_register", job, folder, self.threads, self.setup.limit_s))
            error = outcomes[-1].error
            if not error:
                measured = self._measure(case, method, folder, outcomes[-1])
                again = {"repeat": len(outcomes)} if self.setup.repeats > 1 else {}
                found += [{**line, **again} for line in measured.content.get("rows", [])]
                error = measured.error or "; ".join(measured.content.get("errors", []))
                error = f"measuring: {error}" if error else ""
        row = _run_row(outcomes, method, self.threads)
        rows: list[Row] = [row] if error else [row, *found]  # a case that failed once counts as failed
        if not self.setup.keep_transforms:
            self.store.tidy(case.name, method.name)
        row["error"] = error
        return {
            "key": key,
            "status": "failed" if error else "done",
            "error": error,
            "rows": rows,
            "tried": True,
        }

    def _job(self, case: Case, method: Method) -> dict[str, Any]:
        pair = dict(self.results[case.name, UNREGISTERED]["pair"])
        if method.tool == "regista":  # from the files as they are, as a user would
            roles = ("fixed", "moving", "fixed_mask", "moving_mask")
            pair |= {role: case.to_dict()[role] for role in roles}
        if not method.masks:
            pair |= {"fixed_mask": None, "moving_mask": None}
        shared = None if self._is_shared(method) else self._shared_files(case)
        start = {"affine": None, "affine_ras": None} if shared is None else shared
        return {
            **pair,
            **start,
            "tool": method.tool,
            "settings": method.settings,
            "threads": self.threads,
            "non_finite": self.setup.non_finite,
        }

    def _measure(self, case: Case, method: Method, folder: Path, outcome: Outcome) -> Outcome:
        job = {
            "case": case.to_dict(),
            "transforms": [str(folder / name) for name in outcome.content["transforms"]],
            "inverse": [str(folder / name) for name in outcome.content.get("inverse", [])],
            "linear": self._is_shared(method),
            **self._measuring(),
        }
        return run_job("_measure", job, folder, self.threads, self.patience_s)

    def _measuring(self) -> dict[str, Any]:
        setup = self.setup
        return {
            "names": {name: {str(k): v for k, v in table.items()} for name, table in setup.names.items()},
            "groups": {name: {k: list(v) for k, v in table.items()} for name, table in setup.groups.items()},
            "surface": setup.surface,
            "unit": setup.unit,
            "threads": self.threads,
            # results of a version that knew no other policy are kept
            **({} if setup.non_finite == "error" else {"non_finite": setup.non_finite}),
        }

    def _is_shared(self, method: Method) -> bool:
        return self.setup.equal_affine is not None and method.name == self.setup.equal_affine.name

    def _shared_files(self, case: Case) -> dict[str, str] | None:
        shared = self.setup.equal_affine
        if shared is None:
            return None
        found = self.results.get((case.name, shared.name)) or self.store.read(case.name, shared.name)
        folder = self.store.place(case.name, shared.name)
        itk, ras = folder / "affine.mat", folder / "affine_ras.txt"
        if found is None or found["status"] != "done" or not (itk.is_file() and ras.is_file()):
            return None
        return {"affine": str(itk), "affine_ras": str(ras)}

    def _key(self, case: Case, method: Method | None) -> str:
        content = case.to_dict()
        content["files"] = [self.store.digest(path) for path in case.files()]
        for name in ("fixed", "moving", "labels", "points", "fixed_mask", "moving_mask"):
            content[name] = _shape(content[name])
        how = {} if method is None else _identity(method) | {"repeats": self.setup.repeats}
        shared = self.setup.equal_affine
        if shared is not None and method is not None:
            how["equal_affine"] = None if self._is_shared(method) else _identity(shared)
            how["linear"] = self._is_shared(method)
        return key_of({"format": FORMAT, "case": content, "method": how, "measuring": self._measuring()})

    def _rows(self) -> list[Row]:
        rows: list[Row] = []
        for case in self.cases:
            for name in (UNREGISTERED, *(m.name for m in self.methods)):
                result = self.results.get((case.name, name))
                if result is None or (name == UNREGISTERED and not self.setup.before):
                    continue
                status = result["status"]
                found = result["rows"]
                told = any(row["kind"] == "run" for row in found)
                if name == UNREGISTERED and result["error"] and not told:
                    found = [*found, {"kind": "run", "error": result["error"]}]
                made = {} if name == UNREGISTERED else _made(result)
                for row in filter(self._counts, found):
                    more = made if row["kind"] == "run" else {}
                    rows.append({"case": case.name, "method": name, "status": status, **row, **more})
        return rows

    def _write(self) -> None:
        write_table(self.raw, self._rows())

    def _tally(self) -> Tally:
        asked = {key: r for key, r in self.results.items() if key[1] != UNREGISTERED}
        failures = tuple(
            (case, name, r["error"]) for (case, name), r in asked.items() if r["status"] != "done"
        )
        return Tally(
            rows=tuple(self._rows()),
            done=len(asked) - len(failures),
            failed=len(failures),
            kept=self.kept,
            failures=failures,
            raw=self.raw,
            origins=Counter(_origin(result) for result in asked.values()),
            warnings=self._warnings(),
        )

    def _warnings(self) -> tuple[str, ...]:
        changed = (
            f"{self.changed} kept results of Regista were made by other sources than the present ones, or by sources "
            "not recorded; --retry-changed (in Python retry_changed=) runs them anew"
        )
        bare = (
            f"{self.bare} kept results have no transforms in the folder, since an earlier run did not keep them; run their "
            "methods anew with --redo (in Python redo=)"
        )
        told = [changed] if self.changed else []
        return (*told, bare) if self.bare and self.setup.keep_transforms else tuple(told)


def _failure(key: str, error: str) -> dict[str, Any]:
    rows = [{"kind": "run", "error": error}]
    return {"key": key, "status": "failed", "error": error, "rows": rows, "tried": False}


def _made(result: Mapping[str, Any]) -> Row:
    """Return what a run's row says about where it was made."""
    made = result.get("machine", {})
    return {name: made.get(name, NOT_RECORDED) for name in ("processor", "sources")}


def _origin(result: Mapping[str, Any]) -> str:
    made = result.get("machine")
    return describe(made) if made else NOT_RECORDED


def _pair_exists(known: Mapping[str, Any]) -> bool:
    pair = known.get("pair")
    return pair is not None and all(Path(v).exists() for v in pair.values() if isinstance(v, str))


def _identity(method: Method) -> dict[str, Any]:
    return {
        "tool": method.tool,
        "settings": method.settings,
        "version": method.version,
        "masks": method.masks,
    }


def _shape(value: Any) -> Any:
    """Return a tree with names of files replaced by a mark: their content counts, not their place."""
    if isinstance(value, Mapping):
        return {name: _shape(part) for name, part in value.items()}
    return None if value is None else "file"


def _run_row(outcomes: Sequence[Outcome], method: Method, threads: int) -> Row:
    """Return the row of times and memory."""
    row: Row = {"kind": "run"}
    well = [o for o in outcomes if not o.error]
    for part in ("stage", "linear", "deformable"):
        values = [o.content["seconds"][part] for o in well if part in o.content.get("seconds", {})]
        if values:
            row[f"seconds_{part}"] = statistics.median(values)
        if part == "stage" and len(values) > 1:
            row |= {"seconds_stage_min": min(values), "seconds_stage_max": max(values)}
    timed = well or outcomes
    row["seconds_process"] = statistics.median(o.seconds for o in timed)
    row["peak_mb"] = max(o.peak_mb for o in timed)
    row |= {"version": method.version or "", "threads": threads, "repeats": len(outcomes)}
    row["warning"] = next((o.content["warning"] for o in well if o.content.get("warning")), "")
    return row


def _dice(rows: Sequence[Row]) -> str:
    labels = [
        row for row in rows if row.get("kind") == "labels"
    ]  # of the first set, as the first table has it
    values = [r["dice"] for r in labels if r["set"] == labels[0]["set"] and r["dice"] == r["dice"]]
    tre = [f"TRE {row['tre_mean']:.2f} {row['unit']}" for row in rows if row.get("kind") == "landmarks"]
    words = [f"Dice {statistics.fmean(values):.3f}"] if values else []
    return ", ".join(words + tre)


def _summary(rows: Sequence[Row]) -> str:
    run = rows[0]
    words = [f"{run.get('seconds_stage', run['seconds_process']):.1f} s", _dice(rows)]
    return ", ".join([word for word in words if word])
