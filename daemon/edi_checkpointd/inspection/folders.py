"""Inspect folders and files: owners, modes, links, and leftover temporary files."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edi_checkpoint.documents.names import parse_attachment_name
from edi_checkpoint.system.paths import Paths
from edi_checkpointd.inspection.findings import Code, Finding, Severity
from edi_checkpointd.system.fs import temporaries

_CLOSE: Final = "`edi-checkpointd check --repair` makes it private"
_FILES: Final = ("", "-wal", "-shm", "-witness")


def examine(paths: Paths, *, served: bool) -> Iterator[Finding]:
    """Yield wrong owners, modes and links; and temporary files, unless a daemon runs (`served`) that may use them.

    Other programs' files in the sessions folder are skipped, and so are files set aside as damaged: their folders keep
    other users out.
    """
    for folder in (paths.sessions, paths.state, paths.runtime, paths.damaged, paths.damaged_documents):
        yield from _folder(folder)
    state = [paths.journal.with_name(paths.journal.name + suffix) for suffix in _FILES]
    for path in (paths.lock, paths.marker, *state, paths.reserve, paths.log, paths.forgetting, paths.socket):
        yield from _file(path, in_place=True)
    for below in (paths.attachments, paths.trash, paths.outbox):
        yield from _below(below, in_place=below == paths.outbox)
    if not served:
        yield from _temporaries(paths)


def _below(folder: Path, *, in_place: bool) -> Iterator[Finding]:
    yield from _folder(folder)
    for inner, folders, names in os.walk(folder):
        for name in folders:
            yield from _folder(Path(inner) / name)
        for name in names:
            yield from _file(Path(inner) / name, in_place=in_place)


def _folder(folder: Path) -> Iterator[Finding]:
    """Yield the faults of a folder. It may be a symbolic link that this user made."""
    try:
        status = folder.stat()
        if folder.lstat().st_uid != os.geteuid():
            status = folder.lstat()
    except OSError:
        return
    yield from closed(folder, status, str(folder))


def _file(path: Path, *, in_place: bool) -> Iterator[Finding]:
    """Yield the faults of a file. A file that is written `in_place` should have no second name."""
    try:
        status = path.lstat()
    except OSError:
        return
    if stat.S_ISLNK(status.st_mode):
        fault = "it is a symbolic link instead of a file"
        remedy = "`edi-checkpointd check --repair` removes it; find out who made it"
        yield Finding(Severity.REPAIRABLE, Code.LINK, str(path), fault, remedy, path)
        return
    if in_place and status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
        fault = f"it has {status.st_nlink} names (hard links), and a write changes all of them"
        yield Finding(Severity.NOTE, Code.HARD_LINK, str(path), fault, "delete the other name", path)
    yield from closed(path, status, str(path))


def closed(path: Path, status: os.stat_result, what: str) -> Iterator[Finding]:
    """Yield a finding if another user owns a file or folder, or may read or write it."""
    if status.st_uid != os.geteuid():
        fault = f"it belongs to uid {status.st_uid}, but you are uid {os.geteuid()}"
        remedy = f"run `sudo chown -h {os.geteuid()}` on it, or run this command as that user"
        yield Finding(Severity.REPAIRABLE, Code.OWNER, what, fault, remedy, path)
    elif status.st_mode & 0o077:
        fault = f"its mode is {stat.S_IMODE(status.st_mode):04o}: other users can access it"
        yield Finding(Severity.REPAIRABLE, Code.MODE, what, fault, _CLOSE, path)


def _temporaries(paths: Paths) -> Iterator[Finding]:
    found = []
    with contextlib.suppress(FileNotFoundError):
        found += temporaries(paths.sessions)
    with contextlib.suppress(FileNotFoundError):
        found += temporaries(paths.damaged, lambda _: True)
    for shelf in paths.attachments.glob("??/"):
        found += temporaries(shelf, lambda name: parse_attachment_name(name) is not None)
    for path in found:
        fault = "a half-written file, left by a crash; it is never read"
        yield Finding(Severity.NOTE, Code.TEMPORARY, str(path), fault, "the daemon deletes it at its next start", path)
