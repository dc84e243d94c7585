"""Attendance: the outboxes of writers, and above all of those who have left.

What a dead writer left comes in by the same way as live frames, `Ledger.accept`; then its stream is closed and, when a
file covers it, unlinked. A session's next writer is let in after that (`admission`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

from edi_checkpoint import protocol
from edi_checkpoint.condition import Condition, decide
from edi_checkpoint.errors import Fenced, ProtocolError, SessionIdError
from edi_checkpoint.fragments import summarise
from edi_checkpoint.model import Kind
from edi_checkpoint.names import check_session_id
from edi_checkpoint.paths import ensure_private
from edi_checkpoint.records import whole
from edi_checkpoint.spool import StreamFiles, is_held, read_records, remove_stream
from edi_checkpointd.admission import Admission, branch_of
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.feed import Feed
from edi_checkpointd.fs import set_aside
from edi_checkpointd.ledger import Ledger, branch_stream
from edi_checkpointd.liveness import Drain, Liveness
from edi_checkpointd.saving import Saving
from edi_checkpointd.sessions import Session, Stream

log = logging.getLogger(__name__)


class Attendance:
    """Sees writers out, and lets the next ones in after them."""

    def __init__(
        self,
        ledger: Ledger,
        liveness: Liveness,
        saving: Saving,
        admission: Admission,
        feed: Feed,
        *,
        commit: Callable[[], None],
        take: Callable[[Stream, bytes], object],
        damaged: Path,
    ) -> None:
        """Take the parts; `look_around` finds what was left.

        `commit` and `take` are as in `Admission`, `damaged` is the folder for segments that could not be read to
        their ends.
        """
        self._admission = admission
        self._feed = feed
        self._take = take
        self._damaged = damaged
        self._spoiled: set[str] = set()  # drained streams whose segments hold more than could be read
        self._ledger = ledger
        self._liveness = liveness
        self._saving = saving
        self._commit = commit
        self._queue: deque[StreamFiles] = deque()
        self._drain: Drain | None = None
        self._target: Stream | None = None  # where it goes: the writer's own stream, or its branch
        self._rest: bytes | None = None  # a chunk that the disk refused
        self._drained: list[tuple[StreamFiles, str]] = []  # journaled, and into which stream; unlinked when covered
        self._refused: set[str] = set()  # streams that cannot be drained; kept as they are
        self.left: Callable[[], None] = lambda: None  # called when a session is let go of

    # -- finding -----------------------------------------------------------------------------------------------------

    def look_around(self, session_id: str | None = None) -> None:
        """Find outboxes, of one session or all: living writers are watched, dead ones' queued for draining."""
        for files in self._liveness.outboxes(session_id):
            if is_held(files.lock):
                self._liveness.watch(files)
            else:
                self.gone(files)

    def gone(self, files: StreamFiles) -> None:
        """Queue the outbox of a writer that is gone; earlier streams of its session stand before it."""
        stream = files.owner.stream
        known = {queued.owner.stream for queued in [*self._queue, *(files for files, _ in self._drained)]}
        if self._drain is not None:
            known.add(self._drain.files.owner.stream)
        if stream not in known | self._refused:
            self._queue.append(files)

    @property
    def pending(self) -> bool:
        """Whether an outbox waits to be drained."""
        return self._drain is not None or bool(self._queue)

    def drains(self, session_id: str) -> bool:
        """Whether an outbox that goes into the session waits to be drained, or is just being drained."""
        under_way = [self._drain.files] if self._drain else []
        return any(session_id in (files.owner.session_id, branch_of(files)) for files in (*under_way, *self._queue))

    @property
    def settled(self) -> bool:
        """Whether nothing that dead writers left waits: neither to be drained, nor for a file that covers it."""
        drained = (self._ledger.streams.get(target) for _, target in self._drained)
        return not self.pending and not any(stream.session.uncovered for stream in drained if stream is not None)

    @property
    def leaving(self) -> int:
        """How many sessions in memory nobody may write any more."""
        return len(self._admission.leaving)

    @property
    def refused(self) -> int:
        """How many outboxes cannot be drained and are kept as they are."""
        return len(self._refused)

    # -- draining ----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Drain one slice. Raises `JournalRefused`: the slice is tried again at the next step."""
        if self._drain is None:
            self._begin(self._queue[0])
            self._queue.popleft()
            return
        chunk = self._rest or next(self._drain.chunks, None)
        if chunk is None:
            assert self._target is not None
            self._end(self._drain, self._target)
            return
        self._rest = chunk
        stream = self._target
        assert stream is not None
        before = stream.session.state.sequence
        self._take(stream, chunk)
        self._commit()
        stream.session.drained += stream.session.state.sequence - before
        self._drain.taken_bytes += len(chunk)
        self._rest = None

    def finish_drains(self, session_id: str | None = None) -> None:
        """Drain all that dead writers left, of one session or of all, before it is attached to or shown."""
        self.look_around(session_id)
        self._queue = deque(sorted(self._queue, key=lambda files: files.owner.session_id != session_id))
        while self._waits(session_id):
            self.step()

    def _waits(self, session_id: str | None) -> bool:
        under_way = [self._drain.files] if self._drain else []
        return any(session_id in (None, files.owner.session_id) for files in (*under_way, *self._queue))

    def _begin(self, files: StreamFiles) -> None:
        """Begin to drain the outbox of a dead writer; what it published after it was fenced goes into its branch."""
        drain = self._liveness.begin_drain(files)
        if drain is None:
            return
        owner = drain.files.owner
        try:
            session = self._admission.open(check_session_id(owner.session_id), owner.parent_session)
            stream = self._target_of(session, drain.files)
        except (ProtocolError, SessionIdError) as error:
            log.warning("outbox kept as it is stream=%s: %s", owner.stream, error)
            self._liveness.unwatch(owner.stream)
            self._refused.add(owner.stream)
            drain.close()
            return
        except BaseException:
            drain.close()
            raise
        if stream is None:
            self._liveness.unwatch(owner.stream)
            self._drained.append((drain.files, owner.stream))
            drain.close()
            return
        log.info("draining outbox session=%s stream=%s from=%d", stream.session.session_id, stream.id, stream.number)
        self._drain, self._target = drain, stream

    def _target_of(self, session: Session, files: StreamFiles) -> Stream | None:
        """Return the stream that a dead writer's outbox goes into; None when all of it is journaled already."""
        try:
            return self._admission.admit(session, files)
        except Fenced:
            stream = self._ledger.streams[files.owner.stream]
            if all(whole(chunk)[1] <= stream.number for chunk in read_records(files)):
                return None
            log.warning("session %s: a fenced writer published on; see its branch", session.session_id)
            branch = self._ledger.branch(stream)
            self._admission.leaving.add(branch.session.session_id)
            branch.session.app, branch.session.pid = files.owner.app, files.owner.pid
            return branch

    def _end(self, drain: Drain, stream: Stream) -> None:
        """Close a drained stream; its writer left cleanly, or the session is interrupted."""
        owner, session = drain.files.owner, stream.session
        self._drain = self._target = None
        drain.close()
        self._liveness.unwatch(owner.stream)
        self._drained.append((drain.files, stream.id))
        if drain.left_bytes:
            log.warning("outbox not readable to its end session=%s bytes=%d", session.session_id, drain.left_bytes)
            self._spoiled.add(owner.stream)
        reached(CrashPoint.OUTBOX_DRAINED)
        if stream.epoch == session.epoch and session.left_as == "live":
            stranded = stream.id != owner.stream
            cleanly = stream.left_cleanly and not stranded  # whoever was fenced has not finished here
            self._ledger.left(session, cleanly=cleanly)
            self._feed.condition(session, _condition(session, cleanly=cleanly))
            if not cleanly:
                log.info("session interrupted session=%s sequence=%d", session.session_id, session.state.sequence)
                self._saving.photograph(
                    session,
                    Kind.STRANDED if stranded else Kind.INTERRUPTED,
                    f"published after {owner.session_id} was taken over" if stranded else "its writer died",
                )
        if session.unsaved:
            self._saving.save_now(stream)

    def unlink_covered(self) -> None:
        """Unlink the outboxes that a file covers, and let go of sessions that nobody writes and that are in files."""
        if not self._drained and not self._admission.leaving:
            return
        for files, target in list(self._drained):
            stream = self._ledger.streams.get(target)
            if stream is not None and stream.session.uncovered:
                continue
            fenced = files.owner.fenced
            if fenced and any(one.owner.stream in fenced for one in self._liveness.outboxes(files.owner.session_id)):
                continue  # its lock file is what says, without the journal, that the other is fenced
            try:
                self._remove(files)
            except OSError as error:
                log.warning("outbox kept as it is stream=%s: %s", files.owner.stream, error)
                self._refused.add(files.owner.stream)
                self._drained.remove((files, target))
                continue
            reached(CrashPoint.STREAM_CLOSED)
            for stream_id in {target, files.owner.stream}:
                if stream := self._ledger.streams.get(stream_id):
                    self._ledger.forget_stream(stream)
                    self._admission.leaving.add(stream.session.session_id)
            self._drained.remove((files, target))
        for session_id in list(self._admission.leaving):
            session = self._ledger.sessions.get(session_id)
            if session is not None and self._saving.busy(session):
                continue
            self._admission.leaving.discard(session_id)
            if session is not None:
                self._let_go(session)

    def _remove(self, files: StreamFiles) -> None:
        """Unlink a drained outbox; segments that could not be read to their ends are set aside. Raises OSError."""
        if files.owner.stream in self._spoiled:
            ensure_private(self._damaged)
            for segment in files.segments:
                log.warning(
                    "outbox set aside file=%s",
                    set_aside(segment, self._damaged, f"{files.owner.session_id}.{segment.name}"),
                )
            self._spoiled.discard(files.owner.stream)
        remove_stream(files)

    def _held(self, session_id: str) -> set[str]:
        """Return the streams of a session that outboxes lie there for: its own, and its parent's if it is a branch."""
        own = {files.owner.stream for files in self._liveness.outboxes(session_id)}
        return own | {branch_stream(files.owner.stream) for files in self._admission.stranded_in(session_id)}

    def _let_go(self, session: Session) -> None:
        held = self._held(session.session_id)
        for stream in list(session.streams.values()):
            if stream.id not in held:  # known from a file's header only
                self._ledger.forget_stream(stream)
        if not session.streams:
            self._ledger.evict(session)
            self.left()

    # -- forgetting --------------------------------------------------------------------------------------------------

    def outboxes_of(self, session_id: str) -> list[StreamFiles]:
        """Return the streams whose outboxes lie there for a session: its own, and those stranded in it."""
        return [*self._liveness.outboxes(session_id), *self._admission.stranded_in(session_id)]

    def forget(self, session_id: str) -> set[str]:
        """Unlink a session's outboxes, whoever writes them, and let go of what is under way; return the streams.

        Of a branch, what its writer left is taken in before: the session that it was shut out of has a part in it.
        Raises OSError.
        """
        for files in self._admission.stranded_in(session_id):
            self.finish_drains(files.owner.session_id)
        outboxes = self.outboxes_of(session_id)
        streams = {files.owner.stream for files in outboxes}
        if self._drain is not None and self._drain.files.owner.stream in streams:
            self._drain.close()
            self._drain = self._target = self._rest = None
        for files in outboxes:
            self._liveness.unwatch(files.owner.stream)
            if files.owner.session_id != session_id:
                remove_stream(files)
        self._liveness.remove(session_id)
        self._queue = deque(files for files in self._queue if files.owner.stream not in streams)
        self._drained = [one for one in self._drained if one[0].owner.stream not in streams]
        self._refused -= streams
        self._spoiled -= streams
        self._admission.leaving.discard(session_id)
        return streams

    # -- attaching ---------------------------------------------------------------------------------------------------

    def attach(self, message: protocol.Attach, peer_pid: int | None) -> protocol.Attached:
        """Let a writer in, after all that dead ones left of its session. Raises as `Admission.attach` does."""
        session_id = check_session_id(message.session_id)
        for files in self._admission.stranded_in(session_id):
            self.finish_drains(files.owner.session_id)
        self.finish_drains(session_id)
        return self._admission.attach(message, peer_pid)

    def open(self, session_id: str) -> Session:
        """Open a session that nobody writes; it is let go of when that changes nothing any more."""
        return self._admission.open(session_id, None)

    def recover(self, session_id: str) -> bool:
        """After a start: bring what the journal has and the files have not into files; return whether that was so.

        A session whose writer is dead is left to its drain, which ends with a checkpoint of its own; a pending point to
        its timer, since it is a transition and has to be kept like one.
        """
        session = self.open(session_id)
        if not session.unsaved:
            return False
        if session.point is None and not self.drains(session_id):
            self._saving.photograph(session, Kind.RECOVERED, "the daemon was started anew")
        return True

    def close_orphans(self, session_ids: list[str]) -> None:
        """After a start: sessions whose writer is gone without an outbox count as interrupted."""
        for session_id in session_ids:
            if not self._held(session_id):
                session = self.open(session_id)
                if session.left_as == "live":
                    self._ledger.left(session, cleanly=False)
                for stream in list(session.streams.values()):
                    self._ledger.forget_stream(stream)


def _condition(session: Session, *, cleanly: bool) -> Condition:
    status = summarise(session.state.fragments).get("status")
    return decide(held=False, left_cleanly=cleanly, newest=None, status=status if isinstance(status, str) else None)
