"""Attachments: the files of arrays and bytes, each once under its digest, and the blobs that are not files yet.

    lacking       what an entry carries -> blobs of the open transaction, unless its file is there     (intake thread)
    store         all blobs -> files, before the next document becomes visible                         (files thread)
    note          their rows go                                                                        (intake thread)

So a document never names what is in no file, and what an acknowledged entry carried is in a blob or in a file.
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

TOUCH_AFTER_S = 3600.0  # a file whose content is published again counts as new to the collection, within so much


class Filed(NamedTuple):
    """An attachment's file: its path and digest, its size, and when it was written or last published again."""

    path: Path
    digest: str
    size_bytes: int
    modified_s: float


class AttachmentStore:
    """The folder of attachments and the blobs of a journal. What they hold together is bounded by `max_bytes`."""

    def __init__(self, folder: Path, journal: Path, max_bytes: int, clock: Clock) -> None:
        """Sweep temporaries that a crash left. What is there counts from `count` on."""
        self.folder = folder
        self._journal = journal
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._again: set[str] | None = None  # published again while somebody wants to know
        self._blobs_wait = True  # there may be blobs without files: at the start, and after a commit
        for shelf in _shelves(folder):
            sweep_temporaries(shelf, lambda name: parse_attachment_name(name) is not None)
        self._used_bytes = 0

    def count(self) -> None:
        """Count what is there, in files and blobs; a file costs some 7 us. Raises `JournalDamaged`."""
        used_bytes = sum(filed.size_bytes for filed in listed(self.folder))
        with self._reading() as reader:
            used_bytes += sum(size for digest, kind, size in reader.blobs() if not self._filed(digest, kind, size))
        with self._lock:
            self._used_bytes = used_bytes

    def use_limit(self, max_bytes: int) -> None:
        """Bound what is held by another number from now on."""
        self._max_bytes = max_bytes

    @property
    def remaining_bytes(self) -> int:
        """How much of new attachments is still taken."""
        return max(0, self._max_bytes - self._used_bytes)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Note, meanwhile, what is published again: for a collection that goes by no age."""
        self._again = set()
        try:
            yield
        finally:
            self._again = None

    def brought(self, size_bytes: int) -> None:
        """Count a file in that was moved here."""
        with self._lock:
            self._used_bytes += size_bytes

    def delete(self, filed: Filed) -> bool:
        """Delete a file, unless it was published again since it was listed; return whether it was there.

        Raises OSError.
        """
        with self._lock:  # whoever publishes it again just now finds it, and is seen here, or does not find it
            if self._again is not None and filed.digest in self._again:
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
        """Count out blobs whose rows were deleted (digest, type, size); those that are files by now count on."""
        with self._lock:
            self._used_bytes -= sum(size for digest, kind, size in blobs if not self._filed(digest, kind, size))

    # -- the intake thread -------------------------------------------------------------------------------------------

    def committed(self, blobs: Mapping[str, Attachment]) -> None:
        """Count blobs in that a transaction brought; they have no files yet."""
        if blobs:
            with self._lock:
                self._used_bytes += _size(blobs)
            self._blobs_wait = True

    def lacking(
        self, carried: Mapping[str, Attachment], reader: Reader, taken: Mapping[str, Attachment]
    ) -> dict[str, Attachment]:
        """Return those of the attachments `carried` that are in no file, nor a blob of `reader`'s journal, nor `taken`.

        Raises `ProtocolError` for one that is too large or not of its digest, `AttachmentsFull` when all that is taken
        would hold too much.
        """
        new = {
            digest: attachment
            for digest, attachment in carried.items()
            if digest not in taken
            and not self.renewed(digest, attachment.type, len(attachment.data))
            and not reader.has_blob(digest)
        }
        for digest, attachment in new.items():
            if len(attachment.data) > ATTACHMENT_MAX_BYTES:
                raise ProtocolError(f"attachment {digest}: {len(attachment.data)} bytes")
            if sha256(attachment.data).hexdigest() != digest:
                raise ProtocolError(f"attachment {digest}: digest differs")
        left_bytes = self.remaining_bytes - _size(taken)
        if new and _size(new) > left_bytes:
            raise AttachmentsFull(
                f"attachments of {_size(new)} bytes: of {self._max_bytes} (attachments_max_bytes) {left_bytes} are left"
            )
        return new

    def renewed(self, digest: str, kind: str, size_bytes: int) -> bool:
        """Return whether the file is there; then its age begins anew, so that a collection under way leaves it."""
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
            if self._again is not None:
                self._again.add(digest)
            return True

    # -- the files thread --------------------------------------------------------------------------------------------

    def store(self) -> Collection[str]:
        """Make files of all blobs; return the digests of those, whose rows may go. Raises OSError, `JournalDamaged`."""
        if not self._blobs_wait:
            return ()
        self._blobs_wait = False  # before looking: a commit from now on sets it again
        try:
            with self._reading() as reader:
                rows = reader.blobs()
                if not rows:
                    return ()
                reached(CrashPoint.BLOBS_COMMITTED)
                there: list[tuple[str, str]] = []
                new: list[tuple[str, str]] = []
                for digest, kind, size in rows:
                    (there if self._filed(digest, kind, size) else new).append((digest, attachment_name(digest, kind)))
                write_new(
                    self.folder,
                    ((name, data) for digest, name in new if (data := reader.blob(digest)) is not None),
                    there=[name for _, name in there],
                )
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
    """Yield the attachments' files below `folder`, one shelf (all that begin alike) after the other.

    Whatever is not named like one of ours, or is no regular file, is passed over.
    """
    for shelf in _shelves(folder):
        with contextlib.suppress(FileNotFoundError), os.scandir(shelf) as entries:
            for entry in entries:
                digest = parse_attachment_name(entry.name)
                if digest is not None and digest[:2] == shelf.name and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    yield Filed(shelf / entry.name, digest, status.st_size, status.st_mtime)


def _shelves(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                folder / entry.name for entry in entries if len(entry.name) == 2 and entry.is_dir(follow_symlinks=False)
            )
    except FileNotFoundError:
        return []


def _size(attachments: Mapping[str, Attachment]) -> int:
    return sum(len(attachment.data) for attachment in attachments.values())
