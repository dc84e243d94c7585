"""Writer access: who may write to a session. Opening it, letting a stream in, and taking over from one that lives.

A stream is let in once those before it are in the journal to their ends; a living writer that is taken over from, up to
that moment: reading its outbox needs no lock. From then on it is fenced, and what it still publishes is its own branch.
"""

from __future__ import annotations

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

GAPS_TOLD = 100  # to a writer that resumes; the journal has them all


class WriterAccess:
    """Lets writers in. `leaving` holds the sessions in memory that nobody may write any more."""

    def __init__(
        self, ledger: Ledger, liveness: Liveness, coordinator: Coordinator, pipeline: Pipeline, listener: Listener
    ) -> None:
        """Take the parts."""
        self._ledger = ledger
        self._liveness = liveness
        self._coordinator = coordinator
        self._pipeline = pipeline
        self._listener = listener
        self.leaving: set[str] = set()

    def open(self, session_id: str, parent_session: str | None = None) -> OpenSession:
        """Return a session, begun if there is none; the checkpoints that a crash left unwritten are ordered."""
        session = self._ledger.sessions.get(session_id)
        if session is None:
            opened = self._ledger.open(session_id, parent_session)
            self._coordinator.opened(opened)
            session = opened.session
        self.leaving.add(session_id)  # until it has a stream
        return session

    def branch(self, stream: WriterStream) -> WriterStream:
        """Return the stream that takes what the writer of the fenced `stream` published after the fence.

        It belongs to a session of its own, which begins with the state at the fence. Both ids follow from the stream's,
        so a branch that a crash cut short is continued.
        """
        parent = stream.session
        session = self.open(branch_id(parent.session_id, stream.id), parent.session_id)
        if branch_stream(stream.id) not in session.streams:
            self._ledger.begin_branch(session, stream)
            self._coordinator.release(session)
            session = self.open(session.session_id)
        return self._ledger.attach(session, branch_stream(stream.id))

    def disconnect(self, stream_id: str) -> None:
        """Send nothing more to the client of a stream."""
        self._listener.routes.pop(stream_id, None)

    def shut_out(self, stream_id: str, error: EdiCheckpointError) -> None:
        """Tell the writer of a stream why nothing more is taken from it."""
        self._listener.shut_out(stream_id, error)

    def attach(self, message: messages.Attach, peer_pid: int | None) -> messages.Attached:
        """Let a writer in; what dead ones left of the session is drained.

        Raises `SessionIdError`, `SessionBusy`, `Fenced`, `ProtocolError`, `NotFound`, `JournalRefused`.
        """
        outboxes = {files.owner.stream: files for files in self._liveness.outboxes(message.session_id)}
        files = outboxes.get(message.stream)
        if files is None:
            raise NotFound(f"stream {message.stream}: no outbox below this daemon's state folder")
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
        """Let the stream of `files` write to its session, after those that have taken over from it, if there are any.

        Raises `Fenced` when another has followed it.
        """
        for other in self._liveness.outboxes(session.session_id):
            if _fences(other, files):  # it may have happened while no daemon ran
                self._let_in(session, other)
        return self._let_in(session, files)

    def _let_in(self, session: OpenSession, files: StreamFiles) -> WriterStream:
        owner = files.owner
        known = self._ledger.streams.get(owner.stream)
        if known is not None and known.epoch > 0:
            stream = self._ledger.attach(session, owner.stream)
        else:
            outboxes = self._liveness.outboxes(session.session_id)
            fences = [other for other in outboxes if _fences(files, other)]
            for other in reversed(fences):  # the latest has fenced the earlier ones at its own moment
                self._take_until_fence(session, other, owner.fenced[other.owner.stream])
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

    def _take_until_fence(self, session: OpenSession, files: StreamFiles, upto: int) -> None:
        """Journal what the living writer of `files` had published when it was taken over from."""
        try:
            stream = self._let_in(session, files)
        except Fenced:
            return
        for chunk in read_records(files):
            records = scan(chunk)
            taken = [record for record in records if record.number <= upto]
            if taken and taken[-1].number > stream.number:
                self._pipeline.accept(stream, chunk[: taken[-1].end])
                self._pipeline.commit()
            if len(taken) < len(records):
                break
        reached(CrashPoint.FENCED_READ)

    def _resumed(self, session: OpenSession, *, by_takeover: bool) -> messages.Resumed:
        read = self._ledger.journal.read
        first, last = read.span(session.key)
        gaps = tuple(Gap(gap.sequence, gap.last - gap.first + 1) for gap in read.gaps(session.key)[-GAPS_TOLD:])
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
        """Return the streams that have outboxes for a session: its own, and those stranded in it."""
        return [*self._liveness.outboxes(session_id), *self.stranded_in(session_id)]

    def stranded_in(self, session_id: str) -> list[StreamFiles]:
        """Return the outboxes whose last entries go into `session_id`, the branch of a fenced writer, if it is one."""
        if not may_be_branch(session_id):
            return []
        return [files for files in self._liveness.outboxes() if branch_of(files) == session_id]


def branch_of(files: StreamFiles) -> str:
    """Return the session that the writer of `files` publishes into once it is fenced."""
    return branch_id(files.owner.session_id, files.owner.stream)


def _fences(later: StreamFiles, earlier: StreamFiles) -> bool:
    """Whether `later` has taken over from `earlier`: in that order alone, so that following it comes to an end."""
    return earlier.owner.stream in later.owner.fenced and earlier.owner.order < later.owner.order
