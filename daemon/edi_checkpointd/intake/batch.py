"""One batch: the messages that the loop receives from the socket before it commits, within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from edi_checkpoint.errors import ProtocolError
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.codec import decode_from_client, request_of
from edi_checkpointd.intake.listener import Listener
from edi_checkpointd.system.clock import Clock

DRAIN_BYTES = 1 << 20  # limit of one batch: a client that sends little waits for the whole batch
DRAIN_S = 0.02  # limit in time: many small entries take long for their bytes, and the first of them waits
GATHER_SHARE = 0.3  # share of the last commit's time that a batch waits for the clients of the last two batches
GATHER_MAX_S = 0.005


class Unreadable(NamedTuple):
    """A message that cannot be read: the error to answer with, and the number of its request, 0 if unknown."""

    error: ProtocolError
    request: int


class Batch:
    """Drains the socket, one batch after the other. Used by the loop's thread."""

    def __init__(self, listener: Listener, clock: Clock) -> None:
        """Start without waiting for anybody: no batch was received yet."""
        self._listener = listener
        self._clock = clock
        self._senders: tuple[set[bytes], set[bytes]] = (set(), set())  # of the batch before the last, and of the last
        self._gather_s = 0.0

    def committed(self, duration_s: float) -> None:
        """Note how long the commit of a batch took: the next batch waits for a share of that time."""
        self._gather_s = min(GATHER_SHARE * duration_s, GATHER_MAX_S)

    def frames(self) -> Iterator[tuple[bytes, messages.ClientMessage | Unreadable]]:
        """Yield the waiting messages, each with its connection, until the batch is full.

        The caller accepts entries between two messages: its time counts. When several clients send, the batch ends
        with the first second message of a client. So a client that floods the socket delays the others by one frame.
        """
        if not self._listener.waiting:
            return
        size = 0
        questions = False  # do not delay their answers by waiting for more messages
        senders: set[bytes] = set()
        repeated = False  # several clients send, and one had two turns: libzmq takes from each in turn
        now_s = self._clock.monotonic_s()
        until_s, gather_until_s = now_s + DRAIN_S, now_s + self._gather_s
        while size < DRAIN_BYTES and not repeated and self._clock.monotonic_s() < until_s:
            received = self._listener.receive()
            if received is None:
                gather_s = gather_until_s - self._clock.monotonic_s()
                if questions or gather_s <= 0 or senders >= self._senders[0] | self._senders[1]:
                    break
                self._listener.wait(gather_s)  # the clients of the last two batches probably send again
                continue
            routing_id, data = received
            repeated = routing_id in senders and len(senders) > 1
            senders.add(routing_id)
            if isinstance(data, ProtocolError):
                yield routing_id, Unreadable(data, 0)
                continue
            size += len(data)
            try:
                message = decode_from_client(data)
            except ProtocolError as error:
                yield routing_id, Unreadable(error, request_of(data))
                continue
            questions = questions or not isinstance(message, messages.Entries)
            yield routing_id, message
        self._senders = (self._senders[1], senders)
