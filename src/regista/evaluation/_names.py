"""Label names and groups of labels from tables."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regista.core import FormatError, PlanError

_KEYS = ("label", "labelnumber", "labelid", "labelvalue", "number", "no", "id", "index", "value", "key")
_NAMES = ("name", "labelname", "region", "regionname", "structure", "structurename", "description")
_GROUPS = ("group", "class", "tissue", "category", "parent")


UNREGISTERED = "unregistered"
"""Method under which tables have the images as they came: shown beside the methods, not tested."""


def read_label_names(path: str | os.PathLike[str]) -> dict[int, str]:
    r"""Read label names.

    Parameters
    ----------
    path : path
        CSV (also with tabs or semicolons) with a column of numbers (label, id, index, …) and one of names
        (name, region, …), or without a header number first and name second; or a colour table of FreeSurfer
        or ITK-SNAP. A header with neither is refused, not guessed at.

    Returns
    -------
    dict of int to str
        Label → name.

    Raises
    ------
    FormatError
        If the file is missing, holds no labels, or has a header without known headings.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "names.csv")
    ...     _ = path.write_text("Label Number,Label Name\n4,Right Hippocampus\n")
    ...     read_label_names(path)
    {4: 'Right Hippocampus'}
    """
    head, rows = _table(path)
    key = _column(path, head, _KEYS, 0, "label numbers")
    column = _column(path, head, _NAMES, 1, "names")
    names = {}
    for row in rows:
        if len(row) > max(key, 0) and _whole(row[key]) is not None:
            quoted = head is None and row[-1].startswith('"')  # ITK-SNAP: the name stands last, in quotes
            cell = row[-1].strip('"') if quoted else (row[column] if len(row) > column else "")
            names[int(float(row[key]))] = cell.strip() or row[key]
    if not names:
        raise FormatError(
            f"{path} names no labels: expected rows of a number and a name, such as 4,Hippocampus"
        )
    return names


def read_label_groups(path: str | os.PathLike[str]) -> dict[str, list[int]]:
    """Read groups of labels.

    Parameters
    ----------
    path : path
        JSON, ``{"cortex": [1, 2], "white": "5-9,12", …}``; or CSV with a column of numbers (label, id, index, …)
        and one named group, class or tissue (rows without a group are skipped).

    Returns
    -------
    dict of str to list of int
        Group → labels, in the file's order.

    Raises
    ------
    FormatError
        If the file is missing, holds no groups, or has no known headings.
    """
    if Path(path).suffix.lower() == ".json":
        return _groups_from_json(path)
    head, rows = _table(path)
    if head is None:
        raise FormatError(
            f"{path} has no header: name its columns in the first line, label numbers {_KEYS[0]} (or {', '.join(_KEYS[1:])}) "
            f"and groups {_GROUPS[0]} (or {', '.join(_GROUPS[1:])})"
        )
    column = _column(path, head, _GROUPS, -1, "groups")
    key, groups = _column(path, head, _KEYS, 0, "label numbers"), dict[str, list[int]]()
    for row in rows:
        name = row[column].strip() if len(row) > column else ""
        if name and name.lower() not in ("none", "nan") and len(row) > key and _whole(row[key]) is not None:
            groups.setdefault(name, []).append(int(float(row[key])))
    if not groups:
        raise FormatError(f"{path} puts no label into a group: its column {head[column]!r} is empty")
    return groups


def parse_group(text: str) -> tuple[str, list[int]]:
    """Read a group from text such as ``GM=2,5-9``.

    Examples
    --------
    >>> parse_group("GM=2,5-8")
    ('GM', [2, 5, 6, 7, 8])
    """
    name, sign, members = text.partition("=")
    if not name.strip() or not sign:
        raise PlanError(f"a group is written NAME=LABELS, such as GM=2,5-9; got {text!r}")
    try:
        return name.strip(), parse_labels(members)
    except PlanError as error:
        raise PlanError(f"the group {text!r}: {error}") from None


def parse_labels(text: str) -> list[int]:
    """Read labels from text such as ``2,5-9``.

    Examples
    --------
    >>> parse_labels("2,5-8")
    [2, 5, 6, 7, 8]
    """
    labels: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if found is None:
            raise PlanError(
                f"labels are numbers and ranges, such as 1,2,5-9; got {part.strip()!r} in {text!r}"
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise PlanError(
                f"a range of labels goes from the lower to the higher number; got {part.strip()!r}"
            )
        labels += range(first, last + 1)
    return labels


def _groups_from_json(path: str | os.PathLike[str]) -> dict[str, list[int]]:
    example = '{"cortex": [1, 2], "white": "5-9,12"}'
    text = read_text(path)
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise FormatError(f"{path} is not valid JSON ({error}); expected groups such as {example}") from None
    if not isinstance(tree, Mapping) or not tree:
        raise FormatError(f"{path} is not a JSON object of groups such as {example}")
    try:
        return {str(name): _members(labels) for name, labels in tree.items()}
    except PlanError as error:
        raise FormatError(f"{path}: {error}; expected groups such as {example}") from None


def _members(labels: Any) -> list[int]:
    """Return the labels of a group: one number or text such as ``5-9,12``, or a list of them.

    Examples
    --------
    >>> _members([1, "5-7"]), _members("2,4")
    ([1, 5, 6, 7], [2, 4])
    """
    found: list[int] = []
    for one in labels if isinstance(labels, list) else [labels]:
        if isinstance(one, str):
            found += parse_labels(one)
        elif isinstance(one, int | float) and not isinstance(one, bool) and one >= 0 and one == int(one):
            found.append(int(one))
        else:
            raise PlanError(f"a label is a whole number or a range in quotes, got {json.dumps(one)}")
    return found


def read_text(path: str | os.PathLike[str]) -> str:
    """Return a table's text, or say why it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist; expected a table: check the name") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path} is not text, expected a table") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}") from None
    if not text.strip():
        raise FormatError(f"{path} is empty, expected a table")
    return text


def _table(path: str | os.PathLike[str]) -> tuple[list[str] | None, list[list[str]]]:
    """Return the header (None where the first row is data) and the rows of a table."""
    lines = [
        line for line in read_text(path).splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise FormatError(f"{path} holds comments only, expected a table")
    delimiter = next((d for d in (",", ";", "\t") if d in lines[0]), None)
    if delimiter is None:
        rows = [re.findall(r'"[^"]*"|\S+', line) for line in lines]
    else:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    if any(_whole(cell) is not None for cell in rows[0]):
        return None, rows
    return [re.sub(r"[^a-z]", "", cell.lower()) for cell in rows[0]], rows[1:]


def _column(
    path: str | os.PathLike[str], head: list[str] | None, wanted: tuple[str, ...], default: int, what: str
) -> int:
    """Return the place of a column: by its heading, or the default where there is no header."""
    if head is None:
        return default
    for name in wanted:
        if name in head:
            return head.index(name)
    raise FormatError(
        f"{path} has no column of {what}: its headings are {', '.join(filter(None, head)) or 'empty'}; name that column "
        f"{wanted[0]} (or {', '.join(wanted[1:])}; capitals, spaces and digits do not matter)"
    )


def _whole(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None
