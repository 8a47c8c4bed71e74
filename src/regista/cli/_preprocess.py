"""``regista preprocess``, ``regista train-nyul`` and ``regista ablate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regista.cli._chains import IMAGE_SUFFIXES, Convention
from regista.cli._console import Debug, Json, Quiet, Threads, complain, guarded, say, say_json
from regista.cli._options import LabelsOfFixed, NonFinite, PointsOfFixed, PointsOfMoving
from regista.cli._stops import stops_deferred

if TYPE_CHECKING:
    from regista.preprocessing import Pipeline

StepsFile = Annotated[
    Path | None,
    typer.Option("--steps", help="Steps: a .toml file with a list, or the record of an earlier run."),
]
StepWords = Annotated[
    list[str] | None,
    typer.Option("--step", metavar="NAME[:KEY=VALUE,…]", help="One step; repeat, in order of application."),
]


@guarded
def preprocess(
    image: Annotated[
        Path | None, typer.Argument(metavar="IMAGE", help="Image, or a folder of DICOM slices.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Image to write; its record goes beside it, as NAME.preprocess.json."
        ),
    ] = None,
    steps: StepsFile = None,
    step: StepWords = None,
    mask: Annotated[Path | None, typer.Option(help="Foreground: statistics are taken there.")] = None,
    mask_out: Annotated[Path | None, typer.Option(help="Foreground after the steps, to write.")] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="IMAGE holds labels: geometric steps only.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the steps and their settings.")] = False,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prepare an image: orientation, spacing, cropping, bias field, noise, intensities.

    World coordinates never change, so a transform estimated on the result applies to IMAGE unchanged. Beside
    the output goes a .preprocess.json with every step, its parameters and what it measured.
    """
    if list_:
        _list(as_json)
        return
    from regista.cli._outputs import check_outputs, keep_inputs, write_together
    from regista.core import PlanError
    from regista.core import threads as use_threads
    from regista.io import read, read_labels

    if image is None or output is None:
        raise PlanError("give IMAGE and -o OUT (or --list to see the steps)")
    check_outputs([output, mask_out], [image, mask, steps], IMAGE_SUFFIXES)
    named = read_pipeline(steps, step)
    keep_inputs(
        [output, mask_out, sidecar_of(output, "preprocess")], [image, mask, steps, *files_of_steps(named)]
    )
    pipeline = named.with_files(read)
    with use_threads(threads):
        source = read_labels(image) if labels else read(image)
        done = pipeline.apply(source, None if mask is None else read(mask))
    files = {"image": str(image), "mask": None if mask is None else str(mask), "output": str(output)}
    record = {**done.record, "files": files}
    things: dict[Path, Any] = {
        output: done.image,
        sidecar_of(output, "preprocess"): json.dumps(record, indent=2, ensure_ascii=False) + "\n",
    }
    if mask_out is not None:
        if done.mask is None:
            raise PlanError("--mask-out needs a mask: give --mask, or --step foreground-mask")
        things[mask_out] = done.mask
    write_together(things)
    if as_json:
        say_json(record)
        return
    for entry in record["steps"]:
        say(f"{entry['step']}: {_short(entry['measured'])} ({entry['seconds']:.1f} s)", quiet=quiet)
    say(f"{output}: {done.image.grid.describe()}", quiet=quiet)


