"""Outbox drains: the outboxes of writers, and above all of those who have left.

What a dead writer left comes in by the same way as live frames, `Ledger.accept`; then its stream is closed and, when a
file covers it, unlinked. A session's next writer is let in after that (`writers.access`).
"""

from __future__ import annotations

import logging
from collections import deque

from edi_checkpoint.documents.fragments import summarise
from edi_checkpoint.documents.names import check_session_id
from edi_checkpoint.errors import Fenced, ProtocolError, SessionIdError
from edi_checkpoint.home.condition import Condition, decide
from edi_checkpoint.model import Kind
from edi_checkpoint.outbox.segments import StreamFiles, is_held, read_records, remove_stream
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.records import whole
from edi_checkpointd.checkpoints.coordinator import Coordinator
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.intake.pipeline import Pipeline
from edi_checkpointd.sessions.feed import Feed
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.sessions.session import OpenSession, WriterStream
from edi_checkpointd.writers.access import WriterAccess, branch_of
from edi_checkpointd.writers.liveness import Drain, Liveness
from edi_checkpointd.writers.removal import OutboxRemoval

log = logging.getLogger(__name__)


class OutboxDrains:
    """Sees writers out, and lets the next ones in after them."""

    def __init__(
        self,
        ledger: Ledger,
        liveness: Liveness,
        coordinator: Coordinator,
        access: WriterAccess,
        removal: OutboxRemoval,
        pipeline: Pipeline,
        feed: Feed,
    ) -> None:
        """Take the parts; `scan` finds what was left."""
        self._ledger = ledger
        self._liveness = liveness
        self._coordinator = coordinator
        self._access = access
        self._removal = removal
        self._pipeline = pipeline
        self._feed = feed
        self._queue: deque[StreamFiles] = deque()
        self._drain: Drain | None = None
        self._target: WriterStream | None = None  # where it goes: the writer's own stream, or its branch
        self._rest: bytes | None = None  # a chunk that the disk refused

    # -- finding -----------------------------------------------------------------------------------------------------

    def find(self) -> None:
        """At a start: remove the folders that a crash left without a stream, and find all outboxes."""
        self._liveness.sweep()
        self.scan()

    def scan(self, session_id: str | None = None) -> None:
        """Find outboxes, of one session or all: living writers are watched, dead ones' queued for draining."""
        for files in self._liveness.outboxes(session_id):
            if is_held(files.lock):
                self._liveness.watch(files)
            else:
                self.enqueue(files)

    def enqueue(self, files: StreamFiles) -> None:
        """Queue the outbox of a writer that is gone; earlier streams of its session stand before it."""
        stream = files.owner.stream
        self._access.disconnect(stream)
        queued = [self._drain.files, *self._queue] if self._drain else self._queue
        if not self._removal.knows(stream) and not any(files.owner.stream == stream for files in queued):
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
        return not self.pending and self._removal.settled

    # -- draining ----------------------------------------------------------------------------------------------------

    def wait_s(self) -> float | None:
        """Return in how many seconds the next slice is due, or a look at writers that no pidfd stands for."""
        return 0 if self.pending else self._liveness.wait_s()

    def step(self) -> None:
        """Find writers that died, and drain one slice of what they left.

        Raises `JournalRefused`: the slice is tried again at the next step.
        """
        if self._liveness.wait_s() == 0:
            for files in self._liveness.probe():
                self.enqueue(files)
        if self.pending:
            self._drain_slice()

    def _drain_slice(self) -> None:
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
        self._pipeline.accept(stream, chunk)
        self._pipeline.commit()
        stream.session.drained += stream.session.state.sequence - before
        self._drain.taken_bytes += len(chunk)
        self._rest = None

    def finish_drains(self, session_id: str | None = None) -> None:
        """Drain all that dead writers left, of one session or of all, before it is attached to or shown."""
        self.scan(session_id)
        self._queue = deque(sorted(self._queue, key=lambda files: files.owner.session_id != session_id))
        while self._waits(session_id):
            self._drain_slice()

    def try_finish_drains(self, session_id: str | None = None) -> bool:
        """Drain as `finish_drains` does; return False when the disk refuses: then outboxes are read where they lie."""
        try:
            self.finish_drains(session_id)
        except OSError as error:
            self._pipeline.pause(error)
            return False
        return True

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
            session = self._access.open(check_session_id(owner.session_id), owner.parent_session)
            stream = self._target_of(session, drain.files)
        except (ProtocolError, SessionIdError) as error:
            log.warning("outbox kept as it is stream=%s: %s", owner.stream, error)
            self._liveness.unwatch(owner.stream)
            self._removal.keep(owner.stream)
            drain.close()
            return
        except BaseException:
            drain.close()
            raise
        if stream is None:
            self._liveness.unwatch(owner.stream)
            self._removal.drained(drain.files, owner.stream)
            drain.close()
            return
        log.info("draining outbox session=%s stream=%s from=%d", stream.session.session_id, stream.id, stream.number)
        self._drain, self._target = drain, stream

    def _target_of(self, session: OpenSession, files: StreamFiles) -> WriterStream | None:
        """Return the stream that a dead writer's outbox goes into; None when all of it is journaled already."""
        try:
            return self._access.admit(session, files)
        except Fenced:
            stream = self._ledger.streams[files.owner.stream]
            if all(whole(chunk)[1] <= stream.number for chunk in read_records(files)):
                return None
            log.warning("session %s: a fenced writer published on; see its branch", session.session_id)
            branch = self._access.branch(stream)
            branch.session.app, branch.session.pid = files.owner.app, files.owner.pid
            return branch

    def _end(self, drain: Drain, stream: WriterStream) -> None:
        """Close a drained stream; its writer left cleanly, or the session is interrupted."""
        owner, session = drain.files.owner, stream.session
        self._drain = self._target = None
        drain.close()
        self._liveness.unwatch(owner.stream)
        if left_bytes := drain.unread_bytes:
            log.warning("outbox not readable to its end session=%s bytes=%d", session.session_id, left_bytes)
        self._removal.drained(drain.files, stream.id, spoiled=bool(left_bytes))
        reached(CrashPoint.OUTBOX_DRAINED)
        if stream.epoch == session.epoch and session.left_as == "live":
            stranded = stream.id != owner.stream
            cleanly = stream.closed_cleanly and not stranded  # whoever was fenced has not finished here
            self._ledger.detach(session, cleanly=cleanly)
            self._feed.condition(session, _condition(session, cleanly=cleanly))
            if not cleanly:
                log.info("session interrupted session=%s sequence=%d", session.session_id, session.state.sequence)
                self._coordinator.checkpoint(
                    session,
                    Kind.STRANDED if stranded else Kind.INTERRUPTED,
                    f"published after {owner.session_id} was taken over" if stranded else "its writer died",
                )
        if session.unsaved:
            self._coordinator.save_now(stream)

    # -- forgetting --------------------------------------------------------------------------------------------------

    def delete_outboxes(self, session_id: str) -> set[str]:
        """Unlink a session's outboxes, whoever writes them, and let go of what is under way; return the streams.

        Of a branch, what its writer left is taken in before: the session that it was shut out of has a part in it.
        Raises OSError.
        """
        for files in self._access.stranded_in(session_id):
            self.finish_drains(files.owner.session_id)
        outboxes = self._access.outboxes_of(session_id)
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
        self._removal.discard(streams)
        self._access.leaving.discard(session_id)
        return streams

    # -- attaching ---------------------------------------------------------------------------------------------------

    def attach(self, message: messages.Attach, peer_pid: int | None) -> messages.Attached:
        """Let a writer in, after all that dead ones left of its session. Raises as `WriterAccess.attach` does."""
        session_id = check_session_id(message.session_id)
        for files in self._access.stranded_in(session_id):
            self.finish_drains(files.owner.session_id)
        self.finish_drains(session_id)
        return self._access.attach(message, peer_pid)


def _condition(session: OpenSession, *, cleanly: bool) -> Condition:
    status = summarise(session.state.fragments).get("status")
    return decide(held=False, left_cleanly=cleanly, newest=None, status=status if isinstance(status, str) else None)
