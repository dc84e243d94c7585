"""The trash: sessions are moved into it whole, restored whole, and deleted from it for good.

    add         documents -> trash/<id>/, then the note `.trashed`: from now on the session is in the trash
    bring_back  the note is unlinked, then the documents return
    condemn     the note becomes `.condemned`: the session cannot return; the journal deletes its rows
    delete      the documents are unlinked, then the note

`reclaim` restores a session before it is opened; when the session's deletion is under way, it finishes that first. At a
start, `settle` undoes an interrupted `add` or `bring_back`, and returns the sessions to delete. Only the loop's thread
calls all this, since it knows the writers. Files are renamed, none is read or copied. The caller of `add` ensures that
all of a session's documents are ours.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edi_checkpoint.documents import trash
from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.names import check_session_id, session_of
from edi_checkpoint.documents.trash import CONDEMNED, NOTE, Note, Trashed
from edi_checkpoint.errors import SessionExists, SessionIdError
from edi_checkpoint.system.paths import Paths, ensure_private
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.journal import Journal
from edi_checkpointd.system.clock import Clock
from edi_checkpointd.system.fs import move_files, rename, sweep_temporaries, sync_folder, write_atomic

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Trash:
    """The trash of a sessions folder. It keeps `_catalog` true about the documents that leave and return."""

    _paths: Paths
    _catalog: Catalog
    _journal: Journal
    _clock: Clock
    # From the order of a plan until it is carried out: the sessions that were opened since.
    _reclaimed: set[str] | None = field(default=None, init=False)

    def settle(self) -> list[str]:
        """At a start: restore the sessions whose move a crash interrupted; return the sessions to delete."""
        condemned = []
        for folder in self._folders():
            sweep_temporaries(folder, lambda name: name == NOTE)
            if (folder / CONDEMNED).exists():
                condemned.append(folder.name)
            elif self.find(folder.name) is None:
                log.warning("session restored, its move into or out of the trash was interrupted: %s", folder.name)
                self._return(folder)
        return condemned

    def _folders(self) -> list[Path]:
        found = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for folder in sorted(self._paths.trash.iterdir()):
                with contextlib.suppress(SessionIdError):
                    check_session_id(folder.name)
                    if folder.is_dir() and not folder.is_symlink():
                        found.append(folder)
        return found

    def find(self, session_id: str) -> Trashed | None:
        """Return the facts of a session in the trash, None when it is not there."""
        return trash.find(self._paths.trash, session_id)

    def add(self, session_id: str, rule: str) -> None:
        """Move a session's documents into the trash, because of `rule`. Raises OSError.

        A file of the same name is replaced: it is left from an earlier return, which its name prevented.
        """
        folder, names = self._paths.trash / session_id, self._catalog.names(session_id)
        if not names:
            return  # it was purged meanwhile
        ensure_private(self._paths.trash)
        ensure_private(folder)
        (folder / NOTE).unlink(missing_ok=True)
        for name in names:
            (folder / name).unlink(missing_ok=True)
        move_files(names, self._paths.sessions, folder, lambda: reached(CrashPoint.TRASHING_CUT))
        write_atomic(folder / NOTE, [msgspec.json.encode(Note(self._clock.now(), rule))])
        sync_folder(self._paths.trash)
        for name in names:
            self._catalog.remove(name)
        log.info("session moved into the trash session=%s rule=%s", session_id, rule)
        reached(CrashPoint.TRASHED)

    def bring_back(self, session_id: str) -> bool:
        """Restore a session from the trash; return whether it was there. Raises OSError.

        A document whose name is taken in the sessions folder stays in the trash, so no file is overwritten.
        """
        if (found := self.find(session_id)) is None:
            return False
        folder = self._paths.trash / session_id
        (folder / NOTE).unlink()
        sync_folder(folder)
        stayed = self._return(folder, lambda: reached(CrashPoint.RETURN_CUT))
        if stayed:
            write_atomic(folder / NOTE, [msgspec.json.encode(Note(found.trashed, found.rule))])
        log.info("session restored from the trash session=%s stayed=%d", session_id, len(stayed))
        return True

    def _return(self, folder: Path, moved: Callable[[], None] = lambda: None) -> list[str]:
        names = sorted(path.name for path in folder.iterdir() if session_of(path.name) == folder.name)
        stayed = move_files(names, folder, self._paths.sessions, moved)
        for name in names:
            if name not in stayed:
                self._catalog.found(name)
        with contextlib.suppress(OSError):  # a document stayed, or the folder holds other files
            folder.rmdir()
        return stayed

    def reclaim(self, session_id: str) -> None:
        """Restore a session that is about to be opened. Raises OSError.

        A plan that was made before no longer moves it into the trash. A deletion under way is finished first: the
        journal may not delete rows of a session while a client writes to it.
        """
        if self._reclaimed is not None:
            self._reclaimed.add(session_id)
        while self.delete_slice(session_id):
            pass
        self.bring_back(session_id)

    def begin_plan(self) -> None:
        """Remember from now on which sessions are reclaimed, until `end_plan`."""
        self._reclaimed = set()

    def end_plan(self) -> None:
        """Forget which sessions were reclaimed."""
        self._reclaimed = None

    def was_reclaimed(self, session_id: str) -> bool:
        """Whether a session was opened since the plan was ordered."""
        return self._reclaimed is not None and session_id in self._reclaimed

    def require_room(self, session_id: str) -> None:
        """Raise `SessionExists` when the sessions folder holds documents of a session in the trash."""
        if names := self._catalog.names(session_id):
            raise SessionExists(f"session {session_id} exists again: {names[0]} is in {self._paths.sessions}")

    def condemn(self, session_id: str, rule: str) -> None:
        """Decide, because of `rule`, that a session in the trash is deleted and cannot return. Raises OSError."""
        rename(self._paths.trash / session_id / NOTE, CONDEMNED)
        log.info("session deleted from the trash session=%s rule=%s", session_id, rule)
        reached(CrashPoint.CONDEMNED)

    def delete_slice(self, session_id: str) -> bool:
        """Delete a slice of a condemned session: first its rows in the journal, then its documents.

        Returns whether there is more. A session that is not condemned stays: it was reclaimed or purged meanwhile, so
        its present rows and files are new. Raises `JournalRefused`, OSError.
        """
        if not (self._paths.trash / session_id / CONDEMNED).exists():
            return False
        if self._journal.delete_slice(session_id):
            return True
        self.delete(session_id)
        return False

    def has_come_back(self, session_id: str) -> bool:
        """Whether documents of a session are in the sessions folder; the trash then holds only those that stayed."""
        return self._catalog.has(session_id)

    def delete(self, session_id: str) -> None:
        """Delete a session's documents in the trash, and no other file. Raises OSError."""
        folder = self._paths.trash / session_id
        for path in sorted(folder.iterdir()):
            if session_of(path.name) == session_id:
                path.unlink(missing_ok=True)
                log.info("document deleted with its session name=%s", path.name)
        for note in (NOTE, CONDEMNED):
            (folder / note).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the folder holds other files
            folder.rmdir()
