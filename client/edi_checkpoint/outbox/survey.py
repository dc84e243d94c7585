"""What lies in outboxes, for those who only look: how a writer left, and what nobody has taken yet.

An entry that is looked into is verified first. Reading needs no lock: an owner may append and unlink meanwhile.
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
    """A stream's outbox as it was at one moment.

    Whether a living process held its lock, the highest number in it, and whether its last entry was a clean leave.
    """

    files: StreamFiles
    held: bool
    last: int
    cleanly: bool


def survey_all(root: Path) -> dict[str, list[WaitingStream]]:
    """Return, by session, the streams whose outboxes lie below `root`, as `survey_session` does."""
    try:
        with os.scandir(root) as entries:
            folders = sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return {}
    found = {folder.name: survey_session(folder) for folder in folders}
    return {session_id: streams for session_id, streams in found.items() if streams}


def survey_session(folder: Path) -> list[WaitingStream]:
    """Return the streams that lie in a session's outbox folder, in the order they build on each other.

    To be called before the journal is read: what is taken in and unlinked in between is then found there.
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
    """Return how many entries a stream holds from behind number `after` up to `upto`, and when the first was published.

    The time is the publisher's, None when there is none.
    """
    found = (head for head in heads(files) if after < head.number <= upto)
    first = next(found, None)
    if first is None:
        return 0, None
    entry = _entry(first)
    return 1 + sum(1 for _ in found), from_us(entry.time_us) if entry else None


def holds_changes(streams: Iterable[WaitingStream], taken: Mapping[str, int]) -> bool:
    """Return whether the streams hold, behind the numbers `taken` of each, an entry that changes a state.

    Marks and pins change none.
    """
    return any(
        not isinstance(_entry(head), Mark | Pin)
        for files, *_ in streams
        for head in heads(files)
        if head.number > taken.get(files.owner.stream, 0)
    )


def _entry(head: Head) -> Entry | None:
    """Return the entry of a record, None when it is gone or is none."""
    try:
        with open_regular(head.segment) as file:
            file.seek(head.start)
            (record,) = scan(file.read(head.end - head.start))
            return decode_entry(record.entry)
    except (OSError, ValueError, ProtocolError):
        return None
