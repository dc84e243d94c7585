"""Crash points: every durable step by name, so that a test can end the process exactly there.

`reached` does nothing unless a test's launcher has set `hook`; shipped code never sets it. A new durable step adds a
member, and the crash tests, which run over all members, need no edit.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class CrashPoint(Enum):
    """One durable step; the value says what has happened when the point is reached, and what has not."""

    RECEIVED_NOT_COMMITTED = "frames drained, transaction not begun"
    COMMIT_BEGUN = "rows inserted, COMMIT not called"
    COMMITTED_NOT_ACKNOWLEDGED = "COMMIT returned, no acknowledgement sent"
    MARK_COMMITTED = "mark committed and acknowledged, its file not begun"
    TEMPORARY_WRITTEN = "temporary file written and fsynced, not renamed"
    RENAMED = "file renamed, folder not fsynced"
    CHECKPOINT_WRITTEN = "checkpoint durable, journal has not noted it"
    CHECKPOINT_AMENDED = "a checkpoint's header durable anew, nobody told"
    CHECKPOINT_EVICTED = "an old checkpoint unlinked, folder not fsynced"
    AUTOSAVE_WRITTEN = "auto-save durable, journal has not noted it"
    SAVED_NOTED = "journal notes the saved sequence, outbox not trimmed"
    SNAPSHOT_WRITTEN = "snapshot committed, rows before the window not trimmed"
    OUTBOX_DRAINED = "dead outbox journaled, its files not unlinked"
    STREAM_CLOSED = "outbox unlinked, stream's row not removed"
    FENCED_READ = "what a fenced writer had published is journaled, epoch not raised"
    EPOCH_RAISED = "new stream committed, its writer not told"
    BRANCH_BEGUN = "a fenced writer's branch has its first state, nothing of what was published since"
    BLOBS_COMMITTED = "attachments committed as blobs, their files not begun"
    ATTACHMENTS_FILED = "attachments' files durable, no document that names them visible"
    BLOBS_FILED = "attachments' files and a document durable, blobs not dropped"
    COLLECTION_CUT = "an attachment that nothing names unlinked, others not"
    JOURNAL_SET_ASIDE = "damaged journal moved, no new one made"
    RECOVERED = "sessions recovered, socket not bound"


hook: Callable[[CrashPoint], None] | None = None


def reached(point: CrashPoint) -> None:
    """Tell a test's launcher that `point` is reached."""
    if hook is not None:
        hook(point)
