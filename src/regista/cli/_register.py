"""``regista register``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regista.cli._chains import Convention, FillWord, parse_fill
from regista.cli._console import (
    Clock,
    Debug,
    Json,
    Quiet,
    Threads,
    complain,
    guarded,
    say,
    say_json,
)
from regista.cli._guides import (
    FixedLabels,
    FixedPoints,
    FixedSurface,
    GuideFiles,
    LabelsUsed,
    LabelsWeight,
    MovingLabels,
    MovingPoints,
    MovingSurface,
    PointsWeight,
    PointsWeightsColumn,
    SurfaceWeight,
)
from regista.cli._models import run_model, without_linear_stages
from regista.cli._options import NonFinite, ResultFolder, Seed
from regista.cli._plans import Override, check_plan_file
from regista.cli._stops import stops_deferred

if TYPE_CHECKING:
    from regista.core import Image, RunRecord
    from regista.registration import Plan, Result
    from regista.transforms import Transform

DEFAULT_PRESET = "brain-t1"
RESULTS = ("warped.nii.gz", "fixed2moving.h5", "moving2fixed.h5", "record.json")
"""What a registration leaves in its folder."""
REPORT = "report.html"
"""The quality page, unless it is not wanted."""
_NAMES = {"region": "penalty mask"}
"""What options are called that go by another name in Python."""


@guarded
def register(
    context: typer.Context,
    fixed: Annotated[
        Path,
        typer.Argument(
            metavar="FIXED", help="Image that stays where it is: a file, or a folder of DICOM slices."
        ),
    ],
    moving: Annotated[Path, typer.Argument(metavar="MOVING", help="Image to bring onto it.")],
    output: ResultFolder,
    preset: Annotated[
        str | None, typer.Option(help=f"Plan by name, see `regista presets` (default: {DEFAULT_PRESET}).")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="Plan file (.toml) instead of a preset.")] = None,
    overrides: Override = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Register by a trained network: a name (`regista models list`) or a model's folder."
        ),
    ] = None,
    refine: Annotated[
        str | None,
        typer.Option(
            help="With --model: plan of deformable stages that starts from its field ('deformable')."
        ),
    ] = None,
    passes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10,
            help="With --model: in how many passes its network answers at most; 1 takes its first answer whole (default: the model's own).",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="With --model: where its network runs, 'cpu', 'cuda', or 'auto' (the default)."),
    ] = None,
    fixed_mask: Annotated[
        Path | None, typer.Option(help="Voxels of the fixed image to compare, or weights 0 to 1.")
    ] = None,
    moving_mask: Annotated[
        Path | None, typer.Option(help="Voxels of the moving image to compare, or weights 0 to 1.")
    ] = None,
    fixed_channel: Annotated[
        list[Path] | None,
        typer.Option(help="Another contrast of FIXED, on its grid; repeat for more."),
    ] = None,
    moving_channel: Annotated[
        list[Path] | None,
        typer.Option(help="The like contrast of MOVING, on its grid; repeat, in the same order."),
    ] = None,
    penalty_mask: Annotated[
        Path | None, typer.Option(help="Where penalties such as local-rigidity hold, on the grid of FIXED.")
    ] = None,
    fixed_labels: FixedLabels = None,
    moving_labels: MovingLabels = None,
    guide_labels: LabelsUsed = None,
    labels_weight: LabelsWeight = None,
    fixed_points: FixedPoints = None,
    moving_points: MovingPoints = None,
    points_convention: Convention = None,
    points_weight: PointsWeight = None,
    points_weights_column: PointsWeightsColumn = None,
    fixed_surface_mask: FixedSurface = None,
    moving_surface_mask: MovingSurface = None,
    surface_weight: SurfaceWeight = None,
    initial: Annotated[
        list[Path] | None,
        typer.Option(help="Transform fixed → moving to start from; repeat for a chain, applied in order."),
    ] = None,
    non_finite: NonFinite = "error",
    fixed_series: Annotated[
        str | None, typer.Option(help="Which DICOM series, where FIXED is a folder of several.")
    ] = None,
    moving_series: Annotated[
        str | None, typer.Option(help="Which DICOM series, where MOVING is a folder of several.")
    ] = None,
    threads: Threads = None,
    seed: Seed = 0,
    fill: FillWord = "auto",
    dtype: Annotated[str, typer.Option(help="Voxel type of warped.nii.gz, or 'same' as MOVING.")] = "float32",
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")] = True,
    verdict: Annotated[
        bool, typer.Option("--verdict/--no-verdict", help="Judge the result; exit code 1 if it fails.")
    ] = True,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Align MOVING to FIXED.

    Writes warped.nii.gz (MOVING on the grid of FIXED), fixed2moving.h5 (the transform that resamples MOVING:
    maps points fixed → moving), moving2fixed.h5 (its inverse), report.html (the quality page) and record.json to the
    output folder. Exit code 1 when the verdict is that the registration failed.
    """
    clock = Clock()
    from regista.cli._outputs import FolderWriter, keep_inputs
    from regista.cli._quality import command_line, judged
    from regista.core import get_threads
    from regista.core import threads as use_threads

    files = {
        "fixed": fixed,
        "moving": moving,
        "fixed_mask": fixed_mask,
        "moving_mask": moving_mask,
        "region": penalty_mask,
    }
    for role, more in (("fixed", fixed_channel), ("moving", moving_channel)):
        files |= {f"{role}_channel_{n}": path for n, path in enumerate(more or [], 1)}
    guides = GuideFiles(
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        labels=guide_labels,
        labels_weight=labels_weight,
        fixed_points=fixed_points,
        moving_points=moving_points,
        points_convention=points_convention,
        points_weight=points_weight,
        points_weights_column=points_weights_column,
        fixed_surface=fixed_surface_mask,
        moving_surface=moving_surface_mask,
        surface_weight=surface_weight,
    )
    refine_file = Path(refine) if refine and refine.endswith(".toml") else None
    inputs = [*files.values(), *guides.files.values(), plan, refine_file, *(initial or [])]
    outputs = [output / name for name in (*RESULTS, *([REPORT] if report else []))]
    keep_inputs(outputs, inputs)
    with use_threads(threads), FolderWriter(output) as folder:
        voxels, outside = voxel_type(dtype), parse_fill(fill)
        chosen_series = {"fixed": fixed_series, "moving": moving_series}
        with _reading(files, chosen_series) as images:
            chosen = _chosen(
                preset, plan, overrides, model, refine, passes, device, outputs
            )  # while files are read
            clock.lap("load")
        _stack(images)
        if preset is None and plan is None and model is None and not quiet:
            _hint_2d(images["fixed"])
        start = _initial(initial or [], images["fixed"], images["moving"])
        told = guides.read(images["fixed"], images["moving"])
        clock.lap("read")
        if not (quiet or as_json):
            tell_compiling()
        options = {"seed": seed, "non_finite": non_finite, "fill": outside, "threads": get_threads()}
        options["guides"] = told
        show = not (quiet or as_json)
        if model is None:
            assert chosen is not None
            result = _run(images, chosen, start, options, show=show)
        else:
            result = run_model(
                images, model, chosen, start, outside, seed, device or "auto", passes,
                lambda stages, begin: _run(images, stages, begin, options, show=show),
            )  # fmt: skip
        clock.lap("register")
        paths = _write(folder, result, images["moving"], voxels)
        clock.lap("write")
        result = replace(
            result, record=_full_record(result.record, clock, files | guides.files, chosen_series)
        )
        result, page = judged(result, images, told, command_line(context), report=report, verdict=verdict)
        if page is not None:
            folder.text(REPORT, page)
            paths["report"] = folder.target / REPORT
        folder.text(RESULTS[-1], result.record.to_json() + "\n")
        paths["record"] = folder.commit(RESULTS[-1], [] if page else [Path(REPORT)])
    return _report(result.record, paths, quiet, as_json)


