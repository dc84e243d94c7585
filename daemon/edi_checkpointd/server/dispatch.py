"""The dispatcher: each message but entries goes to its handler, and an error becomes a refusal."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

from edi_checkpoint.errors import EdiCheckpointError, WrongFolder
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.states import ConnectionEvent, ConnectionState
from edi_checkpointd.intake.listener import Listener, Peer
from edi_checkpointd.intake.pipeline import Pipeline
from edi_checkpointd.intake.refusals import Refusals
from edi_checkpointd.journal import JournalDamaged, JournalRefused
from edi_checkpointd.server.handlers import PurgeHandler, QueryHandler, RetentionHandler, WriterHandler
from edi_checkpointd.system import rlimits

log = logging.getLogger(__name__)


class DaemonIdentity(NamedTuple):
    """Who this daemon is, as it tells a client that says hello."""

    sessions: Path
    version: str
    journal_id: str


class Dispatcher:
    """Gives the messages of one socket to their handlers, in the loop's thread."""

    def __init__(
        self,
        listener: Listener,
        pipeline: Pipeline,
        refusals: Refusals,
        identity: DaemonIdentity,
        writers: WriterHandler,
        queries: QueryHandler,
        retention: RetentionHandler,
        purges: PurgeHandler,
    ) -> None:
        """Take the handlers, and what answers when one of them fails."""
        self._listener = listener
        self._pipeline = pipeline
        self._refusals = refusals
        self._identity = identity
        self._writers = writers
        self._queries = queries
        self._retention = retention
        self._purges = purges
        self._short: str | None = None  # of descriptors, when a client came last

    def dispatch(self, routing_id: bytes, message: messages.ClientMessage) -> None:
        """Have a message handled; its sender is told of an error. Raises `JournalDamaged`."""
        peer = self._listener.peers.get(routing_id)
        if peer is None:  # it died while this waited, as an answer sent to it has shown
            if isinstance(message, messages.Close):
                self._writers.close(message.stream)
            return
        try:
            self._handle(routing_id, peer, message)
        except EdiCheckpointError as error:
            if isinstance(error, JournalDamaged):
                raise
            if isinstance(error, JournalRefused):
                self._pipeline.pause(error)
            self._refusals.refuse(routing_id, error, message)
        except OSError as error:  # of what this one is about: the disk takes what the others publish
            self._refusals.refuse(routing_id, EdiCheckpointError(str(error)), message)

    def _handle(self, routing_id: bytes, peer: Peer, message: messages.ClientMessage) -> None:
        match message:
            case messages.Hello():
                self._welcome(routing_id, peer, message)
            # Before the next case: an answer that could not be sent any more has had the welcome forgotten.
            case messages.Close(stream_id) if self._listener.routes.get(stream_id) in (routing_id, None):
                self._writers.close(stream_id)
            case _ if peer.state is not ConnectionState.OPEN:
                peer.advance(ConnectionEvent.REQUEST)  # raises
            case messages.Attach():
                self._writers.attach(routing_id, message, peer.pid)
            case messages.Probe():
                self._writers.probe(routing_id, message)
            case messages.Save():
                self._writers.save(routing_id, message)
            case messages.AskMark():
                self._writers.ask_mark(routing_id, message)
            case messages.GetStatus(request):
                self._queries.status(routing_id, request)
            case messages.Subscribe():
                self._queries.subscribe(routing_id, message)
            case messages.GetSettings(request):
                self._queries.settings(routing_id, request)
            case messages.GetCleanup() | messages.GetWhy():
                self._queries.explain(routing_id, message)
            case messages.Prune(request):
                self._retention.prune(routing_id, request)
            case messages.Restore():
                self._retention.restore(routing_id, message)
            case messages.Import():
                self._retention.accept_import(routing_id, message)
            case messages.Purge():
                self._purges.purge(routing_id, message)
            case messages.Entries() | messages.Close():
                pass  # accepted by the pipeline; the stream of another connection
            case _:
                self._queries.read(routing_id, message)

    def send_events(self) -> None:
        """Send the events that subscribers wait for."""
        self._queries.send_events()

    def _welcome(self, routing_id: bytes, peer: Peer, message: messages.Hello) -> None:
        ours, version, journal_id = self._identity
        peer.advance(ConnectionEvent.HELLO)
        if Path(message.sessions_dir) != ours:
            peer.advance(ConnectionEvent.ERROR)
            raise WrongFolder(f"this daemon serves {ours}, not {message.sessions_dir}")
        peer.advance(ConnectionEvent.WELCOME)
        before, self._short = self._short, rlimits.short()
        if self._short and not before:
            log.warning("%s: without any left the daemon ends, and the next client starts it again", self._short)
        self._listener.send(routing_id, messages.Welcome(version, os.getpid(), journal_id))
