"""``regista motion``."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regista.cli._chains import FillWord, parse_fill
from regista.cli._console import Clock, Debug, Json, Quiet, Threads, complain, guarded, say, say_json
from regista.cli._options import NonFinite, ResultFolder, Seed
from regista.cli._plans import Override
from regista.cli._register import chosen_plan, tell_compiling, voxel_type
from regista.cli._stops import stops_deferred

if TYPE_CHECKING:
    from regista.core import Image, RunRecord
    from regista.registration import MotionResult

DEFAULT_PRESET = "motion"
RESULTS = ("corrected.nii.gz", "reference.nii.gz", "motion.csv", "motion.png", "record.json")
"""What a correction leaves in its folder, besides `TRANSFORMS`."""
TRANSFORMS = "transforms"


@guarded
def motion(
    series: Annotated[
        Path, typer.Argument(metavar="SERIES", help="Series in time: 4-D, or slices one after another.")
    ],
    output: ResultFolder,
    preset: Annotated[
        str | None, typer.Option(help=f"Plan by name, see `regista presets` (default: {DEFAULT_PRESET}).")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="Plan file (.toml) instead of a preset.")] = None,
    overrides: Override = None,
    reference: Annotated[
        str,
        typer.Option(
            metavar="mean|median|first|N", help="What the volumes are registered to; N counts from 0."
        ),
    ] = "mean",
    passes: Annotated[
        int, typer.Option(min=1, help="For mean and median: how often all volumes are registered.")
    ] = 2,
    mask: Annotated[
        Path | None, typer.Option(help="Voxels to compare and to measure, on the grid of SERIES.")
    ] = None,
    non_finite: NonFinite = "error",
    threads: Threads = None,
    seed: Seed = 0,
    fill: FillWord = "auto",
    dtype: Annotated[
        str, typer.Option(help="Voxel type of corrected.nii.gz, or 'same' as SERIES.")
    ] = "float32",
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Correct the motion between the volumes of SERIES.

    Writes corrected.nii.gz, reference.nii.gz, transforms/vol0000.mat … (maps points reference → volume), motion.csv
    and motion.png (parameters, framewise displacement) and record.json to the output folder.
    """
    clock = Clock()
    from regista.cli._outputs import FolderWriter, keep_inputs
    from regista.core import FormatError, get_threads
    from regista.core import threads as use_threads

    if (output / TRANSFORMS).exists() and not (output / TRANSFORMS).is_dir():
        raise FormatError(f"{output / TRANSFORMS} is a file where a folder is to be made: choose another -o")
    outputs = [*(output / name for name in RESULTS), *earlier_transforms(output)]
    keep_inputs(outputs, [series, mask, plan])
    with use_threads(threads), FolderWriter(output) as folder:
        voxels, outside, asked = voxel_type(dtype), parse_fill(fill), _reference(reference)
        chosen = chosen_plan(preset or (None if plan else DEFAULT_PRESET), plan, overrides, outputs)
        clock.lap("load")
        image, inside = _read(series, mask)
        clock.lap("read")
        show = not (quiet or as_json)
        if show:
            tell_compiling()
        options = {"reference": asked, "passes": passes, "mask": inside, "seed": seed, "fill": outside}
        result = _run(
            image, chosen, {**options, "non_finite": non_finite, "threads": get_threads()}, show=show
        )
        clock.lap("register")
        stale = [path.relative_to(output) for path in earlier_transforms(output)]
        paths = _write(folder, result, image, voxels)
        clock.lap("write")
        result = replace(result, record=_full_record(result.record, clock, series, mask))
        folder.text("record.json", result.record.to_json() + "\n")
        paths["record"] = folder.commit("record.json", stale)
    return _report(result, paths, quiet, as_json)


def earlier_transforms(output: Path, prefix: str = "vol") -> list[Path]:
    """Return the transforms that an earlier run left: a shorter series must not leave some of them standing."""
    files = (output / TRANSFORMS).glob(f"{prefix}*")
    return sorted(
        path for path in files if path.stem[len(prefix) :].isdigit() and path.suffix in (".mat", ".h5")
    )


def _reference(word: str) -> Any:
    from regista.core import PlanError

    if word in ("mean", "median", "first"):
        return word
    if word.isdecimal():
        return int(word)
    raise PlanError(f"--reference is mean, median, first or the number of a volume, got {word!r}")


