"""``regista evaluate`` and its ``compare`` and ``learn2reg``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from regista.cli._chains import Convention, Format, IgnoreSpaces
from regista.cli._console import Clock, Debug, Json, Quiet, Threads, complain, guarded, say, say_json
from regista.cli._options import Alpha, LabelsOfFixed, PointsOfFixed, PointsOfMoving, StarTest
from regista.cli._register import tell_compiling

evaluate = typer.Typer(
    help="Measure a registration: labels, landmarks, transforms, images; compare methods.",
    invoke_without_command=True,
    no_args_is_help=True,
)

Many = list[Path] | None
Words = list[str] | None
TABLE_HELP = "CSV to write: one row for each label, group, landmark set, transform, image pair."


@evaluate.callback()
@guarded
def measure(
    context: typer.Context,
    fixed_labels: LabelsOfFixed = None,
    warped_labels: Annotated[
        Path | None, typer.Option(help="Moving labels already on the fixed grid.")
    ] = None,
    moving_labels: Annotated[
        Path | None, typer.Option(help="Moving labels, to be carried through --transform.")
    ] = None,
    names: Annotated[Path | None, typer.Option(help="Table of label numbers and names.")] = None,
    groups: Annotated[
        Path | None, typer.Option(help="Groups of labels: CSV with a column 'group', or JSON.")
    ] = None,
    group: Annotated[Words, typer.Option(metavar="NAME=LABELS", help="One group, e.g. GM=2,5-9.")] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="LABELS", help="Only these, e.g. 1,2,5-9 (default: all).")
    ] = None,
    surface: Annotated[
        str, typer.Option(help="Surface distances: voxels (border voxels), surfels (area-weighted), none.")
    ] = "voxels",
    fixed_points: PointsOfFixed = None,
    moving_points: PointsOfMoving = None,
    convention: Convention = None,
    unit: Annotated[str, typer.Option(help="Landmark errors in mm, or px of the moving image.")] = "mm",
    transform: Annotated[
        Many,
        typer.Option("--transform", "-t", help="Fixed to moving; repeat in the order of application."),
    ] = None,
    inverse: Annotated[
        Many, typer.Option(help="Moving to fixed, for the inverse-consistency error; may be repeated.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Measure transform and images where this is not 0 (fixed grid).")
    ] = None,
    fixed: Annotated[Path | None, typer.Option("--fixed", "--like", help="Fixed image.")] = None,
    warped: Annotated[Path | None, typer.Option(help="Moving image already on the fixed grid.")] = None,
    moving: Annotated[
        Path | None, typer.Option(help="Moving image, to be carried through --transform.")
    ] = None,
    before: Annotated[
        bool, typer.Option("--before/--no-before", help="Measure also without the transforms.")
    ] = True,
    tag: Annotated[
        Words, typer.Option(metavar="COLUMN=VALUE", help="Column to add, e.g. method=SyN, case=07.")
    ] = None,
    format: Format = None,
    ignore_spaces: IgnoreSpaces = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help=TABLE_HELP)] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a registration; any combination of labels, landmarks, transform and images.

    Labels: --fixed-labels with --warped-labels, or with --moving-labels and --transform. Landmarks:
    --fixed-points and --moving-points. Transform: --transform. Images: --fixed with --warped or --moving.
    """
    if context.invoked_subcommand is not None:
        return
    from regista.cli import _evaluate_parts as parts
    from regista.cli import _tables as tables
    from regista.cli._outputs import check_outputs
    from regista.core import threads as use_threads

    clock = Clock()
    columns = dict(parts.split_pair(text, "--tag") for text in tag or ())
    request = parts.Request(
        fixed_labels=fixed_labels,
        warped_labels=warped_labels,
        moving_labels=moving_labels,
        names=names,
        groups=groups,
        group=tuple(group or ()),
        labels=labels,
        surface=surface,
        fixed_points=fixed_points,
        moving_points=moving_points,
        convention=convention,
        unit=unit,
        transform=tuple(transform or ()),
        inverse=tuple(inverse or ()),
        mask=mask,
        fixed=fixed,
        warped=warped,
        moving=moving,
        before=before,
        format=format,
        ignore_spaces=ignore_spaces,
    )
    check_outputs([output], request.files, (".csv",))
    if not (quiet or as_json):
        tell_compiling()
    with use_threads(threads):
        found = parts.measure(request)
    if output is not None:
        parts.check_tags(columns, found.rows)
        parts.write_csv(output, [{**columns, **row} for row in found.rows])
    for warning in [] if quiet else found.warnings:
        complain(f"Warning: {warning}")
    if as_json:
        tree = {**columns, **found.tree, "warnings": found.warnings, "seconds": clock.total()}
        say_json(parts.for_json(tree | ({"output": str(output)} if output else {})))
    elif not quiet:
        tables.show(found)
        if output is not None:
            say(f"{output}: {len(found.rows)} rows")