def _chosen(
    preset: str | None,
    plan: Path | None,
    overrides: list[str] | None,
    model: str | None,
    refine: str | None,
    passes: int | None,
    device: str | None,
    outputs: list[Path],
) -> Plan | None:
    """Return the plan that the options name: with --model that of --refine, or none."""
    from regista.core import PlanError

    if model is None:
        if refine is not None:
            raise PlanError("--refine goes with --model: it starts from the field of a network")
        if passes is not None:
            raise PlanError("--passes goes with --model: they are those of its network")
        if device is not None:
            raise PlanError(
                "--device goes with --model: plans run on the CPU; that of a trained metric is set in its plan "
                "(similarity = {deep = {model = NAME, device = 'cuda'}})"
            )
        return chosen_plan(preset or (None if plan else DEFAULT_PRESET), plan, overrides, outputs)
    if device not in (None, "auto", "cpu", "cuda"):
        raise PlanError(f"--device is 'auto', 'cpu' or 'cuda', got {device!r}")
    if preset is not None or plan is not None:
        raise PlanError(
            "--model takes the place of --preset and --plan; a plan to go on with is named by --refine"
        )
    if refine is None:
        if overrides:
            raise PlanError("--set changes a plan: with --model, name one by --refine")
        return None
    named = Path(refine) if refine.endswith(".toml") else None
    whole = chosen_plan(None if named else refine, named, overrides, outputs)
    return without_linear_stages(whole)


