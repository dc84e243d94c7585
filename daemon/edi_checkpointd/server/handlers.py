"""The handlers of the daemon's messages, one for each family: writers, questions, retention, purges.

The dispatcher calls them in the loop's thread, after the commit. A handler answers at once or through the reader
thread. The dispatcher answers the errors that a handler raises.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from msgspec.json import encode as encode_json

from edi_checkpoint.documents.names import check_session_id
from edi_checkpoint.errors import EdiCheckpointError, NotFound, ProtocolError
from edi_checkpoint.home.status import DaemonReport
from edi_checkpoint.wire import messages
from edi_checkpointd.checkpoints.coordinator import Coordinator
from edi_checkpointd.config import explain
from edi_checkpointd.health import Health, caps
from edi_checkpointd.intake.listener import Listener, refusal
from edi_checkpointd.purge.purge import Purger
from edi_checkpointd.retention import inventory
from edi_checkpointd.retention.janitor import Janitor, Outcome
from edi_checkpointd.retention.trash import Trash
from edi_checkpointd.server.reader_thread import ReaderThread
from edi_checkpointd.sessions.feed import Feed
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.sessions.session import WriterStream
from edi_checkpointd.system.clock import to_us
from edi_checkpointd.system.timers import Scheduler
from edi_checkpointd.transfer.staging import Importer
from edi_checkpointd.writers.access import WriterAccess
from edi_checkpointd.writers.drains import OutboxDrains
from edi_checkpointd.writers.removal import OutboxRemoval


@dataclass(slots=True, eq=False)
class WriterHandler:
    """Handles the messages of a writer, except its entries."""

    _listener: Listener
    _ledger: Ledger
    _coordinator: Coordinator
    _drains: OutboxDrains
    _purger: Purger
    _feed: Feed

    def attach(self, routing_id: bytes, message: messages.Attach, pid: int | None) -> None:
        """Attach a writer; `pid` is its process as the kernel reports it. Raises as `OutboxDrains.attach` does."""
        self._purger.check(message.session_id, message.stream)
        attached = self._drains.attach(message, pid)
        self._listener.routes[message.stream] = routing_id
        self._listener.send(routing_id, attached)
        self._feed.condition(self._attached(routing_id, message.stream).session, "live")

    def probe(self, routing_id: bytes, message: messages.Probe) -> None:
        """Send the acknowledgement of a stream again."""
        acknowledgement = self._coordinator.acknowledgement(self._attached(routing_id, message.stream), message.probe)
        self._listener.send(routing_id, acknowledgement)

    def save(self, routing_id: bytes, message: messages.Save) -> None:
        """Write the auto-save of a stream's session."""
        self._coordinator.save_now(self._attached(routing_id, message.stream))

    def ask_mark(self, routing_id: bytes, message: messages.AskMark) -> None:
        """Repeat the answer to a mark whose checkpoint is written; if it is not, the answer follows when it is."""
        stream = self._attached(routing_id, message.stream)
        sequence = self._ledger.sequence_of(stream, message.number)
        info = self._coordinator.checkpoint_at(stream.session, sequence) if sequence else None
        if info is not None:
            self._listener.notify(stream.id, messages.MarkDone(stream.id, message.number, info))

    def close(self, stream_id: str) -> None:
        """Drain the outbox of a stream that its client has closed."""
        self._listener.routes.pop(stream_id, None)
        if stream := self._ledger.streams.get(stream_id):
            self._drains.scan(stream.session.session_id)

    def _attached(self, routing_id: bytes, stream_id: str) -> WriterStream:
        self._listener.check_attached(stream_id, routing_id)
        stream = self._ledger.streams.get(stream_id)
        if stream is None:
            raise ProtocolError(f"stream {stream_id} is not attached")
        return stream


@dataclass(slots=True, eq=False)
class Account:
    """Makes the daemon's own part of a status from what its parts report."""

    _listener: Listener
    _ledger: Ledger
    _coordinator: Coordinator
    _removal: OutboxRemoval
    _janitor: Janitor
    _timers: Scheduler
    _health: Health

    def report(self) -> DaemonReport:
        """Return the report; it reads no file."""
        report = self._health.report(
            connections=len(set(self._listener.routes.values())),
            failing=self._coordinator.failing,
            refused_streams=self._removal.kept,
            stepped=self._timers.stepped,
        )
        troubles = (*report.troubles, *self._janitor.troubles)
        return report._replace(troubles=troubles, caps=caps(self._ledger.config.now))


