"""gzip, on all threads when writing."""

from __future__ import annotations

import struct
import zlib

from regista.core import FormatError, parallel_for

_BLOCK = 1 << 20


def compress(data: memoryview | bytes, level: int = 1) -> list[bytes]:
    """Return a gzip file as pieces to be written in order.

    The data is deflated in blocks of 1 MiB that make one ordinary stream, so the bytes do not depend on the
    number of threads, and any reader takes them.

    Examples
    --------
    >>> import gzip
    >>> gzip.decompress(b"".join(compress(b"regista")))
    b'regista'
    """
    view = memoryview(data).cast("B") if not isinstance(data, bytes) else memoryview(data)
    count = max(1, -(-len(view) // _BLOCK))
    blocks: list[bytes] = [b""] * count

    def body(start: int, stop: int) -> None:
        for n in range(start, stop):
            squeeze = zlib.compressobj(level, zlib.DEFLATED, -15)
            end = zlib.Z_FINISH if n == count - 1 else zlib.Z_SYNC_FLUSH
            blocks[n] = squeeze.compress(view[n * _BLOCK : (n + 1) * _BLOCK]) + squeeze.flush(end)

    parallel_for(body, count)
    header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"  # no name, no time: same data, same bytes
    trailer = struct.pack("<II", zlib.crc32(view), len(view) & 0xFFFFFFFF)
    return [header, *blocks, trailer]


def decompress(data: bytes) -> bytes:
    """Return the content of a gzip file of one or several members; `FormatError` if damaged or cut short."""
    parts = []
    try:
        while data[:2] == b"\x1f\x8b":
            stretch = zlib.decompressobj(31)
            parts.append(stretch.decompress(data))
            if not stretch.eof:
                raise FormatError("the compressed data ends too early: the file is truncated; copy it again")
            data = stretch.unused_data
    except zlib.error as error:
        raise FormatError(f"the compressed data is damaged ({error}); copy the file again") from None
    if not parts:
        raise FormatError("the file is named .gz but is not gzip")
    return parts[0] if len(parts) == 1 else b"".join(parts)
