"""Ctrl-C and SIGTERM: remembered, held back where they would do harm, raised at the next step.

Imports nothing but the standard library's smallest modules, so that `main` is guarded before anything is loaded.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = "Stopped; nothing half-written is left."

_stops: list[int] = []
_deferred: list[bool] = []


def stop_on_signals() -> None:
    """Make Ctrl-C and a batch system's SIGTERM end the command, cleaning up on the way out.

    Python drops an exception that is raised inside its import machinery, so the signal is remembered too:
    `raise_if_stopped` raises it again at the next step.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def ignore_signals() -> None:
    """Let the interpreter close in peace: the command has ended, and its exit code is settled."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:
    _stops.append(number)
    if not _deferred:
        raise_if_stopped()


@contextmanager
def stops_deferred() -> Iterator[None]:
    """Hold signals back while the block runs, and raise at its end.

    For blocks that import on several threads, where an exception can leave an import lock taken for ever, that
    compile kernels, where it is dropped, or that clean up. A running registration asks `raise_if_stopped` at
    every step.
    """
    _deferred.append(True)
    try:
        yield
    finally:
        _deferred.pop()
    raise_if_stopped()


@contextmanager
def stops_raised() -> Iterator[None]:
    """Let signals through again while a command runs, inside a program that holds them back."""
    held, _deferred[:] = _deferred[:], []
    try:
        raise_if_stopped()
        yield
    finally:
        _deferred[:] = held


@contextmanager
def past_stopping() -> Iterator[None]:
    """Let a block that moves finished files finish for good: a signal that comes now is too late, and forgotten."""
    raise_if_stopped()
    _deferred.append(True)
    try:
        yield
    finally:
        _deferred.pop()
        _stops.clear()


def raise_if_stopped() -> None:
    """Raise what a signal asked for, if one has come."""
    if _stops:
        raise KeyboardInterrupt


def stop_code() -> int:
    """Return the exit code of a stopped command: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (_stops[0] if _stops else signal.SIGINT)


def leave_stopped() -> None:
    """Say that the command was stopped, and exit."""
    sys.stderr.write(f"{STOPPED}\n")
    sys.stderr.flush()
    sys.exit(stop_code())
