"""One thread setting for everything Regista runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core.errors import PlanError

_FEW = 1 << 14
"""Voxels that one thread works on alone. To wake another and to wait for it took 140 µs on a machine of two processors, a voxel 5 to
60 ns, by kernel."""
_threads = 0
_here: ContextVar[int] = ContextVar("threads", default=0)
"""What a `threads` block sets: seen by the thread that runs the block alone."""
_pools: dict[int, ThreadPoolExecutor] = {}
if hasattr(os, "register_at_fork"):  # a forked process has the pools, but not their threads
    os.register_at_fork(after_in_child=_pools.clear)


def available_threads() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def get_threads() -> int:
    """Return the number of threads in use (``REGISTA_THREADS``, else all that are available)."""
    if _here.get() or _threads:
        return _here.get() or _threads
    text = os.environ.get("REGISTA_THREADS", "")
    return _check(int(text) if text.isdigit() else 0) if text else available_threads()


def set_threads(count: int) -> None:
    """Set the number of threads for all later work in this process."""
    global _threads
    _threads = _check(count)


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Use `count` threads inside a ``with`` block (None leaves the setting as it is)."""
    token = _here.set(_here.get() if count is None else _check(count))
    try:
        yield get_threads()
    finally:
        _here.reset(token)


def _check(count: int) -> int:
    if not isinstance(count, int) or count < 1:
        raise PlanError(f"threads is a whole number of at least 1, got {count!r}")
    return count


def parallel_for(
    body: Callable[[int, int], object],
    count: int,
    *,
    grain: int = 1,
    work: NDArray[np.number[Any]] | None = None,
    voxels: int | None = None,
) -> None:
    """Call ``body(start, stop)`` over disjoint ranges covering ``0 … count``, one range per thread.

    Ranges are of equal length, or of equal total `work` where that is given per index. Where there are few `voxels` in all,
    the calling thread does everything: it would have ended before another has begun.

    The calling thread does the first range itself. `body` must release the GIL to gain anything, and must
    write only to its own range, so that the result does not depend on the number of threads.
    """
    workers = max(1, min(get_threads(), count // max(grain, 1)))
    if workers == 1 or (voxels is not None and voxels < _FEW):
        body(0, count)
        return
    if workers not in _pools:
        _pools[workers] = ThreadPoolExecutor(workers - 1, thread_name_prefix="regista")
    edges = [count * n // workers for n in range(workers + 1)]
    if work is not None:
        done = np.cumsum(work, dtype=np.float64)
        edges[1:-1] = np.searchsorted(done, done[-1] * np.arange(1, workers) / workers).tolist()
    futures = [_pools[workers].submit(body, edges[n], edges[n + 1]) for n in range(1, workers)]
    try:
        body(0, edges[1])
    finally:
        for future in futures:
            future.result()
