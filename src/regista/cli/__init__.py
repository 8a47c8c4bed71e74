"""The command line: parse, call one public function, show progress, set the exit code."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

from regista.cli._stops import ignore_signals, leave_stopped, stop_on_signals, stops_deferred

if TYPE_CHECKING:
    from regista.cli._app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the ``regista`` command and exit with its code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows only ASCII shows ? for µ
    stop_on_signals()  # before Typer is loaded, so that no Ctrl-C finds the program unguarded
    try:
        with stops_deferred():  # until the command itself runs, see `guarded`
            from regista.cli._app import app

            app(prog_name="regista")
    except KeyboardInterrupt:
        leave_stopped()
    finally:
        ignore_signals()


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module 'regista.cli' has no attribute {name!r}")
    from regista.cli._app import app

    return app
