"""The dispatcher: each message but entries goes to its handler, and an error becomes a refusal."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

from edi_checkpoint import protocol
from edi_checkpoint.errors import EdiCheckpointError, WrongFolder
from edi_checkpoint.states import ConnectionEvent, ConnectionState
from edi_checkpointd import descriptors
from edi_checkpointd.handlers import PurgeHandler, QueryHandler, RetentionHandler, WriterHandler
from edi_checkpointd.journal import JournalDamaged, JournalRefused
from edi_checkpointd.listener import Listener, Peer
from edi_checkpointd.pipeline import Pipeline
from edi_checkpointd.refusals import Refusals

log = logging.getLogger(__name__)


class Identity(NamedTuple):
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
        identity: Identity,
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

    def dispatch(self, routing_id: bytes, message: protocol.ClientMessage) -> None:
        """Have a message handled; its sender is told of an error. Raises `JournalDamaged`."""
        peer = self._listener.peers.get(routing_id)
        if peer is None:  # it died while this waited, as an answer sent to it has shown
            if isinstance(message, protocol.Close):
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

    def _handle(self, routing_id: bytes, peer: Peer, message: protocol.ClientMessage) -> None:
        match message:
            case protocol.Hello():
                self._welcome(routing_id, peer, message)
            # Before the next case: an answer that could not be sent any more has had the welcome forgotten.
            case protocol.Close(stream_id) if self._listener.routes.get(stream_id) in (routing_id, None):
                self._writers.close(stream_id)
            case _ if peer.state is not ConnectionState.OPEN:
                peer.advance(ConnectionEvent.REQUEST)  # raises
            case protocol.Attach():
                self._writers.attach(routing_id, message, peer.pid)
            case protocol.Probe():
                self._writers.probe(routing_id, message)
            case protocol.Save():
                self._writers.save(routing_id, message)
            case protocol.AskMark():
                self._writers.ask_mark(routing_id, message)
            case protocol.GetStatus(request):
                self._queries.status(routing_id, request)
            case protocol.Subscribe():
                self._queries.subscribe(routing_id, message)
            case protocol.GetSettings(request):
                self._queries.settings(routing_id, request)
            case protocol.GetCleanup() | protocol.GetWhy():
                self._queries.explain(routing_id, message)
            case protocol.Prune(request):
                self._retention.prune(routing_id, request)
            case protocol.Restore():
                self._retention.restore(routing_id, message)
            case protocol.Import():
                self._retention.take_import(routing_id, message)
            case protocol.Purge():
                self._purges.purge(routing_id, message)
            case protocol.Entries() | protocol.Close():
                pass  # accepted by the pipeline; the stream of another connection
            case _:
                self._queries.read(routing_id, message)

    def send_events(self) -> None:
        """Send the events that subscribers wait for."""
        self._queries.send_events()

    def _welcome(self, routing_id: bytes, peer: Peer, message: protocol.Hello) -> None:
        ours, version, journal_id = self._identity
        peer.advance(ConnectionEvent.HELLO)
        if Path(message.sessions_dir) != ours:
            peer.advance(ConnectionEvent.ERROR)
            raise WrongFolder(f"this daemon serves {ours}, not {message.sessions_dir}")
        peer.advance(ConnectionEvent.WELCOME)
        before, self._short = self._short, descriptors.short()
        if self._short and not before:
            log.warning("%s: without any left the daemon ends, and the next client starts it again", self._short)
        self._listener.send(routing_id, protocol.Welcome(version, os.getpid(), journal_id))