@guarded
def train_nyul(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Images of one contrast.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model to write (.json).")],
    mask: Annotated[
        list[Path] | None, typer.Option(help="Foreground of each image, in order; repeat.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn Nyúl's standard intensity scale from several images, for --step nyul:model=FILE."""
    from regista.cli._outputs import check_outputs
    from regista.io import read
    from regista.preprocessing import Nyul

    check_outputs([output], [*images, *(mask or [])], (".json",))
    masks = None if not mask else [read(path) for path in mask]
    model = Nyul.train([read(path) for path in images], masks)
    model.save(output)
    if as_json:
        say_json({"output": str(output), "percentiles": model.percentiles, "standard": model.standard})
    else:
        say(f"{output}: {len(model.standard)} landmarks from {len(images)} images", quiet=quiet)


@guarded
def ablate(
    fixed: Annotated[Path, typer.Argument(metavar="FIXED", help="Image that stays where it is.")],
    moving: Annotated[Path, typer.Argument(metavar="MOVING", help="Image to bring onto it.")],
    steps: StepsFile = None,
    step: StepWords = None,
    fixed_labels: LabelsOfFixed = None,
    moving_labels: Annotated[Path | None, typer.Option(help="Labels of the moving image.")] = None,
    fixed_points: PointsOfFixed = None,
    moving_points: PointsOfMoving = None,
    convention: Convention = None,
    design: Annotated[
        str, typer.Option(help="alone: each step by itself; leave-out: all but it; both.")
    ] = "both",
    preset: Annotated[str, typer.Option(help="Plan of the registration, by name or .toml file.")] = "fast",
    non_finite: NonFinite = "error",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Table to write (.csv).")] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Register a pair with and without each preprocessing step, and tabulate what it changes.

    A variant that fails is told in the column status, and the exit code is 1; the others are run all the same.
    """
    from regista.atlas import ablate as run
    from regista.cli._evaluate_parts import for_json, write_csv
    from regista.cli._outputs import check_outputs, keep_inputs
    from regista.cli._tables import print_table
    from regista.io import read, read_labels, read_points

    plan = Path(preset) if preset.endswith(".toml") else None
    inputs = [fixed, moving, steps, plan, fixed_labels, moving_labels, fixed_points, moving_points]
    check_outputs([output], inputs, (".csv",))
    named = read_pipeline(steps, step)
    keep_inputs([output], files_of_steps(named))
    pipeline = named.with_files(read)
    images = read(fixed), read(moving)
    labels = _pair(fixed_labels, moving_labels, "labels", read_labels)
    points = _pair(fixed_points, moving_points, "points", lambda p: read_points(p, convention=convention))  # type: ignore[arg-type]
    options: dict[str, Any] = {"design": design, "threads": threads, "non_finite": non_finite}

    def tell(name: str) -> None:
        if not (quiet or as_json):
            complain(f"registering: {name} …")

    with stops_deferred():
        rows = run(*images, pipeline, preset, labels=labels, points=points, tell=tell, **options)
    if output is not None:
        write_csv(output, rows)
    if as_json:
        say_json(for_json({"rows": rows, "preset": preset}))
    elif not quiet:
        print_table("", [key.replace("_", " ") for key in rows[0]], [list(row.values()) for row in rows])
    failed = [row for row in rows if row["status"].startswith("failed")]
    for row in failed:
        complain(f"{row['steps']} {row['status']}")
    return 1 if failed else 0


def read_pipeline(file: Path | None, words: Sequence[str] | None) -> Pipeline:
    """Return the steps of a file or of the command line."""
    from regista.core import PlanError
    from regista.preprocessing import Pipeline

    if file is not None and words:
        raise PlanError(f"the steps come from --steps {file} or from --step {words[0]}, not from both")
    if file is None and not words:
        raise PlanError(
            "give the steps: --steps FILE.toml, or --step NAME once or more (regista preprocess --list)"
        )
    pipeline = Pipeline.from_words(words or ()) if file is None else Pipeline.from_file(file)
    if not pipeline.steps:
        raise PlanError(f"{file} has no steps: it lists them as [[steps]], each with a step = NAME")
    return pipeline


def sidecar_of(output: Path, program: str) -> Path:
    """Return the name of the record beside an image; NAME.json is what converters of DICOM call theirs."""
    from regista.io import stem_of

    return output.with_name(f"{stem_of(output)}.{program}.json")


def files_of_steps(pipeline: Pipeline) -> list[Path]:
    """Return the files that steps name, such as the model of nyul; asked before `with_files` reads them."""
    values = (value for step in pipeline.to_dict()["steps"] for value in step.values())
    return [Path(value) for value in values if isinstance(value, str) and Path(value).is_file()]


def _list(as_json: bool) -> None:
    from regista.preprocessing import list_steps

    found = list_steps()
    if as_json:
        say_json({name: {"help": text, "settings": settings} for name, (text, settings) in found.items()})
        return
    width = max(map(len, found))
    for name, (text, settings) in found.items():
        say(f"{name:<{width}}  {text}")
        if settings:
            say(" " * (width + 2) + ", ".join(f"{key}={_value(value)}" for key, value in settings.items()))


def _pair(one: Path | None, other: Path | None, what: str, read: Any) -> Any:
    from regista.core import PlanError

    if (one is None) != (other is None):
        raise PlanError(f"give both --fixed-{what} and --moving-{what}, or neither")
    return None if one is None else (read(one), read(other))


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | list) else str(value)


def _short(measured: dict[str, Any]) -> str:
    def text(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{k} {text(v)}" for k, v in measured.items() if not isinstance(v, list | dict))
