"""The thread that reads for clients: it answers their questions from files and journal, and changes nothing.

It has a connection to the journal of its own. What it finds goes back to the loop's thread, which sends it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.errors import EdiCheckpointError, ProtocolError
from edi_checkpoint.home.problems import met
from edi_checkpoint.home.status import DaemonReport
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.wire import messages
from edi_checkpointd.checkpoints.damaged import DamagedDocuments
from edi_checkpointd.intake.listener import Listener, Peer, refusal
from edi_checkpointd.journal import JournalDamaged, Reader
from edi_checkpointd.retention.deletion import InUse
from edi_checkpointd.sessions.queries import Queries
from edi_checkpointd.system.clock import Clock
from edi_checkpointd.system.worker import Mailbox, Worker

QUESTIONS_MAX = 256  # of one connection that wait for their answers


class ReaderThread:
    """Answers questions, one after the other. The loop's thread calls it."""

    def __init__(
        self,
        paths: Paths,
        catalog: Catalog,
        in_use: InUse,
        damaged: DamagedDocuments,
        listener: Listener,
        worker: Worker,
        mailbox: Mailbox,
        clock: Clock,
    ) -> None:
        """Take the parts; `worker` is the thread."""
        self._paths = paths
        self._catalog = catalog
        self._in_use = in_use
        self._damaged = damaged
        self._listener = listener
        self._worker = worker
        self._mailbox = mailbox
        self._clock = clock

    def answer(self, routing_id: bytes, query: messages.Query, *, drained: bool) -> None:
        """Have a reading request answered; `drained` says whether the outboxes it is about are in the journal.

        Raises `ProtocolError` when too many questions of one connection wait.
        """
        self.ask(routing_id, query.request, lambda: self._answer(query, drained=drained))

    def status(self, routing_id: bytes, request: int, told: DaemonReport) -> None:
        """Have the status of the home sent; `told` is what the daemon tells of itself. Raises as `answer` does."""
        self.ask(routing_id, request, lambda: self._status(request, told))

    def ask(self, routing_id: bytes, request: int, question: Callable[[], messages.Answer]) -> None:
        """Have `question` called in the thread, and its answer or error sent. Raises as `answer` does."""
        if (peer := self._listener.peers.get(routing_id)) is None:
            return
        if peer.asked >= QUESTIONS_MAX:
            raise ProtocolError(f"{QUESTIONS_MAX} questions wait for their answers", hint="ask again when one has come")
        peer.asked += 1
        self._worker.ask(question, lambda outcome: self._send(peer, routing_id, request, outcome))

    def _send(
        self, peer: Peer, routing_id: bytes, request: int, outcome: messages.DaemonMessage | EdiCheckpointError
    ) -> None:
        peer.asked -= 1
        if isinstance(outcome, JournalDamaged):
            self._mailbox.fail(outcome)
        self._listener.send(
            routing_id, refusal(outcome, request) if isinstance(outcome, EdiCheckpointError) else outcome
        )

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _answer(self, query: messages.Query, *, drained: bool) -> messages.Answer:
        if isinstance(query, messages.GetState) and query.hold and query.checkpoint is not None:
            self._in_use.add(query.checkpoint)
        with contextlib.closing(Reader.open(self._paths.journal)) as reader:
            requests = Queries(self._paths, self._catalog, reader, drained=drained, met_damaged=self._damaged.report)
            return requests.answer(query)

    def _status(self, request: int, told: DaemonReport) -> messages.StatusReply:
        try:
            with contextlib.closing(Reader.open(self._paths.journal)) as reader:
                found = Queries(self._paths, self._catalog, reader).status(told, self._clock.now())
        except EdiCheckpointError as error:  # damaged, or no descriptor is left: the files tell all the same
            if isinstance(error, JournalDamaged):
                self._mailbox.fail(error)
            told = told._replace(troubles=(*told.troubles, met(error)))
            found = Queries(self._paths, self._catalog, None).status(told, self._clock.now())
        return messages.StatusReply(request, msgspec.json.encode(found))
