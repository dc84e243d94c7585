"""The pipeline of entries: accept what clients send, make it durable with one fsync, acknowledge it.

The daemon acknowledges nothing before `Ledger.commit` has returned. Live frames and drained outboxes both enter through
`Pipeline.accept`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edi_checkpoint.errors import ProtocolError
from edi_checkpoint.wire import messages
from edi_checkpointd.checkpoints.coordinator import Coordinator
from edi_checkpointd.intake.batch import Batch, Unreadable
from edi_checkpointd.intake.listener import Listener
from edi_checkpointd.intake.refusals import Refusals
from edi_checkpointd.journal import JournalRefused
from edi_checkpointd.sessions.feed import Feed
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.sessions.session import WriterStream, fenced_error, purged_error
from edi_checkpointd.sessions.upkeep import Upkeep
from edi_checkpointd.system.timers import Scheduler

RESCAN_S = 60.0  # while clients send entries, the daemon notices a changed sessions folder at most so late
REFUSED_PAUSE_S = 1.0  # the pause after the disk refused


@dataclass(slots=True, eq=False)
class Pipeline:
    """The way of an entry into the journal. Used by the loop's thread.

    Entries start a timer: `_rescan` is called `RESCAN_S` later, because another program may have changed the folder.
    """

    _listener: Listener
    _ledger: Ledger
    _coordinator: Coordinator
    _upkeep: Upkeep
    _refusals: Refusals
    _feed: Feed
    _timers: Scheduler
    _rescan: Callable[[], None]
    _batch: Batch = field(init=False)
    _paused_until_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._batch = Batch(self._listener, self._ledger.clock)

    def receive(self) -> list[tuple[bytes, messages.ClientMessage]]:
        """Accept one batch of entries; return its other messages, which the caller dispatches after the commit."""
        others: list[tuple[bytes, messages.ClientMessage]] = []
        for routing_id, message in self._batch.frames():
            if isinstance(message, messages.Entries):
                self._accept(routing_id, message)
            elif isinstance(message, Unreadable):
                self._refusals.refuse(routing_id, message.error, request=message.request)
            else:
                others.append((routing_id, message))
        return others

    def _accept(self, routing_id: bytes, message: messages.Entries) -> None:
        stream = self._ledger.streams.get(message.stream)
        if stream is not None and stream.fenced:
            self._refusals.refuse(routing_id, fenced_error(stream), message)
            return
        if self._ledger.is_purged(message.stream):
            self._refusals.refuse(routing_id, purged_error(), message)
            return
        try:
            self._listener.check_attached(message.stream, routing_id)
            if stream is None:
                raise ProtocolError(f"stream {message.stream} is not attached")
        except ProtocolError as error:
            self._refusals.refuse(routing_id, error)
            return
        if self.paused_s > 0:
            stream.dropped = True
            return  # without an acknowledgement the client probes, and resends from its outbox
        if stream.dropped and self._ledger.skips(stream, message.records):
            return  # likewise: the client probes, and resends from the first entry that was dropped
        if not self.accept(stream, message.records):
            self._listener.send(routing_id, self._coordinator.acknowledgement(stream))

    def accept(self, stream: WriterStream, records: bytes | memoryview) -> bool:
        """Accept records into the open transaction, or refuse them; return False if the journal has all of them."""
        return self._refusals.accept_or_refuse(stream, records)

    def commit(self) -> None:
        """Commit the accepted entries and acknowledge them; then order the checkpoints that they cause.

        Raises `JournalRefused` if the disk refuses. Then nothing is acknowledged, and the clients resend the entries
        from their outboxes.
        """
        start_s = self._ledger.clock.monotonic_s()
        committed = self._ledger.commit()
        if committed.streams:
            self._batch.committed(self._ledger.clock.monotonic_s() - start_s)
            self._refusals.disk_recovered()
            if "rescan" not in self._timers.pending:
                self._timers.after(RESCAN_S, "rescan", self._rescan)
        for stream in committed.streams:
            self._listener.notify(stream.id, self._coordinator.acknowledgement(stream))
        for change in committed.changes:
            self._coordinator.committed(change.session, change.moments)
        for stream in committed.streams:
            self._coordinator.changed(stream.session)
        self._feed.entries((change.session, change.entries) for change in committed.changes)

    def commit_batch(self) -> None:
        """Commit the entries that `receive` accepted; if the disk refuses, pause."""
        try:
            self.commit()
        except JournalRefused as error:
            self.pause(error)

    # -- a disk that refuses -----------------------------------------------------------------------------------------

    def pause(self, error: OSError) -> None:
        """Accept no entries for `REFUSED_PAUSE_S`; `error` says why the journal cannot be written."""
        self._refusals.disk_refused(error)
        self._paused_until_s = self._ledger.clock.monotonic_s() + REFUSED_PAUSE_S
        self._upkeep.make_room()

    def recovered(self) -> None:
        """End the report of a refusing disk: a write succeeded."""
        self._refusals.disk_recovered()

    @property
    def paused_s(self) -> float:
        """The seconds that a pause still lasts; 0 or less if there is none."""
        return self._paused_until_s - self._ledger.clock.monotonic_s()

    @property
    def has_paused(self) -> bool:
        """Whether the disk has refused since the daemon started."""
        return self._paused_until_s > 0
