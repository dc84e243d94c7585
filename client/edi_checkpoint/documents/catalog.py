"""The catalog: which checkpoint and auto-save files the sessions folder holds, and what their headers say.

`load` lists the folder once. After that, the one thread that writes files reports each (`add`, `remove`,
`note_autosave`), so a checkpoint costs the same beside any number of other files. The catalog reads a header when a
caller first asks for it, keeps it, and does not verify digests. `refresh`, in the writing thread, finds the changes
that others made: inode, time and size tell whether a file is still the known one. Any thread may read: results are
immutable, and a header that a reader loads never replaces one that the writing thread reported.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeVar

from edi_checkpoint.documents.layout import Header
from edi_checkpoint.documents.names import autosave_name, parse_autosave_name, parse_checkpoint_name
from edi_checkpoint.documents.reader import UNDATED, parse_autosave, parse_checkpoint, read_autosave_header, read_header
from edi_checkpoint.errors import DocumentDamaged, VersionMismatch
from edi_checkpoint.model import CheckpointInfo
from edi_checkpoint.system.safe_open import open_regular

HEADER_BYTES: Final = 8 << 10  # the first read of a file; a header has about 1 KiB
LONG_HEADER_BYTES: Final = 64 << 10  # the second read, for a longer header; a still longer one costs the whole file
UNREADABLE: Final = "unreadable"

T = TypeVar("T")


class AutosaveInfo(NamedTuple):
    """A session's auto-save: its header and the file's size. The header of a foreign auto-save has the file's time."""

    header: Header
    size_bytes: int


class Identity(NamedTuple):
    """The facts that change when a file is edited, or replaced by another of the same name."""

    inode: int
    modified_ns: int
    size_bytes: int


class Fault(NamedTuple):
    """A file that is not listed, and why.

    `code` is `document_damaged`, `version_mismatch` or `unreadable`; the catalog retries an unreadable file.
    """

    name: str
    fault: str
    code: str


