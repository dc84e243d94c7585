"""The collection: attachments that nothing names any more, found and deleted.

A look has steps, so that documents are written between them. It lists files older than the grace, strikes from them
what any carrier names (documents, trash, outboxes, the journal's rows and snapshots), and unlinks what is left. A
carrier that cannot be read ends the look: nothing is deleted then. Who names an attachment anew meanwhile is seen,
too: a published one's file is touched, and a document's fragments are shown to `keep` as it is written.

It costs one pass over all of them, 0.4 s a GB where nothing is named and 1.4 s where something is, in the thread that
writes files, between two documents.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.safe_open import NotRegular, open_regular
from edi_checkpoint.wire.references import MARK, digests_in
from edi_checkpointd.attachments.store import AttachmentStore, Filed, listed
from edi_checkpointd.config import LiveConfig
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.journal import Reader
from edi_checkpointd.system.clock import Clock, Jumps
from edi_checkpointd.system.fs import sync_folder
from edi_checkpointd.system.worker import Worker

log = logging.getLogger(__name__)

GRACE_S = 86400.0  # for whoever brings documents back, imports or forks: their attachments come first
CANDIDATES_MAX = 100_000  # in one look, some 30 MB; the rest waits for the next
JOURNAL_ROWS = 1000  # looked at in one step
CLOCK_SLACK_S = 60.0
READ_BYTES = 1 << 20
OVERLAP = 66  # of two parts of a file: a digest and its quotes, which are longer than the mark
_STAMP = ".looked"


class GarbageCollector:
    """Looks once in `collect_every_s`, in the files thread."""

    def __init__(
        self, paths: Paths, attachments: AttachmentStore, worker: Worker, clock: Clock, config: LiveConfig
    ) -> None:
        """Begin with no look under way; `worker` is the files thread."""
        self._paths = paths
        self._attachments = attachments
        self._clock = clock
        self._worker = worker
        self._config = config
        self._stamp = attachments.folder / _STAMP
        self._jumps = Jumps(clock)
        self._look: Collection | None = None
        self._steps: Generator[None] | None = None

    def collect(self) -> None:
        """Have the files thread delete attachments that nothing names, if it is time to. Any thread may ask."""
        self._worker.submit(self._look_if_due)

    def collect_all(self) -> Future[None]:
        """Have the files thread delete all attachments that nothing names, of whatever age; return its end or error."""
        done: Future[None] = Future()
        self._worker.submit(self._look_at_all, done)
        return done

    # -- the files thread --------------------------------------------------------------------------------------------

    def _look_if_due(self) -> None:
        """Begin a look unless one is under way, or any daemon began one less than `collect_every_s` ago."""
        now_s = self._clock.now().timestamp()
        if self._look is not None or not self._attachments.folder.exists():
            return
        if self._jumps.lately():
            log.warning("attachments not looked through: the wall clock jumped by more than a day")
            return
        with contextlib.suppress(FileNotFoundError):
            if 0 <= now_s - self._stamp.stat().st_mtime < self._config.now.collect_every_s:
                return
        try:
            self._stamp.touch(mode=0o600)
        except OSError as error:
            log.warning("attachments not looked through: %s", error)
            return
        self._begin(Collection(self._paths, self._attachments, now_s), Future())

    def _look_at_all(self, done: Future[None]) -> None:
        """Begin a look at files of whatever age, in the place of one under way; `done` tells its end, or its error."""
        if self._steps is not None:
            self._steps.close()
        self._begin(Collection(self._paths, self._attachments, self._clock.now().timestamp(), grace_s=0), done)

    def _begin(self, look: Collection, done: Future[None]) -> None:
        self._look, self._steps = look, look.steps()
        self._worker.submit(self._go_on, self._steps, done)

    def _go_on(self, steps: Generator[None], done: Future[None]) -> None:
        if steps is not self._steps:  # another took its place
            return
        try:
            next(steps)
        except StopIteration:
            self._look = self._steps = None
            done.set_result(None)
        except (OSError, EdiCheckpointError) as error:
            log.warning("attachments not looked through, none deleted: %s", error)
            self._look = self._steps = None
            done.set_exception(error)
        else:
            self._worker.submit(self._go_on, steps, done)

    def keep(self, texts: Iterable[bytes]) -> None:
        """Take note of what is written into a document: a look under way may have passed that already."""
        if self._look is not None:
            self._look.keep(set[str]().union(*map(digests_in, texts)))


class Collection:
    """One look through everything that may name an attachment; `steps` does it, one slice at a time."""

    def __init__(self, paths: Paths, attachments: AttachmentStore, now_s: float, *, grace_s: float = GRACE_S) -> None:
        """Begin a look at what lies there at `now_s`, by the wall clock; what is younger than `grace_s` is left."""
        self._paths = paths
        self._attachments = attachments
        self._now_s = now_s
        self._grace_s = grace_s
        self._unnamed: dict[str, list[Filed]] = {}

    def steps(self) -> Generator[None]:
        """Do the look, a slice at each `next`. Raises OSError, `JournalDamaged` when a carrier cannot be read."""
        with self._attachments.noting():
            for filed in listed(self._attachments.folder):
                if self._grace_s and filed.modified_s > self._now_s + CLOCK_SLACK_S:
                    log.warning("attachments not looked through: the wall clock is behind their files")
                    return
                old = not self._grace_s or self._now_s - filed.modified_s >= self._grace_s
                if old and len(self._unnamed) < CANDIDATES_MAX:
                    self._unnamed.setdefault(filed.digest, []).append(filed)
            for step in carriers(self._paths):
                if not self._unnamed:
                    return
                self.keep(step)
                yield
            unnamed = [filed for files in self._unnamed.values() for filed in files]
            for filed in unnamed:
                if filed.digest in self._unnamed and self._attachments.delete(filed):
                    name = filed.path.name if self._grace_s else "-"  # a digest tells of what is being forgotten
                    log.info("attachment deleted name=%s bytes=%d rule=unnamed", name, filed.size_bytes)
                    reached(CrashPoint.COLLECTION_CUT)
                yield
            for shelf in {filed.path.parent for filed in unnamed}:
                sync_folder(shelf)
                if not self._grace_s:
                    with contextlib.suppress(OSError):  # others lie there
                        shelf.rmdir()

    def keep(self, named: Iterable[str]) -> None:
        """Strike digests that are named."""
        for digest in named:
            self._unnamed.pop(digest, None)


def carriers(paths: Paths) -> Iterator[set[str]]:
    """Yield the digests that each document, outbox segment and part of the journal names, one after the other.

    A document that goes into the trash meanwhile is met there; one that comes back from it, at the end.
    """
    met: set[str] = set()
    for folder, inner, names in os.walk(paths.sessions, onerror=_not_listed):
        if Path(folder) == paths.sessions:
            inner[:] = [name for name in inner if name != paths.attachments.name]
            met.update(names)
        yield from (named_in(Path(folder) / name) for name in names)
    for folder, _, names in os.walk(paths.outbox, onerror=_not_listed):
        yield from (named_in(Path(folder) / name) for name in names)
    if paths.journal.exists():
        reader = Reader.open(paths.journal)
        try:
            for texts in reader.holding(MARK, rows=JOURNAL_ROWS):
                yield set[str]().union(*map(digests_in, texts))
        finally:
            reader.close()
    yield from (named_in(path) for path in paths.sessions.iterdir() if path.name not in met)


def _not_listed(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def named_in(path: Path) -> set[str]:
    """Return the digests that a file may name; what is no regular file names none."""
    named: set[str] = set()
    try:
        file = open_regular(path)
    except (FileNotFoundError, NotRegular):
        return named
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            return named
        raise
    with file:
        before, marked = b"", False
        while part := file.read(READ_BYTES):
            part = before + part
            marked = marked or MARK in part
            if marked:
                named |= digests_in(part, marked=True)
            before = part[-OVERLAP:]
    return named


def unnamed(paths: Paths) -> list[Filed]:
    """Return the attachments' files that nothing names, of whatever age, by path: what a look would find."""
    found = {filed.path: filed for filed in listed(paths.attachments)}
    named = set[str]().union(*carriers(paths))
    return [found[path] for path in sorted(found) if found[path].digest not in named]