def chosen_plan(
    preset: str | None, plan: Path | None, overrides: list[str] | None, outputs: list[Path]
) -> Plan:
    """Return the plan that the options name, its files read; none of them may be among the outputs."""
    from regista.cli._outputs import keep_inputs
    from regista.cli._preprocess import files_of_steps
    from regista.core import PlanError
    from regista.io import read
    from regista.registration import load_plan

    if preset is not None and plan is not None:
        raise PlanError(
            "give --preset or --plan, not both; a plan file may begin as `regista presets show NAME`"
        )
    if plan is not None:
        check_plan_file(plan)
    loaded = load_plan(str(plan or preset), overrides or ())
    keep_inputs(outputs, files_of_steps(loaded.preprocessing))
    return replace(loaded, preprocessing=loaded.preprocessing.with_files(read))


def voxel_type(name: str) -> Any:
    """Return the type that --dtype names; None for 'same'."""
    import numpy as np

    from regista.core import PlanError

    allowed = ("same", "float32", "float64", "uint8", "int16", "uint16", "int32", "uint32", "int8")
    if name not in allowed:
        raise PlanError(f"--dtype is one of {', '.join(allowed)}, got {name!r}")
    return None if name == "same" else np.dtype(name)


@contextmanager
def _reading(
    paths: Mapping[str, Path | None], series: Mapping[str, str | None]
) -> Iterator[dict[str, Image | None]]:
    """Read the files on threads while the block runs; the dictionary is full when it ends."""
    from regista.cli._chains import tell_apart
    from regista.io import read

    images: dict[str, Image | None] = dict.fromkeys(paths)
    wanted = {role: path for role, path in paths.items() if path is not None}
    with stops_deferred(), ThreadPoolExecutor(2) as pool:
        futures = {role: pool.submit(read, path, series=series.get(role)) for role, path in wanted.items()}
        yield images
        images.update({role: future.result() for role, future in futures.items()})
    _refuse_series(images, wanted)
    tell_apart(images, wanted)


def _refuse_series(images: Mapping[str, Image | None], paths: Mapping[str, Path]) -> None:
    from regista.core import GeometryError

    for role, image in images.items():
        if image is not None and image.kind == "series":
            raise GeometryError(
                f"{_NAMES.get(role, role.replace('_', ' '))}: {paths[role]} is a series of {len(image.data)} frames, expected one image; "
                f"take a frame of it: `regista convert {paths[role].name} frame.nii.gz --frame 0`"
            )


def _stack(images: dict[str, Image | None]) -> None:
    """Join the further contrasts of each image to it, as channels."""
    from regista.core import GeometryError, stack_channels

    counts, joined = {}, False
    for role in ("fixed", "moving"):
        parts = [image for name, image in images.items() if image and name.startswith(f"{role}_channel_")]
        first = images[role]
        assert first is not None
        if parts:
            joined = True
            try:
                first = images[role] = stack_channels([first, *parts])
            except GeometryError as error:
                raise GeometryError(f"--{role}-channel: {error}") from None
        counts[role] = len(first.data) if first.kind == "channels" else 1
    few = min(counts, key=lambda role: counts[role])
    if joined and counts["fixed"] != counts["moving"] and counts[few] == 1:
        raise GeometryError(
            f"the fixed image has {counts['fixed']} and the moving image {counts['moving']} channels: give the {few} "
            f"image's like contrasts too, by --{few}-channel"
        )


