"""The dispatcher: it gives each message except entries to its handler, and answers errors."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
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
    """What the welcome tells a client: the folder that the daemon serves, its version, and its journal's id."""

    sessions: Path
    version: str
    journal_id: str


@dataclass(slots=True, eq=False)
class Dispatcher:
    """Gives the messages of one socket to their handlers, in the loop's thread."""

    _listener: Listener
    _pipeline: Pipeline
    _refusals: Refusals
    _identity: DaemonIdentity
    _writers: WriterHandler
    _queries: QueryHandler
    _retention: RetentionHandler
    _purges: PurgeHandler
    _shortage: str | None = field(default=None, init=False)  # of descriptors, when the last client came

    def dispatch(self, routing_id: bytes, message: messages.ClientMessage) -> None:
        """Handle a message; answer its sender if that fails. Raises `JournalDamaged`."""
        peer = self._listener.peers.get(routing_id)
        if peer is None:  # the client died while the message waited: an answer could not be sent
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
        except OSError as error:  # concerns this message only: the disk still takes the entries of other clients
            self._refusals.refuse(routing_id, EdiCheckpointError(str(error)), message)

    def _handle(self, routing_id: bytes, peer: Peer, message: messages.ClientMessage) -> None:
        match message:
            case messages.Hello():
                self._welcome(routing_id, peer, message)
            # Before the next case: after an answer that could not be sent, the connection counts as new.
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
                pass  # the pipeline has accepted the entries; the stream belongs to another connection
            case _:
                self._queries.read(routing_id, message)

    def send_events(self) -> None:
        """Send the events that subscribers wait for."""
        self._queries.send_events()

    def _welcome(self, routing_id: bytes, peer: Peer, message: messages.Hello) -> None:
        sessions, version, journal_id = self._identity
        peer.advance(ConnectionEvent.HELLO)
        if Path(message.sessions_dir) != sessions:
            peer.advance(ConnectionEvent.ERROR)
            raise WrongFolder(f"this daemon serves {sessions}, not {message.sessions_dir}")
        peer.advance(ConnectionEvent.WELCOME)
        before, self._shortage = self._shortage, rlimits.short()
        if self._shortage and not before:
            log.warning("%s: if it runs out of them, it ends, and the next client restarts it", self._shortage)
        self._listener.send(routing_id, messages.Welcome(version, os.getpid(), journal_id))
