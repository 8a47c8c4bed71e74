"""``regista view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regista.cli._chains import Convention
from regista.cli._console import Debug, Quiet, Threads, guarded, say


@guarded
def view(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="DIR…", help="Folders of runs, folders of such, or tables naming them."),
    ],
    labels: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="FIXED MOVING", help="Labels of both images, shown over the fixed one."),
    ] = None,
    landmarks: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="FIXED MOVING", help="Landmarks of both images."),
    ] = None,
    convention: Convention = None,
    fixed: Annotated[Path | None, typer.Option(help="Fixed image, if it was moved since.")] = None,
    moving: Annotated[Path | None, typer.Option(help="Moving image, if it was moved since.")] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine (default: a free one).")
    ] = 0,
    threads: Threads = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Look at runs in the browser: linked crosshairs, flicker, checkerboard, displacements, 3-D.

    Serves this machine only, at an address with a secret in it, until Ctrl-C. Nothing is written and nothing leaves
    the machine.
    """
    from regista.cli._fit_points import read_landmarks
    from regista.core import threads as use_threads
    from regista.io import read_labels
    from regista.reporting import open_viewer

    with use_threads(threads):
        server = open_viewer(
            runs,
            images=(fixed, moving),
            labels=None if labels is None else (read_labels(labels[0]), read_labels(labels[1])),
            landmarks=None if landmarks is None else read_landmarks(landmarks, convention, (None, None)),
            port=port,
        )
        try:
            say(server.url)  # all that --quiet leaves: without it there is no way in
            if not quiet:
                say("Ctrl-C ends the viewer.")
            server.serve(browser=browser)
        except KeyboardInterrupt:
            say("", quiet=quiet)
        finally:
            server.release()
    return 0
