"""``regista warmup`` and ``regista demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regista.cli._console import Debug, Json, Quiet, Threads, complain, guarded, say, say_json
from regista.cli._options import ResultFolder
from regista.cli._register import REPORT, RESULTS, tell_compiling
from regista.cli._stops import stops_deferred


@guarded
def warmup(
    threads: Threads = None, quiet: Quiet = False, as_json: Json = False, debug: Debug = False
) -> None:
    """Compile the kernels now, once per machine, so that the first run does not wait for it."""
    from regista.core import threads as use_threads
    from regista.registration import warmup as run

    if not (quiet or as_json):
        complain("Compiling kernels; the first time takes a minute or two …")
    with use_threads(threads):
        seconds = run()
    if as_json:
        say_json({"seconds": seconds})
    else:
        say(f"kernels ready in {seconds:.1f} s", quiet=quiet)


@guarded
def demo(
    output: ResultFolder = Path("demo_output"),
    fixed: Annotated[Path | None, typer.Option(help="Your own fixed image (with --moving).")] = None,
    moving: Annotated[Path | None, typer.Option(help="Your own moving image (with --fixed).")] = None,
    preset: Annotated[str, typer.Option(help="Plan by name, see `regista presets`.")] = "brain-t1",
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Register a pair of brains whose true alignment is known, or your own pair, and draw before and after.

    Exit code 1 when the verdict is that the registration failed.
    """
    from regista.cli._outputs import FolderWriter, keep_inputs
    from regista.cli._progress import progress_bar
    from regista.cli._quality import exit_code
    from regista.cli._summary import failures_of
    from regista.core import Status
    from regista.demo import run_demo

    keep_inputs([output / name for name in (*RESULTS, "montage.png", REPORT)], [fixed, moving])
    if not (quiet or as_json):
        tell_compiling()
    with FolderWriter(output) as folder:
        with stops_deferred(), progress_bar(not (quiet or as_json)) as progress:
            figures = run_demo(folder.hidden, fixed, moving, threads, preset=preset, progress=progress)
        folder.commit("record.json")
    figures["outputs"] = {name: str(output / Path(p).name) for name, p in figures["outputs"].items()}
    failures = failures_of({"status": figures["status"], "measures": {"verdict": figures["verdict"]}})
    if as_json:
        say_json(figures)
    elif not quiet:
        seconds = figures["seconds"]
        say(f"{figures['status']}; registration took {seconds['register']:.1f} s")
        reasons = figures["verdict"]["reasons"] if failures is None else ()  # of a failure they come last
        say("; ".join([f"verdict {figures['verdict']['outcome']}", *reasons]))
        if "error" in figures:
            before, after = figures["error_before"], figures["error"]
            say(f"error against the known truth, inside the brain (before: mean {before['mean_mm']:.2f} mm):")
            say(f"  mean {after['mean_mm']:.3f} mm, 95th percentile {after['p95_mm']:.3f} mm")
        for name, path in figures["outputs"].items():
            say(f"  {name}: {path}")
    return exit_code(failures, Status(figures["status"]))
