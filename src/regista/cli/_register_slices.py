"""``regista register-slices``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regista.cli._chains import FillWord, parse_fill
from regista.cli._console import Clock, Debug, Json, Quiet, Threads, complain, guarded, say, say_json
from regista.cli._motion import TRANSFORMS, csv_of, earlier_transforms, suffix_for
from regista.cli._options import NonFinite, ResultFolder, Seed
from regista.cli._plans import Override
from regista.cli._register import chosen_plan, tell_compiling, voxel_type
from regista.cli._stops import stops_deferred

if TYPE_CHECKING:
    from regista.core import Image, RunRecord
    from regista.registration import SlicesResult

DEFAULT_PRESET = "2d"
RESULTS = ("warped.nii.gz", "slices.csv", "record.json")
"""What a run leaves in its folder, besides `TRANSFORMS`."""
PREFIX = "slice"


@guarded
def register_slices(
    fixed: Annotated[Path, typer.Argument(help="Stack of slices: 3-D, or a series of 2-D images.")],
    moving: Annotated[
        Path, typer.Argument(help="Stack of as many; slice N is brought onto slice N of FIXED.")
    ],
    output: ResultFolder,
    preset: Annotated[
        str | None, typer.Option(help=f"Plan by name, see `regista presets` (default: {DEFAULT_PRESET}).")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="Plan file (.toml) instead of a preset.")] = None,
    overrides: Override = None,
    axis: Annotated[
        int | None,
        typer.Option(min=0, max=2, help="Array axis across the slices of 3-D stacks (default: 2, the last)."),
    ] = None,
    fixed_mask: Annotated[Path | None, typer.Option(help="Pixels to compare, on the grid of FIXED.")] = None,
    moving_mask: Annotated[
        Path | None, typer.Option(help="Pixels to compare, on the grid of MOVING.")
    ] = None,
    non_finite: NonFinite = "error",
    threads: Threads = None,
    seed: Seed = 0,
    fill: FillWord = "auto",
    dtype: Annotated[str, typer.Option(help="Voxel type of warped.nii.gz, or 'same' as MOVING.")] = "float32",
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Register every slice of MOVING to the slice of FIXED of the same number, on its own.

    Writes warped.nii.gz (MOVING on the grid of FIXED), transforms/slice0000.mat … (2-D maps of points fixed → moving),
    slices.csv (measures of each slice) and record.json to the output folder.
    """
    clock = Clock()
    from regista.cli._outputs import FolderWriter, keep_inputs
    from regista.core import FormatError, get_threads
    from regista.core import threads as use_threads

    if (output / TRANSFORMS).exists() and not (output / TRANSFORMS).is_dir():
        raise FormatError(f"{output / TRANSFORMS} is a file where a folder is to be made: choose another -o")
    files = {"fixed": fixed, "moving": moving, "fixed_mask": fixed_mask, "moving_mask": moving_mask}
    outputs = [*(output / name for name in RESULTS), *earlier_transforms(output, PREFIX)]
    keep_inputs(outputs, [*files.values(), plan])
    with use_threads(threads), FolderWriter(output) as folder:
        voxels, outside = voxel_type(dtype), parse_fill(fill)
        chosen = chosen_plan(preset or (None if plan else DEFAULT_PRESET), plan, overrides, outputs)
        clock.lap("load")
        images = _read(files)
        clock.lap("read")
        show = not (quiet or as_json)
        if show:
            tell_compiling()
        options = {"axis": axis, "seed": seed, "fill": outside, "non_finite": non_finite}
        result = _run(images, chosen, {**options, "threads": get_threads()}, show=show)
        clock.lap("register")
        stale = [path.relative_to(output) for path in earlier_transforms(output, PREFIX)]
        paths = _write(folder, result, images["moving"], voxels)
        clock.lap("write")
        result = replace(result, record=_full_record(result.record, clock, files))
        folder.text("record.json", result.record.to_json() + "\n")
        paths["record"] = folder.commit("record.json", stale)
    return _report(result, paths, quiet, as_json)


def _read(files: dict[str, Path | None]) -> dict[str, Image | None]:
    from regista.cli._chains import tell_apart
    from regista.io import read

    with stops_deferred():
        images = {role: None if path is None else read(path) for role, path in files.items()}
    tell_apart(images, files)
    return images


