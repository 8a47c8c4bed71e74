"""Results that appear together or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from regista.cli._stops import past_stopping, stops_deferred
from regista.core import FormatError, Image
from regista.io import write, write_text


class FolderWriter:
    """Write files to a hidden folder in or beside `target`, and move them there at the end.

    Made before the work begins, so that a read-only place is found out early; unless `commit` is reached,
    nothing stays behind.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._made: list[Path] = []
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        target = self.target
        if target.exists() and not target.is_dir():
            raise FormatError(f"{target} is a file: name a folder for the results")
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
        folder = self._hidden()
        with ThreadPoolExecutor(len(things)) as pool:
            for future in [pool.submit(write, folder / name, thing) for name, thing in things.items()]:
                try:
                    future.result()
                except FormatError as error:  # the user knows the folder by its own name
                    raise FormatError(str(error).replace(str(folder), str(self.target))) from error

    def text(self, name: str, text: str) -> None:
        """Write a text file."""
        write_text(self._hidden() / name, text)

    def _hidden(self) -> Path:
        assert self._folder is not None, "enter the writer first"
        return self._folder

    def commit(self, last: str) -> Path:
        """Move all files to the target, the file named `last` at the end; return its path there."""
        with past_stopping():
            self._move(last)
        return self.target / last

    def _move(self, last: str) -> None:
        folder = self._hidden()
        names = sorted(os.listdir(folder), key=lambda name: name == last)
        in_the_way = next((self.target / name for name in names if (self.target / name).is_dir()), None)
        if in_the_way is not None:  # found out before the first file is moved
            raise FormatError(f"{in_the_way} is a folder where a file is to be written: choose another -o")
        try:
            if self.target.exists():
                for name in names:
                    os.replace(folder / name, self.target / name)
            else:
                mask = os.umask(0)
                os.umask(mask)
                folder.chmod(0o777 & ~mask)
                folder.rename(self.target)
        except OSError as error:
            raise FormatError(
                f"results cannot be moved to {self.target}: {error.strerror or error}"
            ) from None
        self._made = []

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
