"""What the figures were measured on."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "regista",
    "numpy",
    "numba",
    "SimpleITK",
    "antspyx",
    "picsl-greedy",
    "itk-elastix",
    "dipy",
)


def processor() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of everything that may be measured."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def sources() -> str:
    """Return a digest of Regista's own sources: they change more often than its version."""
    import regista

    folder = Path(regista.__file__).parent
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:12]


def machine(threads: int) -> dict[str, Any]:
    """Return processor, cores, memory, system, threads, versions, and a digest of Regista's sources."""
    from regista.core import available_threads

    return {
        "processor": processor(),
        "cores": available_threads(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.release()}",
        "threads": threads,
        "load_at_start": _load(),
        "versions": versions(),
        "sources": sources(),
    }


def describe(found: dict[str, Any]) -> str:
    """Return a machine as one line."""
    threads = f"{found['threads']} thread{'' if found['threads'] == 1 else 's'}"
    memory = f", {found['memory_gb']:.0f} GB" if found["memory_gb"] else ""
    names = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    digest = f"; sources of Regista {found['sources']}" if "sources" in found else ""
    return (
        f"{found['processor']}, {found['cores']} cores{memory}; {threads} for each method; "
        f"{found['system']}; {names}{digest}."
    )


def _memory_gb() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):
        return None


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None
