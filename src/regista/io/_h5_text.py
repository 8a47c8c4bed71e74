"""A variable-length HDF5 string, read without the HDF5 library.

ITK names its transforms in such strings. The library follows their references without checks, so that a damaged
file ends the whole process; here every step is within bounds or refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from regista.core import FormatError

_MAGIC = b"GCOL"


def read_text(path: Path, dataset: Any) -> str:
    """Return the one string of an h5py dataset."""
    offset = dataset.id.get_offset()
    kind = dataset.id.get_type()
    if dataset.size != 1 or not hasattr(kind, "is_variable_str"):
        raise FormatError(f"{dataset.name} is not one string")
    if not kind.is_variable_str() or offset is None:
        value = dataset[()]
        value = value if isinstance(value, bytes | str) else value.ravel()[0]
        return value.decode() if isinstance(value, bytes) else str(value)
    with open(path, "rb") as stream:
        reference = _take(stream, offset, 16)
        length, address, index = (
            int.from_bytes(reference[a:b], "little") for a, b in ((0, 4), (4, 12), (12, 16))
        )
        return _find(stream, address, index)[:length].rstrip(b"\0").decode("ascii")


def _find(stream: Any, address: int, index: int) -> bytes:
    """Return an object of the global heap collection at an address."""
    head = _take(stream, address, 16)
    size = int.from_bytes(head[8:16], "little")
    if head[:4] != _MAGIC or not 16 <= size <= 1 << 24:
        raise FormatError("its text is damaged")
    heap, at = _take(stream, address, size), 16
    while at + 16 <= size:
        number, length = (
            int.from_bytes(heap[at : at + 2], "little"),
            int.from_bytes(heap[at + 8 : at + 16], "little"),
        )
        if number == 0 or at + 16 + length > size:
            break
        if number == index:
            return heap[at + 16 : at + 16 + length]
        at += 16 + -(-length // 8) * 8
    raise FormatError("its text is damaged")


def _take(stream: Any, offset: int, count: int) -> bytes:
    if offset >= 1 << 62:
        raise FormatError("its text is damaged")
    stream.seek(offset)
    raw: bytes = stream.read(count)
    if len(raw) != count:
        raise FormatError("it is truncated")
    return raw
