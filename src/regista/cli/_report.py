"""``regista report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regista.cli._chains import Convention
from regista.cli._console import Debug, Json, Quiet, Threads, complain, guarded, say, say_json
from regista.cli._register import REPORT, RESULTS, tell_compiling

if TYPE_CHECKING:
    from regista.reporting import RunFolder


@guarded
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="DIR…", help="Folder of a run; with --cohort several, or tables naming them."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Page to write (default: DIR/report.html).")
    ] = None,
    cohort: Annotated[
        bool, typer.Option("--cohort", help="One page for many runs, the worst first.")
    ] = False,
    labels: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="FIXED MOVING", help="Labels of both images: outlines and overlap."),
    ] = None,
    landmarks: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="FIXED MOVING", help="Landmarks of both images: their distance."),
    ] = None,
    convention: Convention = None,
    fixed: Annotated[Path | None, typer.Option(help="Fixed image, if it was moved since.")] = None,
    moving: Annotated[Path | None, typer.Option(help="Moving image, if it was moved since.")] = None,
    verdict: Annotated[
        bool, typer.Option("--verdict/--no-verdict", help="Judge the run; exit code 1 if it failed.")
    ] = True,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Make the quality page of a run, or of many, and tell the verdict.

    Exit code 1 when the verdict on a single run is that it failed.
    """
    from regista.core import threads as use_threads

    if not (quiet or as_json):
        tell_compiling()
    with use_threads(threads):
        if cohort:
            given = {"labels": labels, "landmarks": landmarks, "fixed": fixed, "moving": moving}
            _refuse_with_cohort(given | {"no-verdict": not verdict})
            return _cohort(runs, output, quiet, as_json)
        truth = (labels, landmarks, convention)
        return _single(runs, output, truth, (fixed, moving), verdict, quiet, as_json)


def _refuse_with_cohort(options: dict[str, Any]) -> None:
    from regista.core import PlanError

    given = [f"--{name}" for name, value in options.items() if value]
    if given:
        raise PlanError(
            f"{given[0]} belongs to the page of a single run: leave it out, or leave out --cohort"
        )


def _single(
    runs: list[Path],
    output: Path | None,
    truth: tuple[Any, Any, Any],
    images: tuple[Path | None, Path | None],
    verdict: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    from regista.cli._outputs import check_outputs
    from regista.cli._quality import exit_code
    from regista.core import FormatError, PlanError
    from regista.reporting import read_run, write_report

    if len(runs) != 1:
        raise PlanError(
            f"a page shows one run, got {len(runs)} folders: give --cohort for a page of all of them"
        )
    folder = runs[0]
    if not folder.is_dir():
        raise FormatError(f"{folder} is no folder: expected what regista register wrote with -o")
    page = output or folder / REPORT
    inputs = [*(folder / name for name in RESULTS), *(truth[0] or ()), *(truth[1] or ()), *images]
    check_outputs([page], inputs, (".html", ".htm"))
    run = read_run(folder, *images)
    report = write_report(page, run.fixed, run.moving, run.result, judged=verdict, **_truth(run, *truth))
    made, measures = report.verdict, report.summary["measures"]
    failed = made is not None and made.outcome == "fail"
    if as_json:
        told = {"verdict": made and made.to_dict(), "measures": measures, "outputs": {"report": str(page)}}
        say_json(told)
    elif not quiet:
        for warning in run.result.record.warnings:
            complain(f"Warning: {warning}")
        if made is not None:
            say(f"verdict {made.outcome}")
            for reason in () if failed else made.reasons:
                say(f"  {reason}")
        unit = report.summary["unit"]
        for name, before, text in (
            ("dice", "dice_before", "mean Dice"),
            (f"tre_mean_{unit}", f"tre_before_{unit}", f"mean TRE, {unit}"),
        ):
            if name in measures and before in measures:
                say(f"  {text}: {measures[before]:.3f} before, {measures[name]:.3f} now")
        say(f"  {page}")
    return exit_code(made.reasons if made is not None and failed else None, run.result.record.status)


def _truth(
    run: RunFolder, labels: tuple[Path, Path] | None, landmarks: tuple[Path, Path] | None, convention: Any
) -> dict[str, Any]:
    """Read labels and landmarks."""
    from regista.cli._fit_points import read_landmarks
    from regista.io import read_labels

    found: dict[str, Any] = {}
    if labels is not None:
        found["labels"] = tuple(read_labels(path) for path in labels)
    if landmarks is not None:
        found["landmarks"] = read_landmarks(landmarks, convention, (run.fixed, run.moving))
    return found


def _cohort(runs: list[Path], output: Path | None, quiet: bool, as_json: bool) -> int:
    from regista.cli._outputs import check_outputs
    from regista.cli._progress import progress_bar
    from regista.cli._stops import stops_deferred
    from regista.core import PlanError
    from regista.reporting import find_runs, write_cohort

    if output is None:
        raise PlanError("--cohort needs -o FILE.html: the page of many runs belongs to none of their folders")
    found = find_runs(runs)
    kept = [path / name for path in found for name in (RESULTS[-1], REPORT)]  # never a run's own page
    check_outputs([output], kept, (".html", ".htm"))
    with stops_deferred(), progress_bar(not (quiet or as_json)) as progress:
        rows = write_cohort(output, found, progress=progress)
    counts = {
        name: sum(row.outcome == name for row in rows) for name in ("fail", "look", "pass", "unreadable")
    }
    if as_json:
        say_json({"runs": len(rows), "verdicts": counts, "outputs": {"report": str(output)}})
    elif not quiet:
        say(f"{len(rows)} runs: " + ", ".join(f"{n} {name}" for name, n in counts.items() if n))
        say(f"  {output}")
    return 0
