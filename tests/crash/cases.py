"""The case of every crash point. A point without a case is an error.

The daemon dies at a `CrashPoint`, and a publisher at a `ClientPoint`. A few steps of the client package run in the
daemon.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from crash import steps
from crash.stage import Step

from edi_checkpoint.faults import ClientPoint
from edi_checkpointd.faults import CrashPoint

CLEANS_UP = ("--keep-closed-days", "0")
TRIMS = ("--history-max-bytes", str(1 << 20))


@dataclass(frozen=True)
class Case:
    """How a point is reached: `step` is repeated until then; `before` runs with an earlier daemon, which is killed."""

    step: Step
    before: Step | None = None
    flags: tuple[str, ...] = ()
    journal_lost: bool = False  # acknowledged states are then in files, their history is not
    keeps_history: bool = True
    daemon_dies: bool = True
    daemon_runs: bool = True  # while a publisher dies
    environment: tuple[tuple[str, str], ...] = ()
    swept_at_start: bool = False  # the next daemon removes its files
    after: Step | None = None  # a check, done when a daemon runs again


THINS = Case(
    steps.victim_thins, daemon_dies=False, daemon_runs=False, keeps_history=False,
    environment=(("EDI_CHECKPOINT_OUTBOX_MAX_BYTES", str(1 << 20)),),
)  # fmt: skip
CASES: dict[Enum, Case] = {
    CrashPoint.LOCKED: Case(steps.waits, before=steps.publishes),
    CrashPoint.JOURNAL_MADE: Case(steps.waits),
    CrashPoint.RECEIVED_NOT_COMMITTED: Case(steps.publishes),
    CrashPoint.COMMIT_BEGUN: Case(steps.publishes, before=steps.publishes),
    CrashPoint.COMMITTED_NOT_ACKNOWLEDGED: Case(steps.publishes),
    CrashPoint.MARK_COMMITTED: Case(steps.marks),
    CrashPoint.TEMPORARY_WRITTEN: Case(steps.marks),
    CrashPoint.RENAMED: Case(steps.marks),
    CrashPoint.CHECKPOINT_WRITTEN: Case(steps.marks),
    CrashPoint.BEFORE_ROLLBACK_WRITTEN: Case(steps.goes_back),
    CrashPoint.CHECKPOINT_AMENDED: Case(steps.goes_back),
    CrashPoint.CHECKPOINT_EVICTED: Case(steps.marks),
    CrashPoint.FOREIGN_KEPT: Case(steps.meets_foreign_file),
    CrashPoint.AUTOSAVE_WRITTEN: Case(steps.saves),
    CrashPoint.SAVED_NOTED: Case(steps.saves),
    CrashPoint.SNAPSHOT_WRITTEN: Case(steps.publishes_much),
    CrashPoint.ROWS_TRIMMED: Case(steps.publishes_much, flags=TRIMS, keeps_history=False),
    CrashPoint.CARRIED_OVER: Case(steps.publishes_much),
    CrashPoint.SESSION_BEGUN: Case(steps.other_dies),
    CrashPoint.STATE_ADOPTED: Case(steps.waits, before=steps.loses_journal, journal_lost=True),
    CrashPoint.REFUSED_KEPT: Case(steps.sends_garbage, after=steps.hears_of_garbage),
    CrashPoint.OUTBOX_DRAINED: Case(steps.other_dies),
    CrashPoint.STREAM_CLOSED: Case(steps.other_dies),
    CrashPoint.LEFT_NOTED: Case(steps.other_dies),
    CrashPoint.FENCED_READ: Case(steps.fought_over),
    CrashPoint.EPOCH_RAISED: Case(steps.fought_over),
    CrashPoint.BRANCH_BEGUN: Case(steps.fought_over),
    CrashPoint.BLOBS_COMMITTED: Case(steps.marks),
    CrashPoint.ATTACHMENTS_FILED: Case(steps.marks),
    CrashPoint.BLOBS_FILED: Case(steps.marks_and_saves),
    CrashPoint.COLLECTION_CUT: Case(steps.saves, before=steps.plants_unnamed),
    CrashPoint.TRASHING_CUT: Case(steps.cleans_up, flags=CLEANS_UP, after=steps.whole_or_gone),
    CrashPoint.TRASHED: Case(steps.cleans_up, flags=CLEANS_UP, after=steps.whole_or_gone),
    CrashPoint.RETURN_CUT: Case(steps.comes_back, flags=CLEANS_UP, after=steps.whole_or_gone),
    CrashPoint.CONDEMNED: Case(steps.cleans_up, flags=(*CLEANS_UP, "--trash-days", "0"), after=steps.whole_or_gone),
    **{point: Case(steps.purges, after=steps.nothing_purged_is_left) for point in CrashPoint if "FORG" in point.name},
    CrashPoint.WAL_EMPTIED: Case(steps.purges, after=steps.nothing_purged_is_left),
    CrashPoint.SET_ASIDE: Case(
        steps.waits, before=steps.damages_journal, journal_lost=True, after=steps.nothing_damaged_is_destroyed
    ),
    CrashPoint.JOURNAL_SET_ASIDE: Case(
        steps.waits, before=steps.damages_journal, journal_lost=True, after=steps.nothing_damaged_is_destroyed
    ),
    CrashPoint.FOLDER_UNMARKED: Case(steps.waits, before=steps.loses_folder, after=steps.is_saved_again),
    **{point: Case(steps.imports, after=steps.imported_whole) for point in CrashPoint if "IMPORT" in point.name},
    CrashPoint.LEAVING: Case(steps.is_ended),
    CrashPoint.RECOVERED: Case(steps.waits, before=steps.publishes),
    ClientPoint.AUTOSTART_CLAIMED: Case(
        steps.waits, daemon_dies=False, daemon_runs=False, environment=(("EDI_CHECKPOINT_AUTOSTART", "1"),)
    ),
    ClientPoint.LOCK_UNNAMED: Case(steps.waits, daemon_dies=False, swept_at_start=True),
    ClientPoint.LOCK_NAMED: Case(steps.waits, daemon_dies=False),
    ClientPoint.SEGMENT_MADE: Case(steps.waits, daemon_dies=False),
    ClientPoint.TAKEN_OVER: Case(steps.victim_takes_over, daemon_dies=False),
    ClientPoint.APPENDED: Case(steps.victim_publishes, daemon_dies=False),
    ClientPoint.APPEND_TORN: Case(steps.victim_tears, daemon_dies=False),
    ClientPoint.SEGMENT_TRIMMED: Case(steps.victim_is_trimmed, daemon_dies=False),
    ClientPoint.TRIM_SYNCED: Case(steps.victim_is_trimmed, daemon_dies=False),
    ClientPoint.COMPACTION_WRITTEN: THINS,
    ClientPoint.COMPACTION_RENAMED: THINS,
    ClientPoint.COMPACTION_UNLINKED: THINS,
    ClientPoint.COMPACTION_SYNCED: THINS,
    ClientPoint.LAST_MARK_PUBLISHED: Case(steps.victim_leaves, daemon_dies=False),
    ClientPoint.SEGMENTS_UNLINKED: Case(steps.other_dies),
    ClientPoint.FOLDER_EMPTIED: Case(steps.other_dies),
}
POINTS: tuple[Enum, ...] = (*CrashPoint, *ClientPoint)
ONCE = {  # times in the life of a process, by its case
    CrashPoint.LOCKED, CrashPoint.JOURNAL_MADE, CrashPoint.STATE_ADOPTED, CrashPoint.SET_ASIDE,
    CrashPoint.JOURNAL_SET_ASIDE, CrashPoint.FOLDER_UNMARKED, CrashPoint.LEAVING, CrashPoint.RECOVERED,
    CrashPoint.FOREIGN_KEPT, CrashPoint.IMPORT_DECIDED, CrashPoint.IMPORT_ATTACHED,
    ClientPoint.AUTOSTART_CLAIMED, ClientPoint.LOCK_UNNAMED, ClientPoint.LOCK_NAMED, ClientPoint.SEGMENT_MADE,
    CrashPoint.REFUSED_KEPT, ClientPoint.TAKEN_OVER, ClientPoint.APPEND_TORN, ClientPoint.COMPACTION_WRITTEN,
    ClientPoint.COMPACTION_RENAMED, ClientPoint.COMPACTION_UNLINKED, ClientPoint.COMPACTION_SYNCED,
    ClientPoint.LAST_MARK_PUBLISHED,
}  # fmt: skip
