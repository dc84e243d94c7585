"""The trash: sessions are moved into it whole, brought back whole, and deleted from it for good.

    take      documents -> trash/<id>/, then the note `.trashed`: from now on it is in the trash
    bring_back    the note goes, then the documents return
    condemn   the note becomes `.condemned`: it does not come back; the journal forgets it
    delete    the documents go, then the note

`reclaim` does the third, for whoever is about to open a session; when its deletion is under way, it ends that first.
`settle` undoes, at a start, what a crash has cut short in the first two, and tells which the last two are to be done
again for. Used by the intake thread alone, which knows who writes; names are moved, nothing is read or copied. Whose
documents these are is decided by who calls `add`: all of them must be ours.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from edi_checkpoint.documents import trash
from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.names import check_session_id, parse_autosave_name, parse_checkpoint_name
from edi_checkpoint.documents.trash import CONDEMNED, NOTE, Note, Trashed
from edi_checkpoint.errors import SessionExists, SessionIdError
from edi_checkpoint.system.paths import Paths, ensure_private
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.journal import Journal
from edi_checkpointd.system.clock import Clock
from edi_checkpointd.system.fs import move_files, rename, sweep_temporaries, sync_folder, write_atomic

log = logging.getLogger(__name__)


class Trash:
    """The trash of a sessions folder; `catalog` is told what leaves and what comes back."""

    def __init__(self, paths: Paths, catalog: Catalog, journal: Journal, clock: Clock) -> None:
        """Nothing is looked at before it is asked for."""
        self._sessions = paths.sessions
        self._trash = paths.trash
        self._catalog = catalog
        self._journal = journal
        self._clock = clock
        self._reclaimed: set[str] | None = None  # while a plan is made and carried out: the sessions opened since

    def settle(self) -> list[str]:
        """At a start: bring back what was cut short on its way; return the sessions that are condemned."""
        condemned = []
        for folder in self._folders():
            sweep_temporaries(folder, lambda name: name == NOTE)
            if (folder / CONDEMNED).exists():
                condemned.append(folder.name)
            elif trash.find(self._trash, folder.name) is None:
                log.warning("session brought back, its way into or out of the trash was cut short: %s", folder.name)
                self._return(folder)
        return condemned

    def _folders(self) -> list[Path]:
        found = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for folder in sorted(self._trash.iterdir()):
                with contextlib.suppress(SessionIdError):
                    check_session_id(folder.name)
                    if folder.is_dir() and not folder.is_symlink():
                        found.append(folder)
        return found

    def find(self, session_id: str) -> Trashed | None:
        """Return what is in the trash of a session, None when it is not there."""
        return trash.find(self._trash, session_id)

    def add(self, session_id: str, rule: str) -> None:
        """Move a session's documents into the trash, because of `rule`. Raises OSError.

        What lies there of the same name, left when an earlier one could not come back, gives way.
        """
        folder, names = self._trash / session_id, self._catalog.names(session_id)
        if not names:
            return  # it was purged meanwhile
        ensure_private(self._trash)
        ensure_private(folder)
        (folder / NOTE).unlink(missing_ok=True)
        for name in names:
            (folder / name).unlink(missing_ok=True)
        move_files(names, self._sessions, folder, lambda: reached(CrashPoint.TRASHING_CUT))
        write_atomic(folder / NOTE, [msgspec.json.encode(Note(self._clock.now(), rule))])
        sync_folder(self._trash)
        for name in names:
            self._catalog.remove(name)
        log.info("session moved into the trash session=%s rule=%s", session_id, rule)
        reached(CrashPoint.TRASHED)

    def bring_back(self, session_id: str) -> bool:
        """Bring a session back; return whether it was in the trash. Raises OSError.

        A document whose name is taken in the sessions folder stays: it is never the one to be overwritten.
        """
        held = trash.find(self._trash, session_id)
        if held is None:
            return False
        folder = self._trash / session_id
        (folder / NOTE).unlink()
        sync_folder(folder)
        stayed = self._return(folder, lambda: reached(CrashPoint.RETURN_CUT))
        if stayed:
            write_atomic(folder / NOTE, [msgspec.json.encode(Note(held.trashed, held.rule))])
        log.info("session brought back from the trash session=%s stayed=%d", session_id, len(stayed))
        return True

    def _return(self, folder: Path, moved: Callable[[], None] = lambda: None) -> list[str]:
        names = sorted(path.name for path in folder.iterdir() if _is_of(folder.name, path.name))
        stayed = move_files(names, folder, self._sessions, moved)
        for name in names:
            if name not in stayed:
                self._catalog.found(name)
        with contextlib.suppress(OSError):  # something stayed, or was put there by somebody else
            folder.rmdir()
        return stayed

    def reclaim(self, session_id: str) -> None:
        """Bring back a session that somebody is about to open. Raises OSError.

        A plan that was made before does not take it. If its deletion is under way, that ends first: its rows may not go
        while somebody writes.
        """
        if self._reclaimed is not None:
            self._reclaimed.add(session_id)
        while self.delete_slice(session_id):
            pass
        self.bring_back(session_id)

    def begin_plan(self) -> None:
        """Remember from now on which sessions are reclaimed; `end_plan` ends that, so that it is bounded."""
        self._reclaimed = set()

    def end_plan(self) -> None:
        """Forget which sessions were reclaimed."""
        self._reclaimed = None

    def was_reclaimed(self, session_id: str) -> bool:
        """Whether somebody opened a session since the plan began."""
        return self._reclaimed is not None and session_id in self._reclaimed

    def require_room(self, session_id: str) -> None:
        """Raise `SessionExists` when documents of a session lie in the sessions folder again."""
        if names := self._catalog.names(session_id):
            raise SessionExists(f"session {session_id} exists again: {names[0]} lies in {self._sessions}")

    def condemn(self, session_id: str, rule: str) -> None:
        """Decide that a session in the trash never comes back, because of `rule`. Raises OSError."""
        folder = self._trash / session_id
        rename(folder / NOTE, CONDEMNED)
        log.info("session deleted from the trash session=%s rule=%s", session_id, rule)
        reached(CrashPoint.CONDEMNED)

    def is_condemned(self, session_id: str) -> bool:
        """Whether a session is just being deleted."""
        return (self._trash / session_id / CONDEMNED).exists()

    def delete_slice(self, session_id: str) -> bool:
        """Delete a slice of a condemned session: its rows of the journal, at last its documents.

        Returns whether there is more. Does nothing to a session that is not condemned: it was reclaimed or purged
        meanwhile, and what is there now is new. Raises `JournalRefused`, OSError.
        """
        if not self.is_condemned(session_id):
            return False
        if self._journal.delete_slice(session_id):
            return True
        self.delete(session_id)
        return False

    def has_come_back(self, session_id: str) -> bool:
        """Whether documents of a session lie in the sessions folder: in the trash is only what could not come back."""
        return self._catalog.has(session_id)

    def delete(self, session_id: str) -> None:
        """Delete a session's documents in the trash, and no other file. Raises OSError."""
        folder = self._trash / session_id
        for path in sorted(folder.iterdir()):
            if _is_of(session_id, path.name):
                path.unlink(missing_ok=True)
                log.info("document deleted with its session name=%s", path.name)
        for note in (NOTE, CONDEMNED):
            (folder / note).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's files lie there
            folder.rmdir()


def _is_of(session_id: str, name: str) -> bool:
    """Whether `name` is that of a document of the session."""
    checkpoint = parse_checkpoint_name(name)
    return (checkpoint.session_id if checkpoint else parse_autosave_name(name)) == session_id
