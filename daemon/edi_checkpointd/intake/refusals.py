"""Refusals: answer a client with an error, and refuse bad entries without losing the good ones beside them."""

from __future__ import annotations

import contextlib
import logging
from itertools import count
from pathlib import Path

from edi_checkpoint.errors import AttachmentsFull, EdiCheckpointError, ProtocolError
from edi_checkpoint.system.paths import ensure_private
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.records import scan, whole
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.health import Health
from edi_checkpointd.intake.listener import Listener, refusal
from edi_checkpointd.sessions.feed import Feed
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.sessions.session import WriterStream
from edi_checkpointd.system.fs import write_atomic

log = logging.getLogger(__name__)

REFUSED_KEPT = 100  # refused frames in damaged/; the next one replaces the oldest
REFUSED_APART = 8  # entries of one frame that are refused one by one; each costs an fsync


class Refusals:
    """Answers clients with errors, counts them, and reports them to watchers. Used by the loop's thread."""

    def __init__(self, listener: Listener, ledger: Ledger, health: Health, feed: Feed, damaged: Path) -> None:
        """Store the parts; `damaged` is the folder for refused frames."""
        self._listener = listener
        self._ledger = ledger
        self._health = health
        self._feed = feed
        self._damaged = damaged
        self._numbers = count(1)

    def refuse(
        self,
        routing_id: bytes,
        error: EdiCheckpointError,
        message: messages.ClientMessage | None = None,
        request: int = 0,
    ) -> None:
        """Answer `message` with `error`; for an unreadable message, `request` is the number of its request."""
        log.warning("refused code=%s: %s", error.code, error)
        self._fault(error, getattr(message, "session_id", None))
        request = getattr(message, "request", request)
        self._listener.send(routing_id, refusal(error, request, getattr(message, "stream", "")))

    def accept_or_refuse(self, stream: WriterStream, data: bytes | memoryview) -> bool:
        """Accept records into the open transaction, or refuse them; return False if the journal has all of them.

        Only faulty records are refused: halving finds up to `REFUSED_APART` of them. After that, a faulty part is
        refused as a whole.
        """
        parts, accepted, refused = [data], False, 0
        while parts:
            part = parts.pop()
            try:
                accepted = self._ledger.accept(stream, part) or accepted
            except (ProtocolError, AttachmentsFull) as error:
                at = _middle(part) if refused < REFUSED_APART else 0
                if at:
                    parts += [part[at:], part[:at]]
                else:
                    self._refuse_entries(stream, part, error)
                    accepted, refused = True, refused + 1
        return accepted

    def _refuse_entries(self, stream: WriterStream, records: bytes | memoryview, error: EdiCheckpointError) -> None:
        """Save the bytes of refused records in `damaged`, skip their numbers, and answer the client."""
        _, last = whole(records)
        log.warning("entries refused session=%s upto=%d: %s", stream.session.session_id, last, error)
        with contextlib.suppress(OSError):
            ensure_private(self._damaged)
            name = f"frame-{next(self._numbers) % REFUSED_KEPT:03d}-{stream.session.session_id}.bin"
            write_atomic(self._damaged / name, [bytes(records)])
            reached(CrashPoint.REFUSED_KEPT)
        if stream.expected < last <= stream.expected + len(records):
            self._ledger.pass_over(stream, last)
        self._fault(error, stream.session.session_id)
        self._listener.notify(
            stream.id,
            messages.Error(error.code, f"entries up to {last}: {error}", error.hint, stream=stream.id, number=last),
        )

    def disk_refused(self, error: OSError) -> None:
        """Report that a commit failed, unless the one before failed as well."""
        if self._health.disk_refused(error):
            self._feed.fault(getattr(error, "code", "disk"), str(error))
            log.error("nothing is acknowledged while the disk refuses: %s", error)

    def disk_recovered(self) -> None:
        """Report that a commit succeeded, if the one before failed."""
        if self._health.disk_took():
            log.info("the journal can be written again")

    def _fault(self, error: EdiCheckpointError, session_id: str | None) -> None:
        self._health.count(error.code)
        self._feed.fault(error.code, str(error), session_id)


def _middle(data: bytes | memoryview) -> int:
    """Return the offset of the second half of the records in `data`; 0 if there is only one, or `data` has a fault."""
    records = scan(data)
    divisible = len(records) > 1 and records[-1].end == len(data)
    return records[len(records) // 2 - 1].end if divisible else 0
