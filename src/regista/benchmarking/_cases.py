"""The table of pairs: a CSV of file names, or a Learn2Reg task."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regista.core import FormatError
from regista.evaluation._names import read_text

_ROLES = ("fixed", "moving")
_PARTS = ("labels", "points", "mask")
_COLUMNS = ("case", *_ROLES, *(f"{role}_{part}" for part in _PARTS for role in _ROLES))
_SET = re.compile(r"(fixed|moving)_labels_(\w+)")
LABELS = "labels"
"""Name of the set of labels in the columns ``fixed_labels`` and ``moving_labels``."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pair of images, and what is known about it.

    Parameters
    ----------
    name : str
        Name of the case.
    fixed, moving : Path
        The images.
    labels : mapping of str to (Path, Path)
        Sets of labels, by name: of the fixed and of the moving image.
    points : (Path, Path), optional
        Corresponding landmarks.
    fixed_mask, moving_mask : Path, optional
        Voxels to compare.
    points_in : {'ras', 'lps', 'vox'}, optional
        What the coordinates of landmark files are that do not say.
    row : int
        Line of the table, for messages.
    """

    name: str
    fixed: Path
    moving: Path
    labels: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)
    points: tuple[Path, Path] | None = None
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    points_in: str | None = None
    row: int = 0

    def files(self) -> list[Path]:
        """Return every file of the case."""
        pairs = [(self.fixed, self.moving), *self.labels.values(), self.points or ()]
        return [p for pair in pairs for p in pair] + [m for m in (self.fixed_mask, self.moving_mask) if m]

    def missing(self) -> list[Path]:
        """Return the files that do not exist or are empty."""
        return [path for path in self.files() if not _usable(path)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "name": self.name,
            "fixed": str(self.fixed),
            "moving": str(self.moving),
            "labels": {name: [str(p) for p in pair] for name, pair in self.labels.items()},
            "points": None if self.points is None else [str(p) for p in self.points],
            "fixed_mask": None if self.fixed_mask is None else str(self.fixed_mask),
            "moving_mask": None if self.moving_mask is None else str(self.moving_mask),
            "points_in": self.points_in,
        }


def read_cases(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    split: str | None = None,
    convention: str | None = None,
) -> tuple[Case, ...]:
    r"""Read a table of pairs.

    Parameters
    ----------
    path : path
        CSV with the columns ``fixed`` and ``moving``, and as far as there are any ``case``,
        ``fixed_labels``, ``moving_labels``, ``fixed_points``, ``moving_points``, ``fixed_mask``,
        ``moving_mask``; further sets of labels as ``fixed_labels_NAME`` and ``moving_labels_NAME``. Or the
        dataset JSON of a Learn2Reg task.
    root : path, optional
        Folder that relative names start from (default: the table's).
    split : str, optional
        Which pairs of a dataset JSON.
    convention : {'ras', 'lps'}, optional
        Of landmark files that do not say.

    Returns
    -------
    tuple of Case
        In the table's order. Files are not looked at; see `check_files`.

    Raises
    ------
    FormatError
        If the table is missing, empty or damaged, lacks a column, has one that looks mistyped, half a pair of
        labels or landmarks, or a case twice.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder, "pairs.csv")
    ...     _ = table.write_text("fixed,moving\na_t1.nii.gz,b_t1.nii.gz\n")
    ...     [case.name for case in read_cases(table)]
    ['a_t1-b_t1']
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        cases = _from_learn2reg(path, root, split)
    else:
        if split is not None:
            raise FormatError(f"a split belongs to a Learn2Reg dataset JSON; {path} is a table")
        cases = _from_csv(path, path.parent if root is None else Path(root), convention)
    _refuse_twins(path, cases)
    return cases


def check_files(cases: Sequence[Case]) -> dict[str, str]:
    """Return, for each case that lacks files, what is missing.

    Examples
    --------
    >>> check_files([Case(name="one", fixed=Path("/no/f.nii"), moving=Path("/no/m.nii"), row=2)])
    {'one': 'row 2, case one: no such file: /no/f.nii, /no/m.nii'}
    """
    found = {}
    for case in cases:
        missing = case.missing()
        if missing:
            files = ", ".join(map(str, missing))
            found[case.name] = f"row {case.row}, case {case.name}: no such file: {files}"
    return found


def unread_columns(path: str | os.PathLike[str]) -> list[str]:
    """Return the columns of a table of pairs that are not read, such as notes."""
    if Path(path).suffix.lower() == ".json":
        return []
    return [name for name in _header(read_text(path))[0] if name not in _COLUMNS and not _SET.fullmatch(name)]


