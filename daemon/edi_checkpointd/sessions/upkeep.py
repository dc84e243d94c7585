"""Upkeep of the journal: notes of saved sequences, snapshots, trimming, SQLite WAL checkpoints, the reserve file.

All of it can wait, and none of it may delay a frame: the loop does one slice at a time, when no frame waits.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpointd.attachments.garbage import GarbageCollector
from edi_checkpointd.config import LiveConfig
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.journal import Notes
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.sessions.session import OpenSession
from edi_checkpointd.system.clock import Clock, to_us
from edi_checkpointd.system.fs import Reserve
from edi_checkpointd.system.timers import Scheduler

log = logging.getLogger(__name__)

TRIM_ROWS = 200  # in one slice; frames may wait behind it
NOTE_AFTER_S = 1.0  # a note is a commit of its own; without it, a start reads the files' headers
RESERVE_RETRY_S = 10.0  # how often the daemon tries to take the reserve again
COLLECT_CHECKS = 1440  # in `collect_every_s`, so that a daemon that runs for minutes collects as well


@dataclass(slots=True, eq=False)
class Upkeep:
    """Keeps the journal small and in step with the files. Used by the loop's thread."""

    _ledger: Ledger
    _timers: Scheduler
    _collector: GarbageCollector
    _reserve: Reserve
    _clock: Clock
    _config: LiveConfig
    _notes: dict[int, Notes] = field(default_factory=dict, init=False)
    _filed: set[str] = field(default_factory=set, init=False)  # attachments with files, so their blobs may go
    _notes_due: bool = field(default=False, init=False)
    _grown: dict[str, OpenSession] = field(default_factory=dict, init=False)  # their rows outweigh their snapshot
    _untrimmed: list[OpenSession] = field(default_factory=list, init=False)
    _reserve_at_s: float = field(default=0.0, init=False)
    _collect_at_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._collect_at_s = self._clock.monotonic_s() + self._config.now.collect_every_s / COLLECT_CHECKS

    # -- orders ------------------------------------------------------------------------------------------------------

    def filed(self, digests: Collection[str]) -> None:
        """Note attachments that are files now."""
        self._filed.update(digests)

    def saved(self, session: OpenSession) -> None:
        """Note that a file holds the session's state."""
        self._notes[session.key] = Notes(session.saved, session.checkpointed)
        if "notes" not in self._timers.pending:
            self._timers.after(NOTE_AFTER_S, "notes", self._note_now)

    def _note_now(self) -> None:
        self._notes_due = True

    def grew(self, session: OpenSession) -> None:
        """Note that the session has new rows."""
        if self._ledger.snapshot_due(session):
            self._grown[session.session_id] = session

    def unsave(self, session: OpenSession) -> None:
        """Drop the note of a session, because its files are gone."""
        self._notes.pop(session.key, None)

    def discard(self, session: OpenSession) -> None:
        """Drop all pending upkeep of a session; another session may get its key."""
        self.unsave(session)
        self._grown.pop(session.session_id, None)
        self._untrimmed = [other for other in self._untrimmed if other is not session]

    # -- one slice at a time -----------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Do one slice; return whether there is more to do at once. Raises `JournalRefused`."""
        journal = self._ledger.journal
        if self._notes and self._notes_due:
            self.note()
            return True
        if self._grown:
            _, session = self._grown.popitem()
            self._ledger.snapshot(session, settled=session.settled)
            self._untrimmed.append(session)
            return True
        if self._untrimmed:
            session = self._untrimmed[-1]
            small = journal.bytes <= self._config.now.history_max_bytes
            before = self._clock.now() - timedelta(hours=self._config.now.history_hours if small else 0)
            if journal.trim(session.key, before_us=to_us(before), limit=TRIM_ROWS) < TRIM_ROWS:
                self._untrimmed.pop()
            return True
        now_s = self._clock.monotonic_s()
        if now_s >= self._collect_at_s:
            self._collect_at_s = now_s + self._config.now.collect_every_s / COLLECT_CHECKS
            self._collector.collect()
        if journal.wants_carry_over:
            journal.carry_over()
        if not self._reserve.held and now_s >= self._reserve_at_s:
            self._reserve_at_s = now_s + RESERVE_RETRY_S
            self._reserve.hold()
        return False

    def note(self) -> None:
        """Note in the journal what files hold by now. Raises `JournalRefused`."""
        if not self._notes:
            return
        if self._filed:
            reached(CrashPoint.BLOBS_FILED)
        self._ledger.journal.note(self._notes, self._filed)
        self._notes, self._filed, self._notes_due = {}, set(), False
        reached(CrashPoint.SAVED_NOTED)

    def note_at_end(self) -> None:
        """Note what was saved while the daemon was ending; if this fails, the next start reads it from the files."""
        try:
            self.note()
        except EdiCheckpointError as error:
            log.warning("saved sequences not noted: %s", error)

    def make_room(self) -> None:
        """Give the reserve's blocks to the journal, because the disk is full."""
        if self._reserve.held:
            self._reserve.release()
            self._ledger.journal.carry_over()  # before other programs take the blocks
            self._reserve_at_s = self._clock.monotonic_s() + RESERVE_RETRY_S
            self._untrimmed = list(self._ledger.sessions.values())
