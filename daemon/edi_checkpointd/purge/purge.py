"""The purge: delete everything of sessions, because a user asks for it or because `trash_days` have passed.

    begin    no writer lives, or it is fenced; a durable note, `forgetting.json`, says what to delete
    steps    outboxes -> documents -> rows of the journal with their blobs -> attachments that nothing names
             -> truncate the WAL -> lines of the log -> the note

A step is a slice in the loop's thread or a call to the files thread. All steps can be repeated: after a crash, the next
start repeats them from the first, before it reads anything of those sessions. Their ids are not logged.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Collection, Generator
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.names import check_session_id
from edi_checkpoint.errors import EdiCheckpointError, NotFound, SessionBusy, SessionIdError
from edi_checkpoint.outbox.segments import is_held
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.safe_open import open_regular
from edi_checkpointd.attachments.garbage import GarbageCollector
from edi_checkpointd.checkpoints.coordinator import Coordinator
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.purge import audit
from edi_checkpointd.purge import files as purge_files
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.sessions.session import purged_error
from edi_checkpointd.system.fs import sweep_temporaries, sync_folder, write_atomic
from edi_checkpointd.system.worker import Worker
from edi_checkpointd.writers.access import WriterAccess
from edi_checkpointd.writers.drains import OutboxDrains

log = logging.getLogger(__name__)

RETRY_S = 0.2  # while a reader prevents the truncation of the WAL
ASKED_MAX = 100  # purges that wait
_NOTE_MAX_BYTES = 64 << 20


class Work(msgspec.Struct, frozen=True):
    """What to delete, in the form of `forgetting.json`.

    `purge`: also the trash, files set aside, and lines of the log; `everything`: all of these, of any session.
    """

    sessions: tuple[str, ...]
    purge: bool = False
    everything: bool = False

    def includes(self, session_id: str) -> bool:
        """Whether to delete what the trash, files set aside or the log have of a session."""
        return self.everything or session_id in self.sessions


Answer = Callable[[Collection[str]], None]  # called with a sentence for each thing that could not be deleted


class _PurgeRequest(NamedTuple):
    work: Work
    answers: list[Answer]


_Job = Future[Any]  # its result: sentences about what could not be deleted, or None
_Steps = Generator[_Job | float, None, None]


@dataclass(slots=True, eq=False)
class Purger:
    """Purges sessions, one request after the other. Used by the loop's thread; `_worker` is the files thread."""

    _paths: Paths
    _catalog: Catalog
    _ledger: Ledger
    _coordinator: Coordinator
    _access: WriterAccess
    _drains: OutboxDrains
    _collector: GarbageCollector
    _worker: Worker
    _requests: deque[_PurgeRequest] = field(default_factory=deque, init=False)
    _steps: _Steps | None = field(default=None, init=False)  # of the first request, once it has started
    _job: _Job | None = field(default=None, init=False)  # the next step waits for it
    _due_s: float = field(default=0.0, init=False)
    _failures: list[str] = field(default_factory=list, init=False)
    _since: datetime | None = field(default=None, init=False)

    # -- asking ------------------------------------------------------------------------------------------------------

    def purge(self, session_ids: Collection[str], answer: Answer, *, everything: bool, takeover: bool) -> None:
        """Delete sessions with every trace of them, with `everything` all sessions; call `answer` at the end.

        Raises `NotFound`, `SessionIdError`, and `SessionBusy` unless `takeover`, before anything is deleted.
        """
        known = audit.known(self._paths, self._ledger.journal.read)
        if any(check_session_id(session_id) not in known for session_id in session_ids):
            raise NotFound("nothing is left of the session")  # without its id, because errors are logged
        chosen = sorted(known) if everything else sorted(set(session_ids))
        if not takeover:
            self._refuse_living(chosen)
        self._queue(Work(tuple(chosen), purge=True, everything=everything), answer)

    def purge_by_rule(self, session_ids: Collection[str]) -> None:
        """Delete sessions by a rule; their files in the trash or set aside stay, and so do the lines of the log.

        Raises `SessionBusy` before anything is deleted.
        """
        self._refuse_living(session_ids)
        self._queue(Work(tuple(sorted(session_ids))), lambda _: None)

    def _refuse_living(self, session_ids: Collection[str]) -> None:
        for session_id in session_ids:
            for files in self._access.outboxes_of(session_id):
                if is_held(files.lock):
                    owner = files.owner
                    raise SessionBusy(
                        f"session {session_id}: process {owner.pid} ({owner.app}) writes to it since {owner.since}",
                        pid=owner.pid, since=owner.since,
                    )  # fmt: skip

    def _queue(self, work: Work, answer: Answer) -> None:
        for request in self._requests:
            if request.work == work:
                request.answers.append(answer)
                return
        if len(self._requests) >= ASKED_MAX:
            raise EdiCheckpointError(f"{ASKED_MAX} purges are waiting", hint="try again later")
        self._requests.append(_PurgeRequest(work, [answer]))
        self._worker.report(lambda: None)  # wakes the loop

    def settle(self) -> None:
        """Finish the purge that a crash interrupted, at a start; return when it is finished."""
        sweep_temporaries(self._paths.state, lambda name: name == self._paths.forgetting.name)
        try:
            work = self._read_note()
        except FileNotFoundError:
            return
        except (msgspec.MsgspecError, SessionIdError) as error:
            log.error("an interrupted purge cannot be resumed, ask for it again: %s", error)  # noqa: TRY400
            self._paths.forgetting.unlink()
            return
        log.info("interrupted purge resumed sessions=%d", len(work.sessions))
        self._queue(work, lambda _: None)
        try:
            while self._requests and not self.wait_s():
                if self._job is not None:
                    wait([self._job])
                self.step()
        except OSError as error:
            log.warning("purge delayed, the disk refuses: %s", error)

    def _read_note(self) -> Work:
        with open_regular(self._paths.forgetting) as file:
            work = msgspec.json.decode(file.read(_NOTE_MAX_BYTES), type=Work)
        for session_id in work.sessions:
            check_session_id(session_id)
        return work

    # -- questions of the handlers and the loop ----------------------------------------------------------------------

    def check(self, session_id: str, stream_id: str = "") -> None:
        """Raise `SessionPurged` if the stream's session was purged, `SessionBusy` while the session is being purged."""
        if self._ledger.is_purged(stream_id):
            raise purged_error()
        if any(session_id in request.work.sessions for request in self._requests):
            since = (self._since or self._ledger.clock.now()).isoformat(timespec="seconds")
            hint = "open it again in a moment: it is a new session then"
            raise SessionBusy("this session is being purged", pid=os.getpid(), since=since, hint=hint)

    def wait_s(self) -> float | None:
        """Return in how many seconds the next step is due; None if there is none, or it waits for the files thread."""
        if not self._requests or (self._job is not None and not self._job.done()):
            return None
        return max(0.0, self._due_s - self._ledger.clock.monotonic_s())

    @property
    def pending(self) -> bool:
        """Whether a purge waits or is under way."""
        return bool(self._requests)

    # -- steps -------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Do one step, if it is due. Raises OSError if the disk refuses; the next step then starts from the first."""
        if self.wait_s() != 0:
            return
        if self._steps is None:
            self._failures, self._since = [], self._ledger.clock.now()
            self._steps = self._steps_of(self._requests[0].work)
        try:
            if (done := self._job) is not None:
                self._job = None
                self._failures += _failures_of(done)
            pause = next(self._steps, None)
        except BaseException:
            self._steps = None
            raise
        if isinstance(pause, float):
            self._due_s = self._ledger.clock.monotonic_s() + pause
        elif pause is not None:
            self._job = pause
            pause.add_done_callback(lambda _: self._worker.report(lambda: None))
        else:
            self._finish()

    def _steps_of(self, work: Work) -> _Steps:
        """Do the steps one by one; yield after each the seconds until the next, or the job that it waits for."""
        sessions, journal = work.sessions, self._ledger.journal
        write_atomic(self._paths.forgetting, [msgspec.json.encode(work)])
        reached(CrashPoint.FORGETTING_BEGUN)
        for session_id in sessions:
            self._delete_outboxes(session_id)
            yield 0.0
        reached(CrashPoint.OUTBOXES_FORGOTTEN)
        yield self._worker.call(lambda: self._delete_files(work))
        for session_id in sessions:
            while journal.delete_slice(session_id):
                yield 0.0
        blobs = journal.delete_unnamed_blobs()
        yield self._worker.call(lambda: self._ledger.attachments.dropped(blobs))
        yield self._collector.collect_all()
        reached(CrashPoint.ATTACHMENTS_FORGOTTEN)
        while not journal.empty_wal():
            yield RETRY_S
        reached(CrashPoint.WAL_EMPTIED)
        if work.purge:
            yield self._worker.call(lambda: purge_files.strike_from_log(self._paths.log, work.includes))
        self._paths.forgetting.unlink(missing_ok=True)
        sync_folder(self._paths.state)
        reached(CrashPoint.NOTE_FORGOTTEN)

    def _delete_outboxes(self, session_id: str) -> None:
        """Fence the writers of a session, delete its outboxes, and drop it from memory."""
        streams = self._drains.delete_outboxes(session_id)
        session = self._ledger.sessions.get(session_id)
        if session is not None:
            streams |= set(session.streams)
            self._coordinator.discard(session)
        self._coordinator.cancel(session_id)
        for stream_id in streams:
            self._access.shut_out(stream_id, purged_error())
        self._ledger.purge(session, streams)

    def _delete_files(self, work: Work) -> list[str]:
        """Delete the files of the sessions; return the failures. Runs in the files thread, which owns the catalog."""
        sessions = set(work.sessions)
        failures = purge_files.remove(purge_files.documents(self._paths, sessions.__contains__))
        self._catalog.discard(sessions)
        if work.purge:
            failures += purge_files.remove(purge_files.trashed(self._paths, work.includes))
            failures += purge_files.remove(purge_files.set_aside(self._paths, work.includes))
        reached(CrashPoint.DOCUMENTS_FORGOTTEN)
        return failures

    def _finish(self) -> None:
        work, answers = self._requests.popleft()
        self._steps = None
        log.info("forgotten sessions=%d purge=%s kept=%d", len(work.sessions), work.purge, len(self._failures))
        for answer in answers:
            answer(self._failures)


def _failures_of(done: _Job) -> Collection[str]:
    """Return a sentence for each thing that a finished job could not delete."""
    try:
        return done.result() or ()
    except (EdiCheckpointError, OSError, CancelledError) as error:
        return [f"attachments that nothing uses: {error}"]
