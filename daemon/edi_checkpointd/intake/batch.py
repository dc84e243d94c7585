"""One batch: what the loop takes from the socket before it commits, within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from edi_checkpoint.errors import ProtocolError
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.codec import decode_from_client, request_of
from edi_checkpointd.intake.listener import Listener
from edi_checkpointd.system.clock import Clock

DRAIN_BYTES = 1 << 20  # in one batch, at most: a client that sends little waits for it
DRAIN_S = 0.02  # ... and not for longer: many small entries cost more time than bytes, and the first of them waits
GATHER_SHARE = 0.3  # of the time of the last commit: for so long a batch waits for those who sent at the last two
GATHER_MAX_S = 0.005


class Unreadable(NamedTuple):
    """A message that cannot be read: the error to answer with, and the request it was, as far as that can be told."""

    error: ProtocolError
    request: int


class Batch:
    """Drains the socket, one batch after the other. Used by the loop's thread."""

    def __init__(self, listener: Listener, clock: Clock) -> None:
        """Begin without knowing who sends."""
        self._listener = listener
        self._clock = clock
        self._served: tuple[set[bytes], set[bytes]] = (set(), set())  # whose messages the last two batches took
        self._gather_s = 0.0

    def committed(self, took_s: float) -> None:
        """Take note how long the commit of a batch took: the next one gathers for a share of it."""
        self._gather_s = min(GATHER_SHARE * took_s, GATHER_MAX_S)

    def frames(self) -> Iterator[tuple[bytes, messages.ClientMessage | Unreadable]]:
        """Yield the messages that wait, each with its connection, until the batch is full.

        The caller accepts entries between two messages: its time counts. When several clients send, the batch ends
        with the first that comes twice, so a client that floods the socket costs the others one frame.
        """
        if not self._listener.waiting:
            return
        size = 0
        others = False  # messages that are no entries do not wait for more
        served: set[bytes] = set()
        all_served = False  # several send, and one has come twice: libzmq takes from each in turn
        now_s = self._clock.monotonic_s()
        until_s, gather_until_s = now_s + DRAIN_S, now_s + self._gather_s
        while size < DRAIN_BYTES and not all_served and self._clock.monotonic_s() < until_s:
            received = self._listener.receive()
            if received is None:
                gather_s = gather_until_s - self._clock.monotonic_s()
                if others or gather_s <= 0 or served >= self._served[0] | self._served[1]:
                    break
                self._listener.wait(gather_s)  # those who sent at the last two turns are likely to send at this one
                continue
            routing_id, data = received
            all_served = routing_id in served and len(served) > 1
            served.add(routing_id)
            if isinstance(data, ProtocolError):
                yield routing_id, Unreadable(data, 0)
                continue
            size += len(data)
            try:
                message = decode_from_client(data)
            except ProtocolError as error:
                yield routing_id, Unreadable(error, request_of(data))
                continue
            others = others or not isinstance(message, messages.Entries)
            yield routing_id, message
        self._served = (self._served[1], served)
