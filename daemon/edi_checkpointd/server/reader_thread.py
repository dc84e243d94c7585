"""The reader thread: it answers clients' questions from the files and the journal, and changes nothing.

It has its own connection to the journal. The loop's thread sends the answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

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

QUESTIONS_MAX = 256  # open questions of one connection


@dataclass(slots=True, eq=False)
class ReaderThread:
    """Answers questions, one after the other; `_worker` is the thread.

    The loop's thread calls `ask`. `answer` and `status` run in the reader thread.
    """

    _paths: Paths
    _catalog: Catalog
    _in_use: InUse
    _damaged: DamagedDocuments
    _listener: Listener
    _worker: Worker
    _mailbox: Mailbox
    _clock: Clock

    def ask(self, routing_id: bytes, request: int, question: Callable[[], messages.Answer]) -> None:
        """Call `question` in the thread, then send its answer or its error.

        Raises `ProtocolError` if too many questions of the connection are open.
        """
        if (peer := self._listener.peers.get(routing_id)) is None:
            return
        if peer.asked >= QUESTIONS_MAX:
            raise ProtocolError(f"{QUESTIONS_MAX} questions are open", hint="wait for an answer, then ask again")
        peer.asked += 1
        self._worker.ask(question, lambda outcome: self._send(peer, routing_id, request, outcome))

    def _send(
        self, peer: Peer, routing_id: bytes, request: int, outcome: messages.DaemonMessage | EdiCheckpointError
    ) -> None:
        peer.asked -= 1
        if isinstance(outcome, JournalDamaged):
            self._mailbox.fail(outcome)
        answer = refusal(outcome, request) if isinstance(outcome, EdiCheckpointError) else outcome
        self._listener.send(routing_id, answer)

    def answer(self, query: messages.Query, *, drained: bool) -> messages.Answer:
        """Return the answer to `query`; `drained`: the journal has the outboxes that it concerns."""
        if isinstance(query, messages.GetState) and query.hold and query.checkpoint is not None:
            self._in_use.add(query.checkpoint)
        with contextlib.closing(Reader.open(self._paths.journal)) as reader:
            requests = Queries(self._paths, self._catalog, reader, drained=drained, met_damaged=self._damaged.report)
            return requests.answer(query)

    def status(self, request: int, report: DaemonReport) -> messages.StatusReply:
        """Return the status of the home; `report` is the daemon's own part of it."""
        try:
            with contextlib.closing(Reader.open(self._paths.journal)) as reader:
                found = Queries(self._paths, self._catalog, reader).status(report, self._clock.now())
        except EdiCheckpointError as error:  # a damaged journal, or no descriptor left: the files alone tell most of it
            if isinstance(error, JournalDamaged):
                self._mailbox.fail(error)
            report = report._replace(troubles=(*report.troubles, met(error)))
            found = Queries(self._paths, self._catalog, None).status(report, self._clock.now())
        return messages.StatusReply(request, msgspec.json.encode(found))
