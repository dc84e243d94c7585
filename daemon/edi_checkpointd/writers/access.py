"""Writer access: open sessions, attach streams to them, and fence the writers that another one takes over from.

Before a stream is attached, the journal has everything that the earlier streams of its session published. For a living
writer, this means up to the takeover; reading its outbox needs no lock. From then on the writer is fenced: its later
entries go into a branch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edi_checkpoint.documents.names import branch_id, may_be_branch
from edi_checkpoint.errors import EdiCheckpointError, Fenced, NotFound, SessionBusy
from edi_checkpoint.model import Gap
from edi_checkpoint.outbox.segments import StreamFiles, is_held, read_records
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.records import scan
from edi_checkpointd.checkpoints.coordinator import Coordinator
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.intake.listener import Listener
from edi_checkpointd.intake.pipeline import Pipeline
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.sessions.loading import branch_stream
from edi_checkpointd.sessions.session import OpenSession, WriterStream, fenced_error
from edi_checkpointd.writers.liveness import Liveness

GAPS_REPORTED = 100  # the latest gaps, to a writer that resumes; the journal has all


@dataclass(slots=True, eq=False)
class WriterAccess:
    """Attaches writers to sessions. `leaving` has the sessions that leave memory if no writer attaches to them."""

    _ledger: Ledger
    _liveness: Liveness
    _coordinator: Coordinator
    _pipeline: Pipeline
    _listener: Listener
    leaving: set[str] = field(default_factory=set, init=False)

    def open(self, session_id: str, parent_session: str | None = None) -> OpenSession:
        """Return the session, a new one if there is none; order the checkpoints that a crash prevented."""
        session = self._ledger.sessions.get(session_id)
        if session is None:
            opened = self._ledger.open(session_id, parent_session)
            self._coordinator.opened(opened)
            session = opened.session
        self.leaving.add(session_id)  # until it has a stream
        return session

    def branch(self, stream: WriterStream) -> WriterStream:
        """Return the stream for the entries that the writer of the fenced `stream` published after the takeover.

        It belongs to another session, the branch, which starts with the state at the takeover. Both ids follow from the
        id of `stream`. So after a crash the same branch is continued.
        """
        parent = stream.session
        session = self.open(branch_id(parent.session_id, stream.id), parent.session_id)
        if branch_stream(stream.id) not in session.streams:
            self._ledger.begin_branch(session, stream)
            self._coordinator.release(session)
            session = self.open(session.session_id)
        return self._ledger.attach(session, branch_stream(stream.id))

    def disconnect(self, stream_id: str) -> None:
        """Stop sending to the client of a stream."""
        self._listener.routes.pop(stream_id, None)

    def shut_out(self, stream_id: str, error: EdiCheckpointError) -> None:
        """Send the writer of a stream the reason why the daemon accepts nothing more from it."""
        self._listener.shut_out(stream_id, error)

    def attach(self, message: messages.Attach, peer_pid: int | None) -> messages.Attached:
        """Attach a writer to its session and return the reply. The caller has drained the outboxes of dead writers.

        `peer_pid` is the writer's process as the kernel reports it. Raises `SessionIdError`, `SessionBusy`, `Fenced`,
        `ProtocolError`, `NotFound`, `JournalRefused`.
        """
        outboxes = {files.owner.stream: files for files in self._liveness.outboxes(message.session_id)}
        files = outboxes.get(message.stream)
        if files is None:
            raise NotFound(f"stream {message.stream} has no outbox in this daemon's state folder")
        for other in outboxes.values():
            earlier = other.owner.order < files.owner.order and other.owner.stream not in files.owner.fenced
            if earlier and is_held(other.lock):
                raise SessionBusy(
                    f"session {message.session_id}: process {other.owner.pid} writes to it",
                    pid=other.owner.pid, since=other.owner.since,
                )  # fmt: skip
        session = self.open(message.session_id, message.parent_session)
        stream = self.admit(session, files)
        self._liveness.watch(files, peer_pid)
        return messages.Attached(
            request=message.request,
            stream=stream.id,
            epoch=stream.epoch,
            number=stream.number,
            checkpointed=self._coordinator.covered_number(stream),
            sequence=session.state.sequence,
            base_wanted=message.first > stream.number + 1,
            parent_session=session.parent_session,
            state={key: value.text for key, value in session.state.fragments.items()} if message.want_state else None,
            resumed=session.resumed if message.want_state else None,
            attachments_left=self._ledger.attachments.remaining_bytes,
        )

    def admit(self, session: OpenSession, files: StreamFiles) -> WriterStream:
        """Attach the stream of `files` to its session; attach the streams that have taken over from it first.

        Raises `Fenced` if another stream has followed it.
        """
        for other in self._liveness.outboxes(session.session_id):
            if _fences(other, files):  # the takeover may have happened while no daemon ran
                self._attach(session, other)
        return self._attach(session, files)

    def _attach(self, session: OpenSession, files: StreamFiles) -> WriterStream:
        owner = files.owner
        known = self._ledger.streams.get(owner.stream)
        if known is not None and known.epoch > 0:
            stream = self._ledger.attach(session, owner.stream)
        else:
            outboxes = self._liveness.outboxes(session.session_id)
            fences = [other for other in outboxes if _fences(files, other)]
            for other in reversed(fences):  # each one fenced the streams before it when it was attached
                self._journal_until_fence(session, other, owner.fenced[other.owner.stream])
            fenced = [other.owner.stream for other in fences]
            resumed = self._resumed(session, by_takeover=bool(fenced))
            stream = self._ledger.attach(session, owner.stream, seen=owner.seen, fences=fenced)
            session.resumed = resumed
            if owner.seen:
                session.document = None
            for stream_id in fenced:
                self._listener.shut_out(stream_id, fenced_error(self._ledger.streams[stream_id]))
        session.app, session.pid = owner.app, owner.pid
        return stream

    def _journal_until_fence(self, session: OpenSession, files: StreamFiles, upto: int) -> None:
        """Journal what the living writer of `files` had published before the takeover: its entries up to `upto`."""
        try:
            stream = self._attach(session, files)
        except Fenced:
            return
        for chunk in read_records(files):
            records = scan(chunk)
            before = [record for record in records if record.number <= upto]
            if before and before[-1].number > stream.number:
                self._pipeline.accept(stream, chunk[: before[-1].end])
                self._pipeline.commit()
            if len(before) < len(records):
                break
        reached(CrashPoint.FENCED_READ)

    def _resumed(self, session: OpenSession, *, by_takeover: bool) -> messages.Resumed:
        read = self._ledger.journal.read
        first, last = read.span(session.key)
        gaps = tuple(Gap(gap.sequence, gap.last - gap.first + 1) for gap in read.gaps(session.key)[-GAPS_REPORTED:])
        return messages.Resumed(
            left_as="live" if by_takeover else session.left_as if session.epoch else "",
            time_us=session.state.time_us,
            first=first,
            last=last,
            drained=session.drained,
            document=session.document,
            gaps=gaps,
            short_lives=session.short_lives,
            newest=self._coordinator.newest_checkpoint(session),
            before=self._coordinator.checkpoint_before(session, session.resumed_at) if session.short_lives else None,
        )

    def outboxes_of(self, session_id: str) -> list[StreamFiles]:
        """Return the outboxes of a session: its own streams', and those of fenced writers if it is their branch."""
        return [*self._liveness.outboxes(session_id), *self.stranded_in(session_id)]

    def stranded_in(self, session_id: str) -> list[StreamFiles]:
        """Return the outboxes whose last entries go into `session_id`: none unless it is the branch of a writer."""
        if not may_be_branch(session_id):
            return []
        return [files for files in self._liveness.outboxes() if branch_of(files) == session_id]


def branch_of(files: StreamFiles) -> str:
    """Return the id of the session that gets the entries of the writer of `files` once it is fenced."""
    return branch_id(files.owner.session_id, files.owner.stream)


def _fences(later: StreamFiles, earlier: StreamFiles) -> bool:
    """Whether `later` has taken over from `earlier`. The order of the streams rules out a circle of takeovers."""
    return earlier.owner.stream in later.owner.fenced and earlier.owner.order < later.owner.order
