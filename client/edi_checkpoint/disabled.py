"""EDI_CHECKPOINT_DISABLE: a link and an outbox that keep nothing, behind the same client and sessions.

Every entry counts as taken, journaled and saved the moment it is published; a checkpoint is told of as made, under no
name. No file, socket or thread is touched.
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
    degraded=(Trouble("disabled", "nothing of this process is remembered", f"unset {VARIABLE}"),),
    sessions=dict.fromkeys(CONDITIONS, 0), journal_bytes=0, errors={},
)  # fmt: skip
_said = threading.Lock()  # never released: once in a process


def is_disabled() -> bool:
    """Whether this process is to remember nothing; said once, in the log."""
    if os.environ.get(VARIABLE, "") in ("", "0"):
        return False
    if _said.acquire(blocking=False):
        log.warning("%s is set: nothing of this process is remembered", VARIABLE)
    return True


class NullAttachments:
    """Holds what was encoded in memory, and nowhere else. Satisfies `SessionAttachments`."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.recent = Recent(max_bytes=ARRAY_MAX_BYTES)

    def restore(self, reference: Reference, path: str) -> object:
        """Return the array or bytes of a reference, while it is held; as `documents.attachments.restored`."""
        return restored(reference, path, self._data)

    def _data(self, reference: Reference) -> bytes:
        if (recent := self.recent.attachment(reference.sha256)) is None:
            raise AttachmentMissing(
                f"attachment {reference.sha256}: more than is held in memory", hint=f"unset {VARIABLE}"
            )
        return recent.data

    def remaining_after(self, carried: Mapping[str, Attachment], held: Iterable[JsonText], left_bytes: int) -> int:
        """Return `left_bytes`: nothing of it is used."""
        return left_bytes

    def unfiled(self, texts: Iterable[JsonText], most_bytes: int) -> dict[str, Attachment]:
        """Return nothing: a base goes nowhere."""
        return {}


class NullOutbox:
    """Numbers entries and keeps none. Satisfies `SessionOutbox`."""

    full = False
    unsent_bytes = 0
    fenced: Mapping[str, int] = MappingProxyType({})

    def __init__(self) -> None:
        """Begin a stream; without a lock file no writer is ever busy."""
        self.lock = threading.Lock()
        self.stream = uuid4().hex
        self.published = self.spooled = 0

    def append(self, entry: bytes) -> int:
        """Number `entry`."""
        self.published = self.spooled = self.published + 1
        return self.published

    def acknowledged(self, number: int) -> None:
        """Keep nothing."""

    def trim(self, covered: int) -> None:
        """Keep nothing."""

    def sync(self) -> None:
        """Keep nothing."""


class NullLink:
    """Answers at once what a daemon would that has nothing. Satisfies `SessionLink`."""

    paths = None
    connected = True

    def __init__(self) -> None:
        """Start no thread."""
        self._streams: dict[str, Stream] = {}
        self._taking = threading.Lock()

    def wait_connected(self, timeout_s: float) -> bool:
        """Return True at once: no daemon is needed."""
        return True

    def wake(self) -> None:
        """Take all that is published, in the publisher's own thread."""
        with self._taking:
            for stream in list(self._streams.values()):
                for number in list(stream.marks):
                    stream.settle_mark(number, _made(stream, number))
                stream.acknowledge(*[stream.outbox.published] * 3)

    def ask(self, question: Callable[[int], messages.Question], timeout_s: float) -> messages.Answer:
        """Answer that there is nothing. Raises `NotFound` to what asks for something."""
        match question(0):
            case messages.ListSessions():
                return messages.Sessions(0, [])
            case messages.ListCheckpoints():
                return messages.Checkpoints(0, [])
            case messages.GetStatus():
                told = msgspec.structs.asdict(_STATUS) | {"disabled": True}
                return messages.StatusReply(0, msgspec.json.encode(told))
        raise NotFound(f"{VARIABLE} is set: nothing is remembered", hint=f"unset {VARIABLE} and begin anew")

    def open(self, session_id: str, parent_session: str | None, *, seen: bool, takeover: bool) -> Stream:
        """Return a new stream."""
        return Stream(session_id, parent_session, NullOutbox())

    def attach(self, stream: Stream, *, timeout_s: float) -> messages.Attached:
        """Let a stream begin with nothing."""
        self._streams[stream.id] = stream
        return messages.Attached(0, stream.id, 0, 0, 0, 0, base_wanted=False, state={})

    def serve(self, stream: Stream, publish_base: Callable[[], int]) -> None:
        """Ask for no base."""

    def detach(self, stream: Stream, *, unused: bool = False) -> None:
        """Forget a stream."""
        self._streams.pop(stream.id, None)

    def close(self) -> None:
        """End nothing."""


def _made(stream: Stream, number: int) -> CheckpointInfo:
    return CheckpointInfo(
        "", stream.session_id, number, datetime.now(UTC), "manual", "", "unknown", None, pinned=False, size_bytes=0
    )
