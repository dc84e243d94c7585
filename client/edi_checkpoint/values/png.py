"""Writes PNG in one way, and reads only what it writes.

The rows of 1-bit images are unfiltered. The rows of 8-bit images hold the difference to the row above. zlib compresses
both as runs. numpy is imported when rows are read.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_IHDR: Final = struct.Struct(">IIBBBBB")
GREY, COLOURS = 0, {1: 0, 3: 2, 4: 6}  # PNG's colour types, by the number of values of a pixel
AS_IS, MINUS_ABOVE = 0, 2  # PNG's filters


def to_png(rows: Array, width: int, height: int, depth: int, colour: int) -> bytes:
    """Return the PNG of `rows`, which are filtered and hold the filter's number in the first column."""
    # Z_RLE: masks consist of runs, and so do many differences of a picture's rows.
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    body = deflate.compress(rows.data) + deflate.flush()
    header = _IHDR.pack(width, height, depth, colour, 0, 0, 0)
    return _PNG + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(name: bytes, body: bytes) -> bytes:
    named = name + body
    return len(body).to_bytes(4) + named + zlib.crc32(named).to_bytes(4)


def from_png(data: bytes, width: int, height: int, depth: int, colour: int, row_bytes: int, filtered: int) -> Array:
    """Return the rows of a PNG that `to_png` wrote with these parameters. Raises ValueError for any other bytes."""
    import numpy as np

    head = _PNG + _chunk(b"IHDR", _IHDR.pack(width, height, depth, colour, 0, 0, 0))
    body = data[len(head) + 8 : -16]  # between the chunk's length and name, and its checksum and the end
    if not data.startswith(head) or data[len(head) :] != _chunk(b"IDAT", body) + _chunk(b"IEND", b""):
        raise ValueError(f"it is not a PNG of this package with {width}x{height} pixels of {depth} bit")
    inflate = zlib.decompressobj()
    size = height * (row_bytes + 1)
    try:
        text = inflate.decompress(body, size + 1)
    except zlib.error as error:
        raise ValueError(f"its pixels cannot be decompressed: {error}") from error
    if len(text) != size or not inflate.eof:
        raise ValueError(f"its pixels are not the {size} bytes that its shape needs")
    rows = np.frombuffer(text, np.uint8).reshape(height, row_bytes + 1)
    if not (rows[:, 0] == filtered).all():
        raise ValueError("its rows have another filter than those of this package")
    return rows[:, 1:]