def _run(images: dict[str, Image | None], plan: Any, options: dict[str, Any], *, show: bool) -> SlicesResult:
    from regista.cli._progress import progress_bar
    from regista.registration import register_slices as run

    fixed, moving = images["fixed"], images["moving"]
    assert fixed is not None
    assert moving is not None
    options |= {role: images[role] for role in ("fixed_mask", "moving_mask")}
    with stops_deferred(), progress_bar(show) as progress:
        return run(fixed, moving, plan, **options, progress=progress)


def _write(folder: Any, result: SlicesResult, moving: Image | None, dtype: Any) -> dict[str, Path]:
    from regista.cli._outputs import as_type

    assert moving is not None
    things: dict[str, Any] = {
        RESULTS[0]: as_type(result.warped, moving.data.dtype if dtype is None else dtype)
    }
    for number, transform in enumerate(result.transforms):
        things[f"{TRANSFORMS}/{PREFIX}{number:04d}{suffix_for(transform)}"] = transform
    folder.write_all(things)
    folder.text(RESULTS[1], csv_of(result.table, _statuses(result)))
    return {name.split(".")[0]: folder.target / name for name in (RESULTS[0], TRANSFORMS, RESULTS[1])}


def _statuses(result: SlicesResult) -> list[str]:
    entries = result.record.measures["slices"]
    return ["constant" if entry.get("constant") else str(entry["status"]) for entry in entries]


def _full_record(record: RunRecord, clock: Clock, files: dict[str, Path | None]) -> RunRecord:
    """Return the record completed by what the command knows."""
    from regista.cli._summary import completed

    inputs = {role: {**tree, "path": str(files[role])} for role, tree in record.inputs.items()}
    return completed(record, inputs, clock)


def _report(result: SlicesResult, paths: dict[str, Path], quiet: bool, as_json: bool) -> int:
    import numpy as np

    from regista.cli._evaluate_parts import for_json
    from regista.cli._summary import as_tree

    record, measures = result.record, result.measures
    failed, constant = record.measures["failed"], record.measures["constant"]
    entries = record.measures["slices"]
    errors = {number: entry["error"] for number, entry in enumerate(entries) if "error" in entry}
    used = [n for n in range(len(entries)) if n not in constant and n not in errors]
    before, after = (float(np.nanmean(measures[f"ncc_{when}"][used])) for when in ("before", "after"))
    figures = {
        "slices": len(result.transforms),
        "ncc_before_mean": before,
        "ncc_after_mean": after,
        "displacement_mm_mean": float(measures["mean_mm"][used].mean()),
        "displacement_mm_max": float(measures["max_mm"][used].max()),
        "folded_percent_max": float(measures["folded_percent"].max()),
    }
    if as_json:
        say_json(as_tree(record, paths, **for_json(figures), failed=failed, constant=constant, errors=errors))
    elif not quiet:
        for warning in record.warnings:
            complain(f"Warning: {warning}")
        say(f"{len(used)} slices registered in {record.timings['total']:.1f} s")
        say(f"  correlation {before:.4f} → {after:.4f} on average, higher is better")
        say(f"  pixels moved by up to {figures['displacement_mm_max']:.3f} mm")
        for path in paths.values():
            say(f"  {path}")
    if record.status.ok:
        return 0
    for number, reason in list(errors.items())[:_TOLD]:
        complain(f"Error: slice {number} could not be registered and was left in place: {reason}")
    by_status: dict[str, list[int]] = {}
    for number in failed:
        by_status.setdefault(str(entries[number]["status"]), []).append(number)
    named = "; ".join(f"{_numbers(numbers)}: {status}" for status, numbers in by_status.items())
    complain(
        f"Error: the registration of {len(failed)} of {figures['slices']} slices failed its checks ({named}); the results "
        "are written for inspection, do not use those of the slices named. Look at these slices, try another plan or masks"
    )
    return 1


_TOLD = 10
"""Slices that a message names."""


def _numbers(slices: list[int]) -> str:
    return ", ".join(map(str, slices[:_TOLD])) + (", …" if len(slices) > _TOLD else "")
