"""Outbox drains: journal what dead writers left in their outboxes.

Drained records and live frames enter through the same function, `Pipeline.accept`. When an outbox is drained, its
stream is closed. When a file covers it, `writers.removal` unlinks it. The session's next writer waits for the drain.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

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


@dataclass(slots=True, eq=False)
class OutboxDrains:
    """Finds the outboxes of dead writers and drains them, one after the other. Used by the loop's thread."""

    _ledger: Ledger
    _liveness: Liveness
    _coordinator: Coordinator
    _access: WriterAccess
    _removal: OutboxRemoval
    _pipeline: Pipeline
    _feed: Feed
    _queue: deque[StreamFiles] = field(default_factory=deque, init=False)
    _current: tuple[Drain, WriterStream] | None = field(default=None, init=False)
    """The drain under way, and its target: the dead writer's own stream, or its branch."""
    _chunk: bytes | None = field(default=None, init=False)
    """The part of it that is read and not committed: the disk may have refused it."""

    # -- finding -----------------------------------------------------------------------------------------------------

    def find(self) -> None:
        """Find all outboxes at a start; remove the folders that a crash left without a stream."""
        self._liveness.sweep()
        self.scan()

    def scan(self, session_id: str | None = None) -> None:
        """Watch the living writers of one session or of all; queue the outboxes of the dead ones."""
        for files in self._liveness.outboxes(session_id):
            if is_held(files.lock):
                self._liveness.watch(files)
            else:
                self.enqueue(files)

    def enqueue(self, files: StreamFiles) -> None:
        """Queue the outbox of a dead writer, unless it is known already, and stop sending to its client."""
        stream = files.owner.stream
        self._access.disconnect(stream)
        if not self._removal.knows(stream) and not any(found.owner.stream == stream for found in self._waiting()):
            self._queue.append(files)

    def _waiting(self) -> list[StreamFiles]:
        """Return the outbox that is being drained and the queued ones."""
        return [*([self._current[0].files] if self._current else []), *self._queue]

    @property
    def pending(self) -> bool:
        """Whether an outbox is being drained, or waits for it."""
        return self._current is not None or bool(self._queue)

    def drains(self, session_id: str) -> bool:
        """Whether an outbox with entries for the session is being drained, or waits for it."""
        return any(session_id in (files.owner.session_id, branch_of(files)) for files in self._waiting())

    @property
    def settled(self) -> bool:
        """Whether all outboxes of dead writers are drained, and files cover what they held."""
        return not self.pending and self._removal.settled

    # -- draining ----------------------------------------------------------------------------------------------------

    def wait_s(self) -> float | None:
        """Return in how many seconds the next slice is due, or the next check of writers without a pidfd."""
        return 0 if self.pending else self._liveness.wait_s()

    def step(self) -> None:
        """Find writers that died, and drain one slice of their outboxes.

        Raises `JournalRefused`; the next step retries the slice.
        """
        if self._liveness.wait_s() == 0:
            for files in self._liveness.probe():
                self.enqueue(files)
        if self.pending:
            self._drain_slice()

    def _drain_slice(self) -> None:
        if self._current is None:
            self._begin(self._queue[0])
            self._queue.popleft()
            return
        drain, stream = self._current
        self._chunk = self._chunk or next(drain.chunks, None)
        if self._chunk is None:
            self._end(drain, stream)
            return
        before = stream.session.state.sequence
        self._pipeline.accept(stream, self._chunk)
        self._pipeline.commit()
        stream.session.drained += stream.session.state.sequence - before
        drain.read_bytes += len(self._chunk)
        self._chunk = None

    def finish_drains(self, session_id: str | None = None) -> None:
        """Drain the outboxes of dead writers of one session or of all, before a client attaches to it or sees it."""
        self.scan(session_id)
        self._queue = deque(sorted(self._queue, key=lambda files: files.owner.session_id != session_id))
        while any(session_id in (None, files.owner.session_id) for files in self._waiting()):
            self._drain_slice()

    def try_finish_drains(self, session_id: str | None = None) -> bool:
        """Drain as `finish_drains` does; return False if the disk refuses. Then answers come from the outboxes."""
        try:
            self.finish_drains(session_id)
        except OSError as error:
            self._pipeline.pause(error)
            return False
        return True

    def _begin(self, files: StreamFiles) -> None:
        """Start to drain the outbox of a dead writer, into its own stream or, after a takeover, into its branch."""
        drain = self._liveness.begin_drain(files)
        if drain is None:
            return
        owner = drain.files.owner
        try:
            session = self._access.open(check_session_id(owner.session_id), owner.parent_session)
            stream = self._target_of(session, drain.files)
        except (ProtocolError, SessionIdError) as error:
            log.warning("outbox not drained, it is kept unchanged stream=%s: %s", owner.stream, error)
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
        self._current = drain, stream

    def _target_of(self, session: OpenSession, files: StreamFiles) -> WriterStream | None:
        """Return the stream for the entries of a dead writer's outbox; None if the journal has all of them."""
        try:
            return self._access.admit(session, files)
        except Fenced:
            stream = self._ledger.streams[files.owner.stream]
            if all(whole(chunk)[1] <= stream.number for chunk in read_records(files)):
                return None
            log.warning("session %s: its fenced writer published more; see the branch", session.session_id)
            branch = self._access.branch(stream)
            branch.session.app, branch.session.pid = files.owner.app, files.owner.pid
            return branch

    def _end(self, drain: Drain, stream: WriterStream) -> None:
        """End a drain; the session becomes interrupted unless the writer closed it cleanly."""
        owner, session = drain.files.owner, stream.session
        self._current = None
        drain.close()
        self._liveness.unwatch(owner.stream)
        if unread_bytes := drain.unread_bytes:
            log.warning("outbox not readable to its end session=%s bytes=%d", session.session_id, unread_bytes)
        self._removal.drained(drain.files, stream.id, spoiled=bool(unread_bytes))
        reached(CrashPoint.OUTBOX_DRAINED)
        if stream.epoch == session.epoch and session.left_as == "live":
            stranded = stream.id != owner.stream
            cleanly = stream.closed_cleanly and not stranded  # a fenced writer did not finish this session
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

    # -- purging ---------------------------------------------------------------------------------------------------

    def delete_outboxes(self, session_id: str) -> set[str]:
        """Unlink all outboxes of a session, also a living writer's, and cancel its drains; return the streams.

        If the session is a branch, its writer's outbox is drained first: the parent session owns a part of it. Raises
        OSError.
        """
        for files in self._access.stranded_in(session_id):
            self.finish_drains(files.owner.session_id)
        outboxes = self._access.outboxes_of(session_id)
        streams = {files.owner.stream for files in outboxes}
        if self._current is not None and self._current[0].files.owner.stream in streams:
            self._current[0].close()
            self._current = self._chunk = None
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
        """Attach a writer after draining the dead writers of its session. Raises as `WriterAccess.attach` does."""
        session_id = check_session_id(message.session_id)
        for files in self._access.stranded_in(session_id):
            self.finish_drains(files.owner.session_id)
        self.finish_drains(session_id)
        return self._access.attach(message, peer_pid)


def _condition(session: OpenSession, *, cleanly: bool) -> Condition:
    status = summarise(session.state.fragments).get("status")
    return decide(live=False, clean_end=cleanly, newest=None, status=status if isinstance(status, str) else None)
