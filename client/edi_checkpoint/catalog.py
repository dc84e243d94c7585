"""The catalog: which checkpoint and auto-save files the sessions folder holds, and what their headers say.

The folder is listed once, at the start; from then on the one thread that writes files tells of each (`add`, `remove`,
`note_autosave`), so that a checkpoint costs the same beside any number of other files. Headers are read when first
asked for, and kept; the digests behind them are not looked at. Any thread may read: what it is given is immutable, and
a header that it reads from a file never replaces what the writer told.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeVar

from edi_checkpoint.document import UNDATED, Header, parse_autosave, parse_checkpoint, read_autosave_header, read_header
from edi_checkpoint.errors import DocumentDamaged, VersionMismatch
from edi_checkpoint.model import CheckpointInfo
from edi_checkpoint.names import autosave_name, parse_autosave_name, parse_checkpoint_name
from edi_checkpoint.opening import open_regular

HEADER_BYTES: Final = 8 << 10  # read of a file for its header, which has about 1 KiB
LONG_HEADER_BYTES: Final = 64 << 10  # read besides for a longer one; one beyond that costs the whole file
UNREADABLE: Final = "unreadable"

T = TypeVar("T")


class AutosaveInfo(NamedTuple):
    """A session's auto-save: its header (a foreign one's has the file's time) and the file's size."""

    header: Header
    size_bytes: int


class Fault(NamedTuple):
    """A file that is not listed, and why; code `document_damaged`, `version_mismatch` or `unreadable` (tried again)."""

    name: str
    fault: str
    code: str


class Catalog:
    """The checkpoints and auto-saves in `folder`. Session ids are compared exactly."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # held to change or list what follows, never while a file is read
        self._names: dict[str, tuple[str, ...]] = {}  # by session, the names of its checkpoints
        self._stamps: dict[str, str] = {}  # by session, the highest stamp that was ever seen
        self._autosaves: dict[str, AutosaveInfo | None] = {}  # by session; None until the header is asked for
        self._infos: dict[str, CheckpointInfo] = {}  # by name, what was read or told
        self._faults: dict[str, Fault] = {}  # by name

    def load(self) -> None:
        """List the folder, anew if it was listed before. Raises `OSError` if it cannot be."""
        names: dict[str, list[str]] = {}
        stamps = dict(self._stamps)
        autosaves: dict[str, AutosaveInfo | None] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if not entry.is_file(follow_symlinks=False):
                    continue
                if (named := parse_checkpoint_name(entry.name)) is not None:
                    names.setdefault(named.session_id, []).append(entry.name)
                    stamps[named.session_id] = max(stamps.get(named.session_id, ""), named.stamp)
                elif (session_id := parse_autosave_name(entry.name)) is not None:
                    autosaves[session_id] = None
        with self._lock:
            self._names = {session_id: tuple(of_session) for session_id, of_session in names.items()}
            self._stamps, self._autosaves, self._infos, self._faults = stamps, autosaves, {}, {}

    def sessions(self) -> list[str]:
        """Return the ids of all sessions that have a file, in alphabetical order."""
        with self._lock:
            return sorted(self._names.keys() | self._autosaves.keys())

    def names(self, session_id: str) -> tuple[str, ...]:
        """Return the names of all files of a session, whether or not they can be read."""
        with self._lock:
            own = (autosave_name(session_id),) if session_id in self._autosaves else ()
            return (*self._names.get(session_id, ()), *own)

    def checkpoints(self, session_id: str) -> tuple[CheckpointInfo, ...]:
        """Return the session's checkpoints, oldest first: by sequence (0 in EDI's own old files), then by name."""
        infos = [info for name in self._names.get(session_id, ()) if (info := self._info(session_id, name)) is not None]
        return tuple(sorted(infos, key=lambda info: (info.sequence, info.name)))

    def newest(self, session_id: str) -> CheckpointInfo | None:
        """Return the last of the session's checkpoints, or None if it has none."""
        infos = self.checkpoints(session_id)
        return infos[-1] if infos else None

    def newest_header(self, session_id: str) -> Header | None:
        """Return the header of the session's newest document: of the auto-save, unless a checkpoint goes further."""
        autosave, newest = self.autosave(session_id), self.newest(session_id)
        if autosave and (newest is None or autosave.header.sequence >= newest.sequence):
            return autosave.header
        name = newest.name if newest else None
        return None if name is None else self._read(name, lambda file, _: _checkpoint_header(file, name))

    def last_stamp(self, session_id: str) -> str | None:
        """Return the highest stamp in a name that the session ever had here, so that its names always increase."""
        return self._stamps.get(session_id)

    def autosave(self, session_id: str) -> AutosaveInfo | None:
        """Return the session's auto-save, or None if it has none that can be read."""
        known = self._autosaves.get(session_id)
        if known is not None or session_id not in self._autosaves:
            return known
        name = autosave_name(session_id)
        info = self._read(name, lambda file, size: _autosave_info(file, size, name))
        with self._lock:
            if info is not None and self._autosaves.get(session_id, info) is None:
                self._autosaves[session_id] = info
            return self._autosaves.get(session_id)

    @property
    def damaged(self) -> list[Fault]:
        """The files met so far that are not listed because their headers cannot be used, by name."""
        with self._lock:
            return sorted(self._faults.values())

    def add(self, info: CheckpointInfo) -> None:
        """Take note that the file of `info` was written, or written anew."""
        stamp = parse_checkpoint_name(info.name)
        with self._lock:
            names = self._names.get(info.session_id, ())
            if info.name not in names:
                self._names[info.session_id] = (*names, info.name)
            if stamp is not None:
                self._stamps[info.session_id] = max(self._stamps.get(info.session_id, ""), stamp.stamp)
            self._infos[info.name] = info
            self._faults.pop(info.name, None)

    def found(self, name: str) -> None:
        """Take note that the checkpoint or auto-save `name` lies in the folder; other names are ignored."""
        named = parse_checkpoint_name(name)
        with self._lock:
            if named is None:
                if (session_id := parse_autosave_name(name)) is not None:
                    self._autosaves[session_id] = None
                return
            names = self._names.get(named.session_id, ())
            if name not in names:
                self._names[named.session_id] = (*names, name)
            self._stamps[named.session_id] = max(self._stamps.get(named.session_id, ""), named.stamp)

    def note_autosave(self, session_id: str, header: Header, size_bytes: int) -> None:
        """Take note that the session's auto-save was written."""
        with self._lock:
            self._autosaves[session_id] = AutosaveInfo(header, size_bytes)
            self._faults.pop(autosave_name(session_id), None)

    def remove(self, name: str) -> None:
        """Take note that the checkpoint or auto-save `name` is gone; other names are ignored."""
        named = parse_checkpoint_name(name)
        with self._lock:
            self._faults.pop(name, None)
            if named is None:
                self._autosaves.pop(parse_autosave_name(name) or "", None)
                return
            self._infos.pop(name, None)
            rest = tuple(other for other in self._names.get(named.session_id, ()) if other != name)
            if rest:
                self._names[named.session_id] = rest
            else:
                self._names.pop(named.session_id, None)

    def forget(self, session_ids: Collection[str]) -> None:
        """Take note that nothing is left of sessions."""
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
        info = self._read(name, lambda file, size: _checkpoint_info(file, size, session_id, name))
        return None if info is None else self._infos.setdefault(name, info)

    def _read(self, name: str, read: Callable[[BinaryIO, int], T]) -> T | None:
        """Return what `read` makes of the file `name` and its size, or None: then it is gone, or among the faults."""
        fault = self._faults.get(name)
        if fault is not None and fault.code != UNREADABLE:
            return None
        try:
            with open_regular(self._folder / name) as file:
                result = read(file, os.fstat(file.fileno()).st_size)
        except FileNotFoundError:
            self.remove(name)
            return None
        except OSError as error:
            fault = Fault(name, error.strerror or str(error), UNREADABLE)
        except (DocumentDamaged, VersionMismatch) as error:
            fault = Fault(name, error.message.removeprefix(f"{name}: "), error.code)
        else:
            with self._lock:
                self._faults.pop(name, None)
            return result
        with self._lock:
            self._faults[name] = fault
        return None


def _checkpoint_info(file: BinaryIO, size_bytes: int, session_id: str, name: str) -> CheckpointInfo:
    header = _checkpoint_header(file, name)
    return CheckpointInfo(
        name=name,
        session_id=session_id,
        sequence=header.sequence,
        timestamp=header.timestamp,
        kind=header.kind,
        reason=header.reason,
        stage=header.stage,
        label=header.label,
        pinned=header.pinned,
        size_bytes=size_bytes,
        note=header.note,
        rule=header.rule,
        score=header.score,
    )


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
