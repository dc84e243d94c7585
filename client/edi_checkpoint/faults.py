"""Crash points: every durable step by name, so that a test can end the process exactly there.

`reached` does nothing unless a test's launcher has set `hook`; shipped code never sets it. A new durable step adds a
member here, or to the daemon's `faults.CrashPoint`, and the crash tests fail until they have a case for it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class ClientPoint(Enum):
    """One durable step of the client package; the value says what has happened when it is reached, and what has not."""

    AUTOSTART_CLAIMED = "the right to start a daemon taken, none started"
    LOCK_UNNAMED = "lock file written and locked, not named"
    LOCK_NAMED = "lock file named, no segment made"
    SEGMENT_MADE = "a segment made, nothing in it"
    TAKEN_OVER = "the lock file says whom it fences, no base published"
    APPENDED = "a record in the file, the publishing call has not returned"
    APPEND_TORN = "a part of a record in the file, not cut off again"
    SEGMENT_TRIMMED = "a covered segment unlinked, others not"
    TRIM_SYNCED = "covered segments unlinked durably, the outbox still lists them"
    COMPACTION_WRITTEN = "a compacted segment written and fsynced, not in its place"
    COMPACTION_RENAMED = "a compacted segment in its place, others that it stands for not unlinked"
    COMPACTION_UNLINKED = "a segment that a compacted one stands for unlinked, others not"
    COMPACTION_SYNCED = "segments that a compacted one stands for unlinked durably, the outbox still lists them"
    LAST_MARK_PUBLISHED = "the last mark of a writer that leaves published, its lock not given up"
    SEGMENTS_UNLINKED = "a dead stream's segments unlinked, its lock file not"
    FOLDER_EMPTIED = "nothing left in a session's outbox folder, itself not removed"


hook: Callable[[Enum], None] | None = None


def reached(point: Enum) -> None:
    """Tell a test's launcher that `point`, of the client or of the daemon, is reached."""
    if hook is not None:
        hook(point)
