"""The one place that owns Numba: how kernels are compiled and where machine code is cached."""

from __future__ import annotations

import functools
import getpass
import os
import tempfile
from pathlib import Path

import numba
from numba.core import config


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user without a name
        return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _choose_cache() -> Path:
    """Return a writable folder for compiled kernels, telling Numba of it when it is not the package's own.

    Order: ``NUMBA_CACHE_DIR``; ``__pycache__`` beside the kernels; the user's cache folder; a private
    temporary folder. Numba writes each file under another name and renames it, so several processes may
    share the folder.
    """
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR)
    beside = Path(__file__).parent / "__pycache__"
    if _writable(beside):
        return beside
    home = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME")
    try:
        user = Path(home) if home else Path.home() / ".cache"
    except RuntimeError:  # no home folder at all
        user = Path(tempfile.gettempdir()) / f"cache-{_user_name()}"
    for folder in (user / "regista" / "numba", Path(tempfile.gettempdir()) / f"regista-numba-{_user_name()}"):
        if _writable(folder):
            config.CACHE_DIR = str(folder)
            return folder
    config.CACHE_DIR = tempfile.mkdtemp(prefix="regista-numba-")
    return Path(config.CACHE_DIR)


CACHE_DIR = _choose_cache()
"""Where compiled kernels are kept."""

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "boundscheck": False}
_FINITE_CHECKED = {"contract", "reassoc", "nsz", "arcp", "afn"}

njit = functools.partial(numba.njit, fastmath=True, **_OPTIONS)
"""Decorator of kernels, called from Python, whose inputs are finite."""

njit_finite_checked = functools.partial(numba.njit, fastmath=_FINITE_CHECKED, **_OPTIONS)
"""The same for kernels that meet NaN or Inf and must tell them apart."""

inlined = functools.partial(njit, forceinline=True)
"""Decorator of parts of kernels, called from other compiled code only.

A part that is not inlined has two compiled forms, its own and the copy in the kernel's module. Which of them runs
depends on whether this process compiled the part or loaded the kernel from the cache, and the last bits with it.
"""

inlined_finite_checked = functools.partial(njit_finite_checked, forceinline=True)
"""The same for parts of kernels that meet NaN or Inf."""
