"""Crash points: names for all durable steps, at each of which a test can end the process.

`reached` does nothing unless a test's launcher has set `hook`; shipped code never sets it. A new durable step adds a
member here, or to the daemon's `faults.CrashPoint`. The crash tests fail until they have a case for it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class ClientPoint(Enum):
    """One durable step of the client package; the value says what is done at this point, and what is not."""

    AUTOSTART_CLAIMED = "a client claimed the start of a daemon, and started none"
    LOCK_UNNAMED = "lock file written and locked, not named"
    LOCK_NAMED = "lock file named, no segment made"
    SEGMENT_MADE = "a segment made, nothing in it"
    TAKEN_OVER = "the lock file names the fenced streams, no base published"
    APPENDED = "a record in the file, the publishing call has not returned"
    APPEND_TORN = "a part of a record in the file, not cut off"
    SEGMENT_TRIMMED = "a covered segment unlinked, others not"
    TRIM_SYNCED = "covered segments unlinked durably, the outbox still lists them"
    COMPACTION_WRITTEN = "a compacted segment written and fsynced, not in its place"
    COMPACTION_RENAMED = "a compacted segment in its place, the others that it replaces not unlinked"
    COMPACTION_UNLINKED = "a segment that a compacted one replaces unlinked, others not"
    COMPACTION_SYNCED = "segments that a compacted one replaces unlinked durably, the outbox still lists them"
    LAST_MARK_PUBLISHED = "the last mark of a leaving writer published, its lock not released"
    SEGMENTS_UNLINKED = "a dead stream's segments unlinked, its lock file not"
    FOLDER_EMPTIED = "a session's outbox folder emptied, not removed"


hook: Callable[[Enum], None] | None = None


def reached(point: Enum) -> None:
    """Call the hook of a test's launcher, if there is one, with a crash point of the client or the daemon."""
    if hook is not None:
        hook(point)
