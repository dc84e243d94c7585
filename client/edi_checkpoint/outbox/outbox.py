"""The outbox of one stream: it writes numbered records to segments under a lock, and reads them for the link.

The files are the queue. When `append` returns, the record is in the page cache, so it survives the publisher's death.
The link thread reads it from there and sends it; memory keeps no copy. While the disk refuses writes, records wait in
memory, in a backlog of at most `BACKLOG_BYTES`.

A caller of `append` holds `lock`. Only the link thread calls `frame`, `roll`, `trim`, `spool` and `compact`. It makes
and unlinks files without the lock, so a publishing call never waits for that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from uuid import uuid4

from edi_checkpoint.errors import FolderError, OutboxFull
from edi_checkpoint.faults import ClientPoint, reached
from edi_checkpoint.outbox.compaction import compact
from edi_checkpoint.outbox.lock import acquire_lock, lock_path
from edi_checkpoint.outbox.segments import READ_BYTES, exclusive, sweep_folder
from edi_checkpoint.system.paths import ensure_private, sync_folder
from edi_checkpoint.system.settings import Limits
from edi_checkpoint.wire.records import HEADER, Record, head, scan, whole

BACKLOG_BYTES = 4 << 20  # memory for records that the disk refuses; more raise OutboxFull
SEGMENT_BYTES = 4 << 20  # the link begins a new segment after a larger one; covered segments are unlinked whole
FRAME_ENTRIES = 1000  # the most in one frame: this many small entries keep the daemon busy for about 10 ms
COMPACT_BYTES = Limits().outbox_max_bytes


@dataclass(slots=True)
class _Segment:
    path: Path
    fd: int
    size: int = 0  # bytes of whole records; a torn record after them is cut off
    last: int = 0  # the highest number in it
    torn: bool = False  # it ends with a torn record, which the disk refused to cut off


@dataclass(slots=True)
class _Cursor:
    """The place of the record after `number`."""

    number: int
    segment: int
    offset: int


class Outbox:
    """Stores the entries of one stream; its constructor locks the session."""

    def __init__(
        self,
        root: Path,
        session_id: str,
        *,
        app: str,
        parent_session: str | None = None,
        seen: bool = False,
        takeover: bool = False,
        max_bytes: int = COMPACT_BYTES,
    ) -> None:
        """Begin a stream of `session_id` below the folder `root`, which is made if needed (0700).

        `seen`: the writer receives the state that it continues. `takeover`: a living writer is fenced after its last
        entry. More than `max_bytes` of unacknowledged entries are compacted. Raises `SessionBusy` for a living writer
        without `takeover`, and `OutboxFull` if the disk refuses a new file.
        """
        self.folder = root / session_id
        self._max_bytes = max_bytes
        ensure_private(root)
        self.lock = threading.Lock()
        self.stream = uuid4().hex
        self.first = 1  # the lowest number in it
        self.published = 0
        self.spooled = 0
        self._backlog: deque[tuple[int, bytes]] = deque()
        self._backlog_bytes = 0
        self._cursor = _Cursor(0, 0, 0)
        self._compacted_bytes = 0  # the size after the last compaction
        self.fenced: Mapping[str, int] = {}  # streams of living writers, with the highest number of each
        self._lock_fd = -1
        self._index = 0
        self._segments: list[_Segment] = []
        try:
            self._lock_fd, self.fenced = acquire_lock(
                self.folder, self.stream, session_id, app, parent_session, seen=seen, takeover=takeover
            )
            self._segments.append(self._new_segment())
        except FolderError:
            raise
        except OSError as error:
            self.abandon()
            raise OutboxFull(f"cannot begin the session outbox {self.folder}: {error.strerror}") from error
        _open_outboxes.add(self)

    def _new_segment(self) -> _Segment:
        path = self.folder / f"{self.stream}.{self._index:08d}.seg"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._index += 1
        reached(ClientPoint.SEGMENT_MADE)
        return _Segment(path, fd)

    # -- publishing ------------------------------------------------------------------------------------------------

    def append(self, entry: bytes) -> int:
        """Number `entry`, write its record, and return the number. One `write`, no fsync.

        Raises `OutboxFull`, and publishes nothing, if the disk refuses the record and the backlog is full.
        """
        number = self.published + 1
        before = head(number, entry)
        if self._backlog or not self._write(number, before, entry):
            size = len(before) + len(entry)
            if self._backlog_bytes + size > BACKLOG_BYTES:
                raise OutboxFull(f"session outbox {self.folder}: the disk refuses it, and {BACKLOG_BYTES} bytes wait")
            self._backlog.append((number, before + entry))
            self._backlog_bytes += size
        self.published = number
        return number

    def _write(self, number: int, *parts: bytes) -> bool:
        """Write a record, given whole or in parts, with one call; return whether the disk took it."""
        segment = self._segments[-1]
        try:
            if segment.torn:
                self._cut(segment)
            written = os.writev(segment.fd, parts)  # joining the parts would copy large entries
            if written != sum(map(len, parts)):
                segment.torn = True
                reached(ClientPoint.APPEND_TORN)
                self._cut(segment)
                return False
        except OSError:
            return False
        segment.size += written
        segment.last = number
        self.spooled = number
        reached(ClientPoint.APPENDED)
        return True

    def _cut(self, segment: _Segment) -> None:
        """Cut off a torn record. A reader stops at the first bad record, so later ones would be lost."""
        os.ftruncate(segment.fd, segment.size)
        segment.torn = False

    def spool(self) -> bool:
        """Write the backlog to the segment as far as the disk takes it; return whether it is empty."""
        if not self._backlog:
            return True
        with self.lock:
            while self._backlog:
                number, record = self._backlog[0]
                if not self._write(number, record):
                    return False
                self._drop_oldest()
                self._cursor = _Cursor(-1, 0, 0)  # the record may have been sent from memory already
            return True

    def acknowledged(self, number: int) -> None:
        """Free the memory of records up to `number`, because the journal has them."""
        if not self._backlog:
            return
        with self.lock:
            while self._backlog and self._backlog[0][0] <= number:
                self._drop_oldest()

    @property
    def gone(self) -> bool:
        """Whether another process has removed the outbox, so that records go into unlinked files."""
        try:
            lock_path(self.folder, self.stream).lstat()
        except FileNotFoundError:
            return True
        return False

    @property
    def backlog(self) -> bool:
        """Whether records wait in memory because the disk refuses them."""
        return bool(self._backlog)

    def _drop_oldest(self) -> None:
        _, record = self._backlog.popleft()
        self._backlog_bytes -= len(record)

    def sync(self) -> None:
        """Make all spooled records durable, with the lock file and the names of the files and folders.

        Raises OSError.
        """
        for segment in list(self._segments):
            try:
                os.fdatasync(segment.fd)
            except OSError:
                if any(listed is segment for listed in self._segments):
                    raise  # otherwise the link has unlinked it meanwhile: a document covers it
        if self._lock_fd >= 0:
            os.fsync(self._lock_fd)
        sync_folder(self.folder)
        sync_folder(self.folder.parent)

    # -- sending -----------------------------------------------------------------------------------------------------

    def frame(self, after: int, limit: int) -> tuple[bytes, int] | None:
        """Return the records after number `after`, at most `limit` bytes or one record, and the last number.

        None without such records. Trimmed records are skipped.
        """
        waiting: list[tuple[int, bytes]] = []
        if self._backlog:  # read before the files, because `spool` moves records into them
            with self.lock:
                waiting = list(self._backlog)
        if after != self._cursor.number:
            self._seek(after)
        cursor = self._cursor
        while cursor.segment < len(self._segments):
            segment = self._segments[cursor.segment]
            if cursor.offset < segment.size:
                data, cursor.number = self._whole_records(segment, cursor.offset, limit)
                cursor.offset += len(data)
                return data, cursor.number
            if cursor.segment + 1 == len(self._segments):
                break
            cursor.segment, cursor.offset = cursor.segment + 1, 0
        return self._backlog_frame(waiting, after, limit)

    @property
    def full(self) -> bool:
        """Whether the link has to begin a segment or write the backlog."""
        segments = self._segments  # `close` in another thread replaces it by an empty list
        return bool(self._backlog) or (bool(segments) and segments[-1].size > SEGMENT_BYTES)

    @property
    def grown(self) -> bool:
        """Whether `roll`, `spool` or `compact` may have something to do."""
        return len(self._segments) > 1 or self.full

    @property
    def unsent_bytes(self) -> int:
        """About how many bytes follow the last `frame`; `SEGMENT_BYTES` if they are not in the last segment alone."""
        cursor, segments = self._cursor, self._segments
        if cursor.number < 0 or self._backlog or cursor.segment + 1 != len(segments):
            return SEGMENT_BYTES
        return segments[-1].size - cursor.offset

    def _whole_records(self, segment: _Segment, offset: int, limit: int) -> tuple[bytes, int]:
        data = os.pread(segment.fd, min(limit, segment.size - offset), offset)
        end, last = whole(data, FRAME_ENTRIES)
        if end:
            return data[:end], last
        length, _, last = HEADER.unpack(os.pread(segment.fd, HEADER.size, offset))
        return os.pread(segment.fd, HEADER.size + length, offset), last

    def _backlog_frame(self, waiting: list[tuple[int, bytes]], after: int, limit: int) -> tuple[bytes, int] | None:
        parts: list[bytes] = []
        size, last = 0, after
        for number, record in waiting:
            if number <= after:
                continue
            if parts and size + len(record) > limit:
                break
            parts.append(record)
            size, last = size + len(record), number
        return (b"".join(parts), last) if parts else None

    def _seek(self, after: int) -> None:
        """Set the cursor to the record after number `after`."""
        with self.lock:  # an append changes both
            ends = [(segment.size, segment.last) for segment in self._segments]
        for index, (segment, (size, last)) in enumerate(zip(self._segments, ends, strict=True)):
            if last <= after:
                continue
            offset = 0
            while offset < size:
                length, _, number = HEADER.unpack(os.pread(segment.fd, HEADER.size, offset))
                if number > after:
                    break
                offset += HEADER.size + length
            self._cursor = _Cursor(after, index, offset)
            return
        self._cursor = _Cursor(after, len(ends) - 1, ends[-1][0])

    # -- limiting the size -------------------------------------------------------------------------------------------

    def roll(self) -> None:
        """Begin a new segment if the last one is larger than `SEGMENT_BYTES`."""
        if self._segments[-1].size <= SEGMENT_BYTES or self._segments[-1].torn:
            return
        segment = self._new_segment()
        with self.lock:  # a running append ends in the old segment before a reader goes to the next one
            if not self._segments[-1].torn:
                self._segments.append(segment)
                return
        segment.path.unlink(missing_ok=True)  # no reader continues after a torn segment
        os.close(segment.fd)

    def trim(self, covered: int) -> None:
        """Unlink the segments whose records all have numbers up to `covered`, because a document covers them."""
        trimmed = [*takewhile(lambda segment: segment.last <= covered, self._segments[:-1])]
        if not trimmed:
            return
        with contextlib.suppress(OSError):  # files that stay are unlinked with the stream; readers skip their numbers
            self._unlink(trimmed, ClientPoint.SEGMENT_TRIMMED, ClientPoint.TRIM_SYNCED)
        del self._segments[: len(trimmed)]
        self._cursor.segment -= len(trimmed)
        if self._cursor.segment < 0:
            self._cursor = _Cursor(-1, 0, 0)
        self.first = trimmed[-1].last + 1
        for segment in trimmed:
            os.close(segment.fd)

    def compact(self, acknowledged: int) -> bool:
        """Compact all segments but the last, if too many bytes are unacknowledged; return whether it did.

        The compacted segment takes the first one's name, then the others are unlinked. A crash between the two leaves
        records of lower numbers after higher ones; readers skip numbers that they have read. Raises OSError, and then
        nothing has changed.
        """
        self.roll()
        if len(self._segments) == 1:
            return False
        old = self._segments[:-1]
        waiting = sum(segment.size for segment in self._segments if segment.last > acknowledged)
        if waiting <= max(self._max_bytes, 2 * self._compacted_bytes):  # compacted entries do not shrink again
            return False
        merged = self._new_segment()
        try:
            for record in compact(self._records(old)):
                if os.write(merged.fd, record) != len(record):
                    raise OSError(errno.ENOSPC, "no room to compact", str(merged.path))
                merged.size += len(record)
                merged.last = whole(record)[1]
            os.fdatasync(merged.fd)  # the old segments may have been synced
            reached(ClientPoint.COMPACTION_WRITTEN)
            merged.path = merged.path.rename(old[0].path)
        except OSError:
            os.close(merged.fd)
            merged.path.unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):  # files that stay are unlinked with the stream; readers skip their numbers
            sync_folder(self.folder)  # a power cut must not undo the rename and keep the unlinks
            reached(ClientPoint.COMPACTION_RENAMED)
            self._unlink(old[1:], ClientPoint.COMPACTION_UNLINKED, ClientPoint.COMPACTION_SYNCED)
        self._compacted_bytes = merged.size
        with self.lock:
            self._segments[: len(old)] = [merged]
        self._cursor = _Cursor(-1, 0, 0)
        for segment in old:
            os.close(segment.fd)
        return True

    def _unlink(self, segments: list[_Segment], unlinked: ClientPoint, synced: ClientPoint) -> None:
        """Unlink segments whose records are stored elsewhere, and make that durable. Raises OSError.

        The caller keeps them in `_segments` until this returns, so `sync` syncs them too. Otherwise a power cut could
        restore a torn segment, and a reader would stop there, before later synced records.
        """
        for segment in segments:
            segment.path.unlink(missing_ok=True)
            reached(unlinked)
        if segments:
            sync_folder(self.folder)
            reached(synced)

    def _records(self, segments: list[_Segment]) -> Iterator[Record]:
        """Yield the records of `segments`, also acknowledged ones: without a daemon, only the outbox may have them."""
        after = 0
        for segment in segments:
            offset = 0
            while offset < segment.size:
                data, _ = self._whole_records(segment, offset, READ_BYTES)
                offset += len(data)
                for record in scan(data):
                    if record.number > after:
                        after = record.number
                        yield record

    def abandon(self) -> None:
        """Close the outbox and remove its files, because nothing was published."""
        files = [*(segment.path for segment in self._segments), lock_path(self.folder, self.stream)]
        with contextlib.suppress(OSError), exclusive(self.folder):
            for path in files:
                path.unlink(missing_ok=True)
        self.close()
        sweep_folder(self.folder)

    def close(self) -> None:
        """Release the lock and close the files, which the daemon drains and unlinks."""
        for fd in [*(segment.fd for segment in self._segments), self._lock_fd]:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._segments = []
        self._lock_fd = -1
        self._backlog.clear()  # no file is open to write it to
        self._backlog_bytes = 0
        _open_outboxes.discard(self)


_open_outboxes: weakref.WeakSet[Outbox] = weakref.WeakSet()


def _close_inherited() -> None:
    """Close the outboxes in a forked child, because an inherited descriptor would keep the parent's flock."""
    for outbox in list(_open_outboxes):
        outbox.close()


os.register_at_fork(after_in_child=_close_inherited)
