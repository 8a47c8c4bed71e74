"""Parts of messages that several packages need: near misses of names, and what a value should have been."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "string": "a text in quotes",
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence on an unknown name: the known one it most resembles; empty where none does.

    Examples
    --------
    >>> did_you_mean("zscor", ["clip", "zscore"])
    "; did you mean 'zscore'?"
    >>> did_you_mean("xyz", ["clip", "zscore"])
    ''
    """
    near = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def expectation(error: Mapping[str, Any]) -> str:
    """Return what a value should have been and what it is, from an entry of pydantic's ``ValidationError.errors()``.

    Examples
    --------
    >>> expectation({"type": "int_parsing", "loc": ("shrink",), "input": "x", "msg": "Input should be …"})
    "expected a whole number, got 'x'"
    """
    kind, got = str(error["type"]), error["input"]
    if kind == "missing":  # an entry of a list of given length
        return f"the list is too short, got {_plain(got)}"
    if kind in ("too_long", "too_short"):
        limits = error.get("ctx", {})
        most = limits.get("max_length", limits.get("min_length"))
        return f"expected a list of {most}, got {_plain(got)}"
    if kind == "literal_error":
        return f"expected {error['ctx']['expected']}, got {_plain(got)}"
    expected = _KINDS.get(kind.split("_")[0])
    return (
        f"{error['msg']}, got {_plain(got)}"
        if expected is None
        else f"expected {expected}, got {_plain(got)}"
    )


def _plain(value: Any) -> str:
    return repr(list(value)) if isinstance(value, tuple) else repr(value)
