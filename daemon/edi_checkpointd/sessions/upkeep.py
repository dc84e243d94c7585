"""Upkeep of the journal: noting what is in files, snapshots, trimming, SQLite WAL checkpoints, the reserve file.

All of it can wait, and none of it may hold up a frame: the loop does one slice at a time, when no frame waits.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
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
NOTE_AFTER_S = 1.0  # a note is a commit of its own; until then a start finds out by the files' heads
RESERVE_RETRY_S = 10.0  # how often the daemon tries to take the reserve again
COLLECT_CHECKS = 1440  # in the time between two collections, so that a daemon that runs for minutes collects as well


class Upkeep:
    """Keeps the journal small and in step with the files. Used by the loop's thread."""

    def __init__(
        self, ledger: Ledger, timers: Scheduler, collector: GarbageCollector, reserve: Reserve, clock: Clock,
        config: LiveConfig,
    ) -> None:  # fmt: skip
        """Take the parts; nothing is to be done yet."""
        self._ledger = ledger
        self._timers = timers
        self._collector = collector
        self._reserve = reserve
        self._clock = clock
        self._config = config
        self._notes: dict[int, Notes] = {}
        self._filed: set[str] = set()  # attachments that are files by now: their blobs may go
        self._notes_due = False
        self._grown: dict[str, OpenSession] = {}  # sessions whose rows outweigh their snapshot
        self._untrimmed: list[OpenSession] = []
        self._reserve_at_s = 0.0
        self._collect_at_s = clock.monotonic_s() + config.now.collect_every_s / COLLECT_CHECKS

    # -- what there is to do -----------------------------------------------------------------------------------------

    def filed(self, digests: Collection[str]) -> None:
        """Take note of attachments that are files now."""
        self._filed.update(digests)

    def saved(self, session: OpenSession) -> None:
        """Take note that the session's state has come into a file."""
        self._notes[session.key] = Notes(session.saved, session.checkpointed)
        if "notes" not in self._timers.pending:
            self._timers.after(NOTE_AFTER_S, "notes", self._note_now)

    def _note_now(self) -> None:
        self._notes_due = True

    def grew(self, session: OpenSession) -> None:
        """Take note that the session has new rows."""
        if self._ledger.snapshot_due(session):
            self._grown[session.session_id] = session

    def unsave(self, session: OpenSession) -> None:
        """Drop what was to be noted of a session: its files are gone."""
        self._notes.pop(session.key, None)

    def discard(self, session: OpenSession) -> None:
        """Drop all that is to be done of a session; another one may get its key."""
        self.unsave(session)
        self._grown.pop(session.session_id, None)
        self._untrimmed = [other for other in self._untrimmed if other is not session]

    # -- a slice at a time -------------------------------------------------------------------------------------------

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
            before = self._clock.now() - timedelta(hours=self._config.now.history_hours)
            if journal.bytes > self._config.now.history_max_bytes:
                before = self._clock.now()
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
        """Note in the journal what has come into files by now. Raises `JournalRefused`."""
        if not self._notes:
            return
        if self._filed:
            reached(CrashPoint.BLOBS_FILED)
        self._ledger.journal.note(self._notes, self._filed)
        self._notes, self._filed, self._notes_due = {}, set(), False
        reached(CrashPoint.SAVED_NOTED)

    def note_at_end(self) -> None:
        """Note what came into files while the daemon was ending; otherwise the next start finds out by itself."""
        try:
            self.note()
        except EdiCheckpointError as error:
            log.warning("saved sequences not noted: %s", error)

    def make_room(self) -> None:
        """Give the reserve's blocks to the journal: the disk is full."""
        if self._reserve.held:
            self._reserve.release()
            self._ledger.journal.carry_over()  # before other programs take the blocks
            self._reserve_at_s = self._clock.monotonic_s() + RESERVE_RETRY_S
            self._untrimmed = list(self._ledger.sessions.values())
