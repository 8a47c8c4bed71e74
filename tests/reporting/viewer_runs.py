"""A run in a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from regista.core import Image
from regista.io import write, write_transform
from regista.registration import Result


def write_run(folder: Path, fixed: Image, moving: Image, result: Result) -> Path:
    """Write what ``regista register`` writes."""
    folder.mkdir(parents=True)
    write(folder / "fixed.nii.gz", fixed)
    write(folder / "moving.nii.gz", moving)
    write(folder / "warped.nii.gz", result.warped)
    write_transform(folder / "fixed2moving.h5", result.transform)
    write_transform(folder / "moving2fixed.h5", result.inverse)
    inputs = {role: {"path": str(folder / f"{role}.nii.gz"), "space": role} for role in ("fixed", "moving")}
    (folder / "record.json").write_text(replace(result.record, inputs=inputs).to_json(), encoding="utf-8")
    return folder