@dataclass(slots=True, eq=False)
class QueryHandler:
    """Handles questions. The reader thread does the reading that an answer needs."""

    _listener: Listener
    _ledger: Ledger
    _drains: OutboxDrains
    _reader: ReaderThread
    _planner: inventory.Planner
    _account: Account
    _feed: Feed

    def read(self, routing_id: bytes, query: messages.Query) -> None:
        """Drain the dead writers that a question concerns; then answer it."""
        drained = self._drains.try_finish_drains(getattr(query, "session_id", None))
        self._reader.ask(routing_id, query.request, partial(self._reader.answer, query, drained=drained))

    def explain(self, routing_id: bytes, query: messages.Explained) -> None:
        """Answer what a clean-up would delete, or why a checkpoint is there."""
        take_inventory = self._planner.prepare(frozenset(self._ledger.sessions))
        self._drains.try_finish_drains()
        self._reader.ask(routing_id, query.request, lambda: self._planner.explain(query, take_inventory()))

    def status(self, routing_id: bytes, request: int) -> None:
        """Answer with the status. Drains and writes nothing, so that a full disk cannot delay the answer."""
        self._reader.ask(routing_id, request, partial(self._reader.status, request, self._account.report()))

    def settings(self, routing_id: bytes, request: int) -> None:
        """Answer with the settings in force."""
        self._listener.send(routing_id, messages.Settings(request, encode_json(explain(self._ledger.config.now))))

    def subscribe(self, routing_id: bytes, message: messages.Subscribe) -> None:
        """Send the next events to this subscriber when there are some."""
        self._feed.subscribe(routing_id, message)

    def send_events(self) -> None:
        """Send the events that subscribers wait for."""
        for routing_id, events in self._feed.answers():
            self._listener.send(routing_id, events)


@dataclass(slots=True, eq=False)
class RetentionHandler:
    """Handles clean-ups, the trash, and imported sessions."""

    _listener: Listener
    _ledger: Ledger
    _access: WriterAccess
    _drains: OutboxDrains
    _purger: Purger
    _janitor: Janitor
    _trash: Trash
    _importer: Importer

    def prune(self, routing_id: bytes, request: int) -> None:
        """Clean up now, and answer at the end."""

        def answer(outcome: Outcome) -> None:
            if isinstance(outcome, EdiCheckpointError):
                self._listener.send(routing_id, refusal(outcome, request))
                return
            report = inventory.document(outcome, applied=True)
            self._listener.send(routing_id, messages.CleanupReply(request, report))

        self._drains.try_finish_drains()
        self._janitor.prune(answer)

    def restore(self, routing_id: bytes, message: messages.Restore) -> None:
        """Bring a session back from the trash. Raises `NotFound`, `SessionExists`, `SessionIdError`, OSError."""
        session_id = message.session_id
        self._purger.check(session_id)
        if self._trash.find(check_session_id(session_id)) is None:
            hint = "`edi-checkpoint sessions --condition trashed` lists the sessions in the trash"
            raise NotFound(f"session {session_id} is not in the trash", hint=hint)
        self._trash.require_room(session_id)
        session = self._access.open(session_id)
        self._ledger.journal.touch(session.key, to_us(self._ledger.clock.now()))
        self._listener.send(routing_id, messages.Restored(message.request, session_id))

    def accept_import(self, routing_id: bytes, message: messages.Import) -> None:
        """Import a session that a command has staged. Raises `SessionExists`, `SessionIdError`, `NotFound`, OSError."""
        self._purger.check(message.session_id)
        self._importer.accept(message.session_id, message.pid)
        self._listener.send(routing_id, messages.Imported(message.request, message.session_id))


@dataclass(slots=True, eq=False)
class PurgeHandler:
    """Handles purges."""

    _listener: Listener
    _purger: Purger

    def purge(self, routing_id: bytes, message: messages.Purge) -> None:
        """Purge sessions, and answer at the end. Raises as `Purger.purge` does."""

        def answer(failures: Collection[str]) -> None:
            self._listener.send(routing_id, messages.Purged(message.request, tuple(failures)))

        self._purger.purge(message.sessions, answer, everything=message.everything, takeover=message.takeover)