def _read(series: Path, mask: Path | None) -> tuple[Image, Image | None]:
    from regista.core import GeometryError
    from regista.io import read

    with stops_deferred():
        image = read(series)
        inside = None if mask is None else read(mask)
    if image.kind != "series":
        raise GeometryError(
            f"{series} is one {image.ndim}-D {image.kind} image, expected a series of volumes in time; two images are "
            "aligned by `regista register`"
        )
    return image, inside


def _run(series: Image, plan: Any, options: dict[str, Any], *, show: bool) -> MotionResult:
    from regista.cli._progress import progress_bar
    from regista.registration import correct_motion

    with stops_deferred(), progress_bar(show) as progress:
        return correct_motion(series, plan, **options, progress=progress)


def _write(folder: Any, result: MotionResult, series: Image, dtype: Any) -> dict[str, Path]:
    from regista.cli import _motion_picture
    from regista.cli._outputs import as_type
    from regista.transforms import with_spaces

    corrected = as_type(result.corrected, series.data.dtype if dtype is None else dtype)
    things: dict[str, Any] = {"corrected.nii.gz": corrected, "reference.nii.gz": result.reference}
    for number, transform in enumerate(result.transforms):
        named = with_spaces(transform, "reference", series.space)
        things[f"{TRANSFORMS}/vol{number:04d}{suffix_for(transform)}"] = named
    folder.write_all(things)
    statuses = [str(entry["status"]) for entry in result.record.measures["volumes"]]
    folder.text("motion.csv", csv_of(result.table, statuses))
    names = ["corrected.nii.gz", "reference.nii.gz", TRANSFORMS, "motion.csv"]
    if _motion_picture.available():
        _motion_picture.draw(result.table, folder.hidden / "motion.png")
        names.append("motion.png")
    return {name.split(".")[0] if name != "motion.png" else "picture": folder.target / name for name in names}


def suffix_for(transform: Any) -> str:
    """Return the extension a transform is written with: that of a matrix, or of a chain."""
    from regista.transforms import Affine

    return ".mat" if isinstance(transform, Affine) else ".h5"


def csv_of(table: Mapping[str, Any], statuses: Sequence[str]) -> str:
    """Return columns of numbers, and a last one of statuses, as the text of a CSV file."""
    import csv

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*table, "status"])
    for row, status in zip(zip(*table.values(), strict=True), statuses, strict=True):
        writer.writerow([*(f"{value:.6g}" for value in row), status])
    return text.getvalue()


def _full_record(record: RunRecord, clock: Clock, series: Path, mask: Path | None) -> RunRecord:
    """Return the record completed by what the command knows."""
    from regista.cli._summary import completed

    files = {"series": series, "mask": mask}
    inputs = {role: {**tree, "path": str(files[role])} for role, tree in record.inputs.items()}
    return completed(record, inputs, clock)


def _report(result: MotionResult, paths: dict[str, Path], quiet: bool, as_json: bool) -> int:
    from regista.cli._summary import as_tree

    record = result.record
    failed = record.measures["failed"]
    figures = {
        "volumes": len(result.transforms),
        "framewise_mm_mean": float(result.framewise_mm[1:].mean()),
        "framewise_mm_max": float(result.framewise_mm.max()),
        "displacement_mm_mean": float(result.mean_mm.mean()),
        "displacement_mm_max": float(result.max_mm.max()),
    }
    if as_json:
        say_json(as_tree(record, paths, **figures, failed=failed))
    elif not quiet:
        for warning in record.warnings:
            complain(f"Warning: {warning}")
        say(f"{figures['volumes']} volumes corrected in {record.timings['total']:.1f} s")
        say(
            f"  framewise displacement {figures['framewise_mm_mean']:.3f} mm on average, at most "
            f"{figures['framewise_mm_max']:.3f} mm; voxels moved by up to {figures['displacement_mm_max']:.3f} mm"
        )
        for path in paths.values():
            say(f"  {path}")
    if record.status.ok:
        return 0
    named = ", ".join(map(str, failed[:10])) + (", …" if len(failed) > 10 else "")
    complain(
        f"Error: the registration of {len(failed)} of {figures['volumes']} volumes failed its checks ({named}: "
        f"{record.status}); the results are written for inspection, do not use them. Look at these volumes, try "
        "another plan or a mask"
    )
    return 1
