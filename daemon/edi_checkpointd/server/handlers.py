"""The handlers of the daemon's messages, one for each family: writers, reading, retention, purges.

The dispatcher calls them in the loop's thread, after the commit. A handler answers at once or through the reader
thread; an error that it raises becomes a refusal.
"""

from __future__ import annotations

from collections.abc import Collection

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


class WriterHandler:
    """Handles what a writer asks beside its entries."""

    def __init__(
        self,
        listener: Listener,
        ledger: Ledger,
        coordinator: Coordinator,
        drains: OutboxDrains,
        purger: Purger,
        feed: Feed,
    ) -> None:
        """Take the parts."""
        self._listener = listener
        self._ledger = ledger
        self._coordinator = coordinator
        self._drains = drains
        self._purger = purger
        self._feed = feed

    def attach(self, routing_id: bytes, message: messages.Attach, pid: int | None) -> None:
        """Let a writer in; `pid` is its process by the kernel's word. Raises as `OutboxDrains.attach` does."""
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
        """Tell what became of a mark whose answer got lost with a daemon; one under way is told when it is written."""
        stream = self._attached(routing_id, message.stream)
        sequence = self._ledger.sequence_of(stream, message.number)
        info = self._coordinator.checkpoint_at(stream.session, sequence) if sequence else None
        if info is not None:
            self._listener.notify(stream.id, messages.MarkDone(stream.id, message.number, info))

    def close(self, stream_id: str) -> None:
        """End a stream whose client said good-bye: what it left is drained."""
        self._listener.routes.pop(stream_id, None)
        if stream := self._ledger.streams.get(stream_id):
            self._drains.scan(stream.session.session_id)

    def _attached(self, routing_id: bytes, stream_id: str) -> WriterStream:
        self._listener.check_attached(stream_id, routing_id)
        stream = self._ledger.streams.get(stream_id)
        if stream is None:
            raise ProtocolError(f"stream {stream_id} is not attached")
        return stream


class Account:
    """What the daemon tells of itself in a status."""

    def __init__(
        self,
        listener: Listener,
        ledger: Ledger,
        coordinator: Coordinator,
        removal: OutboxRemoval,
        janitor: Janitor,
        timers: Scheduler,
        health: Health,
    ) -> None:
        """Take the parts that know."""
        self._listener = listener
        self._ledger = ledger
        self._coordinator = coordinator
        self._removal = removal
        self._janitor = janitor
        self._timers = timers
        self._health = health

    def report(self) -> DaemonReport:
        """Return it; no disk is touched."""
        told = self._health.report(
            connections=len(set(self._listener.routes.values())),
            failing=self._coordinator.failing,
            refused_streams=self._removal.kept,
            stepped=self._timers.stepped,
        )
        troubles = (*told.troubles, *self._janitor.troubles)
        return told._replace(troubles=troubles, caps=caps(self._ledger.config.now))


class QueryHandler:
    """Handles questions; what has to be read for an answer, the reader thread reads."""

    def __init__(
        self,
        listener: Listener,
        ledger: Ledger,
        drains: OutboxDrains,
        reader: ReaderThread,
        planner: inventory.Planner,
        account: Account,
        feed: Feed,
    ) -> None:
        """Take the parts."""
        self._listener = listener
        self._ledger = ledger
        self._drains = drains
        self._reader = reader
        self._planner = planner
        self._account = account
        self._feed = feed

    def read(self, routing_id: bytes, query: messages.Query) -> None:
        """Answer a reading request, after what dead writers left is in the journal."""
        drained = self._drains.try_finish_drains(getattr(query, "session_id", None))
        self._reader.answer(routing_id, query, drained=drained)

    def explain(self, routing_id: bytes, query: messages.Explained) -> None:
        """Answer what a clean-up would do, or why a checkpoint is there."""
        take_inventory = self._planner.prepare(frozenset(self._ledger.sessions))
        self._drains.try_finish_drains()
        self._reader.ask(routing_id, query.request, lambda: self._planner.explain(query, take_inventory()))

    def status(self, routing_id: bytes, request: int) -> None:
        """Answer with the status; nothing is drained or written for it, so that a full disk cannot delay it."""
        self._reader.status(routing_id, request, self._account.report())

    def settings(self, routing_id: bytes, request: int) -> None:
        """Answer with the settings in force."""
        self._listener.send(routing_id, messages.Settings(request, encode_json(explain(self._ledger.config.now))))

    def subscribe(self, routing_id: bytes, message: messages.Subscribe) -> None:
        """Have the next events sent when there are some."""
        self._feed.subscribe(routing_id, message)

    def send_events(self) -> None:
        """Send the events that subscribers wait for."""
        for routing_id, events in self._feed.answers():
            self._listener.send(routing_id, events)


class RetentionHandler:
    """Handles clean-ups, the trash, and sessions that are imported."""

    def __init__(
        self,
        listener: Listener,
        ledger: Ledger,
        access: WriterAccess,
        drains: OutboxDrains,
        purger: Purger,
        janitor: Janitor,
        trash: Trash,
        importer: Importer,
    ) -> None:
        """Take the parts."""
        self._listener = listener
        self._ledger = ledger
        self._access = access
        self._drains = drains
        self._purger = purger
        self._janitor = janitor
        self._trash = trash
        self._importer = importer

    def prune(self, routing_id: bytes, request: int) -> None:
        """Clean up now; the answer follows when it is done."""

        def answer(outcome: Outcome) -> None:
            if isinstance(outcome, EdiCheckpointError):
                self._listener.send(routing_id, refusal(outcome, request))
            else:
                self._listener.send(
                    routing_id, messages.CleanupReply(request, inventory.document(outcome, applied=True))
                )

        self._drains.try_finish_drains()
        self._janitor.prune(answer)

    def restore(self, routing_id: bytes, message: messages.Restore) -> None:
        """Bring a session back from the trash. Raises `NotFound`, `SessionExists`, `SessionIdError`, OSError."""
        session_id = message.session_id
        self._purger.check(session_id)
        if self._trash.find(check_session_id(session_id)) is None:
            raise NotFound(
                f"session {session_id} is not in the trash",
                hint="`edi-checkpoint sessions --condition trashed` lists what is",
            )
        self._trash.require_room(session_id)
        session = self._access.open(session_id)
        self._ledger.journal.touch(session.key, to_us(self._ledger.clock.now()))
        self._listener.send(routing_id, messages.Restored(message.request, session_id))

    def accept_import(self, routing_id: bytes, message: messages.Import) -> None:
        """Take a session that a command has staged. Raises `SessionExists`, `SessionIdError`, `NotFound`, OSError."""
        self._purger.check(message.session_id)
        self._importer.accept(message.session_id, message.pid)
        self._listener.send(routing_id, messages.Imported(message.request, message.session_id))


class PurgeHandler:
    """Handles purges."""

    def __init__(self, listener: Listener, purger: Purger) -> None:
        """Take the parts."""
        self._listener = listener
        self._purger = purger

    def purge(self, routing_id: bytes, message: messages.Purge) -> None:
        """Purge sessions; the answer follows at the end. Raises as `Purger.purge` does."""

        def answer(kept: Collection[str]) -> None:
            self._listener.send(routing_id, messages.Purged(message.request, tuple(kept)))

        self._purger.purge(message.sessions, answer, everything=message.everything, takeover=message.takeover)
