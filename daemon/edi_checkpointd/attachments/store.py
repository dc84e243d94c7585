"""Attachments: the files of arrays and bytes, each stored once under its digest, and the blobs that have no file yet.

    lacking       an entry's attachments -> blobs of the open transaction, unless their files exist   (loop's thread)
    store         all blobs -> files, before the next document becomes visible                        (files thread)
    Journal.note  deletes the blobs that are files                                                    (loop's thread)

So every attachment that a document names has a file. Every attachment of an acknowledged entry has a blob or a file.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from edi_checkpoint.documents.names import attachment_name, parse_attachment_name
from edi_checkpoint.errors import AttachmentsFull, ProtocolError
from edi_checkpoint.values.arrays import ATTACHMENT_MAX_BYTES
from edi_checkpoint.wire.references import Attachment
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.journal import JournalDamaged, Reader, named_damage
from edi_checkpointd.system.clock import Clock
from edi_checkpointd.system.fs import sweep_temporaries, write_new

TOUCH_AFTER_S = 3600.0  # a file published again counts as new to the garbage collection, to this accuracy


class Filed(NamedTuple):
    """An attachment's file: its path and digest, its size, and when it was written or last published again."""

    path: Path
    digest: str
    size_bytes: int
    modified_s: float


class AttachmentStore:
    """The folder of attachments and the blobs of a journal; together they hold at most `max_bytes`."""

    def __init__(self, folder: Path, journal: Path, max_bytes: int, clock: Clock) -> None:
        """Delete temporaries that a crash left. Call `count` next: it counts the existing files and blobs."""
        self.folder = folder
        self._journal = journal
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._renewed: set[str] | None = None  # within `noting_renewals`: the digests published again
        self._blobs_wait = True  # blobs may have no file: at the start, and after a commit
        for shelf in _shelves(folder):
            sweep_temporaries(shelf, lambda name: parse_attachment_name(name) is not None)
        self._used_bytes = 0

    def count(self) -> None:
        """Count the bytes of all files and blobs; a file takes about 7 us. Raises `JournalDamaged`."""
        used_bytes = sum(filed.size_bytes for filed in listed(self.folder))
        with self._reading() as reader:
            used_bytes += sum(size for digest, kind, size in reader.blobs() if not self._filed(digest, kind, size))
        with self._lock:
            self._used_bytes = used_bytes

    def use_limit(self, max_bytes: int) -> None:
        """Change the limit."""
        self._max_bytes = max_bytes

    @property
    def remaining_bytes(self) -> int:
        """How many bytes of new attachments fit below the limit."""
        return max(0, self._max_bytes - self._used_bytes)

    @contextlib.contextmanager
    def noting_renewals(self) -> Iterator[None]:
        """Within the block, note which attachments are published again, for a collection that ignores ages."""
        self._renewed = set()
        try:
            yield
        finally:
            self._renewed = None

    def count_file(self, size_bytes: int) -> None:
        """Count a file that was moved into the folder."""
        with self._lock:
            self._used_bytes += size_bytes

    def delete(self, filed: Filed) -> bool:
        """Delete a file, unless it was published again since it was listed; return whether it was deleted.

        Raises OSError.
        """
        with self._lock:  # excludes `renew`, which either touches the file first or finds it gone
            if self._renewed is not None and filed.digest in self._renewed:
                return False
            try:
                if filed.path.stat(follow_symlinks=False).st_mtime != filed.modified_s:
                    return False
                filed.path.unlink()
            except FileNotFoundError:
                return False
            self._used_bytes -= filed.size_bytes
            return True

    def dropped(self, blobs: Iterable[tuple[str, str, int]]) -> None:
        """Subtract blobs whose rows were deleted (digest, type, size), except those that are files by now."""
        with self._lock:
            self._used_bytes -= sum(size for digest, kind, size in blobs if not self._filed(digest, kind, size))

    # -- the loop's thread -------------------------------------------------------------------------------------------

    def committed(self, blobs: Mapping[str, Attachment]) -> None:
        """Count the blobs of a transaction; they have no files yet."""
        if blobs:
            with self._lock:
                self._used_bytes += _size(blobs)
            self._blobs_wait = True

    def lacking(
        self, carried: Mapping[str, Attachment], reader: Reader, accepted: Mapping[str, Attachment]
    ) -> dict[str, Attachment]:
        """Return the attachments of `carried` that have no file, are no blob of the journal, and are not `accepted`.

        Raises `ProtocolError` for an attachment that is too large or has another digest, `AttachmentsFull` when they
        would exceed the limit together with those `accepted` before.
        """
        new = {
            digest: attachment
            for digest, attachment in carried.items()
            if digest not in accepted
            and not self.renew(digest, attachment.type, len(attachment.data))
            and not reader.has_blob(digest)
        }
        for digest, attachment in new.items():
            if len(attachment.data) > ATTACHMENT_MAX_BYTES:
                raise ProtocolError(f"attachment {digest}: {len(attachment.data)} bytes")
            if sha256(attachment.data).hexdigest() != digest:
                raise ProtocolError(f"attachment {digest}: digest differs")
        free_bytes = self.remaining_bytes - _size(accepted)
        if new and _size(new) > free_bytes:
            free = f"{free_bytes} of {self._max_bytes} bytes (attachments_max_bytes) are free"
            raise AttachmentsFull(f"attachments of {_size(new)} bytes do not fit: {free}")
        return new

    def renew(self, digest: str, kind: str, size_bytes: int) -> bool:
        """Whether the file exists; if so, reset its age, so that a running collection keeps it."""
        path = self._path(digest, kind)
        with self._lock:
            try:
                status = path.stat(follow_symlinks=False)
                if status.st_size != size_bytes:
                    return False
                if self._clock.now().timestamp() - status.st_mtime > TOUCH_AFTER_S:
                    os.utime(path, follow_symlinks=False)
            except OSError:
                return False
            if self._renewed is not None:
                self._renewed.add(digest)
            return True

    # -- the files thread --------------------------------------------------------------------------------------------

    def store(self) -> Collection[str]:
        """Store all blobs as files; return their digests, whose rows may go. Raises OSError, `JournalDamaged`."""
        if not self._blobs_wait:
            return ()
        self._blobs_wait = False  # before reading: a later commit sets it again
        try:
            with self._reading() as reader:
                rows = reader.blobs()
                if not rows:
                    return ()
                reached(CrashPoint.BLOBS_COMMITTED)
                names = {digest: attachment_name(digest, kind) for digest, kind, _ in rows}
                there = {digest for digest, kind, size in rows if self._filed(digest, kind, size)}
                blobs = ((names[digest], reader.blob(digest)) for digest in names if digest not in there)
                new = ((name, data) for name, data in blobs if data is not None)
                write_new(self.folder, new, there=[names[digest] for digest in there])
        except (OSError, JournalDamaged):
            self._blobs_wait = True
            raise
        reached(CrashPoint.ATTACHMENTS_FILED)
        return [digest for digest, _, _ in rows]

    def _filed(self, digest: str, kind: str, size: int) -> bool:
        try:
            return self._path(digest, kind).stat(follow_symlinks=False).st_size == size
        except OSError:
            return False

    def _path(self, digest: str, kind: str) -> Path:
        return self.folder / attachment_name(digest, kind)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Reader]:
        with named_damage(self._journal), contextlib.closing(Reader.open(self._journal)) as reader:
            yield reader


def listed(folder: Path) -> Iterator[Filed]:
    """Yield the attachments' files below `folder`, one shelf after the other: a folder of digests that begin alike.

    Files with other names, and anything but regular files, are skipped.
    """
    for shelf in _shelves(folder):
        with contextlib.suppress(FileNotFoundError), os.scandir(shelf) as entries:
            for entry in entries:
                digest = parse_attachment_name(entry.name)
                if digest is not None and digest[:2] == shelf.name and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    yield Filed(shelf / entry.name, digest, status.st_size, status.st_mtime)


def _shelves(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        return sorted(folder / one.name for one in entries if len(one.name) == 2 and one.is_dir(follow_symlinks=False))
    return []


def _size(attachments: Mapping[str, Attachment]) -> int:
    return sum(len(attachment.data) for attachment in attachments.values())
