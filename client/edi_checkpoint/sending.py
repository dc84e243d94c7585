"""How a stream's records move: a window of frames in flight, a question after a silence, an outbox that stays small.

For the link thread, which owns what a `Stream` says of this; nothing here waits.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from edi_checkpoint import protocol
from edi_checkpoint.connection import Connection
from edi_checkpoint.stream import Stream

log = logging.getLogger(__name__)

FRAMES_IN_FLIGHT: Final = 256  # small frames are bounded too: the socket's own queue must never fill
FRAME_BYTES: Final = 256 << 10  # a neighbour waits for the commit of what we send; the daemon takes frames of 1 MiB
BURST_ENTRIES: Final = 8  # in one frame: they come in bursts
BURST_S: Final = 0.002  # how long the next burst may take to come, and to leave in one frame
_SILENCE_S = 0.25  # no acknowledgement for so long: ask
_SILENCE_MAX_S = 5.0


def push(stream: Stream, connection: Connection) -> None:
    """Send what the window has room for, and ask after a silence. Raises OSError when the outbox cannot be read."""
    if 0 < stream.leave_at_s <= time.monotonic():
        stream.leave_at_s = 0.0
    while (
        not stream.gathers
        and stream.in_flight_bytes < protocol.WINDOW_BYTES
        and len(stream.in_flight) < FRAMES_IN_FLIGHT
    ):
        frame = stream.unsent or stream.outbox.frame(stream.sent, FRAME_BYTES)
        if frame is None:
            break
        records, last = frame
        if not connection.send(protocol.Entries(stream=stream.id, records=memoryview(records))):
            stream.unsent = frame
            return
        if not stream.in_flight:
            stream.probe_pause_s = _SILENCE_S
            stream.probe_at_s = time.monotonic() + _SILENCE_S
        stream.unsent = None
        entries = last - stream.sent
        stream.burst = entries if entries >= BURST_ENTRIES else 0
        stream.leave_at_s = 0.0
        stream.sent = last
        stream.in_flight.append((last, len(records)))
        stream.in_flight_bytes += len(records)
    if stream.save_sent < stream.save_wanted <= stream.journaled:
        stream.save_sent = stream.save_wanted
        connection.send(protocol.Save(stream=stream.id))
    if stream.in_flight and time.monotonic() >= stream.probe_at_s:
        stream.probe_pause_s = min(2 * stream.probe_pause_s, _SILENCE_MAX_S)
        stream.probe_at_s = time.monotonic() + stream.probe_pause_s
        if not stream.probed and connection.send(protocol.Probe(stream=stream.id, probe=stream.sent)):
            stream.probed = stream.sent


def acknowledged(stream: Stream, message: protocol.Ack) -> None:
    """Note what the daemon has; when its answer to a question proves that something was lost, send that again."""
    lost = message.probe and message.probe == stream.probed and message.number < stream.probed
    stream.acknowledge(message.number, message.checkpointed, message.saved)
    if stream.burst and not stream.in_flight:
        stream.leave_at_s = time.monotonic() + BURST_S
    stream.attachments_left = message.attachments_left
    stream.probe_pause_s = _SILENCE_S
    stream.probe_at_s = time.monotonic() + _SILENCE_S
    stream.probed = 0
    if lost:
        stream.rewind(message.number)


def keep_small(stream: Stream) -> None:
    """Begin new segments, write what the disk refused before, and thin an outbox that nobody takes."""
    try:
        stream.outbox.roll()
        stream.outbox.spool()
        if stream.outbox.compact(stream.journaled):
            log.warning("session %s: much waits for a daemon; its outbox is thinned", stream.session_id)
            stream.rewind(stream.journaled)
    except OSError as error:
        log.debug("outbox of session %s: %s", stream.session_id, error)
