"""Missing files: sessions of the journal that have no file any more, by their user's wish or by accident.

The marker in the sessions folder tells which. It lies there: whoever deleted the files meant them (EDI's own `clear`
does), so they are not made again; without a writer such a session is shown no more, and after the trash time the
journal forgets it. It is gone too: the folder was removed, and the current states are saved again.

A session whose auto-save was damaged, and set aside for that, counts as an accident too.

A wish is kept by what the journal notes as saved, an accident by taking that back (`Journal.unsave`) before the marker
is made: a crash in between is an accident once more.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Collection, Mapping
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
AT_ONCE = 32  # sessions brought into memory to be saved again
LOOK_EVERY_S = 3600.0  # for those whose time is up, while the daemon has anything to do
LOOK_AGAIN_S = 10.0


class MissingFiles:
    """Looks for such sessions, in the intake thread; what is to be done about them is done in slices by `step`."""

    def __init__(
        self,
        paths: Paths,
        catalog: Catalog,
        ledger: Ledger,
        coordinator: Coordinator,
        access: WriterAccess,
        purger: Purger,
        health: Health,
        jumps: Jumps,
    ) -> None:
        """Take the parts; `check` begins."""
        self._marker = paths.marker
        self._damaged = paths.damaged_documents
        self._trash = paths.trash
        self._catalog = catalog
        self._ledger = ledger
        self._coordinator = coordinator
        self._access = access
        self._purger = purger
        self._health = health
        self._jumps = jumps
        self._clock = ledger.clock
        self._look_at_s = 0.0
        self._lost: deque[str] = deque()  # to be saved again

    def settle(self) -> None:
        """At a start: see to all sessions."""
        self.check()

    def check(self, sessions: Collection[str] | None = None) -> None:
        """See to the `sessions` that may have no file, or to all; the catalog knows what is there.

        Where the disk refuses, all are looked at again a little later.
        """
        try:
            self._look(sessions)
        except OSError as error:
            log.warning("sessions without files not seen to: %s", error)
            self._look_at_s = self._clock.monotonic_s() + LOOK_AGAIN_S

    def _look(self, sessions: Collection[str] | None) -> None:
        self._coordinator.note_saved()
        lost = not self._marker.exists()
        rows = self._ledger.journal.read.sessions()
        if sessions is not None and not lost:
            rows = [row for row in rows if row.session_id in sessions]
        else:
            self._look_at_s = self._clock.monotonic_s() + LOOK_EVERY_S
        absent = [row for row in rows if row.saved and not self._has_files(row.session_id)]
        noted = self._ledger.journal.read.gone()
        new = [row for row in absent if row.key not in noted]  # what was wished for once, no accident takes back
        if lost:
            if new:
                self._health.folder_lost(len(new))
            self._take_back(new)
            reached(CrashPoint.FOLDER_UNMARKED)
            write_atomic(self._marker, [MARKER])
            return
        damaged = self._set_aside() if new else set()
        self._take_back([row for row in new if row.session_id in damaged])
        self._note(rows, [row for row in absent if row.session_id not in damaged or row.key in noted], noted)

    def _has_files(self, session_id: str) -> bool:
        return self._catalog.has(session_id) or holds(self._trash, session_id)

    def _set_aside(self) -> set[str]:
        """Return the sessions of which the auto-save was found damaged, and moved.

        A checkpoint there tells nothing: the auto-save beside it was whole, and somebody has deleted that.
        """
        found = set()
        with contextlib.suppress(FileNotFoundError), os.scandir(self._damaged) as entries:
            for entry in entries:
                name = entry.name.rstrip("0123456789").removesuffix(".")  # of several of one name
                found.add(parse_autosave_name(name) or "")
        return found

    def _take_back(self, absent: list[SessionRow]) -> None:
        """Have the states saved again of sessions whose files were lost."""
        if absent:
            log.error("files lost, current states are saved again sessions=%d", len(absent))
            self._ledger.journal.unsave([row.key for row in absent])
            self._ledger.attachments.count()
            self._lost.extend(row.session_id for row in absent)

    def _note(self, rows: list[SessionRow], absent: list[SessionRow], noted: Mapping[int, int]) -> None:
        """Note since when sessions are absent that nobody writes, and which are not any more; `noted` is known."""
        journal, now = self._ledger.journal, self._clock.now()
        left = [row for row in absent if not self._attended(row.session_id)]
        new = [row for row in left if row.key not in noted]
        if new:
            for row in new:
                log.info("session has no file any more session=%s", row.session_id)
            journal.note_gone([row.key for row in new], to_us(now))
        if back := noted.keys() & {row.key for row in rows} - {row.key for row in left}:
            journal.note_back(back)
        if not self._jumps.lately():
            before_us = to_us(now - timedelta(days=self._ledger.config.now.trash_days))
            self._forget_expired([row.session_id for row in left if noted.get(row.key, before_us + 1) <= before_us])

    def _forget_expired(self, session_ids: list[str]) -> None:
        if not session_ids:
            return
        try:
            self._purger.purge_by_rule(session_ids)
        except SessionBusy:  # somebody has come this very moment
            return
        for session_id in session_ids:
            log.info("session forgotten session=%s rule=trash_days: its files were deleted", session_id)

    def _attended(self, session_id: str) -> bool:
        """Whether somebody writes to a session, or has left what is not seen to yet."""
        return session_id in self._ledger.sessions or bool(self._access.outboxes_of(session_id))

    def step(self) -> bool:
        """Do one slice of what is to be done; return whether there is more to do at once. Raises `JournalRefused`."""
        if self._lost:
            if len(self._access.leaving) < AT_ONCE:
                if self._ledger.journal.read.session(self._lost[0]) is not None:  # else it was purged meanwhile
                    session = self._access.open(self._lost[0])
                    if session.state.changed:
                        self._coordinator.save_again(session, "its files were lost")
                self._lost.popleft()
                return True
            return False  # those under way come to their ends first
        if self._clock.monotonic_s() >= self._look_at_s:
            self.check()
            return bool(self._lost)
        return False
