"""``regista benchmark``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regista.cli._chains import Convention
from regista.cli._console import Debug, Json, Quiet, Threads, complain, guarded, say, say_json
from regista.cli._options import Alpha, NonFinite, StarTest

if TYPE_CHECKING:
    from regista.benchmarking import Method, Setup, Tally

Words = list[str] | None


@guarded
def benchmark(
    pairs: Annotated[
        Path | None,
        typer.Argument(metavar="PAIRS", help="Table of pairs (.csv), or a Learn2Reg dataset (.json)."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the results; taken up where it ended.")
    ] = None,
    method: Annotated[
        Words, typer.Option("--method", "-m", help="Preset, plan file (.toml) or peer, see --list; repeat.")
    ] = None,
    equal_affine: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Linear method whose result all others start from.")
    ] = None,
    methods_file: Annotated[
        Path | None, typer.Option(help="Methods of your own, or other settings of peers (.toml).")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the methods, and what is installed.")] = False,
    names: Annotated[
        Words, typer.Option(metavar="[SET=]FILE", help="Names of labels; or SET=1:CSF,2:GM,3:WM.")
    ] = None,
    groups: Annotated[
        Words, typer.Option(metavar="[SET=]FILE", help="Groups of labels: CSV with 'group', or JSON.")
    ] = None,
    labels: Annotated[
        Words,
        typer.Option(
            metavar="[SET=]LABELS", help="Count only these, e.g. 1,2,5-9; or 'common': in every map."
        ),
    ] = None,
    surface: Annotated[str, typer.Option(help="Surface distances: voxels, surfels, none.")] = "voxels",
    unit: Annotated[
        str, typer.Option(help="Distances in 'mm', or in 'px': voxels, where the spacing means nothing.")
    ] = "mm",
    convention: Convention = None,
    non_finite: NonFinite = "error",
    root: Annotated[Path | None, typer.Option(help="Folder of the images (default: that of PAIRS).")] = None,
    split: Annotated[str | None, typer.Option(help="Pairs of a dataset JSON, e.g. registration_val.")] = None,
    first: Annotated[int | None, typer.Option(min=1, help="Only so many pairs, from the top.")] = None,
    time_limit: Annotated[
        float, typer.Option(help="Seconds after which a registration is stopped and counted as failed.")
    ] = 3600.0,
    repeats: Annotated[
        int, typer.Option(min=1, help="Runs of each: seconds are medians, every run is measured.")
    ] = 1,
    before: Annotated[
        bool, typer.Option("--before/--no-before", help="Show also the images as they came.")
    ] = True,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Mark cases that lack files, and run the others.")
    ] = False,
    keep_transforms: Annotated[
        bool, typer.Option("--keep-transforms", help="Leave every transform in the folder.")
    ] = False,
    redo: Annotated[Words, typer.Option(metavar="METHOD", help="Run this method anew; repeat.")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run anew what failed in an earlier run.")
    ] = False,
    retry_changed: Annotated[
        bool, typer.Option("--retry-changed", help="Run anew results of Regista made by other sources.")
    ] = False,
    reference: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Stars and ratios refer to it (default: the best).")
    ] = None,
    test: StarTest = "wilcoxon",
    alpha: Alpha = 0.05,
    title: Annotated[
        str | None, typer.Option(help="Heading of the summary (default: the table's name).")
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Run methods side by side on your pairs: tables, tests, plots.

    Each registration has a process of its own, the same number of threads and a time limit. What crashes is
    reported and the others go on; a run that was stopped is taken up by the same command.

    Writes raw.csv, regions.csv, summary.md, summary.html, machine.json and plots to the output folder. Exit codes:
    0 all done, 1 some failed (see raw.csv), 2 bad input.
    """
    from regista.benchmarking import find_methods, list_methods, read_cases, run_benchmark, write_report
    from regista.benchmarking._run import WRITTEN
    from regista.benchmarking._setup import Setup
    from regista.cli._outputs import keep_inputs
    from regista.core import PlanError

    if list_:
        _list(list_methods(methods_file), as_json)
        return 0
    if pairs is None or output is None or not method:
        raise PlanError("give PAIRS, -o FOLDER and one method or more with -m (--list says which there are)")
    chosen = find_methods(method, methods_file)
    shared = None if equal_affine is None else find_methods([equal_affine], methods_file)[0]
    setup = Setup(
        output=output,
        threads=threads,
        limit_s=time_limit,
        repeats=repeats,
        equal_affine=shared,
        names=_tables(names or (), "--names"),
        groups=_tables(groups or (), "--groups"),
        labels=_chosen(labels or ()),
        surface=None if surface == "none" else surface,
        unit=unit,
        non_finite=non_finite,
        before=before,
        keep_going=keep_going,
        keep_transforms=keep_transforms,
        redo=tuple(m.name for m in find_methods(redo or (), methods_file)),
        retry_failed=retry_failed,
        retry_changed=retry_changed,
    )
    named = None if reference is None else find_methods([reference], methods_file)[0].name
    _check_report((*chosen, *([shared] if shared else ())), named, test, alpha)
    cases = read_cases(pairs, root=root, split=split, convention=convention)[:first]
    _check_sets(cases, setup)
    _check_points(cases)
    keep_inputs(
        [output / name for name in WRITTEN],
        [pairs, methods_file, *_named_files(names, groups), *(f for c in cases for f in c.files())],
    )
    if not quiet:
        _warn(pairs, chosen, complain)
    tell = (lambda text: None) if quiet or as_json else say
    tally = run_benchmark(cases, chosen, setup, tell=tell)
    paths = write_report(
        tally,
        chosen,
        setup,
        title=title or pairs.stem,
        reference=named,
        test=test,
        alpha=alpha,
        tell=lambda text: complain(f"Warning: {text}"),
    )
    return _report(tally, paths, quiet, as_json)


