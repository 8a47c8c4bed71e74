"""Opening and writing files: atomic, with plain messages for what the disk refuses."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from regista.core import FormatError, RegistaError
from regista.core.memory import available_bytes

PathLike = str | os.PathLike[str]

_PAIRS = {
    ".hdr": (".hdr", ".img"),
    ".img": (".hdr", ".img"),
    ".hdr.gz": (".hdr.gz", ".img.gz"),
    ".img.gz": (".hdr.gz", ".img.gz"),
}
# Longest first: `name.mrk.json` and `name.nii.gz` have suffixes of two parts.
_DOUBLE = (".nii.gz", ".img.gz", ".hdr.gz", ".mgh.gz", ".mrk.json", ".aff12.1d", ".surf.gii")


def suffix_of(path: PathLike) -> str:
    """Return the lower-case extension, of two parts where the format has two (``.nii.gz``)."""
    name = Path(path).name.lower()
    for double in _DOUBLE:
        if name.endswith(double):
            return double
    return Path(name).suffix


def stem_of(path: PathLike) -> str:
    """Return the file name without its extension: the default name of a space."""
    name = Path(path).name
    suffix = suffix_of(path)
    return name[: len(name) - len(suffix)] if suffix else name


def files_of(path: PathLike) -> list[Path]:
    """Return a file and those that belong to it: voxels beside a header, the slices of a folder.

    Examples
    --------
    >>> [file.name for file in files_of("scan.hdr")]
    ['scan.hdr', 'scan.img']
    """
    path = Path(path)
    if path.is_dir():
        return [file for file in path.iterdir() if file.is_file() and _is_dicom(file)]
    suffix = suffix_of(path)
    base = path.name[: len(path.name) - len(suffix)]
    if suffix in _PAIRS:
        return [path.with_name(f"{base}{one}") for one in _PAIRS[suffix]]
    if suffix not in (".mhd", ".nhdr"):
        return [path]
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [path]
    found = re.search(r"^(?:ElementDataFile *=|data *file *:)\s*(.*)", text, re.MULTILINE | re.IGNORECASE)
    named = found[1].strip() if found else ""
    if named.upper().startswith("LIST"):
        names = text[found.end() :].split("\n") if found else []
    else:  # one name, or a pattern such as slice%03d.raw with the range of its numbers
        names = [re.sub(r"%\d*d", "*", named.split(" ")[0] if "%" in named else named)]
    beside: list[Path] = []
    for name in filter(None, (n.strip() for n in names)):
        beside += sorted(path.parent.glob(name)) if "*" in name else [path.parent / name]
    return [path, *beside]


def _is_dicom(file: Path) -> bool:
    try:
        with open(file, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def check_exists(path: PathLike, what: str) -> Path:
    """Return an existing, non-empty file's path, or say what is wrong with it."""
    path = Path(path)
    if path.is_dir():
        raise FormatError(f"{path} is a folder, expected {what} file")
    if not path.exists():
        where = path.parent if str(path.parent) else Path(".")
        hint = "" if where.is_dir() else f" (the folder {where} does not exist either)"
        raise FormatError(f"{path} does not exist{hint}; expected {what} file: check the name")
    try:
        if path.stat().st_size == 0:
            raise FormatError(f"{path} is empty (0 bytes), expected {what} file: copy or export it again")
        with open(path, "rb"):
            pass
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}") from None
    return path


@contextmanager
def reading(path: PathLike, what: str) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into a `FormatError`."""
    try:
        yield
    except RegistaError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from None
    except MemoryError:
        raise FormatError(f"{path} asks for more memory than there is: is its header damaged?") from None
    except Exception as error:
        detail = " ".join(str(error).split())[-300:] or type(error).__name__
        raise FormatError(
            f"{path} cannot be read as {what} file: it is damaged, truncated or of another kind ({detail})"
        ) from error


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; move it over `path` when the block succeeds.

    Whatever goes wrong, `path` is left as it was and nothing else stays behind.
    """
    path = Path(path)
    if path.is_dir():
        raise FormatError(f"{path} is a folder: name a file to write")
    # named before it is made, so that whatever happens next it is known what to remove
    temporary = path.with_name(f".{stem_of(path)[:40]}-{secrets.token_hex(5)}{suffix_of(path)}")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise FormatError(_refusal(path, error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: PathLike, *parts: bytes | memoryview) -> None:
    """Write pieces of a file one after another, atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        for part in parts:
            stream.write(part)


def write_text(path: PathLike, text: str) -> None:
    """Write a text file in UTF-8, atomically; what UTF-8 cannot hold of a file's name is written as an escape."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def read_text(path: PathLike, what: str) -> str:
    """Return a text file's content."""
    path = check_exists(path, what)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise FormatError(f"{path} is not text, expected {what} file") from None


def full_disk(path: Path) -> str:
    """Return the message for a disk that has no room for a file."""
    return (
        f"{path} cannot be written: the disk is full; nothing was left behind. Make room, or write elsewhere"
    )


def has_room(path: Path, need_bytes: int) -> bool:
    """Tell whether the disk has room for a file, where libraries do not say why they failed."""
    try:
        return shutil.disk_usage(path.absolute().parent).free >= need_bytes
    except OSError:
        return True


def reserve(path: Path, need_bytes: int) -> None:
    """Find out, by writing zeros, whether a file has room, before a library that a full disk would crash."""
    with open(path, "wb") as stream:
        for start in range(0, need_bytes, 1 << 22):
            stream.write(bytes(min(1 << 22, need_bytes - start)))
    path.write_bytes(b"")


def check_memory(path: PathLike, voxel_bytes: int, size: Sequence[int]) -> None:
    """Refuse an image that memory cannot hold, before it is read."""
    free = available_bytes()
    need = 2 * voxel_bytes  # as stored, and in the order of our arrays
    if free is not None and need > free:
        raise FormatError(
            f"{path} is an image of {'×'.join(map(str, size))}: reading it needs about {need / 1e9:.1f} GB of memory "
            f"and {free / 1e9:.1f} GB are free; crop or resample it with a tool that streams, or close other "
            "programs. If it is not that large, its header is damaged"
        )


def _refusal(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "no space left" in str(error).lower():
        return full_disk(path)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{path} cannot be written: the folder {path.parent} is read-only for you; choose another"
    if error.errno == errno.ENOENT and not path.parent.is_dir():
        return f"{path} cannot be written: the folder {path.parent} does not exist; make it first"
    return f"{path} cannot be written: {error.strerror or error}"
