"""The import: moves a session that a command has staged into the sessions folder, whole or not at all.

    stage    the command: verified files -> .importing/.<id>.<pid>/, each fsynced
    accept   the daemon: renames the folder to .importing/<id>/, which decides the import
             -> moves attachments, then checkpoints, then the auto-save to their places -> deletes the folder

The next start finishes a decided import that a crash interrupted. It deletes a staged folder, unless its command is
still running. Used by the loop's thread. Files are renamed, none is read or copied.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.names import (
    attachment_name,
    check_session_id,
    parse_attachment_name,
    parse_autosave_name,
    parse_checkpoint_name,
    staged_name,
)
from edi_checkpoint.documents.trash import holds
from edi_checkpoint.errors import NotFound, SessionExists, SessionIdError
from edi_checkpoint.outbox.segments import list_streams
from edi_checkpoint.system.paths import Paths, ensure_private
from edi_checkpointd.attachments.store import AttachmentStore
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.system.fs import move_files, rename, write_new

log = logging.getLogger(__name__)


def staging(paths: Paths, session_id: str, pid: int) -> Path:
    """Return the folder in which the process `pid` stages a session."""
    return paths.importing / staged_name(session_id, pid)


def stage(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write the files of a session, by their names in the sessions folder, durably into `folder`. Raises OSError."""
    ensure_private(folder.parent)
    write_new(folder, files)


@dataclass(slots=True, eq=False)
class Importer:
    """Imports staged sessions whose ids are unused."""

    _paths: Paths
    _catalog: Catalog
    _attachments: AttachmentStore
    _ledger: Ledger

    def settle(self) -> None:
        """At a start: finish decided imports, and delete the staged folders of dead processes."""
        try:
            folders = sorted(self._paths.importing.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        for folder in folders:
            if folder.name.startswith("."):
                if not Path("/proc", folder.suffix[1:]).exists():
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            with contextlib.suppress(SessionIdError):
                self._move(check_session_id(folder.name))

    def accept(self, session_id: str, pid: int) -> None:
        """Import the session that the process `pid` has staged; a repeated call has no effect.

        Raises `SessionExists`, `SessionIdError`, `NotFound` when nothing is staged, OSError.
        """
        check_session_id(session_id)
        staged, decided = staging(self._paths, session_id, pid), self._paths.importing / session_id
        if staged.is_dir() and not decided.exists():
            if self._knows(session_id):
                hint = "`edi-checkpoint import FILE --as ID` gives it another id"
                raise SessionExists(f"session {session_id} exists already", hint=hint)
            rename(staged, session_id)
            reached(CrashPoint.IMPORT_DECIDED)
        elif not decided.exists():
            if self._catalog.names(session_id):
                return
            raise NotFound(f"session {session_id}: nothing is staged", hint="import it again")
        self._move(session_id)
        log.info("session imported session=%s", session_id)

    def _knows(self, session_id: str) -> bool:
        """Whether the home has a file, a row of the journal, or an outbox of a session; the trash counts too."""
        return (
            bool(self._catalog.names(session_id))
            or self._ledger.journal.read.session(session_id) is not None
            or bool(list_streams(self._paths.outbox / session_id))
            or holds(self._paths.trash, session_id)
        )

    def _move(self, session_id: str) -> None:
        folder = self._paths.importing / session_id
        names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink())
        for name in names:
            if (digest := parse_attachment_name(name)) is not None:
                kind, size_bytes = name.partition(".")[2], (folder / name).stat().st_size
                if self._attachments.renew(digest, kind, size_bytes):
                    continue  # stored already; `renew` also stops a running collection from deleting it
                target = self._paths.attachments / attachment_name(digest, kind)
                ensure_private(self._paths.attachments)
                ensure_private(target.parent)
                if not move_files([name], folder, target.parent):
                    self._attachments.count_file(size_bytes)
        reached(CrashPoint.IMPORT_ATTACHED)
        # The auto-save last: it completes the session's current state.
        documents = [name for name in names if parse_checkpoint_name(name)]
        documents += [name for name in names if parse_autosave_name(name) == session_id]
        stayed = move_files(documents, folder, self._paths.sessions, lambda: reached(CrashPoint.IMPORT_CUT))
        for name in documents:
            if name not in stayed:
                self._catalog.found(name)
        shutil.rmtree(folder)
