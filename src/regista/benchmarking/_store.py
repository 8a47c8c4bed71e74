"""The folder of a benchmark: one result for each case and method, and the table made of them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from regista.core import FormatError
from regista.io import write_text

Row = dict[str, Any]
_FIRST = (
    "case",
    "method",
    "status",
    "kind",
    "set",
    "label",
    "name",
    "seconds_stage",
    "seconds_linear",
    "seconds_deformable",
    "seconds_process",
    "peak_mb",
)
_LAST = ("version", "threads", "repeats", "processor", "sources", "warning", "error")
_KEPT = (".json", ".log", "affine.mat", "affine_ras.txt")


class Store:
    """Results in a folder.

    Each result is a file, replaced as a whole or not at all, with a key of all that decided it: a run that was
    killed is taken up from them, and ``raw.csv`` is written anew from them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[Path, str] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Refuse a second run in the same folder."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            stream = open(self.folder / ".lock", "w", encoding="ascii")  # noqa: SIM115
        except OSError as error:
            raise FormatError(
                f"results cannot be written to {self.folder}: {error.strerror or error}; choose another folder with -o"
            ) from None
        with stream:
            try:
                import fcntl

                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:  # Windows
                pass
            except OSError:
                raise FormatError(
                    f"another benchmark is running in {self.folder}: wait for it, or choose another folder with -o"
                ) from None
            yield

    def check_start(self, shared: str | None) -> None:
        """Refuse a folder whose results began from another linear map: they would be replaced.

        Parameters
        ----------
        shared : str, optional
            Name of the method whose result all others start from.

        Raises
        ------
        FormatError
            If an earlier run in the folder recorded another one.
        """
        try:
            earlier = json.loads((self.folder / "machine.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if (
            not isinstance(earlier, dict)
            or "equal_affine" not in earlier
            or earlier["equal_affine"] == shared
        ):
            return
        was, now = (
            f"start from {name}" if name else "start by themselves"
            for name in (earlier["equal_affine"], shared)
        )
        raise FormatError(
            f"{self.folder} holds a benchmark in which methods {was}; in this one they {now}, and its results would take "
            "the place of the earlier ones: choose another folder with -o"
        )

    def check_foreign(self, names: Sequence[str]) -> None:
        """Refuse to write over files of the user's: those in a folder where no benchmark has run.

        Raises
        ------
        FormatError
            If one of the files named stands in a folder that holds no results of a benchmark.
        """
        if (self.folder / "machine.json").is_file() or (self.folder / "runs").is_dir():
            return
        own = [name for name in names if (self.folder / name).exists()]
        if own:
            raise FormatError(
                f"{self.folder / own[0]} exists, and not from a benchmark: it would be replaced; choose another folder "
                "with -o, or move it away"
            )

    def place(self, case: str, method: str) -> Path:
        """Return the folder of a case and method."""
        return self.folder / "runs" / _slug(case) / _slug(method)

    def read(self, case: str, method: str) -> dict[str, Any] | None:
        """Return a result, or None where there is none (or a damaged one)."""
        with suppress(OSError, ValueError):
            found = json.loads((self.place(case, method) / "result.json").read_text(encoding="utf-8"))
            if isinstance(found, dict) and {"key", "status", "rows"} <= set(found):
                return found
        return None

    def write(self, case: str, method: str, result: Mapping[str, Any]) -> None:
        """Write a result."""
        folder = self.place(case, method)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "result.json", json.dumps(result))

    def tidy(self, case: str, method: str) -> None:
        """Remove transforms and other large files of a result."""
        for path in self._large(case, method):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def has_transforms(self, case: str, method: str) -> bool:
        """Tell whether the transforms of a result are in its folder."""
        return bool(self._large(case, method))

    def _large(self, case: str, method: str) -> list[Path]:
        found = self.place(case, method).iterdir()
        return [path for path in found if path.is_dir() or not path.name.endswith(_KEPT)]

    def clear(self, case: str, method: str) -> None:
        """Remove what an earlier run of a case and method left."""
        shutil.rmtree(self.place(case, method), ignore_errors=True)

    def digest(self, path: Path | str) -> str:
        """Return a digest of a file's content, or of a folder's."""
        path = Path(path)
        if path not in self._digests:
            self._digests[path] = _digest(path)
        return self._digests[path]


def key_of(content: Mapping[str, Any]) -> str:
    """Return a digest of all that decides a result.

    Examples
    --------
    >>> key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": 3})
    True
    """
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV under the union of their columns; what is undefined stays empty.

    Raises
    ------
    FormatError
        If the disk refuses.
    """
    known = dict.fromkeys(name for row in rows for name in row)
    middle = [name for name in known if name not in (*_FIRST, *_LAST)]
    columns = [n for n in _FIRST if n in known] + middle + [n for n in _LAST if n in known]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if _undefined(v) else v for name, v in row.items()} for row in rows)
    write_text(path, out.getvalue())


def _undefined(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _slug(name: str) -> str:
    """Return a folder's name; names that would look alike are told apart by a digest."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", name.replace(":", "--")).strip("._")[:80]
    if (plain == name and "--" not in name) or plain.replace("--", ":") == name:
        return plain
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _digest(path: Path) -> str:
    if path.is_dir():
        names = sorted(p for p in path.rglob("*") if p.is_file())
        return key_of({str(p.relative_to(path)): _digest(p) for p in names})
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "blake2b").hexdigest()[:32]
    except OSError as error:
        return f"unreadable: {os.strerror(error.errno or 0)}"