@evaluate.command()
@guarded
def compare(
    tables: Annotated[list[Path], typer.Argument(metavar="CSV…", help="Raw rows, read one after another.")],
    measure: Annotated[
        list[str], typer.Option("--measure", "-m", help="Column to compare; may be repeated.")
    ],
    by: Annotated[str, typer.Option(help="Column that tells the methods apart.")] = "method",
    case: Annotated[str, typer.Option(help="Column that tells the cases apart.")] = "case",
    columns: Annotated[
        str | None, typer.Option(help="Column whose values become columns, such as name.")
    ] = None,
    where: Annotated[
        Words, typer.Option(metavar="COLUMN=VALUE[,…]", help="Keep only these rows; may be repeated.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Method to test against (default: the best of each column).")
    ] = None,
    test: StarTest = "wilcoxon",
    alpha: Alpha = 0.05,
    level: Annotated[float, typer.Option(help="Of the bootstrap interval.")] = 0.95,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.")] = 10000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    intervals: Annotated[bool, typer.Option("--intervals/--no-intervals", help="Print intervals.")] = True,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Table to write: .md, or .csv with every p.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare methods from tables of raw rows: mean (SD), stars, intervals."""
    from regista.cli import _evaluate_parts as parts
    from regista.cli._outputs import check_outputs
    from regista.evaluation import compare_table, read_rows
    from regista.io import suffix_of, write_text

    check_outputs([output], tables, (".md", ".csv"))
    conditions = {n: v.split(",") for n, v in (parts.split_pair(text, "--where") for text in where or ())}
    table = compare_table(
        read_rows(*tables),
        measure,
        by=by,
        case=case,
        columns=columns,
        where=conditions,
        reference=reference,
        test=test,  # type: ignore[arg-type]
        alpha=alpha,
        level=level,
        resamples=resamples,
        seed=seed,
    )
    text = table.markdown(intervals=intervals)
    if output is not None and suffix_of(output) == ".csv":
        parts.write_csv(output, table.rows())
    elif output is not None:
        write_text(output, text)
    if as_json:
        say_json(parts.for_json({"rows": table.rows(), "test": test, "alpha": alpha, "seed": seed}))
    else:
        say(text.rstrip(), quiet=quiet)


@evaluate.command()
@guarded
def learn2reg(
    task: Annotated[Path, typer.Argument(metavar="JSON", help="Dataset JSON, or evaluation configuration.")],
    fields: Annotated[Path, typer.Option(help="Folder of disp_XXXX_YYYY.nii.gz.")],
    root: Annotated[Path | None, typer.Option(help="Folder of the data (default: the JSON's).")] = None,
    split: Annotated[
        str | None, typer.Option(help="Pairs of a dataset JSON, e.g. registration_val, registration_test.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV to write: a row for each pair.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score a folder of Learn2Reg fields as the challenge does: Dice, HD95, TRE, SDlogJ."""
    from regista.cli import _evaluate_parts as parts
    from regista.cli._learn2reg import files_of_pair, score_pair
    from regista.cli._outputs import check_outputs
    from regista.evaluation import find_field, read_learn2reg

    read = read_learn2reg(task, root, split)
    paths = [find_field(fields, pair) for pair in read.pairs]  # all of them, before the work begins
    data = [file for pair in read.pairs for file in files_of_pair(read, pair)]
    check_outputs([output], [task, *paths, *data], (".csv",))
    cases = {pair.name: score_pair(read, pair, path) for pair, path in zip(read.pairs, paths, strict=True)}
    rows: list[dict[str, Any]] = [
        {"task": read.name, "case": name, **parts.means_only(scores)} for name, scores in cases.items()
    ]
    total = parts.spread([parts.means_only(scores) for scores in cases.values()])
    if output is not None:
        parts.write_csv(output, rows)
    if as_json:
        say_json(parts.for_json({"name": read.name, "aggregates": total, "cases": cases}))
    elif not quiet:
        _show_task(read.name, rows, total)


def _show_task(name: str, rows: list[dict[str, Any]], total: dict[str, dict[str, float]]) -> None:
    from regista.cli._tables import print_table

    body = [[row["case"], *(row[measure] for measure in total)] for row in rows]
    body.append(["mean", *(found["mean"] for found in total.values())])
    body.append(["SD", *(found["std"] for found in total.values())])
    print_table(f"{name}, by the rules of Learn2Reg", ["pair", *total], body)
