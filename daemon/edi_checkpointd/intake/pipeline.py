"""The pipeline of entries: accept what clients send, make it durable with one fsync, acknowledge it.

Nothing is acknowledged before `Ledger.commit` returned. Live frames and drained outboxes take the same way.
"""

from __future__ import annotations

from collections.abc import Callable

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

RESCAN_S = 60.0  # while entries come: how late the daemon sees what others did in the sessions folder, at most
REFUSED_PAUSE_S = 1.0  # after the disk refused, nothing is tried for so long


class Pipeline:
    """The way of an entry into the journal. Used by the loop's thread."""

    def __init__(
        self,
        listener: Listener,
        ledger: Ledger,
        coordinator: Coordinator,
        upkeep: Upkeep,
        refusals: Refusals,
        feed: Feed,
        timers: Scheduler,
        rescan: Callable[[], None],
    ) -> None:
        """Take the parts. `rescan` is called `RESCAN_S` after entries came: the folder may have been changed."""
        self._listener = listener
        self._batch = Batch(listener, ledger.clock)
        self._ledger = ledger
        self._coordinator = coordinator
        self._upkeep = upkeep
        self._refusals = refusals
        self._feed = feed
        self._timers = timers
        self._rescan = rescan
        self._clock = ledger.clock
        self._paused_until_s = 0.0

    def receive(self) -> list[tuple[bytes, messages.ClientMessage]]:
        """Accept the entries that wait, up to a full batch; return the other messages, for after the commit."""
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
        except ProtocolError as error:
            self._refusals.refuse(routing_id, error)
            return
        if stream is None:
            self._refusals.refuse(routing_id, ProtocolError(f"stream {message.stream} is not attached"))
            return
        if self.paused_s > 0:
            stream.dropped = True
            return  # the client asks again after a silence, and sends it from its outbox
        if stream.dropped and self._ledger.skips(stream, message.records):
            return  # not acknowledged either: the client asks, and begins with what was dropped
        if not self.accept(stream, message.records):
            self._listener.send(routing_id, self._coordinator.acknowledgement(stream))

    def accept(self, stream: WriterStream, records: bytes | memoryview) -> bool:
        """Accept records into the open transaction, or refuse them; return False when all of them are known already."""
        return self._refusals.accept_or_refuse(stream, records)

    def commit(self) -> None:
        """Commit what is accepted and acknowledge it; then order the checkpoints that it leads to.

        Raises `JournalRefused` when the disk refuses: then nothing is acknowledged, and the entries come again from
        their senders' outboxes.
        """
        start_s = self._clock.monotonic_s()
        committed = self._ledger.commit()
        if committed.streams:
            self._batch.committed(self._clock.monotonic_s() - start_s)
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
        """Commit what `receive` accepted; when the disk refuses, pause."""
        try:
            self.commit()
        except JournalRefused as error:
            self.pause(error)

    # -- a disk that refuses -----------------------------------------------------------------------------------------

    def pause(self, error: OSError) -> None:
        """Take nothing for a moment: `error` says why the journal cannot be written."""
        self._refusals.disk_refused(error)
        self._paused_until_s = self._clock.monotonic_s() + REFUSED_PAUSE_S
        self._upkeep.make_room()

    def recovered(self) -> None:
        """Take note that the disk took something."""
        self._refusals.disk_recovered()

    @property
    def paused_s(self) -> float:
        """For how long nothing is to be taken yet; 0 or less: not at all."""
        return self._paused_until_s - self._clock.monotonic_s()

    @property
    def has_paused(self) -> bool:
        """Whether the disk has ever refused."""
        return self._paused_until_s > 0
