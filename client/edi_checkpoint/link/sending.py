"""Sends a stream's records in frames, probes after a silence, and keeps the outbox small.

For the link thread; no function here waits.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from edi_checkpoint.link.connection import Connection
from edi_checkpoint.link.stream import Stream
from edi_checkpoint.outbox.outbox import Outbox
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.states import StreamEvent

log = logging.getLogger(__name__)

FRAME_BYTES: Final = 256 << 10  # other clients wait while the daemon commits a frame; it would accept 1 MiB


def push(stream: Stream, outbox: Outbox, connection: Connection) -> None:
    """Send unsent records as far as the window allows, and a probe after a silence. Raises OSError of the outbox."""
    stream.advance(StreamEvent.ENTRIES)
    window = stream.window
    window.end_gathering(time.monotonic())
    while not stream.gathers and window.has_room:
        frame = window.refused or outbox.frame(window.sent, FRAME_BYTES)
        if frame is None:
            break
        records, last = frame
        if not connection.send(messages.Entries(stream=stream.id, records=memoryview(records))):
            window.hold(frame)
            return
        window.note_sent(last, len(records), time.monotonic())
    if stream.save_due:
        stream.note_save_asked()
        connection.send(messages.Save(stream=stream.id))
    if window.is_silent(time.monotonic()) and connection.send(messages.Probe(stream=stream.id, probe=window.sent)):
        window.note_probed()


def acknowledged(stream: Stream, message: messages.Ack) -> None:
    """Record an acknowledgement. If it answers a probe and proves that entries were lost, send them again."""
    stream.advance(StreamEvent.NEWS)
    lost = stream.window.proves_loss(message.probe, message.number)
    stream.acknowledge(message.number, message.checkpointed, message.saved)
    stream.note_attachments_left(message.attachments_left)
    stream.window.note_answer(time.monotonic())
    if lost:
        stream.window.rewind(message.number)


def keep_small(stream: Stream, outbox: Outbox) -> None:
    """Begin a segment, write the backlog, or compact the outbox, whichever is due."""
    try:
        outbox.roll()
        outbox.spool()
        if outbox.compact(stream.journaled):
            log.warning("session %s: many entries wait for a daemon; compacted its outbox", stream.session_id)
            stream.window.rewind(stream.journaled)
    except OSError as error:
        log.debug("outbox of session %s: %s", stream.session_id, error)
