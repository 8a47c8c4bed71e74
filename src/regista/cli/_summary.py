"""What a record says, in plain words: after ``regista register``, and again by ``regista info``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regista.cli._console import Clock
    from regista.core import RunRecord

USABLE = ("converged", "step limit")
_DIFFERENCES = {"ssd", "mind", "ngf", "cr"}
"""Metrics that are told as they are, lower being better; the others are told with their sign turned."""
_WHY = {
    "converged": "every level converged",
    "non-finite": "the metric became NaN or Inf",
    "diverged": "the metric ended worse than it began",
    "cancelled": "it was stopped",
}


def summary_of(record: Mapping[str, Any], *, reasons: bool = True) -> list[str]:
    """Return the lines that tell how a registration went.

    Parameters
    ----------
    record : mapping
        `RunRecord.to_dict()`, or what ``record.json`` holds.
    reasons : bool
        Whether to say why it failed, where it did.

    Returns
    -------
    list of str
        How it ended and how long it took; what the status means; the similarity before and after.
    """
    failed = record["measures"].get("verdict", {}).get("outcome") == "fail"
    done = "registered" if record["status"] in USABLE and not failed else "FAILED its checks"
    folded = record["measures"].get("folded_percent")
    text = "" if folded is None else f", {folded:.4f} % of voxels folded"
    inverse = record["measures"].get("inverse_folded_percent")
    text += f" (of the inverse {inverse:.4f} %)" if inverse else ""
    lines = [
        f"{done} in {record['timings'].get('total', record['timings']['registration']):.1f} s{text}, "
        f"{record['peak_memory_bytes'] / 1e9:.2f} GB at most",
        f"status {record['status']}" + (f": {why(record)}" if reasons or record["status"] in USABLE else ""),
    ]
    what = [*_channels(record), *_stretch(record), *_course(record)]
    return [*lines, *what, *_verdict(record, reasons or not failed)]


def failures_of(record: Mapping[str, Any]) -> list[str] | None:
    """Return why a registration failed: in the words of the verdict, which knows the status, or of that alone.

    None if it did not.
    """
    found = record["measures"].get("verdict", {})
    if found.get("outcome") == "fail":
        return list(found["reasons"])
    return None if record["status"] in USABLE else [why(record)]


def completed(record: RunRecord, inputs: Mapping[str, Any], clock: Clock) -> RunRecord:
    """Return a record with the command's own times, its files, and the memory it took as a whole.

    Parameters
    ----------
    record : RunRecord
        What the library returned.
    inputs : mapping
        Its inputs, with the files they came from.
    clock : Clock
        With laps 'load', 'read' and 'write'.
    """
    from dataclasses import replace

    from regista.core import peak_memory_bytes

    laps = clock.laps
    timings = {"load": laps["load"], "read": laps["read"], **record.timings, "write": laps["write"]}
    timings["total"] = clock.total()
    return replace(record, inputs=dict(inputs), timings=timings, peak_memory_bytes=peak_memory_bytes())


def as_tree(record: RunRecord, paths: Mapping[str, Path], **more: Any) -> dict[str, Any]:
    """Return what a command says of a run under --json; `more` comes after the outputs."""
    return {
        "status": str(record.status),
        "ok": record.status.ok,
        "outputs": {name: str(path) for name, path in paths.items()},
        **more,
        "timings": record.timings,
        "warnings": list(record.warnings),
        "peak_memory_bytes": record.peak_memory_bytes,
        "threads": record.threads,
        "seed": record.seed,
    }


def why(record: Mapping[str, Any]) -> str:
    """Return the reason of a record's status."""
    status = str(record["status"])
    if status == "folded":
        return f"{record['measures'].get('folded_percent', 0.0):.2g} % of the voxels are folded"
    if status == "step limit":
        last = record["history"] and record["history"][-1]["status"] == status
        which = "the last level" if last else "a level before the last"
        return f"{which} used all its steps, which is normal for the presets"
    return _WHY.get(status, status)


def _verdict(record: Mapping[str, Any], reasons: bool) -> list[str]:
    found = record["measures"].get("verdict")
    if found is None:
        return []
    told = "; ".join(found["reasons"]) if reasons else ""
    return [f"verdict {found['outcome']}" + (f": {told}" if told else "")]


