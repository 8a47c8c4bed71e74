"""What a run of many registrations keeps of each, and says of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from regista.core import Image, RunRecord, Status, hash_array


def gist(record: RunRecord) -> dict[str, Any]:
    """Return what is kept of the record of one registration."""
    last = record.history[-1]
    kept: dict[str, Any] = {
        "status": record.status,
        "steps": sum(len(level.values) - 1 for level in record.history),
        "value": float(last.values[-1]),
    }
    names = ("folded_percent", "smallest_jacobian")
    return kept | {name: record.measures[name] for name in names if name in record.measures}


def status_of(entries: Sequence[Mapping[str, Any]]) -> Status:
    """Return the status of a whole: that of the first which failed, else whether all converged."""
    found = [Status(entry["status"]) for entry in entries]
    worst = next((status for status in found if not status.ok), None)
    if worst is not None:
        return worst
    return Status.CONVERGED if set(found) <= {Status.CONVERGED} else Status.STEP_LIMIT


def failed(entries: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the numbers of those that failed."""
    return [number for number, entry in enumerate(entries) if not Status(entry["status"]).ok]


def described(images: Mapping[str, Image | None]) -> dict[str, Any]:
    """Return what the inputs are, for the record."""
    return {
        role: {"space": image.space, "grid": image.grid.describe(), "sha256": hash_array(image.data)}
        for role, image in images.items()
        if image is not None
    }
