"""A kernel has one compiled form: a process that compiles it and one that loads it give the same bits."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
import types

import pytest
from numba.core.dispatcher import Dispatcher

import regista.kernels.cpu as cpu

REGISTER = """
import hashlib
import numpy as np
from scipy.ndimage import gaussian_filter
from regista import register
from regista.core import Grid, Image, set_threads

set_threads(2)
fixed = gaussian_filter(np.random.default_rng(1).random((24, 26, 28)), 2).astype(np.float32)
grid = Grid(fixed.shape, np.eye(4))
result = register(Image(fixed, grid), Image(np.roll(fixed, 2, 1), grid), "fast")
field = next(t.vectors_mm for t in result.transform.transforms if hasattr(t, "vectors_mm"))
print(hashlib.sha1(field.tobytes() + np.ascontiguousarray(result.warped.data).tobytes()).hexdigest())
"""


def codes(code):
    """Yield the code of a function and of the functions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def compiled_functions():
    for module in pkgutil.iter_modules(cpu.__path__):
        for value in vars(importlib.import_module(f"{cpu.__name__}.{module.name}")).values():
            if isinstance(value, Dispatcher):
                yield value


def test_what_compiled_code_calls_is_inlined():
    parts = {
        part
        for caller in compiled_functions()
        for code in codes(caller.py_func.__code__)
        for name in code.co_names
        if isinstance(part := caller.py_func.__globals__.get(name), Dispatcher)
    }
    assert len(parts) > 50
    loose = sorted(
        f"{p.py_func.__module__}.{p.__name__}" for p in parts if not p.targetoptions.get("forceinline")
    )
    assert not loose, "decorate with @inlined (see kernels/cpu/_jit.py)"


@pytest.mark.long
def test_a_run_that_compiles_and_one_that_loads_give_the_same_bits(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", REGISTER]
    compiling, loading = (
        subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True, encoding="utf-8"
        ).stdout
        for _ in range(2)
    )
    assert any(tmp_path.rglob("*.nbc"))
    assert compiling == loading
