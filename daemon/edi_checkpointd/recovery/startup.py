"""The start, before the loop runs: open the journal, settle what a crash interrupted, bring the files up to date.

`SessionLoader` (`sessions/loading.py`) rebuilds a session's state when the session is opened.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.trash import holds
from edi_checkpoint.model import Kind
from edi_checkpoint.system.paths import Paths, ensure_private
from edi_checkpointd.checkpoints.coordinator import Coordinator
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.journal import Journal, JournalDamaged, witness_path
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.system.fs import set_aside
from edi_checkpointd.system.pulse import Pulse
from edi_checkpointd.writers.access import WriterAccess
from edi_checkpointd.writers.drains import OutboxDrains
from edi_checkpointd.writers.removal import OutboxRemoval

log = logging.getLogger(__name__)


def open_journal(paths: Paths, pulse: Pulse | None = None) -> tuple[Journal, str | None]:
    """Open the journal, or a new one if it is missing or damaged; a damaged one is moved into `damaged/`.

    `pulse` records when the loop waits for the disk. Returns the journal and a sentence about what was wrong, None if
    nothing was. Raises `VersionMismatch` for a journal of another format, and does not change it.
    """
    gone = f"{paths.journal} is gone" if witness_path(paths.journal).exists() and not paths.journal.exists() else None
    if gone:
        log.error("new journal started: %s; states come from checkpoints and outboxes", gone)
    try:
        return Journal(paths.journal, pulse), gone
    except JournalDamaged as error:
        fault = str(error)
    set_journal_aside(paths, fault)
    return Journal(paths.journal, pulse), fault


def set_journal_aside(paths: Paths, fault: str) -> None:
    """Move the journal into `damaged/`; `fault` says why. No process has it open."""
    ensure_private(paths.damaged)
    # The WAL first: SQLite would delete it beside a new database. The witness last: after a crash in between, it tells
    # that the database lacks what its WAL had.
    for suffix in ("-wal", "-shm", "", "-witness"):
        path = paths.journal.with_name(paths.journal.name + suffix)
        if path.exists():
            log.error("journal set aside file=%s: %s", set_aside(path, paths.damaged), fault)
    reached(CrashPoint.JOURNAL_SET_ASIDE)


class CutShort(Protocol):
    """A part whose work a crash of the last daemon may have interrupted."""

    def settle(self) -> None:
        """Finish or undo the interrupted work."""


@dataclass(slots=True, eq=False)
class Startup:
    """Brings a home up to date. The parts in `_cut_short` settle in their order."""

    _paths: Paths
    _catalog: Catalog
    _ledger: Ledger
    _coordinator: Coordinator
    _access: WriterAccess
    _drains: OutboxDrains
    _removal: OutboxRemoval
    _cut_short: Sequence[CutShort]

    def recover(self) -> int:
        """Settle interrupted work and order the files that lack journaled entries; return the number of such sessions.

        Queues the outboxes of dead writers and does not drain them. Raises `JournalDamaged`.
        """
        self._ledger.attachments.count()
        for part in self._cut_short:
            part.settle()
        read, trash = self._ledger.journal.read, self._paths.trash
        # A session that came back from the trash may have left a document there, so the catalog is asked first.
        rows = [row for row in read.sessions() if self._catalog.has(row.session_id) or not holds(trash, row.session_id)]
        behind = [row.session_id for row in rows if read.last_sequence(row.key) > row.saved]
        self._drains.find()
        recovered = sum([self._bring_up_to_date(session_id) for session_id in behind])
        self._close_orphans([row.session_id for row in rows if row.left_as == "live"])
        reached(CrashPoint.RECOVERED)
        return recovered

    def _bring_up_to_date(self, session_id: str) -> bool:
        """Order the missing files of a session; return whether any are missing.

        If the session waits for a drain, the drain orders the checkpoint. If it has a pending point, the point's timer
        does: a transition gets the checkpoint of a transition.
        """
        session = self._access.open(session_id)
        if not session.unsaved:
            return False
        if not self._coordinator.has_point(session) and not self._drains.drains(session_id):
            self._coordinator.checkpoint(session, Kind.RECOVERED, "the daemon was restarted")
        return True

    def _close_orphans(self, session_ids: list[str]) -> None:
        """Mark sessions as interrupted whose writer is gone and has no outbox."""
        for session_id in session_ids:
            if not self._removal.streams_held(session_id):
                session = self._access.open(session_id)
                if session.left_as == "live":
                    self._ledger.detach(session, cleanly=False)
                for stream in list(session.streams.values()):
                    self._ledger.delete_stream(stream)
