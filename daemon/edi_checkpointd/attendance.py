"""Attendance: who writes to which session. Attaching, and the outboxes of those who have left.

A writer is let in only after every earlier stream of its session is drained to its end. What a dead writer left comes
in by the same way as live frames, `Ledger.accept`; then its stream is closed and, when a file covers it, unlinked.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

from edi_checkpoint import protocol
from edi_checkpoint.errors import Fenced, NotFound, ProtocolError, SessionBusy
from edi_checkpoint.layout import Kind
from edi_checkpoint.names import check_session_id
from edi_checkpoint.paths import ensure_private
from edi_checkpoint.records import whole
from edi_checkpoint.spool import StreamFiles, is_held, remove_stream
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.fs import set_aside
from edi_checkpointd.ledger import Ledger, Session, Stream
from edi_checkpointd.liveness import Drain, Liveness
from edi_checkpointd.saving import Saving

log = logging.getLogger(__name__)


class Attendance:
    """Lets writers in and sees them out."""

    def __init__(
        self,
        ledger: Ledger,
        liveness: Liveness,
        saving: Saving,
        *,
        commit: Callable[[], None],
        refuse: Callable[[Stream, bytes, ProtocolError], None],
        damaged: Path,
    ) -> None:
        """Take the parts; `look_around` finds what was left.

        `commit` commits the ledger's open transaction and does what follows, `refuse` keeps records that were refused
        and uses up their numbers, `damaged` is the folder for segments that could not be read to their ends.
        """
        self._refuse = refuse
        self._damaged = damaged
        self._spoiled: set[str] = set()  # drained streams whose segments hold more than could be read
        self._ledger = ledger
        self._liveness = liveness
        self._saving = saving
        self._commit = commit
        self._queue: deque[StreamFiles] = deque()
        self._drain: Drain | None = None
        self._rest: bytes | None = None  # a chunk that the disk refused
        self._drained: list[StreamFiles] = []  # journaled to their end; unlinked when a file covers them
        self._leaving: set[str] = set()  # sessions in memory that nobody may write any more
        self._refused: set[str] = set()  # streams that cannot be drained; kept as they are

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
        known = {queued.owner.stream for queued in [*self._queue, *self._drained]}
        if self._drain is not None:
            known.add(self._drain.files.owner.stream)
        if stream not in known | self._refused:
            self._queue.append(files)

    @property
    def pending(self) -> bool:
        """Whether an outbox waits to be drained."""
        return self._drain is not None or bool(self._queue)

    # -- draining ----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Drain one slice. Raises `JournalRefused`: the slice is tried again at the next step."""
        if self._drain is None:
            self._begin(self._queue[0])
            self._queue.popleft()
            return
        chunk = self._rest or next(self._drain.chunks, None)
        if chunk is None:
            self._end(self._drain)
            return
        self._rest = chunk
        stream = self._ledger.streams[self._drain.files.owner.stream]
        try:
            self._ledger.accept(stream, chunk)
        except ProtocolError as error:
            self._refuse(stream, chunk, error)
        self._commit()
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
        drain = self._liveness.begin_drain(files)
        if drain is None:
            return
        owner = drain.files.owner
        try:
            session = self._open(check_session_id(owner.session_id), owner.parent_session)
            stream = self._ledger.attach(session, owner.stream)
        except (Fenced, ProtocolError) as error:
            if isinstance(error, Fenced) and self._holds_nothing_new(drain):
                self._drained.append(drain.files)  # drained before the next writer was let in; then we were killed
            else:
                log.warning("outbox kept as it is stream=%s: %s", owner.stream, error)
                self._refused.add(owner.stream)
            drain.close()
            return
        except BaseException:
            drain.close()
            raise
        session.app, session.pid = owner.app, owner.pid
        log.info("draining outbox session=%s stream=%s from=%d", session.session_id, stream.id, stream.number)
        self._drain = drain

    def _holds_nothing_new(self, drain: Drain) -> bool:
        committed = self._ledger.streams[drain.files.owner.stream].number
        return all(whole(chunk)[1] <= committed for chunk in drain.chunks)

    def _end(self, drain: Drain) -> None:
        """Close a drained stream; its writer left cleanly, or the session is interrupted."""
        stream = self._ledger.streams[drain.files.owner.stream]
        session = stream.session
        self._drain = None
        drain.close()
        self._liveness.unwatch(stream.id)
        self._drained.append(drain.files)
        if drain.left_bytes:
            log.warning("outbox not readable to its end session=%s bytes=%d", session.session_id, drain.left_bytes)
            self._spoiled.add(stream.id)
        reached(CrashPoint.OUTBOX_DRAINED)
        if stream.epoch == session.epoch and session.left_as == "live":
            self._ledger.left(session, cleanly=stream.left_cleanly)
            if not stream.left_cleanly:
                log.info("session interrupted session=%s sequence=%d", session.session_id, session.state.sequence)
                self._saving.photograph(session, Kind.INTERRUPTED, "its writer died")
        if session.unsaved:
            self._saving.save_now(stream)

    def unlink_covered(self) -> None:
        """Unlink the outboxes that a file covers, and let go of sessions that nobody writes and that are in files."""
        if not self._drained and not self._leaving:
            return
        for files in list(self._drained):
            stream = self._ledger.streams.get(files.owner.stream)
            if stream is not None and stream.session.uncovered:
                continue
            if files.owner.stream in self._spoiled:
                self._spoiled.discard(files.owner.stream)
                ensure_private(self._damaged)
                for segment in files.segments:
                    set_aside(segment, self._damaged)
            remove_stream(files)
            reached(CrashPoint.STREAM_CLOSED)
            if stream is not None:
                self._ledger.forget_stream(stream)
                self._leaving.add(stream.session.session_id)
            self._drained.remove(files)
        for session_id in list(self._leaving):
            session = self._ledger.sessions.get(session_id)
            if session is not None and self._saving.busy(session):
                continue
            self._leaving.discard(session_id)
            if session is not None:
                self._let_go(session)

    def _let_go(self, session: Session) -> None:
        held = {files.owner.stream for files in self._liveness.outboxes(session.session_id)}
        for stream in list(session.streams.values()):
            if stream.id not in held:  # known from a file's header only
                self._ledger.forget_stream(stream)
        if not session.streams:
            self._ledger.evict(session)

    # -- attaching ---------------------------------------------------------------------------------------------------

    def attach(self, message: protocol.Attach, peer_pid: int | None) -> protocol.Attached:
        """Let a writer in. Raises `SessionIdError`, `SessionBusy`, `Fenced`, `ProtocolError`, `NotFound`."""
        session_id = check_session_id(message.session_id)
        self.finish_drains(session_id)
        outboxes = {files.owner.stream: files for files in self._liveness.outboxes(session_id)}
        files = outboxes.get(message.stream)
        if files is None:
            raise NotFound(f"stream {message.stream}: no outbox below this daemon's state folder")
        session = self._open(session_id, message.parent_session)
        for other in outboxes.values():
            if other is not files and is_held(other.lock) and other.owner.order < files.owner.order:
                raise SessionBusy(
                    f"session {session_id}: process {other.owner.pid} writes to it", pid=other.owner.pid,
                    since=other.owner.since,
                )  # fmt: skip
        stream = self._ledger.attach(session, message.stream)
        session.app, session.pid = files.owner.app, files.owner.pid
        self._liveness.watch(files, peer_pid)
        return protocol.Attached(
            request=message.request,
            stream=stream.id,
            epoch=stream.epoch,
            number=stream.number,
            checkpointed=session.covered_number(stream),
            sequence=session.state.sequence,
            base_wanted=message.first > stream.number + 1,
            parent_session=session.parent_session,
            state={key: value.text for key, value in session.state.fragments.items()} if message.want_state else None,
        )

    def _open(self, session_id: str, parent_session: str | None) -> Session:
        session, wishes = self._ledger.open(session_id, parent_session)
        self._leaving.add(session_id)  # until it has a stream
        for wish in wishes:
            self._saving.wish(session, wish)
        self._saving.changed(session)
        return session

    def recover(self, session_id: str) -> bool:
        """After a start: bring what the journal has and the files have not into files; return whether that was so.

        A session whose writer is dead is left to its drain, which ends with a checkpoint of its own; a pending point to
        its timer, since it is a transition and has to be kept like one.
        """
        session = self._open(session_id, None)
        if not session.unsaved:
            return False
        if session.point is None and not any(files.owner.session_id == session_id for files in self._queue):
            self._saving.photograph(session, Kind.RECOVERED, "the daemon was started anew")
        return True

    def close_orphans(self, session_ids: list[str]) -> None:
        """After a start: sessions whose writer is gone without an outbox count as interrupted."""
        for session_id in session_ids:
            if not self._liveness.outboxes(session_id):
                session = self._open(session_id, None)
                if session.left_as == "live":
                    self._ledger.left(session, cleanly=False)
                for stream in list(session.streams.values()):
                    self._ledger.forget_stream(stream)
