"""What every command shares: where text goes, and what an error becomes."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Annotated, Any, ParamSpec

import typer

from regista.cli._stops import STOPPED, stop_code, stops_raised

P = ParamSpec("P")

Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Number of threads (default: all, or REGISTA_THREADS).")
]

BUG = 1
_IN_PYTHON = re.compile(r"\s*\(in Python [^()]*(\([^()]*\)[^()]*)*\)")
"""What messages of the library add, in brackets, for those who call it from Python."""


def say(text: str, *, quiet: bool = False) -> None:
    """Print a line on standard output."""
    if not quiet:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def complain(text: str) -> None:
    """Print a line on standard error, in the command line's words."""
    sys.stderr.write(f"{_IN_PYTHON.sub('', text)}\n")
    sys.stderr.flush()


def say_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output."""
    say(json.dumps(content, default=_plain))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def guarded(command: Callable[P, int | None]) -> Callable[P, None]:
    """Turn what a command raises into a message on standard error and an exit code.

    0 done, 1 the registration failed its checks (or a bug), 2 bad input or usage, 130 stopped by Ctrl-C.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        options: Mapping[str, Any] = kwargs
        try:
            with stops_raised(), _warnings_shown(quiet=bool(options.get("quiet"))):
                code = command(*args, **kwargs) or 0
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            code = _fail(STOPPED, stop_code(), "Interrupted", options)
        except BrokenPipeError:
            # the reader of our output has left: nothing more to say, not even at exit
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = BUG
        except Exception as error:
            if options.get("debug") or os.environ.get("REGISTA_DEBUG"):
                complain(traceback.format_exc())
            message, code = _explain(error)
            _fail(message, code, type(error).__name__, options)
        if code:
            raise typer.Exit(code)

    return run


def _explain(error: Exception) -> tuple[str, int]:
    from regista.core import RegistaError  # NumPy comes with it: --help does without

    if isinstance(error, RegistaError):
        return f"Error: {error}", error.exit_code
    if isinstance(error, MemoryError):
        return "Error: out of memory; close other programs, or resample or crop the images", 1
    return (
        f"Unexpected {type(error).__name__}: {error}\nThis is a bug in Regista. Run the command again with "
        "--debug and report what it prints.",
        BUG,
    )


def _fail(message: str, code: int, kind: str, options: Mapping[str, Any]) -> int:
    complain(message)
    if options.get("as_json"):
        say_json(
            {"error": _IN_PYTHON.sub("", message).removeprefix("Error: "), "kind": kind, "exit_code": code}
        )
    return code


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        complain(f"Warning: {record.getMessage()}")


@contextmanager
def _warnings_shown(*, quiet: bool) -> Iterator[None]:
    """Print what the library logs, in the manner of the command's own warnings."""
    logger = logging.getLogger("regista")
    handler = logging.NullHandler() if quiet else _Warnings(logging.WARNING)
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


class Clock:
    """Seconds since it was made, and lap times by name."""

    def __init__(self) -> None:
        self._began = self._lap = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Write the time since the last lap under a name."""
        now = time.perf_counter()
        self.laps[name] = now - self._lap
        self._lap = now

    def total(self) -> float:
        """Return the seconds since the clock was made."""
        return time.perf_counter() - self._began