def _tables(words: Sequence[str], option: str) -> dict[str, Any]:
    """Read names or groups of the sets of labels."""
    from regista.core import PlanError
    from regista.evaluation import read_label_groups, read_label_names

    found: dict[str, Any] = {}
    for word in words:
        match = None if Path(word).exists() else re.fullmatch(r"(\w+)=(.+)", word)
        name, text = (match[1], match[2]) if match else ("labels", word)
        if name in found:
            raise PlanError(f"{option} is given twice for the set {name!r}")
        inline = option == "--names" and re.fullmatch(r"\d+:[^,]+(,\d+:[^,]+)*", text)
        if inline:
            parts = (part.partition(":") for part in text.split(","))
            found[name] = {int(number): label.strip() for number, _, label in parts}
        else:
            found[name] = (read_label_names if option == "--names" else read_label_groups)(text)
    return found


def _named_files(*options: Sequence[str] | None) -> list[Path]:
    """Return the files among the words of --names and --groups."""
    words = [word for option in options for word in option or ()]
    texts = [text for word in words for text in (word, word.partition("=")[2])]
    return [Path(text) for text in texts if text and Path(text).is_file()]


def _chosen(words: Sequence[str]) -> dict[str, list[int] | str]:
    """Read which labels of the sets count."""
    from regista.core import PlanError
    from regista.evaluation import parse_labels

    found: dict[str, list[int] | str] = {}
    for word in words:
        name, _, text = word.rpartition("=")
        name = name or "labels"
        if name in found:
            raise PlanError(f"--labels is given twice for the set {name!r}")
        found[name] = text if text == "common" else parse_labels(text)
    return found


def _check_sets(cases: Sequence[Any], setup: Setup) -> None:
    from regista.core import PlanError

    known = list(dict.fromkeys(name for case in cases for name in case.labels))
    options: dict[str, Mapping[str, Any]]
    options = {"--names": setup.names, "--groups": setup.groups, "--labels": setup.labels}
    for option, tables in options.items():
        for name in tables:
            if name not in known:
                raise PlanError(
                    f"{option} names the set of labels {name!r}; the table has {', '.join(known) or 'no labels'}"
                )


def _check_points(cases: Sequence[Any]) -> None:
    """Refuse tables of points that do not say whose coordinates they hold, once for all cases."""
    from regista.core import FormatError

    for case in cases:
        for path in () if case.points_in else case.points or ():
            if path.suffix.lower() == ".csv":
                raise FormatError(
                    f"a CSV of points such as {path} does not say whose coordinates it holds: give --convention lps "
                    "(ANTs and ITK) or --convention ras (nibabel, FreeSurfer's scanner coordinates)"
                )


def _check_report(methods: Sequence[Method], reference: str | None, test: str, alpha: float) -> None:
    """Refuse, before hours are spent, what the tables could not be made with."""
    from regista.core import PlanError

    if reference is not None and reference not in (m.name for m in methods):
        raise PlanError(f"--reference is one of {', '.join(m.name for m in methods)}; got {reference!r}")
    if test not in ("wilcoxon", "t"):
        raise PlanError(f"--test is wilcoxon or t, got {test!r}")
    if not 0 < alpha < 1:
        raise PlanError(f"--alpha is between 0 and 1, got {alpha}")


def _warn(pairs: Path, methods: Sequence[Method], complain: Any) -> None:
    from regista.benchmarking import _plots
    from regista.benchmarking._cases import unread_columns

    unread = unread_columns(pairs)
    if unread:
        complain(f"Warning: columns of {pairs} that are not read: {', '.join(unread)}")
    for method in methods:
        lacking = method.lacking()
        if lacking:
            complain(f"Warning: {method.name} will be marked as failed: {lacking}")
    if not _plots.available():
        complain("Warning: no plots, Matplotlib is not installed: pip install 'regista[report]'")


def _list(methods: Mapping[str, Method], as_json: bool) -> None:
    if as_json:
        say_json(
            {
                name: {
                    "about": m.about,
                    "version": m.version,
                    "linear": m.linear,
                    "masks": m.masks,
                    "source": m.source,
                    "settings": m.settings,
                }
                for name, m in methods.items()
            }
        )
        return
    width = max(map(len, methods))
    for name, method in methods.items():
        state = "not installed" if method.version is None else f"{method.package} {method.version}".strip()
        say(f"{name:<{width}}  {method.about} [{state}]")
        if method.tool not in ("regista",):
            settings = ", ".join(f"{key}={value}" for key, value in method.settings.items())
            say(f"{'':<{width}}    {settings}")
    if any(method.version is None for method in methods.values()):
        say("What is not installed: pip install 'regista[peers]'")


def _report(tally: Tally, paths: Mapping[str, Path], quiet: bool, as_json: bool) -> int:
    if as_json:
        say_json(
            {
                "done": tally.done,
                "failed": tally.failed,
                "kept": tally.kept,
                "failures": [dict(zip(("case", "method", "error"), f, strict=True)) for f in tally.failures],
                "outputs": {name: str(path) for name, path in paths.items()},
            }
        )
    elif not quiet:
        kept = f", {tally.kept} of them kept from before" if tally.kept else ""
        say(f"{tally.done} done, {tally.failed} failed{kept}")
        for name in ("summary", "html", "raw"):
            say(f"  {paths[name]}")
    for warning in () if quiet else tally.warnings:
        complain(f"Warning: {warning}")
    if not tally.failed:
        return 0
    complain(
        f"Error: {tally.failed} of {tally.done + tally.failed} registrations failed; the others are in the tables. The "
        f"reasons stand in {paths['summary']} and {paths['raw']}; the same command with --retry-failed tries again"
    )
    return 1
