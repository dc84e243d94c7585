"""The purge: sessions that leave no trace, because somebody purges them or a rule has come to their end.

    begin    nobody writes to them, or is shut out; what is to be done is noted, durably (`forgetting.json`)
    step     outboxes -> documents -> rows of the journal, with blobs -> attachments that nothing names any more
             -> the WAL is cut off -> lines of the log -> the note goes

A step is a slice in the intake thread or a call to the thread that writes files. All of them can be done again: after a
crash the next start does so from the first, before anything of those sessions is looked at. Their ids are not logged.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Collection, Generator
from concurrent.futures import CancelledError, Future, wait
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

RETRY_S = 0.2  # while a reader keeps the WAL from being cut off
ASKED_MAX = 100  # pieces of work that wait
_NOTE_MAX_BYTES = 64 << 20


class Work(msgspec.Struct, frozen=True):
    """What is to be forgotten, as `forgetting.json` says it.

    `purge`: with the trash, what was set aside, and the log; `everything`: of these, all there is.
    """

    sessions: tuple[str, ...]
    purge: bool = False
    everything: bool = False

    def wanted(self, session_id: str) -> bool:
        """Whether what is kept elsewhere of a session, in the trash, say, is to go."""
        return self.everything or session_id in self.sessions


Tell = Callable[[Collection[str]], None]


class _PurgeRequest(NamedTuple):
    work: Work
    tells: list[Tell]


_Job = Future[Any]  # done with the sentences of what could not be removed, or with None
_Steps = Generator[_Job | float, None, None]


class Purger:
    """Forgets sessions, one piece of work after the other. Used by the intake thread."""

    def __init__(
        self,
        paths: Paths,
        catalog: Catalog,
        ledger: Ledger,
        coordinator: Coordinator,
        access: WriterAccess,
        drains: OutboxDrains,
        collector: GarbageCollector,
        worker: Worker,
    ) -> None:
        """Take the parts; `worker` is the files thread."""
        self._paths = paths
        self._catalog = catalog
        self._ledger = ledger
        self._coordinator = coordinator
        self._access = access
        self._drains = drains
        self._collector = collector
        self._worker = worker
        self._clock = ledger.clock
        self._asked: deque[_PurgeRequest] = deque()
        self._steps: _Steps | None = None
        self._waits_for: _Job | None = None
        self._again_at_s = 0.0
        self._kept: list[str] = []
        self._begun = self._clock.now()

    # -- asking ------------------------------------------------------------------------------------------------------

    def purge(
        self,
        session_ids: Collection[str],
        tell: Tell,
        *,
        everything: bool = False,
        takeover: bool = False,
    ) -> None:
        """Forget sessions and all that tells of them; `tell` is called at the end, with what could not be removed.

        Raises, before anything is removed, `NotFound`, `SessionIdError`, and `SessionBusy` unless `takeover`.
        """
        known = audit.known(self._paths, self._ledger.journal.read)
        if any(check_session_id(session_id) not in known for session_id in session_ids):
            raise NotFound("nothing is left of the session")  # its id is not named: this is logged
        chosen = sorted(known) if everything else sorted(set(session_ids))
        if not takeover:
            self._refuse_living(chosen)
        self._ask(Work(tuple(chosen), purge=True, everything=everything), tell)

    def purge_by_rule(self, session_ids: Collection[str], tell: Tell = lambda _: None) -> None:
        """Forget sessions as a rule wants it: the log goes on telling of that, and what was set aside or is in the
        trash is not touched.

        Raises `SessionBusy`, before anything is removed.
        """
        self._refuse_living(session_ids)
        self._ask(Work(tuple(sorted(session_ids))), tell)

    def _refuse_living(self, session_ids: Collection[str]) -> None:
        for session_id in session_ids:
            for files in self._access.outboxes_of(session_id):
                if is_held(files.lock):
                    owner = files.owner
                    raise SessionBusy(
                        f"session {session_id}: process {owner.pid} ({owner.app}) writes to it since {owner.since}",
                        pid=owner.pid, since=owner.since,
                    )  # fmt: skip

    def _ask(self, work: Work, tell: Tell) -> None:
        for asked in self._asked:
            if asked.work == work:
                asked.tells.append(tell)
                return
        if len(self._asked) >= ASKED_MAX:
            raise EdiCheckpointError(f"{ASKED_MAX} purges wait already", hint="ask again in a while")
        self._asked.append(_PurgeRequest(work, [tell]))
        self._worker.report(lambda: None)  # there is something to do between two turns

    def settle(self) -> None:
        """At a start: forget what a crash has kept from being forgotten; returns when that is done."""
        sweep_temporaries(self._paths.state, lambda name: name == self._paths.forgetting.name)
        try:
            work = self._noted()
        except FileNotFoundError:
            return
        except (msgspec.MsgspecError, SessionIdError) as error:
            log.error("a purge was cut short and cannot be gone on with, ask for it again: %s", error)  # noqa: TRY400
            self._paths.forgetting.unlink()
            return
        log.info("forgetting sessions=%d, which was cut short", len(work.sessions))
        self._ask(work, lambda _: None)
        try:
            while self._asked and not self.wait_s():
                if self._waits_for is not None:
                    wait([self._waits_for])
                self.step()
        except OSError as error:
            log.warning("sessions are forgotten later: %s", error)

    def _noted(self) -> Work:
        with open_regular(self._paths.forgetting) as file:
            work = msgspec.json.decode(file.read(_NOTE_MAX_BYTES), type=Work)
        for session_id in work.sessions:
            check_session_id(session_id)
        return work

    # -- what those who serve ask ------------------------------------------------------------------------------------

    def check(self, session_id: str, stream_id: str = "") -> None:
        """Raise what is told to a writer who is shut out, and to whoever comes while the session is being purged."""
        if self._ledger.is_purged(stream_id):
            raise purged_error()
        if any(session_id in asked.work.sessions for asked in self._asked):
            raise SessionBusy(
                "this session is being purged", pid=os.getpid(), since=self._begun.isoformat(timespec="seconds"),
                hint="open it again in a moment: it begins anew",
            )  # fmt: skip

    def wait_s(self) -> float | None:
        """Return how long until the next step, None when there is none or a call comes before it."""
        if not self._asked or (self._waits_for is not None and not self._waits_for.done()):
            return None
        return max(0.0, self._again_at_s - self._clock.monotonic_s())

    @property
    def pending(self) -> bool:
        """Whether anything is still to be forgotten."""
        return bool(self._asked)

    # -- doing -------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Do one step, if it is time to. Raises OSError: the disk refuses; all is begun again at the next."""
        if self.wait_s() != 0:
            return
        if self._steps is None:
            self._kept, self._begun, self._steps = [], self._clock.now(), self._of(self._asked[0].work)
        try:
            if (done := self._waits_for) is not None:
                self._waits_for = None
                self._kept += _outcome(done)
            found = next(self._steps, None)
        except BaseException:
            self._steps = None
            raise
        if isinstance(found, float):
            self._again_at_s = self._clock.monotonic_s() + found
        elif found is not None:
            self._waits_for = found
            found.add_done_callback(lambda _: self._worker.report(lambda: None))
        else:
            self._end()

    def _of(self, work: Work) -> _Steps:
        """Yield after each step: seconds until the next, or what is to be waited for."""
        sessions, journal = work.sessions, self._ledger.journal
        write_atomic(self._paths.forgetting, [msgspec.json.encode(work)])
        reached(CrashPoint.FORGETTING_BEGUN)
        for session_id in sessions:
            self._let_go(session_id)
            yield 0.0
        reached(CrashPoint.OUTBOXES_FORGOTTEN)
        yield self._worker.call(lambda: self._erase(work))
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
            yield self._worker.call(lambda: purge_files.strike_from_log(self._paths.log, work.wanted))
        self._paths.forgetting.unlink(missing_ok=True)
        sync_folder(self._paths.state)
        reached(CrashPoint.NOTE_FORGOTTEN)

    def _let_go(self, session_id: str) -> None:
        """Have nobody write to a session any more, and nothing of it in memory or in outboxes."""
        streams = self._drains.delete_outboxes(session_id)
        session = self._ledger.sessions.get(session_id)
        if session is not None:
            streams |= set(session.streams)
            self._coordinator.discard(session)
        self._coordinator.cancel(session_id)
        for stream_id in streams:
            self._access.shut_out(stream_id, purged_error())
        self._ledger.purge(session, streams)

    def _erase(self, work: Work) -> list[str]:
        """Remove what lies in files of the sessions; for the files thread, to which the catalog belongs."""
        sessions = set(work.sessions)
        kept = purge_files.remove(purge_files.documents(self._paths, sessions.__contains__))
        self._catalog.discard(sessions)
        if work.purge:
            kept += purge_files.remove(purge_files.trashed(self._paths, work.wanted))
            kept += purge_files.remove(purge_files.set_aside(self._paths, work.wanted))
        reached(CrashPoint.DOCUMENTS_FORGOTTEN)
        return kept

    def _end(self) -> None:
        work, tells = self._asked.popleft()
        self._steps = None
        log.info("forgotten sessions=%d purge=%s kept=%d", len(work.sessions), work.purge, len(self._kept))
        for tell in tells:
            tell(self._kept)


def _outcome(done: _Job) -> Collection[str]:
    """Return what could not be removed; a look that failed has removed nothing that it was for."""
    try:
        return done.result() or ()
    except (EdiCheckpointError, OSError, CancelledError) as error:
        return [f"attachments that nothing names: {error}"]
