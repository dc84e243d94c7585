"""The conversation: all messages but entries, each answered at once, or by the thread that reads for others.

What it is told of is done by the parts; here it is decided who may ask what, and an error becomes a refusal.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path

from msgspec.json import encode as encode_json

from edi_checkpoint import protocol
from edi_checkpoint.errors import EdiCheckpointError, ProtocolError, WrongFolder
from edi_checkpoint.paths import Paths
from edi_checkpoint.status import Told
from edi_checkpointd import descriptors
from edi_checkpointd.answering import Answering
from edi_checkpointd.attendance import Attendance
from edi_checkpointd.config import explain
from edi_checkpointd.feed import Feed
from edi_checkpointd.forgetting import Forgetting
from edi_checkpointd.health import Health, caps
from edi_checkpointd.importing import Importing
from edi_checkpointd.inventory import document
from edi_checkpointd.journal import JournalDamaged, JournalRefused
from edi_checkpointd.keeping import Keeping, Outcome
from edi_checkpointd.ledger import Ledger
from edi_checkpointd.listener import Listener, refusal
from edi_checkpointd.saving import Saving
from edi_checkpointd.sessions import Stream

log = logging.getLogger(__name__)


class Conversation:
    """Answers the clients of one socket, in the intake thread."""

    def __init__(
        self,
        paths: Paths,
        version: str,
        listener: Listener,
        answering: Answering,
        health: Health,
        feed: Feed,
        ledger: Ledger,
        saving: Saving,
        attendance: Attendance,
        *,
        forgetting: Forgetting,
        keeping: Keeping,
        importing: Importing,
        answer: Callable[[protocol.Query, bool], protocol.Answer],
        status: Callable[[int, Told], protocol.Status],
        explain: Callable[[protocol.Explained, frozenset[str], bool], protocol.Answer],
        stepped: Callable[[], tuple[float, float] | None],
        disk_refuses: Callable[[OSError], None],
    ) -> None:
        """Take the parts that messages are about, and what answers questions in a thread of its own.

        `answer` is given a query and whether the outboxes it is about are drained; `status` a request's number and what
        the daemon tells of itself; `explain` a query, the sessions in memory and whether the clock jumped. `stepped`
        returns what `Scheduler.stepped` says; `disk_refuses` is told of a journal that cannot be written.
        """
        self._paths = paths
        self._version = version
        self._listener = listener
        self._answering = answering
        self._health = health
        self._feed = feed
        self._ledger = ledger
        self._saving = saving
        self._attendance = attendance
        self._forgetting = forgetting
        self._keeping = keeping
        self._importing = importing
        self._answer = answer
        self._status = status
        self._explain = explain
        self._stepped = stepped
        self._disk_refuses = disk_refuses
        self._send = listener.send
        self._short: str | None = None  # of descriptors, when a client came last

    def hear(self, routing_id: bytes, message: protocol.ClientMessage) -> None:
        """Do what a message asks; whatever cannot be done is told to its sender. Raises `JournalDamaged`."""
        peer = self._listener.peers.get(routing_id)
        if peer is None:  # it died while this waited, as an answer sent to it has shown
            if isinstance(message, protocol.Close):
                self._stream_left(message.stream)
            return
        try:
            match message:
                case protocol.Hello():
                    self._welcome(routing_id, message)
                # Before the next case: an answer that could not be sent any more has had the welcome forgotten.
                case protocol.Close(stream_id) if self._listener.routes.get(stream_id) in (routing_id, None):
                    self._stream_left(stream_id)
                case _ if not peer.welcomed:
                    raise ProtocolError("the first message of a connection is Hello")
                case protocol.Attach():
                    self._forgetting.check(message.session_id, message.stream)
                    attached = self._attendance.attach(message, peer.pid)
                    self._listener.routes[message.stream] = routing_id
                    self._send(routing_id, attached)
                    self._feed.condition(self._attached(message.stream).session, "live")
                case protocol.Probe(stream_id, probe):
                    self._send(routing_id, self._ledger.acknowledgement(self._attached(stream_id), probe))
                case protocol.Save(stream_id):
                    self._saving.save_now(self._attached(stream_id))
                case protocol.AskMark(stream_id, number):
                    self._tell_mark(self._attached(stream_id), number)
                case protocol.GetStatus(request):
                    told = self._told()
                    self._answering.later(routing_id, request, lambda: self._status(request, told))
                case protocol.Subscribe():
                    self._feed.subscribe(routing_id, message)
                case protocol.GetSettings(request):
                    self._send(routing_id, protocol.Settings(request, encode_json(explain(self._ledger.config))))
                case protocol.Prune(request):
                    self._finish_drains(None)
                    self._keeping.prune(lambda outcome: self._tell_pruned(routing_id, request, outcome))
                case protocol.Restore(request, session_id):
                    self._forgetting.check(session_id)
                    self._keeping.restore(session_id)
                    self._send(routing_id, protocol.Restored(request, session_id))
                case protocol.Import(request, session_id, pid):
                    self._forgetting.check(session_id)
                    self._importing.take(session_id, pid)
                    self._send(routing_id, protocol.Imported(request, session_id))
                case protocol.GetCleanup(request) | protocol.GetWhy(request):
                    in_memory, jumped = frozenset(self._ledger.sessions), self._keeping.jumps.lately()
                    self._finish_drains(None)
                    self._answering.later(routing_id, request, lambda: self._explain(message, in_memory, jumped))
                case protocol.Purge():
                    self._purge(routing_id, message)
                case protocol.Entries() | protocol.Close():
                    pass  # accepted while draining; the stream of another connection
                case _:
                    self._ask(routing_id, message)
        except EdiCheckpointError as error:
            if isinstance(error, JournalDamaged):
                raise
            if isinstance(error, JournalRefused):
                self._disk_refuses(error)
            self.refuse(routing_id, error, message)
        except OSError as error:  # of what this one is about: the disk takes what the others publish
            self.refuse(routing_id, EdiCheckpointError(str(error)), message)

    def _tell_pruned(self, routing_id: bytes, request: int, outcome: Outcome) -> None:
        if isinstance(outcome, EdiCheckpointError):
            self._send(routing_id, refusal(outcome, request))
        else:
            self._send(routing_id, protocol.Cleanup(request, document(outcome, applied=True)))

    def _purge(self, routing_id: bytes, message: protocol.Purge) -> None:
        def tell(kept: Collection[str]) -> None:
            self._send(routing_id, protocol.Purged(message.request, tuple(kept)))

        self._forgetting.purge(message.sessions, tell, everything=message.everything, takeover=message.takeover)

    def _stream_left(self, stream_id: str) -> None:
        self._listener.routes.pop(stream_id, None)
        if stream := self._ledger.streams.get(stream_id):
            self._attendance.look_around(stream.session.session_id)

    def _welcome(self, routing_id: bytes, message: protocol.Hello) -> None:
        if Path(message.sessions_dir) != self._paths.sessions:
            raise WrongFolder(f"this daemon serves {self._paths.sessions}, not {message.sessions_dir}")
        self._listener.peers[routing_id].welcomed = True
        before, self._short = self._short, descriptors.short()
        if self._short and not before:
            log.warning("%s: without any left the daemon ends, and is started anew", self._short)
        self._send(routing_id, protocol.Welcome(self._version, os.getpid(), self._ledger.journal.id))

    def _attached(self, stream_id: str) -> Stream:
        stream = self._ledger.streams.get(stream_id)
        if stream is None or stream_id not in self._listener.routes:
            raise ProtocolError(f"stream {stream_id} is not attached")
        return stream

    def _tell_mark(self, stream: Stream, number: int) -> None:
        """Tell what became of a mark whose answer got lost with a daemon; one under way is told of when written."""
        sequence = self._ledger.sequence_of(stream, number)
        info = self._saving.checkpoint_at(stream.session, sequence) if sequence else None
        if info is not None:
            self._send(self._listener.routes[stream.id], protocol.MarkDone(stream.id, number, info))

    def _ask(self, routing_id: bytes, query: protocol.Query) -> None:
        """Have a reading request answered, after what dead writers left is taken in."""
        drained = self._finish_drains(getattr(query, "session_id", None))
        self._answering.later(routing_id, query.request, lambda: self._answer(query, drained))

    def _finish_drains(self, session_id: str | None) -> bool:
        """Drain outboxes of the dead; return False while the disk refuses: then they are read where they lie."""
        try:
            self._attendance.finish_drains(session_id)
        except OSError as error:
            self._disk_refuses(error)
            return False
        return True

    def _told(self) -> Told:
        told = self._health.told(
            connections=len(set(self._listener.routes.values())),
            failing=self._saving.failing,
            refused_streams=self._attendance.refused,
            stepped=self._stepped(),
        )
        troubles = (*told.troubles, *self._keeping.troubles)
        return told._replace(troubles=troubles, caps=caps(self._ledger.config))

    def refuse(
        self,
        routing_id: bytes,
        error: EdiCheckpointError,
        message: protocol.ClientMessage | None = None,
        *,
        request: int = 0,
    ) -> None:
        """Say what was refused: a message, or the question of one that could not be read otherwise."""
        log.warning("refused code=%s: %s", error.code, error)
        self.fault(error, getattr(message, "session_id", None))
        request = getattr(message, "request", request)
        self._send(routing_id, refusal(error, request, getattr(message, "stream", "")))

    def fault(self, error: EdiCheckpointError, session_id: str | None) -> None:
        """Count what somebody was told, and tell who watches."""
        self._health.count(error.code)
        self._feed.fault(error.code, str(error), session_id)
