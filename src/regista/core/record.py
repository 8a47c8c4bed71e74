"""`RunRecord`: what a registration did, in full, so that it can be judged and repeated."""

from __future__ import annotations

import enum
import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core.errors import FormatError


class Status(enum.StrEnum):
    """How a registration, or one stage of it, ended."""

    CONVERGED = "converged"
    STEP_LIMIT = "step limit"
    DIVERGED = "diverged"
    NON_FINITE = "non-finite"
    FOLDED = "folded"
    CANCELLED = "cancelled"
    ERROR = "error"

    @property
    def ok(self) -> bool:
        """Whether the result may be used."""
        return self in (Status.CONVERGED, Status.STEP_LIMIT)


@dataclass(frozen=True)
class LevelHistory:
    """Course of one level of one stage.

    Parameters
    ----------
    stage, level : str, int
        Name of the stage, index of the level (0 is the coarsest).
    shrink : tuple of int
        Shrink factor along each axis.
    values : tuple of float
        Dissimilarity before the first step and after each (lower is better).
    status : Status
        Why the level ended.
    seconds : float
        Time spent.
    """

    stage: str
    level: int
    shrink: tuple[int, ...]
    values: tuple[float, ...]
    status: Status
    seconds: float


@dataclass(frozen=True)
class RunRecord:
    """Everything needed to judge and repeat a run; written as ``record.json``.

    `command` was given in `working_folder`, which relative paths of inputs belong to as well.
    """

    status: Status
    history: tuple[LevelHistory, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    inputs: Mapping[str, Any] = field(default_factory=dict)
    measures: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    peak_memory_bytes: int = 0
    command: str = ""
    working_folder: str = ""

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> RunRecord:
        """Make a record of what `to_dict` gave, or ``record.json`` holds; keys that are not known are left out.

        Raises
        ------
        FormatError
            If there is no status or history as a record has them.

        Examples
        --------
        >>> RunRecord.from_dict({"status": "converged"}).status.ok
        True
        """
        names = {f.name for f in fields(cls)}
        known = {name: value for name, value in tree.items() if name in names}
        try:
            known["status"] = Status(known["status"])
            known["history"] = tuple(
                LevelHistory(
                    **{
                        **level,
                        "status": Status(level["status"]),
                        "shrink": tuple(level["shrink"]),
                        "values": tuple(level["values"]),
                    }
                )
                for level in known.get("history", ())
            )
            known["warnings"] = tuple(known.get("warnings", ()))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"this is not the record of a registration: {error!r}") from None
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        from dataclasses import asdict

        return asdict(self)

    def to_json(self) -> str:
        """Return the record as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return str(value)


def hash_array(array: NDArray[np.generic]) -> str:
    """Return a short SHA-256 of an array's type, shape and bytes."""
    array = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.data)
    return digest.hexdigest()[:16]


def software_versions() -> dict[str, str]:
    """Return the versions that can change a result; PyTorch's where it is loaded, as it is only for what is trained."""
    versions = {"python": platform.python_version(), "platform": f"{sys.platform}-{platform.machine()}"}
    learned = ("torch",) if sys.modules.get("torch") else ()
    for name in ("regista", "numpy", "numba", "scipy", "SimpleITK", "nibabel", *learned):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a vendored or frozen install
            versions[name] = "unknown"
    return versions


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    try:  # the kernel's own mark: getrusage may remember the process that started this one
        with open("/proc/self/status", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows has no such counter in the standard library
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
