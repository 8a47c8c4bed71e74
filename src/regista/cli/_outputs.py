"""Outputs: never over an input, and results that belong together appear together or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from regista.cli._stops import past_stopping, stops_deferred
from regista.core import FormatError, Image
from regista.io import files_of, replacing, suffix_of, write, write_text


def keep_inputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """Refuse an output that is the same file as an input, whatever path or link leads to it.

    Every command that writes calls this before it reads, with all files it will write and all it will read.

    Parameters
    ----------
    outputs : iterable of Path or None
        Files to be written.
    inputs : iterable of Path or None
        Files to be read, with those that belong to them, such as the ``.raw`` of a ``.mhd``.

    Raises
    ------
    FormatError
        If a file is among both.
    """
    read = [(given, file) for given in inputs if given is not None for file in files_of(given)]
    for output in outputs:
        if output is None or not output.exists():
            continue
        for given, file in read:
            if not (file.exists() and output.samefile(file)):
                continue
            same = "is one of the inputs" if output == given else f"is the same file as the input {given}"
            if file != given:
                same = f"belongs to the input {given}"
            raise FormatError(
                f"{output} {same}: writing it would destroy the input; choose another name for the output"
            )


def check_outputs(
    outputs: Iterable[Path | None],
    inputs: Iterable[Path | None],
    suffixes: Sequence[str] | None = None,
) -> None:
    """Refuse, before any work, outputs that cannot be written, or would be written over an input.

    Parameters
    ----------
    outputs, inputs : iterable of Path or None
        See `keep_inputs`.
    suffixes : sequence of str, optional
        Extensions an output may have.

    Raises
    ------
    FormatError
        If an output is a folder, lies in a folder that does not exist or in a file, has another extension, or is an input.
    """
    wanted = [path for path in outputs if path is not None]
    keep_inputs(wanted, inputs)
    for path in wanted:
        if [other.absolute() for other in wanted].count(path.absolute()) > 1:
            raise FormatError(f"{path} is named for two outputs, and one would destroy the other")
        if suffixes is not None and suffix_of(path) not in suffixes:
            known = " or ".join(filter(None, (", ".join(suffixes[:-1]), suffixes[-1])))
            raise FormatError(f"{path} cannot be written: expected a name that ends in {known}")
        if path.is_dir():
            raise FormatError(f"{path} is a folder: name a file to write")
        file = _file_in_the_way(path.parent)
        if file is not None:
            raise FormatError(
                f"{path} cannot be written: {file} is a file, expected a folder; choose another name for the output"
            )
        if not path.absolute().parent.is_dir():
            raise FormatError(
                f"{path} cannot be written: the folder {path.parent} does not exist; make it first"
            )


def _file_in_the_way(folder: Path) -> Path | None:
    """Return the file that stands where a folder, or one above it, is to be; None if there is none."""
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    return None if nearest.is_dir() else nearest


def check_folder(target: Path) -> None:
    """Refuse a folder for results where a file stands in the way."""
    file = _file_in_the_way(target)
    if file is not None:
        raise FormatError(
            f"results cannot be written to {target}: {file} is a file, expected a folder; choose another folder with -o"
        )


def write_together(things: Mapping[Path, Image | str]) -> None:
    """Write images and texts; none takes its place before all are written in full.

    Where the disk refuses to move one of them, those moved before it stay.
    """
    with ExitStack() as moves:
        for path, thing in things.items():
            temporary = moves.enter_context(replacing(path))
            try:
                if isinstance(thing, str):
                    write_text(temporary, thing)
                else:
                    write(temporary, thing)
            except FormatError as error:  # the user knows the file by its own name
                raise FormatError(str(error).replace(str(temporary), str(path))) from error
        with past_stopping():
            moves.close()


class FolderWriter:
    """Write files to a hidden folder in or beside `target`, and move them there at the end.

    Made before the work begins, so that a read-only place is found out early. Unless `commit` is reached, nothing
    stays behind; where the disk refuses the last move, the hidden folder stays and is named.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._made: list[Path] = []
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        target = self.target
        check_folder(target)
        # inside the target where there is one: its parent may be read-only or another disk
        beside = target if target.is_dir() else target.absolute().parent
        try:
            with stops_deferred():
                self._make_parents(beside)
                self._folder = Path(tempfile.mkdtemp(prefix=".regista-", dir=beside))
        except OSError as error:
            self._clean()
            raise FormatError(
                f"results cannot be written to {target}: {error.strerror or error}; choose another folder with -o"
            ) from None
        except BaseException:
            self._clean()
            raise
        return self

    def _make_parents(self, folder: Path) -> None:
        self._made = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)

    def _remove_made(self) -> None:
        for folder in self._made:
            try:
                folder.rmdir()
            except FileNotFoundError:  # it was not made after all
                continue
            except OSError:  # someone else uses it by now
                return

    def write_all(self, things: dict[str, Any]) -> None:
        """Write files side by side."""
        folder = self.hidden
        for name in things:  # some may lie in folders of their own
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(min(len(things), 8)) as pool:
            for future in [pool.submit(write, folder / name, thing) for name, thing in things.items()]:
                try:
                    future.result()
                except FormatError as error:  # the user knows the folder by its own name
                    raise FormatError(str(error).replace(str(folder), str(self.target))) from error

    def text(self, name: str, text: str) -> None:
        """Write a text file."""
        write_text(self.hidden / name, text)

    @property
    def hidden(self) -> Path:
        """The folder that files are written to before they are moved."""
        assert self._folder is not None, "enter the writer first"
        return self._folder

    def commit(self, last: str, stale: Iterable[Path] = ()) -> Path:
        """Move all files to the target, the file named `last` at the end; return its path there.

        Files of an earlier run that are `stale` (relative to the target) go, whether or not new ones take their place.
        """
        with past_stopping():
            self._move(last, [str(path) for path in stale])
        return self.target / last

    def _move(self, last: str, stale: Sequence[str] = ()) -> None:
        folder = self.hidden
        found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
        names = sorted(sorted(map(str, found)), key=lambda name: name == last)
        in_the_way = next((self.target / name for name in names if (self.target / name).is_dir()), None)
        if in_the_way is not None:  # found out before the first file is moved
            raise FormatError(f"{in_the_way} is a folder where a file is to be written: choose another -o")
        try:
            if self.target.exists():
                self._exchange(folder, names, stale)
            else:
                mask = os.umask(0)
                os.umask(mask)
                folder.chmod(0o777 & ~mask)
                folder.rename(self.target)
        except OSError as error:
            self._folder = None  # results that took an hour are not thrown away
            raise FormatError(
                f"results cannot be moved to {self.target} ({error.strerror or error}): they are kept in {folder}"
            ) from None
        self._made = []

    def _exchange(self, folder: Path, names: list[str], stale: Sequence[str]) -> None:
        """Put new files in the place of earlier ones: all, or, where the disk refuses, none.

        The earlier record goes first and the new one comes last: even after a power cut no record stands beside
        files that are not its own.
        """
        earlier, target = folder / "earlier", self.target
        earlier.mkdir()
        moved: list[tuple[Path, Path]] = []

        def move(source: Path, goal: Path) -> None:
            goal.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, goal)
            moved.append((source, goal))

        try:
            for name in (*reversed(names), *(name for name in stale if name not in names)):
                if os.path.lexists(target / name):
                    move(target / name, earlier / name)
            for name in names:
                move(folder / name, target / name)
        except OSError:
            for source, goal in reversed(moved):
                try:
                    os.replace(goal, source)
                except OSError as error:
                    self._folder = None  # which holds what is missing
                    raise FormatError(
                        f"results cannot be moved to {target} ({error.strerror or error}), nor can the earlier ones "
                        f"be put back: they are in {earlier}"
                    ) from error
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with stops_deferred():
            self._clean()

    def _clean(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._remove_made()


def as_type(image: Image, dtype: Any) -> Image:
    """Return an image with voxels of another type, rounded and kept within its limits."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    if dtype == image.data.dtype:
        return image
    data = image.data
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        data = np.clip(np.rint(np.nan_to_num(data.astype(np.float64))), limits.min, limits.max)
    return image.with_data(data.astype(dtype))
