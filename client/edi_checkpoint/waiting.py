"""What lies in outboxes, for those who only look: how a writer left, and what nobody has taken yet.

An entry that is looked into is verified first. Reading needs no lock: an owner may append and unlink meanwhile.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from edi_checkpoint.errors import ProtocolError
from edi_checkpoint.layout import Kind
from edi_checkpoint.protocol import Entry, Mark, Pin, decode_entry
from edi_checkpoint.records import scan
from edi_checkpoint.spool import Head, StreamFiles, heads, list_streams
from edi_checkpoint.times import from_us


def all_streams(root: Path) -> list[StreamFiles]:
    """Return the streams of all sessions whose outboxes lie below `root`, those of a session in their order."""
    try:
        with os.scandir(root) as entries:
            folders = sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    return [files for folder in folders for files in list_streams(folder)]


def left_cleanly(files: StreamFiles) -> bool:
    """Return whether a stream's writer, gone by now, left cleanly: then its last entry says so."""
    last = deque(heads(files), maxlen=1)
    entry = _entry(last[0]) if last else None
    return isinstance(entry, Mark) and entry.kind == Kind.SHUTDOWN


def waiting(files: StreamFiles, after: int, upto: int) -> tuple[int, datetime | None]:
    """Return how many entries a stream holds from behind number `after` up to `upto`, and when the first was published.

    The time is the publisher's, None when there is none.
    """
    found = (head for head in heads(files) if after < head.number <= upto)
    first = next(found, None)
    if first is None:
        return 0, None
    entry = _entry(first)
    return 1 + sum(1 for _ in found), from_us(entry.time_us) if entry else None


def holds_changes(streams: Iterable[StreamFiles], taken: Mapping[str, int]) -> bool:
    """Return whether the streams hold, behind the numbers `taken` of each, an entry that changes a state.

    Marks and pins change none.
    """
    return any(
        not isinstance(_entry(head), Mark | Pin)
        for files in streams
        for head in heads(files)
        if head.number > taken.get(files.owner.stream, 0)
    )


def _entry(head: Head) -> Entry | None:
    """Return the entry of a record, None when it is gone or is none."""
    try:
        with head.segment.open("rb") as file:
            file.seek(head.start)
            (record,) = scan(file.read(head.end - head.start))
            return decode_entry(record.entry)
    except (OSError, ValueError, ProtocolError):
        return None
