"""The files of the outboxes, for processes that do not write them: list, read, lock and remove them.

Layout, below `outbox/<session_id>/` (`docs/format.md`, Outbox):

    <stream>.lock             one JSON line (`Owner`); its writer holds flock(LOCK_EX) on it while it lives
    <stream>.<index>.seg      records without gaps, in the order of the indexes

The daemon drains the outboxes of dead writers. A client without a daemon reads them to know the current state. Reading
needs no lock. Unlinking needs one, and the process that holds a stream's lock is alive.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import msgspec

from edi_checkpoint.faults import ClientPoint, reached
from edi_checkpoint.system.paths import ensure_private
from edi_checkpoint.system.safe_open import is_bad, open_regular
from edi_checkpoint.wire.records import ENTRY_MAX_BYTES, HEADER, scan, whole

READ_BYTES = 1 << 20
OWNER_MAX_BYTES = 64 << 10
_HEADS_BUFFER_BYTES = 256 << 10


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a lock file: it describes the stream's writer.

    `order` counts the session's streams with an outbox. A stream continues the earlier ones, so the daemon drains them
    in this order, never by a clock. `since` is ISO 8601, UTC, for people. `seen`: the writer received the state that
    it continues. `fenced` names the living streams that it took over from, each with its highest number at that time.
    """

    stream: str
    session_id: str
    parent_session: str | None
    app: str
    pid: int
    since: str
    order: int
    seen: bool = False
    fenced: dict[str, int] = {}


_decode_owner = msgspec.json.Decoder(Owner).decode  # built here: see `values.codec._Plain`


@dataclass(frozen=True, slots=True)
class StreamFiles:
    """The files of one stream: its lock file, the content of that, and its segments in order."""

    lock: Path
    owner: Owner
    segments: tuple[Path, ...]


def list_streams(folder: Path) -> list[StreamFiles]:
    """Return the streams in a session's outbox folder, in the order in which they follow each other.

    Files that are no readable lock file of this session are skipped.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for name in names:
        stream = name.removesuffix(".lock")
        if stream == name or name.startswith("."):
            continue
        try:
            with open_regular(folder / name) as file:
                owner = _decode_owner(file.read(OWNER_MAX_BYTES))
        except (OSError, msgspec.MsgspecError):
            continue
        if owner.stream != stream or owner.session_id != folder.name:
            continue
        segments = tuple(folder / n for n in names if n.startswith(f"{stream}.") and n.endswith(".seg"))
        found.append(StreamFiles(folder / name, owner, segments))
    return sorted(found, key=lambda files: files.owner.order)


def read_records(files: StreamFiles, limit: int = READ_BYTES) -> Iterator[bytes]:
    """Yield the whole records of a stream's segments, at most `limit` bytes at a time, up to the first bad record.

    An unreadable segment ends them like a bad record. Raises OSError for a fault of the system, not of the file.
    """
    for path in files.segments:
        try:
            with open_regular(path) as file:
                size, offset = os.fstat(file.fileno()).st_size, 0
                while offset < size:
                    file.seek(offset)
                    data = file.read(limit)
                    if not whole(data)[0] and len(data) >= HEADER.size:
                        length = HEADER.unpack_from(data)[0]
                        if length <= ENTRY_MAX_BYTES:
                            file.seek(offset)
                            data = file.read(HEADER.size + length)
                    if not (records := scan(data)):
                        return
                    end = records[-1].end
                    yield data[:end]
                    offset += end
        except FileNotFoundError:
            continue  # the writer trimmed it meanwhile: a document covers it
        except OSError as error:
            if is_bad(error):
                return
            raise


class Head(NamedTuple):
    """The place of a record: its number, its segment, and the offsets of its start and end."""

    number: int
    segment: Path
    start: int
    end: int


def heads(files: StreamFiles) -> Iterator[Head]:
    """Yield the places of a stream's records, each number once, up to the first torn record.

    This reads the headers alone, which is quick for a large outbox, and verifies no checksum.
    """
    number = 0
    for path in files.segments:
        try:
            with BufferedReader(open_regular(path), _HEADS_BUFFER_BYTES) as file:
                size, start = os.fstat(file.fileno()).st_size, 0
                while size - start >= HEADER.size:
                    file.seek(start)
                    head = file.read(HEADER.size)
                    if len(head) < HEADER.size:
                        return  # the writer has cut off a torn record meanwhile
                    length, _, found = HEADER.unpack(head)
                    end = start + HEADER.size + length
                    if length > ENTRY_MAX_BYTES or end > size or not found:  # a power cut may leave zeros
                        return
                    if found > number:
                        number = found
                        yield Head(number, path, start, end)
                    start = end
        except FileNotFoundError:
            continue  # the writer trimmed it meanwhile: a document covers it
        except OSError as error:
            if is_bad(error):
                return
            raise


def last_number(files: StreamFiles) -> int:
    """Return the highest number of the whole records in a stream's segments; 0 when there are none."""
    return max((head.number for head in heads(files)), default=0)


def is_held(lock: Path) -> bool:
    """Return whether a living process holds the lock file `lock`; False when the file is gone."""
    fd = share_lock(lock)
    if fd is None:
        return lock.exists()
    os.close(fd)
    return False


def share_lock(lock: Path) -> int | None:
    """Return a descriptor with a shared lock on `lock`, None if its writer holds the lock or the file is gone."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def remove_stream(files: StreamFiles) -> None:
    """Unlink a dead stream's files, and the session's outbox folder if it holds no other stream.

    Segments go first: a lock file without segments means that the outbox is drained.
    """
    for path in files.segments:
        path.unlink(missing_ok=True)
    reached(ClientPoint.SEGMENTS_UNLINKED)
    files.lock.unlink(missing_ok=True)
    sweep_folder(files.lock.parent)


def remove_folder(folder: Path) -> None:
    """Unlink all files in a session's outbox folder, also those of living writers, and the folder. Raises OSError.

    A living writer then writes to unlinked files. A folder inside is kept, and raises.
    """
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        with exclusive(folder):
            for path in sorted(folder.iterdir()):
                path.unlink()
            folder.rmdir()


def sweep_folder(folder: Path) -> None:
    """Remove a session's outbox folder if it holds no stream, after waiting for a writer that begins one."""
    with contextlib.suppress(OSError), exclusive(folder):
        if not list_streams(folder):
            for path in folder.glob(".*"):  # `.attach`, and lock files of writers that died before they named them
                path.unlink()
            reached(ClientPoint.FOLDER_EMPTIED)
            folder.rmdir()


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a session's outbox folder while a process lists its streams, and begins or removes one.

    Another process may remove the folder during the wait (`remove_stream`). Then this makes it again.
    """
    path = folder / ".attach"
    while True:
        ensure_private(folder, durable=False)  # `Outbox.sync` makes the folder's name durable
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(fd).st_ino == path.stat().st_ino:
                break
        os.close(fd)
    try:
        yield
    finally:
        os.close(fd)
