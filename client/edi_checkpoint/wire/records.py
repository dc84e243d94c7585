"""Records: one entry's bytes with number and checksum, the same in an outbox, a wire frame and a journal row.

    length u32 | crc32 u32 | number u64 | entry bytes          (little endian; `docs/format.md`, Records)

`length` counts the entry bytes; the checksum covers number and entry bytes. Records follow each other without gaps.
Numbers rise within a stream; they are consecutive unless a compaction shortened the outbox.
"""

from __future__ import annotations

import struct
import sys
from typing import NamedTuple
from zlib import crc32

from edi_checkpoint.errors import ProtocolError

HEADER = struct.Struct("<IIQ")
_LEAD = struct.Struct("<II")
_NUMBER = struct.Struct("<Q")
ENTRY_MAX_BYTES = 64 << 20
NUMBER_MAX = (1 << 63) - 1  # SQLite's largest integer


class Record(NamedTuple):
    """One record: its number in the stream, the entry's bytes, and the offset of its end in the scanned data."""

    number: int
    entry: bytes
    end: int


def head(number: int, entry: bytes) -> bytes:
    """Return the header of the record of `entry` (at most 64 MiB) with `number` (1 to 2**63 - 1)."""
    return HEADER.pack(len(entry), crc32(entry, crc32(_NUMBER.pack(number))), number)


def pack(number: int, entry: bytes) -> bytes:
    """Return the record of `entry` (at most 64 MiB) with `number` (1 to 2**63 - 1)."""
    return head(number, entry) + entry


def scan(data: bytes | memoryview) -> list[Record]:
    """Return the records at the start of `data`, up to the first that is torn, damaged or out of order.

    The valid part ends at the last record's `end`. A reader of a file stops there, because the writer never reported
    a record after a torn one as written.
    """
    records: list[Record] = []
    offset, last = 0, 0
    view = memoryview(data)
    total = len(view)
    header, lead, unpack = HEADER.size, _LEAD.size, HEADER.unpack_from
    while total - offset >= header:
        length, checksum, number = unpack(view, offset)
        checked, start = offset + lead, offset + header
        offset = start + length
        if length > ENTRY_MAX_BYTES or offset > total or not last < number <= NUMBER_MAX:
            break
        if crc32(view[checked:offset]) != checksum:
            break
        records.append(Record(number, bytes(view[start:offset]), offset))
        last = number
    return records


def scan_all(data: bytes | memoryview) -> list[Record]:
    """Return the records of `data`, which consists of one or more whole records.

    Raises `ProtocolError` otherwise: a frame or a row with other bytes is refused as a whole.
    """
    records = scan(data)
    end = records[-1].end if records else 0
    if not records or end != len(data):
        raise ProtocolError(f"records: byte {end} of {len(data)} begins no whole record")
    return records


def entries(data: bytes) -> tuple[list[bytes], int]:
    """Return the entries of all records of `data`, and the last number.

    It raises as `scan_all` does and takes a third of its time, because it makes no `Record`s.
    """
    found: list[bytes] = []
    offset, last, total = 0, 0, len(data)
    header, lead, unpack = HEADER.size, _LEAD.size, HEADER.unpack_from  # a start uses each a million times
    while total - offset >= header:
        length, checksum, number = unpack(data, offset)
        end = offset + header + length
        if end > total or length > ENTRY_MAX_BYTES or not last < number <= NUMBER_MAX:
            break
        checked = data[offset + lead : end]
        if crc32(checked) != checksum:
            break
        found.append(checked[_NUMBER.size :])
        offset, last = end, number
    if not found or offset != total:
        raise ProtocolError(f"records: byte {offset} of {total} begins no whole record")
    return found, last


def whole(data: bytes | memoryview, most: int = sys.maxsize) -> tuple[int, int]:
    """Return the offset after the last whole record of `data`, at most the record `most`, and its number.

    It reads the lengths alone and verifies no checksum.
    """
    offset = number = 0
    while len(data) - offset >= HEADER.size and most > 0:
        most -= 1
        length, _, following = HEADER.unpack_from(data, offset)
        end = offset + HEADER.size + length
        if end > len(data):
            break
        offset, number = end, following
    return offset, number
