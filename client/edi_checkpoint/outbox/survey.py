"""Describes outboxes without changing them: how their writers left, and which entries are not drained yet.

An entry is verified before it is read. Reading needs no lock, because a writer may append and unlink meanwhile.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from edi_checkpoint.errors import ProtocolError
from edi_checkpoint.model import Kind
from edi_checkpoint.outbox.segments import Head, StreamFiles, heads, is_held, list_streams
from edi_checkpoint.system.safe_open import open_regular
from edi_checkpoint.system.times import from_us
from edi_checkpoint.wire.entries import Entry, Mark, Pin, decode_entry
from edi_checkpoint.wire.records import scan


class WaitingStream(NamedTuple):
    """A stream's outbox at one time.

    `held`: a living process held its lock. `last` is the highest number in it. `cleanly`: the last entry was the mark
    of a writer that left cleanly.
    """

    files: StreamFiles
    held: bool
    last: int
    cleanly: bool


def survey_all(root: Path) -> dict[str, list[WaitingStream]]:
    """Return the streams with an outbox below `root`, by session, as `survey_session` does."""
    try:
        with os.scandir(root) as entries:
            folders = sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return {}
    found = {folder.name: survey_session(folder) for folder in folders}
    return {session_id: streams for session_id, streams in found.items() if streams}


def survey_session(folder: Path) -> list[WaitingStream]:
    """Return the streams in a session's outbox folder, in the order in which they follow each other.

    Call this before you read the journal. Entries that are drained and unlinked in between are then found there.
    """
    found = []
    for files in list_streams(folder):
        held = is_held(files.lock)
        last = deque(heads(files), maxlen=1)
        entry = _entry(last[0]) if last and not held else None
        if files.lock.exists():
            cleanly = isinstance(entry, Mark) and entry.kind == Kind.SHUTDOWN
            found.append(WaitingStream(files, held, last[0].number if last else 0, cleanly))
    return found


def between(files: StreamFiles, after: int, upto: int) -> tuple[int, datetime | None]:
    """Return the count of a stream's entries after number `after` up to `upto`, and when the first was published.

    The time is by the publisher's clock, None without an entry.
    """
    found = (head for head in heads(files) if after < head.number <= upto)
    first = next(found, None)
    if first is None:
        return 0, None
    entry = _entry(first)
    return 1 + sum(1 for _ in found), from_us(entry.time_us) if entry else None


def holds_changes(streams: Iterable[WaitingStream], taken: Mapping[str, int]) -> bool:
    """Return whether the streams hold an entry that changes the state, after the number in `taken` of each stream.

    Marks and pins change no state.
    """
    return any(
        not isinstance(_entry(head), Mark | Pin)
        for files, *_ in streams
        for head in heads(files)
        if head.number > taken.get(files.owner.stream, 0)
    )


def _entry(head: Head) -> Entry | None:
    """Return the entry of a record, None when it is gone or damaged."""
    try:
        with open_regular(head.segment) as file:
            file.seek(head.start)
            (record,) = scan(file.read(head.end - head.start))
            return decode_entry(record.entry)
    except (OSError, ValueError, ProtocolError):
        return None
