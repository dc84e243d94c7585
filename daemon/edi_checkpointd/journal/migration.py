"""Bringing a journal of an older format to this one: on a copy, which takes its place when it is whole.

    copy      VACUUM INTO a new file: all rows, and nothing of the pages that were freed
    change    its tables, format by format; then it is checked against the old one, and brought onto the disk
    place     the WAL goes, the old one gets a second name, the copy is renamed over the first
    finish    the old one goes, once the new one has been opened

Whatever a crash leaves, under the journal's name lies the old one or the new one, whole. Only the daemon calls this,
which alone writes the journal; who reads the old one meanwhile goes on doing so.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import apsw

from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.fs import rename, sync_folder
from edi_checkpointd.journal.tables import (
    FORMAT,
    MIGRATIONS,
    JournalDamaged,
    JournalRefused,
    check_format,
    check_head,
    is_new,
    named_damage,
)

log = logging.getLogger(__name__)

_READERS_MS = 5000  # a reader that is in the way is waited for so long
_COUNTED = {  # what may not differ behind a migration
    "sessions": "count(*)",
    "streams": "count(*), sum(number)",
    "frames": "count(*), max(id), sum(last - first + 1), sum(length(records))",
    "snapshots": "count(*), sum(length(body))",
    "gaps": "count(*)",
}


def bring_up(path: Path) -> None:
    """Bring the journal at `path` to this format if it is of an older one; whatever a crash has left of that goes.

    Raises `JournalDamaged`, `VersionMismatch` for a newer one, `JournalRefused` when the disk has no room for the copy
    or a reader stays in the way: then the old one is as it was.
    """
    copy = _copy_of(path)
    for left in (copy, copy.with_name(f"{copy.name}-journal")):
        left.unlink(missing_ok=True)
    if (version := check_head(path)) is None or version == FORMAT:
        return
    with named_damage(path):
        old = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            # What is in the WAL may be newer than the head; without any table it is one that a crash kept from being.
            if is_new(old) or check_format(old, path) == FORMAT:
                return
            _copy(old, path, copy)
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        finally:
            old.close()
    _place(copy, path)


def _copy(old: apsw.Connection, path: Path, copy: Path) -> None:
    """Make the copy, in this format, and leave nothing in the old one's WAL."""
    version = check_format(old, path)
    log.info("journal brought to another format from=%d to=%d", version, FORMAT)
    old.execute("VACUUM INTO ?", (str(copy),))
    _change(copy, version, _counts(old))
    reached(CrashPoint.MIGRATED_COPY)
    old.set_busy_timeout(_READERS_MS)
    try:
        old.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError as error:
        raise JournalRefused(
            f"{path}: somebody reads it, and it cannot be brought to another format meanwhile",
            hint="end what reads it, an `edi-checkpoint` that hangs, and start the daemon again",
        ) from error


def finish(path: Path) -> None:
    """Remove the journal that was migrated, if there is one: the new one has been opened."""
    kept = _kept(path)
    if kept.exists():
        kept.unlink()
        sync_folder(kept.parent)


def take_back(path: Path) -> bool:
    """Put the journal that was migrated back where nothing lies, if it is still there; return whether it was."""
    if not _kept(path).exists():
        return False
    rename(_kept(path), path.name)
    return True


def _change(copy: Path, version: int, counts: object) -> None:
    """Bring the copy to this format, and onto the disk. Raises `JournalDamaged` when it is not what it is a copy of."""
    copy.chmod(0o600)
    new = apsw.Connection(str(copy), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        for number in range(version, FORMAT):
            with new:
                new.execute(MIGRATIONS[number])
                new.execute(f"PRAGMA user_version={number + 1}")
        verdict = new.execute("PRAGMA integrity_check(1)").get
        if verdict != "ok" or _counts(new) != counts:
            raise JournalDamaged(f"{copy}: not what was copied: {verdict}")
    finally:
        new.close()
    fd = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _counts(db: apsw.Connection) -> list[object]:
    return [db.execute(f"SELECT {what} FROM {table}").get for table, what in _COUNTED.items()]


def _place(copy: Path, path: Path) -> None:
    """Put the copy in the journal's place; the old one, which has all that its WAL had, gets another name."""
    for suffix in ("-wal", "-shm"):  # empty, if a reader has kept them from being deleted; the new one gets its own
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    kept = _kept(path)
    kept.unlink(missing_ok=True)
    os.link(path, kept)
    sync_folder(path.parent)
    reached(CrashPoint.MIGRATION_KEPT)
    rename(copy, path.name)
    reached(CrashPoint.MIGRATED)


def _copy_of(path: Path) -> Path:
    return path.with_name(path.name + "-migrating")


def _kept(path: Path) -> Path:
    return path.with_name(path.name + "-old")
