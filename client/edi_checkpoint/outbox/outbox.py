"""The outbox: the writing side of one stream, numbered records in a locked file; no socket.

The file is the queue. A published record is in the page cache when `append` returns, so it survives the publisher's
death (P2); the link thread reads it back from there to send it, and nothing of it is kept in memory. Only while the
disk refuses do records wait in memory, in a backlog of at most `BACKLOG_BYTES`.

`append` is called with `lock` held; `frame`, `roll`, `trim` and `spool` are the link thread's, which makes and unlinks
files without the lock, so that a publishing call never waits for them.
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
from edi_checkpoint.outbox.lock import acquire_lock, is_gone, lock_path
from edi_checkpoint.outbox.segments import READ_BYTES, exclusive, sweep_folder
from edi_checkpoint.system.paths import ensure_private, sync_folder
from edi_checkpoint.system.settings import Limits
from edi_checkpoint.wire.records import HEADER, Record, head, scan, whole

BACKLOG_BYTES = 4 << 20  # memory for records that the disk refuses; what is beyond raises OutboxFull
SEGMENT_BYTES = 4 << 20  # a segment is rolled when it is larger; covered segments are unlinked whole
FRAME_ENTRIES = 1000  # read back at once: so many small ones keep the daemon busy for some 10 ms
COMPACT_BYTES = Limits().outbox_max_bytes


@dataclass(slots=True)
class _Segment:
    path: Path
    fd: int
    size: int = 0  # bytes of whole records; a torn append beyond it is cut off again
    last: int = 0  # the highest number within
    torn: bool = False  # there is more than `size`, which the disk refused to cut off


@dataclass(slots=True)
class _Cursor:
    """Where the record that follows `number` begins."""

    number: int
    segment: int
    offset: int


class Outbox:
    """The writing side of one stream. Making it takes the session's lock, or raises `SessionBusy`."""

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
        """Begin a stream of `session_id` below the folder `root` (made, 0700).

        `seen`: its writer is shown the state that it continues. `takeover`: a living writer is fenced, and its stream
        read up to now. More than `max_bytes` unacknowledged are thinned. Raises `SessionBusy` for a living writer that
        is not taken over from, and `OutboxFull` where the disk takes no new file.
        """
        self.folder = root / session_id
        self._max_bytes = max_bytes
        ensure_private(root)
        self.lock = threading.Lock()
        self.stream = uuid4().hex
        self.first = 1  # the lowest number still held
        self.published = 0
        self.spooled = 0
        self._backlog: deque[tuple[int, bytes]] = deque()
        self._backlog_bytes = 0
        self._cursor = _Cursor(0, 0, 0)
        self._thinned_bytes = 0  # what the last compaction could not do without
        self.fenced: Mapping[str, int] = {}  # streams of living writers, with the highest number each had published
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
            raise OutboxFull(f"session outbox {self.folder} cannot be begun: {error.strerror}") from error
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

        Raises `OutboxFull` when the disk refuses and the backlog has no room; then nothing is published.
        """
        number = self.published + 1
        before = head(number, entry)
        if self._backlog or not self._write(number, before, entry):
            size = len(before) + len(entry)
            if self._backlog_bytes + size > BACKLOG_BYTES:
                raise OutboxFull(f"session outbox {self.folder}: the disk refuses it and {BACKLOG_BYTES} bytes wait")
            self._backlog.append((number, before + entry))
            self._backlog_bytes += size
        self.published = number
        return number

    def _write(self, number: int, *parts: bytes) -> bool:
        """Write a record, given whole or in parts, as one; return whether the disk took it."""
        segment = self._segments[-1]
        try:
            if segment.torn:
                self._cut(segment)
            written = os.writev(segment.fd, parts)  # large ones are not copied together first
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
        """Cut a torn record off: a reader stops at the first bad one, and what follows it would be lost."""
        os.ftruncate(segment.fd, segment.size)
        segment.torn = False

    def spool(self) -> bool:
        """Write the backlog to the file as far as the disk takes it; return whether none is left."""
        if not self._backlog:
            return True
        with self.lock:
            while self._backlog:
                number, record = self._backlog[0]
                if not self._write(number, record):
                    return False
                self._drop_oldest()
                self._cursor = _Cursor(-1, 0, 0)  # it may have been sent from memory: it is not what follows
            return True

    def acknowledged(self, number: int) -> None:
        """Free the memory of records up to `number`: the journal has them."""
        if not self._backlog:
            return
        with self.lock:
            while self._backlog and self._backlog[0][0] <= number:
                self._drop_oldest()

    @property
    def gone(self) -> bool:
        """Whether somebody has removed the outbox: what is published goes into files without names."""
        return is_gone(self.folder, self.stream)

    @property
    def backlog(self) -> bool:
        """Whether records wait in memory because the disk refuses them."""
        return bool(self._backlog)

    def _drop_oldest(self) -> None:
        _, record = self._backlog.popleft()
        self._backlog_bytes -= len(record)

    def sync(self) -> None:
        """Bring all that is spooled onto the disk: records, the lock file that tells whose they are, and the names of
        both, up to the folder of all outboxes. Raises OSError.
        """
        for segment in list(self._segments):
            try:
                os.fdatasync(segment.fd)
            except OSError:
                if any(held is segment for held in self._segments):
                    raise  # else the link has unlinked it meanwhile: a file covers it
        if self._lock_fd >= 0:
            os.fsync(self._lock_fd)
        sync_folder(self.folder)
        sync_folder(self.folder.parent)

    # -- sending -----------------------------------------------------------------------------------------------------

    def frame(self, after: int, limit: int) -> tuple[bytes, int] | None:
        """Return the records that follow number `after`, at most `limit` bytes or one record, and the last number.

        None when there are none. Records covered and trimmed already are passed over.
        """
        waiting: list[tuple[int, bytes]] = []
        if self._backlog:  # before the files are looked at: what is in neither is not published yet
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
        """Whether a segment is to be begun, or the backlog to be written."""
        segments = self._segments  # another thread may be closing: then it has another, empty one
        return bool(self._backlog) or (bool(segments) and segments[-1].size > SEGMENT_BYTES)

    @property
    def grown(self) -> bool:
        """Whether there may be something to do for who keeps it small (`roll`, `spool`, `compact`)."""
        return len(self._segments) > 1 or self.full

    @property
    def unsent_bytes(self) -> int:
        """How much follows the last `frame`, roughly: a whole segment, where it is more than the rest of the last."""
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
        """Place the cursor behind number `after`."""
        with self.lock:  # an append moves both
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

    # -- keeping it small --------------------------------------------------------------------------------------------

    def roll(self) -> None:
        """Begin a new segment when the last has grown large."""
        if self._segments[-1].size <= SEGMENT_BYTES or self._segments[-1].torn:
            return
        segment = self._new_segment()
        with self.lock:  # an append under way must end in the old one before a reader may leave that behind
            if not self._segments[-1].torn:
                self._segments.append(segment)
                return
        segment.path.unlink(missing_ok=True)  # nobody reads on behind a torn one
        os.close(segment.fd)

    def trim(self, covered: int) -> None:
        """Unlink the segments whose records up to number `covered` lie in a checkpoint or auto-save."""
        trimmed = [*takewhile(lambda segment: segment.last <= covered, self._segments[:-1])]
        if not trimmed:
            return
        with contextlib.suppress(OSError):  # what is not unlinked stays until the stream ends; its numbers are known
            self._unlink(trimmed, ClientPoint.SEGMENT_TRIMMED, ClientPoint.TRIM_SYNCED)
        del self._segments[: len(trimmed)]
        self._cursor.segment -= len(trimmed)
        if self._cursor.segment < 0:
            self._cursor = _Cursor(-1, 0, 0)
        self.first = trimmed[-1].last + 1
        for segment in trimmed:
            os.close(segment.fd)

    def compact(self, acknowledged: int) -> bool:
        """Thin the whole segments but the last, when too much is not acknowledged; return whether it was.

        The compacted segment takes the first one's name, then the others are unlinked. A crash between the two leaves
        records of lower numbers behind higher ones: readers pass over numbers that they have had. Raises OSError, and
        then all is as before.
        """
        self.roll()
        if len(self._segments) == 1:
            return False
        old = self._segments[:-1]
        waiting = sum(segment.size for segment in self._segments if segment.last > acknowledged)
        if waiting <= max(self._max_bytes, 2 * self._thinned_bytes):  # what stayed the last time stays again
            return False
        thin = self._new_segment()
        try:
            for record in compact(self._records(old)):
                if os.write(thin.fd, record) != len(record):
                    raise OSError(errno.ENOSPC, "no room to compact", str(thin.path))
                thin.size += len(record)
                thin.last = whole(record)[1]
            os.fdatasync(thin.fd)  # what it takes the place of may have been synced
            reached(ClientPoint.COMPACTION_WRITTEN)
            thin.path = thin.path.rename(old[0].path)
        except OSError:
            os.close(thin.fd)
            thin.path.unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):  # what is not unlinked stays until the stream ends; its numbers are known
            sync_folder(self.folder)  # else a power cut may bring the old name back, and not what is unlinked now
            reached(ClientPoint.COMPACTION_RENAMED)
            self._unlink(old[1:], ClientPoint.COMPACTION_UNLINKED, ClientPoint.COMPACTION_SYNCED)
        self._thinned_bytes = thin.size
        with self.lock:
            self._segments[: len(old)] = [thin]
        self._cursor = _Cursor(-1, 0, 0)
        for segment in old:
            os.close(segment.fd)
        return True

    def _unlink(self, segments: list[_Segment], unlinked: ClientPoint, synced: ClientPoint) -> None:
        """Unlink segments whose records lie elsewhere, and make that durable. Raises OSError.

        The caller lists them until this returns, so that `sync` syncs them as well. Otherwise a power cut could bring
        back a torn segment, and a reader would stop there, before what was synced behind it.
        """
        for segment in segments:
            segment.path.unlink(missing_ok=True)
            reached(unlinked)
        if segments:
            sync_folder(self.folder)
            reached(synced)

    def _records(self, segments: list[_Segment]) -> Iterator[Record]:
        """Yield all records held: those acknowledged may lie in no file yet, and files with outboxes must be whole."""
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
        """Close, and leave nothing behind: nobody was let in by this stream, and nothing is published."""
        files = [*(segment.path for segment in self._segments), lock_path(self.folder, self.stream)]
        with contextlib.suppress(OSError), exclusive(self.folder):
            for path in files:
                path.unlink(missing_ok=True)
        self.close()
        sweep_folder(self.folder)

    def close(self) -> None:
        """Give up the lock and the files; what they hold is the daemon's to drain and unlink."""
        for fd in [*(segment.fd for segment in self._segments), self._lock_fd]:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._segments = []
        self._lock_fd = -1
        self._backlog.clear()  # there is no file any more that it could go into
        self._backlog_bytes = 0
        _open_outboxes.discard(self)


_open_outboxes: weakref.WeakSet[Outbox] = weakref.WeakSet()


def _close_inherited() -> None:
    """In a forked child: an inherited descriptor would keep the parent's flock alive for ever."""
    for outbox in list(_open_outboxes):
        outbox.close()


os.register_at_fork(after_in_child=_close_inherited)