def _usable(path: Path) -> bool:
    try:
        return path.is_dir() or path.stat().st_size > 0
    except OSError:
        return False


def _from_csv(path: Path, root: Path, convention: str | None) -> tuple[Case, ...]:
    text = read_text(path)
    columns, reader = _header(text)
    _check_columns(path, columns)
    cases = []
    for row in reader:
        cells = {name: (value or "").strip() for name, value in row.items() if name}
        if not any(cells.values()):
            continue
        if None in row:
            raise FormatError(f"{path}, row {reader.line_num}: more cells than the header has names")
        cases.append(_case(path, cells, reader.line_num, root, convention))
    if not cases:
        raise FormatError(f"{path} has no rows below its header")
    return tuple(cases)


def _header(text: str) -> tuple[list[str], csv.DictReader[str]]:
    """Return the names of columns, and a reader of the rows below."""
    delimiter = next((d for d in (",", ";", "\t") if d in text.splitlines()[0]), ",")
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    return columns, reader


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    for name in _ROLES:
        if name not in columns:
            raise FormatError(
                f"{path} has no column {name!r}; it has {', '.join(columns)}. Expected fixed and moving, and as "
                f"far as there are any {', '.join(c for c in _COLUMNS if c not in _ROLES)}"
            )
    for name in columns:
        if any(role in name.lower() for role in _ROLES) and name not in _COLUMNS and not _SET.fullmatch(name):
            raise FormatError(
                f"{path} has a column {name!r} that is none of {', '.join(_COLUMNS)}; further sets of labels are "
                "called fixed_labels_NAME and moving_labels_NAME"
            )
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise FormatError(f"{path} has two columns {twice!r}")


def _case(path: Path, cells: Mapping[str, str], row: int, root: Path, convention: str | None) -> Case:
    def file(column: str) -> Path | None:
        return root / cells[column] if cells.get(column) else None

    def pair(part: str) -> tuple[Path, Path] | None:
        one, other = file(f"fixed_{part}"), file(f"moving_{part}")
        if (one is None) != (other is None):
            given, lacking = ("fixed", "moving") if other is None else ("moving", "fixed")
            raise FormatError(
                f"{path}, row {row}: {given}_{part} is given, {lacking}_{part} is not: give both, or neither"
            )
        return None if one is None or other is None else (one, other)

    fixed, moving = file("fixed"), file("moving")
    if fixed is None or moving is None:
        raise FormatError(f"{path}, row {row}: 'fixed' and 'moving' each need a file name")
    sets = [LABELS, *dict.fromkeys(found[2] for found in map(_SET.fullmatch, cells) if found)]
    named = {s: pair("labels" if s == LABELS else f"labels_{s}") for s in sets}
    return Case(
        name=cells.get("case") or f"{_stem(fixed)}-{_stem(moving)}",
        fixed=fixed,
        moving=moving,
        labels={name: files for name, files in named.items() if files is not None},
        points=pair("points"),
        fixed_mask=file("fixed_mask"),
        moving_mask=file("moving_mask"),
        points_in=convention,
        row=row,
    )


def _stem(path: Path) -> str:
    from regista.io import stem_of

    return stem_of(path)


def _from_learn2reg(path: Path, root: str | os.PathLike[str] | None, split: str | None) -> tuple[Case, ...]:
    from regista.evaluation import read_learn2reg

    task = read_learn2reg(path, root, split)
    metrics = {m.metric for m in task.measures}
    # landmarks were set by hand, keypoints found by a program: only a task without the first is judged by the second
    kind = max(
        (m.points for m in task.measures if m.metric == "tre"), key=lambda k: k == "landmarks", default=""
    )
    cases = []
    for number, pair in enumerate(task.pairs, start=1):
        labels = (pair.beside("labels"), pair.beside("labels", moving=True))
        masks = [
            m if m.is_file() else None for m in (pair.beside("masks"), pair.beside("masks", moving=True))
        ]
        cases.append(
            Case(
                name=pair.name.replace("<--", "-"),
                fixed=pair.fixed,
                moving=pair.moving,
                labels={LABELS: labels} if {"dice", "hd95"} & metrics else {},
                points=(pair.points(kind), pair.points(kind, moving=True)) if kind else None,
                fixed_mask=masks[0],
                moving_mask=masks[1],
                points_in="vox",
                row=number,
            )
        )
    return tuple(cases)


def _refuse_twins(path: Path, cases: Sequence[Case]) -> None:
    seen: dict[str, int] = {}
    for case in cases:
        if case.name in seen:
            raise FormatError(
                f"{path}: rows {seen[case.name]} and {case.row} are both called {case.name!r}: give each pair a name "
                "of its own in the column 'case'"
            )
        seen[case.name] = case.row
