"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads (default: REGISTA_THREADS, else all).")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]
Transforms = Annotated[
    list[Path],
    typer.Argument(
        metavar="TRANSFORM...",
        help="Point maps fixed → moving, first the one applied first to a fixed point.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", help="Format of the transform files, where the extension does not tell (see `convert`)."
    ),
]
FixedGrid = Annotated[
    Path | None, typer.Option("--fixed", help="Fixed image, for formats that count from its corner.")
]
MovingGrid = Annotated[
    Path | None, typer.Option("--moving", help="Moving image, for formats that count from its corner.")
]
IgnoreSpaces = Annotated[
    bool,
    typer.Option("--ignore-spaces", help="Do not check that the names of the spaces in the files meet."),
]
