"""Methods × pairs, side by side: each case in a process of its own, every measure, tables and plots."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regista.benchmarking._cases import Case, check_files, read_cases
    from regista.benchmarking._methods import Method, find_methods, list_methods
    from regista.benchmarking._report import write_report
    from regista.benchmarking._run import run_benchmark
    from regista.benchmarking._setup import Setup, Tally

# Lazy: a worker process must load nothing but the tool it runs.
_HOME = {
    **dict.fromkeys(("Case", "check_files", "read_cases"), "_cases"),
    **dict.fromkeys(("Method", "find_methods", "list_methods"), "_methods"),
    "write_report": "_report",
    "run_benchmark": "_run",
    **dict.fromkeys(("Setup", "Tally"), "_setup"),
}
__all__ = [
    "Case",
    "Method",
    "Setup",
    "Tally",
    "check_files",
    "find_methods",
    "list_methods",
    "read_cases",
    "run_benchmark",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'regista.benchmarking' has no attribute {name!r}")
    return getattr(importlib.import_module(f"regista.benchmarking.{_HOME[name]}"), name)
