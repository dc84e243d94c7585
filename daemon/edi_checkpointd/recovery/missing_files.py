"""Missing files: decide whether a session of the journal has no file on purpose or by accident, and save lost states.

The marker in the sessions folder decides. If it is there, the user deleted the files on purpose, for example by EDI's
own `clear`. Then the files are not written again. A session without a writer leaves the lists, and after `trash_days`
the journal forgets it. If the marker is gone too, the folder was removed, and the current states are saved again.

A session whose damaged auto-save was set aside counts as an accident as well.

After a deletion on purpose, the journal still notes the states as saved. After an accident, `Journal.unsave` withdraws
that before the marker is written. So after a crash in between, the next start finds the same accident.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.names import parse_autosave_name
from edi_checkpoint.documents.trash import holds
from edi_checkpoint.errors import SessionBusy
from edi_checkpoint.system.paths import Paths
from edi_checkpointd.checkpoints.coordinator import Coordinator
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.health import Health
from edi_checkpointd.journal import SessionRow
from edi_checkpointd.purge.purge import Purger
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.system.clock import Jumps, to_us
from edi_checkpointd.system.fs import write_atomic
from edi_checkpointd.writers.access import WriterAccess

log = logging.getLogger(__name__)

MARKER = b"edi-checkpoint keeps sessions here. While this file lies here, what you delete stays deleted.\n"
AT_ONCE = 32  # sessions in memory that are being saved again
CHECK_EVERY_S = 3600.0  # while the daemon has anything to do: for sessions whose `trash_days` have passed
RETRY_S = 10.0  # after the disk refused


@dataclass(slots=True, eq=False)
class MissingFiles:
    """Finds sessions without files, in the loop's thread; `step` saves the lost ones again, in slices."""

    _paths: Paths
    _catalog: Catalog
    _ledger: Ledger
    _coordinator: Coordinator
    _access: WriterAccess
    _purger: Purger
    _health: Health
    _jumps: Jumps
    _check_at_s: float = field(default=0.0, init=False)
    _lost: deque[str] = field(default_factory=deque, init=False)  # to save again

    def settle(self) -> None:
        """Check all sessions at a start."""
        self.check()

    def check(self, sessions: Collection[str] | None = None) -> None:
        """Find those of `sessions`, or of all, that have no file in the catalog, and note or save them.

        If the disk refuses, all sessions are checked again `RETRY_S` later.
        """
        try:
            self._check(sessions)
        except OSError as error:
            log.warning("sessions without files not checked: %s", error)
            self._check_at_s = self._ledger.clock.monotonic_s() + RETRY_S

    def _check(self, sessions: Collection[str] | None) -> None:
        self._coordinator.note_saved()
        unmarked = not self._paths.marker.exists()
        rows = self._ledger.journal.read.sessions()
        if sessions is not None and not unmarked:
            rows = [row for row in rows if row.session_id in sessions]
        else:
            self._check_at_s = self._ledger.clock.monotonic_s() + CHECK_EVERY_S
        absent = [row for row in rows if row.saved and not self._has_files(row.session_id)]
        noted = self._ledger.journal.read.gone()
        new = [row for row in absent if row.key not in noted]  # an accident does not undo a deletion on purpose
        if unmarked:
            if new:
                self._health.folder_lost(len(new))
            self._save_again(new)
            reached(CrashPoint.FOLDER_UNMARKED)
            write_atomic(self._paths.marker, [MARKER])
            return
        damaged = self._damaged() if new else set()
        self._save_again([row for row in new if row.session_id in damaged])
        self._note(rows, [row for row in absent if row.session_id not in damaged or row.key in noted], noted)

    def _has_files(self, session_id: str) -> bool:
        return self._catalog.has(session_id) or holds(self._paths.trash, session_id)

    def _damaged(self) -> set[str]:
        """Return the sessions whose damaged auto-save was set aside.

        A checkpoint that was set aside tells nothing: the auto-save beside it was whole, and somebody deleted it.
        """
        found = set()
        with contextlib.suppress(FileNotFoundError), os.scandir(self._paths.damaged_documents) as entries:
            for entry in entries:
                name = entry.name.rstrip("0123456789").removesuffix(".")  # the number of a repeated name
                found.add(parse_autosave_name(name) or "")
        return found

    def _save_again(self, absent: list[SessionRow]) -> None:
        """Schedule the current states of sessions whose files were lost to be saved again."""
        if absent:
            log.error("files lost, the current states are saved again sessions=%d", len(absent))
            self._ledger.journal.unsave([row.key for row in absent])
            self._ledger.attachments.count()
            self._lost.extend(row.session_id for row in absent)

    def _note(self, rows: list[SessionRow], absent: list[SessionRow], noted: Mapping[int, int]) -> None:
        """Journal which sessions without a writer are absent since when, and which have files again.

        `noted` has the absent sessions that the journal knows, with the time of the note in microseconds.
        """
        journal, now = self._ledger.journal, self._ledger.clock.now()
        unwritten = [row for row in absent if not self._has_writer(row.session_id)]
        new = [row for row in unwritten if row.key not in noted]
        if new:
            for row in new:
                log.info("session has no file any more session=%s", row.session_id)
            journal.note_gone([row.key for row in new], to_us(now))
        if back := noted.keys() & {row.key for row in rows} - {row.key for row in unwritten}:
            journal.note_back(back)
        if not self._jumps.lately():
            before_us = to_us(now - timedelta(days=self._ledger.config.now.trash_days))
            self._forget([row.session_id for row in unwritten if noted.get(row.key, before_us + 1) <= before_us])

    def _forget(self, session_ids: list[str]) -> None:
        if not session_ids:
            return
        with contextlib.suppress(SessionBusy):  # a writer has opened one just now: the next check tries again
            self._purger.purge_by_rule(session_ids)
            for session_id in session_ids:
                log.info("session forgotten session=%s rule=trash_days: its files were deleted", session_id)

    def _has_writer(self, session_id: str) -> bool:
        """Whether a session is in memory, or an outbox of it is there."""
        return session_id in self._ledger.sessions or bool(self._access.outboxes_of(session_id))

    def step(self) -> bool:
        """Save one lost session again, or check all; return whether more work is due. Raises `JournalRefused`."""
        if not self._lost:
            if self._ledger.clock.monotonic_s() >= self._check_at_s:
                self.check()
            return bool(self._lost)
        if len(self._access.leaving) >= AT_ONCE:
            return False  # until some of them are saved
        if self._ledger.journal.read.session(self._lost[0]) is not None:  # else it was purged meanwhile
            session = self._access.open(self._lost[0])
            if session.state.changed:
                self._coordinator.save_again(session, "its files were lost")
        self._lost.popleft()
        return True
