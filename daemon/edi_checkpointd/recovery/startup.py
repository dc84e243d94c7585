"""What a start does before anybody is served: open the journal, end what a crash cut short, bring files up to date."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
    """Open the journal, or make a new one in the place of a damaged one, which is moved into `damaged/`.

    `pulse` is told while the disk is waited for. Returns it with a sentence on what was wrong, None when nothing was.
    Raises `VersionMismatch` for a journal of another format, which is not changed.
    """
    gone = f"{paths.journal} is gone" if witness_path(paths.journal).exists() and not paths.journal.exists() else None
    if gone:
        log.error("journal begun anew: %s; states come from checkpoints and outboxes", gone)
    try:
        return Journal(paths.journal, pulse), gone
    except JournalDamaged as error:
        fault = str(error)
    set_journal_aside(paths, fault)
    return Journal(paths.journal, pulse), fault


def set_journal_aside(paths: Paths, fault: str) -> None:
    """Move the journal, which nobody has open, into `damaged/`; `fault` says why."""
    ensure_private(paths.damaged)
    # The database after its WAL, which SQLite deletes beside a new one; the witness last: a database left alone by a
    # crash between them is known by it to lack what its WAL has.
    for suffix in ("-wal", "-shm", "", "-witness"):
        path = paths.journal.with_name(paths.journal.name + suffix)
        if path.exists():
            kept = set_aside(path, paths.damaged)
            log.error("journal set aside file=%s: %s", kept, fault)
    reached(CrashPoint.JOURNAL_SET_ASIDE)


class CutShort(Protocol):
    """A part that may have been in the middle of something when the last daemon died."""

    def settle(self) -> None:
        """End, or undo, what was cut short."""


class Startup:
    """Brings a home up to date."""

    def __init__(
        self,
        paths: Paths,
        catalog: Catalog,
        ledger: Ledger,
        coordinator: Coordinator,
        access: WriterAccess,
        drains: OutboxDrains,
        removal: OutboxRemoval,
        cut_short: Sequence[CutShort],
    ) -> None:
        """Take the parts; those that were cut short settle in this order."""
        self._paths = paths
        self._catalog = catalog
        self._ledger = ledger
        self._coordinator = coordinator
        self._access = access
        self._drains = drains
        self._removal = removal
        self._cut_short = cut_short

    def recover(self) -> int:
        """End what was cut short, and order the files that lack what the journal has; return of how many sessions.

        Outboxes of dead writers are found and queued, not drained. Raises `JournalDamaged`.
        """
        self._ledger.attachments.count()
        for part in self._cut_short:
            part.settle()
        read = self._ledger.journal.read
        rows = [
            row
            for row in read.sessions()
            if self._catalog.has(row.session_id) or not holds(self._paths.trash, row.session_id)
        ]  # one that has come back may have left a document in the trash
        behind = [row.session_id for row in rows if read.last_sequence(row.key) > row.saved]
        self._drains.find()
        recovered = sum([self._bring_up_to_date(session_id) for session_id in behind])
        self._close_orphans([row.session_id for row in rows if row.left_as == "live"])
        reached(CrashPoint.RECOVERED)
        return recovered

    def _bring_up_to_date(self, session_id: str) -> bool:
        """Order the files that a session lacks; return whether it lacked any.

        A session whose writer is dead is left to its drain, which ends with a checkpoint of its own. A pending point is
        left to its timer: a transition has to be kept like one.
        """
        session = self._access.open(session_id)
        if not session.unsaved:
            return False
        if not self._coordinator.has_point(session) and not self._drains.drains(session_id):
            self._coordinator.checkpoint(session, Kind.RECOVERED, "the daemon was started anew")
        return True

    def _close_orphans(self, session_ids: list[str]) -> None:
        """Count sessions as interrupted whose writer is gone without an outbox."""
        for session_id in session_ids:
            if not self._removal.streams_held(session_id):
                session = self._access.open(session_id)
                if session.left_as == "live":
                    self._ledger.detach(session, cleanly=False)
                for stream in list(session.streams.values()):
                    self._ledger.delete_stream(stream)