def _hint_2d(fixed: Image | None) -> None:
    """Say which preset is made for pictures, where none was chosen."""
    if fixed is not None and fixed.ndim == 2:
        complain(
            f"Hint: the images are 2-D, and the default preset {DEFAULT_PRESET} is made for 3-D brains: try --preset 2d, or "
            "histology for stained sections"
        )


def _initial(paths: list[Path], fixed: Image | None, moving: Image | None) -> Transform | None:
    if not paths:
        return None
    from regista.cli._chains import check_direction
    from regista.core import FormatError
    from regista.io import read_transform
    from regista.transforms import Composite, with_spaces

    try:
        chain = [read_transform(p, fixed=fixed and fixed.grid, moving=moving and moving.grid) for p in paths]
    except FormatError as error:
        if "--format" not in str(error):
            raise
        raise FormatError(
            f"{error}. --initial takes files that tell their format: make one first, with `regista convert FILE "
            "start.h5 --from FORMAT`"
        ) from None
    joined = chain[0] if len(chain) == 1 else Composite(tuple(chain))
    assert fixed is not None
    assert moving is not None
    check_direction(joined, fixed.space, moving.space, "")
    return with_spaces(joined, fixed.space, moving.space)


def _run(
    images: dict[str, Image | None],
    plan: Plan,
    initial: Transform | None,
    options: dict[str, Any],
    *,
    show: bool,
) -> Result:
    from regista.cli._progress import progress_bar
    from regista.registration import register as run

    fixed, moving = images["fixed"], images["moving"]
    assert fixed is not None
    assert moving is not None
    options |= {role: images[role] for role in ("fixed_mask", "moving_mask", "region")}
    with stops_deferred(), progress_bar(show) as progress:
        return run(fixed, moving, plan, initial=initial, **options, progress=progress)


def _write(folder: Any, result: Result, moving: Image | None, dtype: Any) -> dict[str, Path]:
    from regista.cli._outputs import as_type

    assert moving is not None
    warped = as_type(result.warped, moving.data.dtype if dtype is None else dtype)
    folder.write_all(dict(zip(RESULTS, (warped, result.transform, result.inverse), strict=False)))
    return {name.split(".")[0]: folder.target / name for name in RESULTS[:-1]}


def _full_record(
    record: RunRecord, clock: Clock, files: Mapping[str, Path | None], series: Mapping[str, str | None]
) -> RunRecord:
    """Return the record completed by what the command knows."""
    from regista.cli._summary import completed

    inputs = {role: {**tree, "path": str(files.get(role))} for role, tree in record.inputs.items()}
    for role, tree in inputs.items():
        more = [str(path) for name, path in files.items() if name.startswith(f"{role}_channel_")]
        tree |= {"channel_paths": more} if more else {}
        inputs[role] = tree | ({"series": series[role]} if series.get(role) else {})
    return completed(record, inputs, clock)


def tell_compiling() -> None:
    """Say so when the kernels are not compiled yet."""
    from regista.kernels.cpu._jit import CACHE_DIR

    if next(CACHE_DIR.rglob("*.nbi"), None) is None:
        complain("Compiling kernels, once on this machine: a minute or two (`regista warmup` does it ahead).")


def _report(record: RunRecord, paths: dict[str, Path], quiet: bool, as_json: bool) -> int:
    from regista.cli._quality import exit_code
    from regista.cli._summary import as_tree, failures_of, summary_of

    tree = record.to_dict()
    if as_json:
        say_json(as_tree(record, paths, verdict=record.measures.get("verdict"), measures=record.measures))
    elif not quiet:
        for warning in record.warnings:
            complain(f"Warning: {warning}")
        for number, line in enumerate(summary_of(tree, reasons=False)):  # they come last
            say(f"  {line}" if number else line)
        for path in paths.values():
            say(f"  {path}")
    return exit_code(failures_of(tree), record.status)
