"""What the figures were measured on, and where the images are."""

import importlib.util
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(os.environ.get("REGISTA_BENCH_RESULTS") or ROOT / "benchmarks" / "results")
PACKAGES = ("regista", "numpy", "numba", "SimpleITK", "antspyx", "picsl_greedy")


def data_folder(given: str | None = None) -> Path:
    """Return the folder of test images, for this clone: ``--data``, ``REGISTA_DATA``, or ``../shared/data``."""
    check_sources()
    folder = Path(given or os.environ.get("REGISTA_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        raise SystemExit(
            f"no folder of images at {folder}: name it with --data or the variable REGISTA_DATA "
            "(docs/benchmarks/index.md says what it holds)"
        )
    return folder


def check_sources() -> None:
    """Refuse to measure a Regista that is not this clone's: figures would carry the wrong commit.

    Scripts run ``regista`` in processes of their own, which import what this one would.
    """
    found = importlib.util.find_spec("regista")
    place = None if found is None or found.origin is None else Path(found.origin).resolve()
    if place is None or (ROOT / "src").resolve() not in place.parents:
        raise SystemExit(
            f"this Python has regista from {place}, not from {ROOT / 'src'}: figures would be those of other sources. "
            f"Install this clone (pip install -e {ROOT}), or set PYTHONPATH={ROOT / 'src'}"
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
    """Return the versions of everything measured."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def describe(threads: int) -> str:
    """Return one line for the head of a table."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{processor()}, {cores} cores available, {threads} threads; {platform.system()}; {text}"


def commit() -> str:
    """Return the commit of the sources, with a mark where files differ from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    return found.stdout.strip() or "unknown"