class Catalog:
    """Knows the checkpoints and auto-saves in `folder`. Compares session ids exactly."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # for changes and listings of the dicts below; never held while a file is read
        self._identities: dict[str, Identity] = {}  # by name, the file that infos, auto-saves and faults describe
        self._names: dict[str, tuple[str, ...]] = {}  # by session, the names of its checkpoints
        self._stamps: dict[str, str] = {}  # by session, the highest stamp that a name ever had
        self._autosaves: dict[str, AutosaveInfo | None] = {}  # by session; None until a caller asks for the header
        self._infos: dict[str, CheckpointInfo] = {}  # by name, as read or reported
        self._faults: dict[str, Fault] = {}  # by name

    def load(self) -> None:
        """List the folder, or list it again. Raises `OSError` when the folder cannot be listed."""
        self.refresh()

    def refresh(self, names: Collection[str] | None = None) -> set[str]:
        """Check the files `names`, or the whole folder, for changes; return sessions that have no file left.

        The catalog keeps what it knows of an unchanged file. Only the writing thread may call this. Raises `OSError`
        when the folder cannot be listed.
        """
        if names is None:
            return self._refresh_all()
        touched = {session_id for name in names if (session_id := self._refresh(name)) is not None}
        return {session_id for session_id in touched if not self.has(session_id)}

    def _refresh(self, name: str) -> str | None:
        """Check one file for changes; return its session, None for a name that is not one of ours."""
        named = parse_checkpoint_name(name)
        session_id = named.session_id if named else parse_autosave_name(name)
        if session_id is not None:
            with self._lock:
                identity = self._identity(name)
                if identity is None:
                    self._remove(name)
                elif identity != self._identities.get(name):
                    self._forget(name)
                    self._list(name)
        return session_id

    def _refresh_all(self) -> set[str]:
        names: dict[str, list[str]] = {}
        stamps = dict(self._stamps)
        autosaves: set[str] = set()
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if not entry.is_file(follow_symlinks=False):
                    continue
                if (named := parse_checkpoint_name(entry.name)) is not None:
                    names.setdefault(named.session_id, []).append(entry.name)
                    stamps[named.session_id] = max(stamps.get(named.session_id, ""), named.stamp)
                elif (session_id := parse_autosave_name(entry.name)) is not None:
                    autosaves.add(session_id)
        with self._lock:
            before = self._names.keys() | self._autosaves.keys()
            for name in [*self._infos, *self._faults, *map(autosave_name, self._autosaves)]:
                if (known := self._identities.get(name)) is None or known != self._identity(name):
                    self._forget(name)
            self._names = {session_id: tuple(of_session) for session_id, of_session in names.items()}
            self._autosaves = {session_id: self._autosaves.get(session_id) for session_id in autosaves}
            self._stamps = stamps
            return before - self._names.keys() - self._autosaves.keys()

    def _identity(self, name: str) -> Identity | None:
        """Return the identity of the regular file that has this name now, None without one."""
        try:
            status = os.lstat(self._folder / name)
        except OSError:
            return None
        return _identity(status) if stat.S_ISREG(status.st_mode) else None

    def _forget(self, name: str) -> None:
        """Forget everything about a file except its name; the caller holds the lock."""
        self._identities.pop(name, None)
        self._infos.pop(name, None)
        self._faults.pop(name, None)
        if (session_id := parse_autosave_name(name)) in self._autosaves:
            self._autosaves[session_id or ""] = None

    def _list(self, name: str) -> None:
        """Add the name of a checkpoint or an auto-save, its header unread; the caller holds the lock."""
        if (named := parse_checkpoint_name(name)) is not None:
            names = self._names.get(named.session_id, ())
            if name not in names:
                self._names[named.session_id] = (*names, name)
            self._stamps[named.session_id] = max(self._stamps.get(named.session_id, ""), named.stamp)
        elif (session_id := parse_autosave_name(name)) is not None:
            self._autosaves[session_id] = None

    def _written(self, name: str) -> None:
        """Note the identity of a file that the writing thread has written; the caller holds the lock."""
        self._faults.pop(name, None)
        self._identities.pop(name, None)
        if (identity := self._identity(name)) is not None:
            self._identities[name] = identity

    def has(self, session_id: str) -> bool:
        """Return whether the session has a file."""
        return session_id in self._names or session_id in self._autosaves

    def sessions(self) -> list[str]:
        """Return the ids of all sessions that have a file, in alphabetical order."""
        with self._lock:
            return sorted(self._names.keys() | self._autosaves.keys())

    def names(self, session_id: str) -> tuple[str, ...]:
        """Return the names of all files of a session, readable or not."""
        with self._lock:
            own = (autosave_name(session_id),) if session_id in self._autosaves else ()
            return (*self._names.get(session_id, ()), *own)

    def checkpoints(self, session_id: str) -> tuple[CheckpointInfo, ...]:
        """Return the session's checkpoints, oldest first: by sequence (0 in EDI's own old files), then by name."""
        infos = [info for name in self._names.get(session_id, ()) if (info := self._info(session_id, name)) is not None]
        return tuple(sorted(infos, key=lambda info: (info.sequence, info.name)))

    def newest(self, session_id: str) -> CheckpointInfo | None:
        """Return the newest of the session's checkpoints, None if it has none."""
        infos = self.checkpoints(session_id)
        return infos[-1] if infos else None

    def newest_header(self, session_id: str) -> Header | None:
        """Return the header of the session's newest document: the auto-save, unless a checkpoint has a higher sequence.

        None without a document that can be read.
        """
        autosave, newest = self.autosave(session_id), self.newest(session_id)
        if autosave and (newest is None or autosave.header.sequence >= newest.sequence):
            return autosave.header
        name = newest.name if newest else None
        return None if name is None else self._read(name, lambda file, _: _checkpoint_header(file, name))[0]

    def last_stamp(self, session_id: str) -> str | None:
        """Return the highest stamp of all checkpoints that the session ever had, so that the next name is higher."""
        return self._stamps.get(session_id)

    def autosave(self, session_id: str) -> AutosaveInfo | None:
        """Return the session's auto-save, None if it has none that can be read."""
        known = self._autosaves.get(session_id)
        if known is not None or session_id not in self._autosaves:
            return known
        name = autosave_name(session_id)
        info, identity = self._read(name, lambda file, size: _autosave_info(file, size, name))
        with self._lock:
            if session_id not in self._autosaves:
                return None
            known = self._autosaves[session_id]
            if known is None and info is not None and identity is not None and identity == self._identity(name):
                self._autosaves[session_id], self._identities[name] = info, identity
            return known or info

    @property
    def damaged(self) -> list[Fault]:
        """The files found so far whose headers cannot be used, sorted by name; the lists leave them out."""
        with self._lock:
            return sorted(self._faults.values())

    def add(self, info: CheckpointInfo) -> None:
        """Note that the writing thread wrote the checkpoint `info`, or wrote it again."""
        with self._lock:
            self._list(info.name)
            self._infos[info.name] = info
            self._written(info.name)

    def found(self, name: str) -> None:
        """Note that the checkpoint or auto-save `name` is in the folder; ignore other names."""
        with self._lock:
            self._list(name)

    def note_autosave(self, session_id: str, header: Header, size_bytes: int) -> None:
        """Note that the writing thread wrote the session's auto-save."""
        with self._lock:
            self._autosaves[session_id] = AutosaveInfo(header, size_bytes)
            self._written(autosave_name(session_id))

    def remove(self, name: str) -> None:
        """Note that the checkpoint or auto-save `name` is gone; ignore other names."""
        with self._lock:
            self._remove(name)

    def _remove(self, name: str) -> None:
        self._forget(name)
        if (named := parse_checkpoint_name(name)) is None:
            self._autosaves.pop(parse_autosave_name(name) or "", None)
            return
        rest = tuple(other for other in self._names.get(named.session_id, ()) if other != name)
        if rest:
            self._names[named.session_id] = rest
        else:
            self._names.pop(named.session_id, None)

    def discard(self, session_ids: Collection[str]) -> None:
        """Forget sessions and all their files."""
        with self._lock:
            for session_id in session_ids:
                for name in (*self._names.pop(session_id, ()), autosave_name(session_id)):
                    self._infos.pop(name, None)
                    self._faults.pop(name, None)
                self._autosaves.pop(session_id, None)

    def _info(self, session_id: str, name: str) -> CheckpointInfo | None:
        known = self._infos.get(name)
        if known is not None:
            return known
        info, identity = self._read(name, lambda file, size: _checkpoint_info(file, size, session_id, name))
        with self._lock:
            known = self._infos.get(name)
            if known is None and info is not None and identity is not None and identity == self._identity(name):
                self._infos[name], self._identities[name] = info, identity  # a changed file is read again
            return known or info

    def _read(self, name: str, read: Callable[[BinaryIO, int], T]) -> tuple[T, Identity] | tuple[None, None]:
        """Return what `read` makes of the file `name` and its size, and the file's identity.

        Returns two times None for a file that is gone or has a fault.
        """
        fault = self._faults.get(name)
        if fault is not None and fault.code != UNREADABLE:
            return None, None
        identity = None
        try:
            with open_regular(self._folder / name) as file:
                identity = _identity(os.fstat(file.fileno()))
                result = read(file, identity.size_bytes)
        except FileNotFoundError:
            self.remove(name)
            return None, None
        except OSError as error:
            fault = Fault(name, error.strerror or str(error), UNREADABLE)
        except (DocumentDamaged, VersionMismatch) as error:
            fault = Fault(name, error.message.removeprefix(f"{name}: "), error.code)
        else:
            with self._lock:
                self._faults.pop(name, None)
            return result, identity
        with self._lock:
            self._faults[name] = fault
            if identity is not None:
                self._identities[name] = identity
        return None, None


def _identity(status: os.stat_result) -> Identity:
    return Identity(status.st_ino, status.st_mtime_ns, status.st_size)


def _checkpoint_info(file: BinaryIO, size_bytes: int, session_id: str, name: str) -> CheckpointInfo:
    header = _checkpoint_header(file, name)
    return CheckpointInfo(
        name, session_id, header.sequence, header.timestamp, header.kind, header.reason, header.stage, header.label,
        header.pinned, size_bytes, header.note, header.rule, header.score,
    )  # fmt: skip


def _checkpoint_header(file: BinaryIO, name: str) -> Header:
    head = b""
    for more in (HEADER_BYTES, LONG_HEADER_BYTES):
        head += file.read(more)
        if header := read_header(head, name):
            return header
    return parse_checkpoint(head + file.read(), name).header


def _autosave_info(file: BinaryIO, size_bytes: int, name: str) -> AutosaveInfo:
    file.seek(max(size_bytes - HEADER_BYTES, 0))
    header = read_autosave_header(file.read(), name)
    if header is None:
        file.seek(0)
        header = parse_autosave(file.read(), name).header
    if header.timestamp == UNDATED:
        header = replace(header, timestamp=datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC))
    return AutosaveInfo(header, size_bytes)
