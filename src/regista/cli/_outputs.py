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

    def __enter__(self) -> Self:
        target = self.target
        if target.exists() and not target.is_dir():
            raise FormatError(f"{target} is a file: name a folder for the results")
        # inside the target where there is one: its parent may be read-only or another disk
        beside = target if target.is_dir() else target.absolute().parent
        try:
            self._make_parents(beside)
            self._folder = Path(tempfile.mkdtemp(prefix=".regista-", dir=beside))
        except OSError as error:
            self._remove_made()
            raise FormatError(
                f"results cannot be written to {target}: {error.strerror or error}; choose another folder with -o"
            ) from None
        return self

    def _make_parents(self, folder: Path) -> None:
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self._made = missing

    def _remove_made(self) -> None:
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # someone else uses it by now
                return

    def write_all(self, things: dict[str, Any]) -> None:
        """Write files side by side."""
        with ThreadPoolExecutor(len(things)) as pool:
            for future in [pool.submit(write, self._folder / name, thing) for name, thing in things.items()]:
                future.result()

    def text(self, name: str, text: str) -> None:
        """Write a text file."""
        write_text(self._folder / name, text)

    def commit(self, last: str) -> Path:
        """Move all files to the target, the file named `last` at the end; return its path there."""
        try:
            if not self.target.exists():
                mask = os.umask(0)
                os.umask(mask)
                self._folder.chmod(0o777 & ~mask)
                self._folder.rename(self.target)
            else:
                names = sorted(os.listdir(self._folder), key=lambda name: name == last)
                for name in names:
                    os.replace(self._folder / name, self.target / name)
        except OSError as error:
            raise FormatError(
                f"results cannot be moved to {self.target}: {error.strerror or error}"
            ) from None
        self._made = []
        return self.target / last

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
