"""The daemon's crash points: see `edi_checkpoint.faults`, which has those of the client package, and `reached`."""

from __future__ import annotations

from enum import Enum

from edi_checkpoint.faults import reached as reached


class CrashPoint(Enum):
    """One durable step; the value says what has happened when the point is reached, and what has not."""

    LOCKED = "the folder's lock taken and signed, nothing opened"
    JOURNAL_MADE = "a new journal's tables committed, in its WAL alone"
    RECEIVED_NOT_COMMITTED = "frames drained, transaction not begun"
    COMMIT_BEGUN = "rows inserted, COMMIT not called"
    COMMITTED_NOT_ACKNOWLEDGED = "COMMIT returned, no acknowledgement sent"
    MARK_COMMITTED = "mark committed and acknowledged, its file not begun"
    TEMPORARY_WRITTEN = "temporary file written and fsynced, not renamed"
    RENAMED = "file renamed, folder not fsynced"
    CHECKPOINT_WRITTEN = "checkpoint durable, journal has not noted it"
    BEFORE_ROLLBACK_WRITTEN = "what stood before a rollback is in a checkpoint, what stands since is not"
    CHECKPOINT_AMENDED = "a checkpoint's header durable anew, nobody told"
    CHECKPOINT_EVICTED = "an old checkpoint unlinked, folder not fsynced"
    FOREIGN_KEPT = "another program's session file kept as a checkpoint, ours not in its place"
    AUTOSAVE_WRITTEN = "auto-save durable, journal has not noted it"
    SAVED_NOTED = "journal notes the saved sequence, outbox not trimmed"
    SNAPSHOT_WRITTEN = "snapshot committed, rows before the window not trimmed"
    ROWS_TRIMMED = "a slice of rows before the window deleted, others not"
    CARRIED_OVER = "the WAL carried into the database"
    SESSION_BEGUN = "a session's row committed, no stream of it"
    STATE_ADOPTED = "the state of a file that is ahead of the journal committed as a snapshot, nobody told"
    REFUSED_KEPT = "the bytes of a refused frame kept, its numbers not used up"
    OUTBOX_DRAINED = "dead outbox journaled, its files not unlinked"
    STREAM_CLOSED = "outbox unlinked, stream's row not removed"
    LEFT_NOTED = "journal notes how the last writer left, no checkpoint of it asked for"
    FENCED_READ = "what a fenced writer had published is journaled, epoch not raised"
    EPOCH_RAISED = "new stream committed, its writer not told"
    BRANCH_BEGUN = "a fenced writer's branch has its first state, nothing of what was published since"
    BLOBS_COMMITTED = "attachments committed as blobs, their files not begun"
    ATTACHMENTS_FILED = "attachments' files durable, no document that names them visible"
    BLOBS_FILED = "attachments' files and a document durable, blobs not dropped"
    COLLECTION_CUT = "an attachment that nothing names unlinked, others not"
    SET_ASIDE = "a damaged file moved, folder not fsynced, those that belong to it not moved"
    TRASHING_CUT = "a session's documents on their way into the trash, not noted as being there"
    TRASHED = "a session noted as being in the trash"
    RETURN_CUT = "a session's note in the trash removed, its documents on their way back"
    CONDEMNED = "a session in the trash noted as never to come back, journal and documents still there"
    JOURNAL_SET_ASIDE = "damaged journal moved, no new one made"
    LEAVING = "at SIGTERM all that was unsaved is in files, journal has not noted it"
    RECOVERED = "sessions recovered, socket not bound"
