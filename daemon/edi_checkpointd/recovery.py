"""Recovery: what a start has to find out before anything is taken.

The journal is opened, or set aside when it is damaged; documents tell what they hold; a session's newest valid state is
found among them. What the journal has and the files have not is brought into files by `Attendance.recover`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from edi_checkpoint.catalog import AutosaveInfo, Catalog
from edi_checkpoint.errors import DocumentDamaged, EdiCheckpointError
from edi_checkpoint.model import NOT_OURS, CheckpointInfo
from edi_checkpoint.newest import newest_listed
from edi_checkpoint.paths import Paths, ensure_private
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.fs import set_aside
from edi_checkpointd.journal import Journal, JournalDamaged, witness_path
from edi_checkpointd.pulse import Pulse
from edi_checkpointd.sessions import Files
from edi_checkpointd.state import state_of
from edi_checkpointd.trash import Trash

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


def files_teller(paths: Paths, catalog: Catalog, trash: Trash) -> Callable[[str, int], Files]:
    """Return the function that tells the ledger of a session's files (see `sessions.Files`).

    It is asked when a session is opened, for whatever reason: one in the trash is brought back first.
    """

    def files_of(session_id: str, sequence: int) -> Files:
        trash.bring_back(session_id)
        autosave = _own_autosave(catalog, session_id)
        saved = autosave.header.sequence if autosave else 0
        checkpointed = max((info.sequence for info in _own_checkpoints(catalog, session_id)), default=0)
        if max(saved, checkpointed) <= sequence:
            covered = autosave.header.streams if autosave and saved >= checkpointed else {}
            return Files(saved, checkpointed, covered, gone=not catalog.has(session_id))
        newest = newest_listed(paths.sessions, catalog, session_id, set_document_aside, above=sequence)
        if newest is None:
            return Files(min(saved, sequence), min(checkpointed, sequence))
        header = newest.document.header
        found = header.sequence  # what was said to be newer was damaged
        return Files(
            min(saved, found), min(checkpointed, found), header.streams, header.parent_session,
            ahead=state_of(newest.document), document=newest.name, keep=header.keep,
        )  # fmt: skip

    def set_document_aside(name: str, error: OSError | EdiCheckpointError) -> None:
        if isinstance(error, DocumentDamaged):
            ensure_private(paths.damaged_documents)
            kept = set_aside(paths.sessions / name, paths.damaged_documents)
            log.warning("document set aside file=%s: %s", kept, error)
        elif not isinstance(error, FileNotFoundError):
            raise error
        catalog.remove(name)

    return files_of


def _own_checkpoints(catalog: Catalog, session_id: str) -> list[CheckpointInfo]:
    return [info for info in catalog.checkpoints(session_id) if info.kind not in NOT_OURS]


def _own_autosave(catalog: Catalog, session_id: str) -> AutosaveInfo | None:
    autosave = catalog.autosave(session_id)
    return autosave if autosave and autosave.header.kind not in NOT_OURS else None