def _channels(record: Mapping[str, Any]) -> list[str]:
    """Return a line on what was compared, where an image has several channels."""
    told = record["measures"].get("channels")
    if told is None:
        return []
    compared, count = told["compared"], min(told["fixed"], told["moving"])
    if compared == "average":
        role = "fixed" if told["fixed"] > 1 else "moving"
        return [f"the {told[role]} channels of the {role} image averaged, to compare with one"]
    if told["fixed"] == told["moving"] == len(compared):
        return [f"{count} channels, each compared with its like"]
    return [
        f"{'channel' if len(compared) == 1 else 'channels'} {', '.join(map(str, compared))} compared, from 0"
    ]


def _stretch(record: Mapping[str, Any]) -> list[str]:
    """Return a line where a linear map was taken for rigid."""
    told = record["measures"].get("stretch", {})
    if not told.get("left_out"):
        return []
    return [f"the linear map is taken for rigid: it would stretch by {told['percent']:.2g} % at most"]


def plans_of(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the plans before a network and after it; of a run without a network the second is its plan."""
    measures, plan = record["measures"], record["plan"]
    if "model" in measures and not measures.get("refined"):
        return plan, {}
    return measures.get("linear_plan", {}), plan


def _course(record: Mapping[str, Any]) -> list[str]:
    """Return what the stages reached, and which network was between them."""
    model = record["measures"].get("model")
    before, after = (_similarity(record, plan) for plan in plans_of(record))
    if model is None:
        return after
    sha = model.get("weights_sha256")
    purpose = f"for {model['purpose']}; " if model.get("purpose") else ""
    network = f"network {model['name']} ({purpose}{model['network']}" + (
        f", weights {sha[:12]})" if sha else ")"
    )
    bending = _of_the_bending(record)
    if "likeness_after" in model:
        network += f": {_of_the_passes(model)}"
    elif not after:
        network += f": {bending}" if bending else ""
    return [
        *(f"before the network: {line}" for line in before),
        network,
        *(f"after it: {line}" for line in after),
        *([f"network and refinement: {bending}"] if after and bending else []),
    ]


def _of_the_passes(model: Mapping[str, Any]) -> str:
    """Return how far a network was followed, and how alike the images became on its grid."""
    from regista.reporting import MEASURES

    followed, most = model["passes_followed"], model["passes"]
    if not followed:
        return f"not followed (in {most} passes at most)"
    told = (
        f"{word} {model['likeness_before'][name]:.2f} → {model['likeness_after'][name]:.2f}"
        for name, word in MEASURES.items()
    )
    return f"followed for {followed:g} of {most} passes, {', '.join(told)}"


def _of_the_bending(record: Mapping[str, Any]) -> str:
    """Return how alike the images are without and with the part of the map that bends, where the verdict measured it."""
    from regista.reporting import MEASURES

    features = (record["measures"].get("verdict") or {}).get("features", {})
    if not all(key in features for name in MEASURES for key in (name, f"{name}_straight")):
        return ""
    told = (
        f"{word} {features[f'{name}_straight']:.2f} → {features[name]:.2f}" for name, word in MEASURES.items()
    )
    return f"without and with what bends, {', '.join(told)}"


def _similarity(record: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """Return a line on the finest level of a plan's last stage: values of other levels, or stages, do not compare."""
    stages = {stage["model"]: stage for stage in plan.get("stages", ())}
    levels = [level for level in record["history"] if level["values"] and level["stage"] in stages]
    if not levels:
        return []
    level = levels[-1]
    stage = stages[level["stage"]]
    names = _metrics(stage["similarity"])
    sign, what = (1, "difference") if set(names) <= _DIFFERENCES else (-1, "similarity")
    if record["measures"].get("guides"):
        sign, what, names = 1, "cost", [*names, "guides"]
    first, last = (sign * level["values"][n] + 0.0 for n in (0, -1))
    text = f"{what} ({' + '.join(names).upper()}) {first:.4f} → {last:.4f}, {'lower' if sign > 0 else 'higher'} is better"
    way = (
        " (one way round)"
        if plan.get("halfway") and level["stage"] in ("rigid", "similarity", "affine")
        else ""
    )
    return [f"{level['stage']}{way}, finest level: {text}"]


def _metrics(similarity: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of a stage's metrics: of all terms of a sum."""
    terms = [similarity] if isinstance(similarity, Mapping) else similarity
    return [name for term in terms for name in term if name not in ("weight", "channel")]
