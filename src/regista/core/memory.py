"""How much memory there is to take."""

from __future__ import annotations

from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Return the bytes of memory that can be taken without swapping, or None where that is not known.

    The smaller of what the machine has free and what the process's control group (a container, a batch job)
    still allows. Known on Linux only.

    Examples
    --------
    >>> free = available_bytes()
    >>> free is None or free > 0
    True
    """
    known = [free for free in (_machine(), _group()) if free is not None]
    return min(known) if known else None


def _machine() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None  # not Linux: no prediction is better than a wrong one


def _group() -> int | None:
    try:
        limit = int((_GROUP / "memory.max").read_text(encoding="ascii"))  # "max" where there is none
        return max(0, limit - int((_GROUP / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return None
