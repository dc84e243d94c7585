"""EDI_CHECKPOINT_DISABLE: a link, an outbox and attachments that save nothing, for the same client and sessions.

Each entry counts as journaled and saved once it is published. A checkpoint counts as written, without a name. This
module uses no file, socket or thread.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from uuid import uuid4

import msgspec

from edi_checkpoint.documents.attachments import restored
from edi_checkpoint.errors import AttachmentMissing, NotFound
from edi_checkpoint.home.condition import CONDITIONS
from edi_checkpoint.home.problems import Trouble
from edi_checkpoint.home.status import Served, Status
from edi_checkpoint.link.stream import Stream
from edi_checkpoint.model import CheckpointInfo
from edi_checkpoint.values.arrays import ARRAY_MAX_BYTES
from edi_checkpoint.values.cache import Recent
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.entries import JsonText
from edi_checkpoint.wire.references import Attachment, Reference

log = logging.getLogger(__name__)

VARIABLE = "EDI_CHECKPOINT_DISABLE"
_STATUS = Status(
    safe=False, daemon=Served(running=False), last_durable=None, unacknowledged=0, waiting=(),
    degraded=(Trouble("disabled", "this process saves nothing", f"unset {VARIABLE}"),),
    sessions=dict.fromkeys(CONDITIONS, 0), journal_bytes=0, errors={},
)  # fmt: skip
_warned = threading.Lock()  # never released, so a process warns once


def is_disabled() -> bool:
    """Return whether the user disabled saving for this process; log that once."""
    if os.environ.get(VARIABLE, "") in ("", "0"):
        return False
    if _warned.acquire(blocking=False):
        log.warning("%s is set: this process saves nothing", VARIABLE)
    return True


class NullAttachments:
    """Keeps encoded attachments in memory alone. Satisfies `SessionAttachments`."""

    def __init__(self) -> None:
        self.recent = Recent(max_bytes=ARRAY_MAX_BYTES)

    def restore(self, reference: Reference, path: str) -> object:
        """Return the array or bytes of a reference, as `documents.attachments.restored`, while memory holds it."""
        return restored(reference, path, self._data)

    def _data(self, reference: Reference) -> bytes:
        if (recent := self.recent.attachment(reference.sha256)) is None:
            raise AttachmentMissing(f"attachment {reference.sha256}: no longer in memory", hint=f"unset {VARIABLE}")
        return recent.data

    def remaining_after(self, carried: Mapping[str, Attachment], held: Iterable[JsonText], left_bytes: int) -> int:
        """Return `left_bytes`, because nothing is stored."""
        return left_bytes

    def unfiled(self, texts: Iterable[JsonText], most_bytes: int) -> dict[str, Attachment]:
        """Return nothing, because no base is sent."""
        return {}


class NullOutbox:
    """Numbers entries and stores none. Satisfies `SessionOutbox`."""

    full = False
    unsent_bytes = 0
    fenced: Mapping[str, int] = MappingProxyType({})

    def __init__(self) -> None:
        """Begin a stream; without a lock file, no session is ever busy."""
        self.lock = threading.Lock()
        self.stream = uuid4().hex
        self.published = self.spooled = 0

    def append(self, entry: bytes) -> int:
        """Number `entry`."""
        self.published = self.spooled = self.published + 1
        return self.published

    def acknowledged(self, number: int) -> None:
        """Do nothing, because nothing is stored."""

    def trim(self, covered: int) -> None:
        """Do nothing, because nothing is stored."""

    def sync(self) -> None:
        """Do nothing, because nothing is stored."""


class NullLink:
    """Answers at once, as a daemon without any session would. Satisfies `SessionLink`."""

    paths = None
    connected = True

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}
        self._lock = threading.Lock()  # publishers call `wake` at the same time

    def wait_connected(self, timeout_s: float) -> bool:
        """Return True at once, because no daemon is needed."""
        return True

    def wake(self) -> None:
        """Acknowledge all published entries, in the publisher's own thread."""
        with self._lock:
            for stream in list(self._streams.values()):
                for number in list(stream.marks):
                    stream.settle_mark(number, _unwritten(stream, number))
                stream.acknowledge(*[stream.outbox.published] * 3)

    def ask(self, question: Callable[[int], messages.Question], timeout_s: float) -> messages.Answer:
        """Answer that there is no session. Raises `NotFound` for a question about one."""
        match question(0):
            case messages.ListSessions():
                return messages.Sessions(0, [])
            case messages.ListCheckpoints():
                return messages.Checkpoints(0, [])
            case messages.GetStatus():
                status = msgspec.structs.asdict(_STATUS) | {"disabled": True}
                return messages.StatusReply(0, msgspec.json.encode(status))
        raise NotFound(f"{VARIABLE} is set: nothing is saved", hint=f"unset {VARIABLE} and restart the program")

    def open(self, session_id: str, parent_session: str | None, *, seen: bool, takeover: bool) -> Stream:
        """Return a new stream."""
        return Stream(session_id, parent_session, NullOutbox())

    def attach(self, stream: Stream, *, timeout_s: float) -> messages.Attached:
        """Attach a stream to an empty session."""
        self._streams[stream.id] = stream
        return messages.Attached(0, stream.id, 0, 0, 0, 0, base_wanted=False, state={})

    def serve(self, stream: Stream, publish_base: Callable[[], int]) -> None:
        """Do nothing, because no base is needed."""

    def detach(self, stream: Stream, *, unused: bool = False) -> None:
        """Remove a stream."""
        self._streams.pop(stream.id, None)

    def close(self) -> None:
        """Do nothing, because no thread runs."""


def _unwritten(stream: Stream, number: int) -> CheckpointInfo:
    return CheckpointInfo(
        "", stream.session_id, number, datetime.now(UTC), "manual", "", "unknown", None, pinned=False, size_bytes=0
    )
