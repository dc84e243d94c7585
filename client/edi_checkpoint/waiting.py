"""What lies in outboxes, for those who only look: how a writer left, and what nobody has taken yet.

Records are told apart by their lengths alone, which makes a large outbox cost a walk over its heads; an entry that is
looked into is verified first. Reading needs no lock: an owner may append and unlink meanwhile.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from edi_checkpoint.errors import ProtocolError
from edi_checkpoint.layout import Kind
from edi_checkpoint.protocol import Entry, Mark, decode_entry
from edi_checkpoint.records import ENTRY_MAX_BYTES, HEADER, scan
from edi_checkpoint.spool import StreamFiles, list_streams

_BUFFER_BYTES = 256 << 10


class Head(NamedTuple):
    """Where a record lies: its number, its segment, and from where to where."""

    number: int
    segment: Path
    start: int
    end: int


class Waiting(NamedTuple):
    """Entries of a stream that were not taken: how many, and the publisher's time of the first, in microseconds."""

    entries: int
    since_us: int


def all_streams(root: Path) -> list[StreamFiles]:
    """Return the streams of all sessions whose outboxes lie below `root`, those of a session in their order."""
    try:
        with os.scandir(root) as entries:
            folders = sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    return [files for folder in folders for files in list_streams(folder)]


def last_number(files: StreamFiles) -> int:
    """Return the highest number in a stream's segments, 0 when they hold none."""
    return max((head.number for head in _heads(files)), default=0)


def left_cleanly(files: StreamFiles) -> bool:
    """Return whether a stream's writer, gone by now, left cleanly: then its last entry says so."""
    last = deque(_heads(files), maxlen=1)
    entry = _entry(last[0]) if last else None
    return isinstance(entry, Mark) and entry.kind == Kind.SHUTDOWN


def waiting(files: StreamFiles, after: int) -> Waiting | None:
    """Return what a stream holds behind number `after`, None when that is nothing."""
    behind = (head for head in _heads(files) if head.number > after)
    first = next(behind, None)
    if first is None:
        return None
    entry = _entry(first)
    return Waiting(1 + sum(1 for _ in behind), entry.time_us if entry else 0)


def beyond(streams: Iterable[StreamFiles], taken: Mapping[str, int]) -> tuple[int, bool]:
    """Return how many entries the streams hold behind the numbers `taken` of each, and whether one changes a state.

    Marks change none.
    """
    entries, changes = 0, False
    for files in streams:
        after = taken.get(files.owner.stream, 0)
        for head in _heads(files):
            if head.number > after:
                entries += 1
                changes = changes or not isinstance(_entry(head), Mark)
    return entries, changes


def _heads(files: StreamFiles) -> Iterator[Head]:
    """Yield a stream's records in order, up to the first that is torn; each number once, as readers take them."""
    number = 0
    for path in files.segments:
        try:
            with path.open("rb", buffering=_BUFFER_BYTES) as file:
                size, start = os.fstat(file.fileno()).st_size, 0
                while size - start >= HEADER.size:
                    file.seek(start)
                    head = file.read(HEADER.size)
                    if len(head) < HEADER.size:
                        return  # cut off meanwhile: it was torn
                    length, _, found = HEADER.unpack(head)
                    end = start + HEADER.size + length
                    if length > ENTRY_MAX_BYTES or end > size:
                        return
                    if found > number:
                        number = found
                        yield Head(number, path, start, end)
                    start = end
        except FileNotFoundError:
            continue  # its owner trimmed it meanwhile: a file covers it


def _entry(head: Head) -> Entry | None:
    """Return the entry of a record, None when it is gone or is none."""
    try:
        with head.segment.open("rb") as file:
            file.seek(head.start)
            (record,) = scan(file.read(head.end - head.start))
            return decode_entry(record.entry)
    except (OSError, ValueError, ProtocolError):
        return None
