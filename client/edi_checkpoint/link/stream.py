"""A stream: how far its entries are published, sent, acknowledged and saved, and the futures of callers that wait.

The outbox holds the entries and the link sends them. Publishers and the link share a stream under one lock, which no
publishing call takes. The link settles the futures: a thread waits for one, an event loop awaits it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from math import inf
from typing import Final, Protocol, TypeVar

from edi_checkpoint.errors import CheckpointFailed, EdiCheckpointError
from edi_checkpoint.link.window import Window
from edi_checkpoint.model import CheckpointInfo, Durable
from edi_checkpoint.wire.messages import Attached
from edi_checkpoint.wire.states import STREAM, StreamEvent, StreamState, advance

_T = TypeVar("_T")

_ATTACHED: Final = StreamState.ATTACHED  # an enum's attribute costs each publishing call twice as much
GATHERED_BYTES: Final = 64 << 10  # this many unsent bytes are sent without waiting for more


class SessionOutbox(Protocol):
    """Numbers the entries of one stream, and stores them until a document contains them."""

    stream: str  # its id
    lock: threading.Lock  # a publisher holds it while it calls `append`
    published: int  # the number of the newest entry
    spooled: int  # the number of the newest entry in a segment
    fenced: Mapping[str, int]  # the living streams that this one takes over from, with their last numbers

    @property
    def full(self) -> bool:
        """Whether the link has to begin a segment or write the backlog."""

    @property
    def unsent_bytes(self) -> int:
        """The size of the entries that are not sent yet, roughly."""

    def append(self, entry: bytes) -> int:
        """Store an entry; return its number. Raises `OutboxFull`."""

    def acknowledged(self, number: int) -> None:
        """Free the memory of entries up to `number`."""

    def trim(self, covered: int) -> None:
        """Delete the segments whose entries up to `covered` are in a document."""

    def sync(self) -> None:
        """Make all entries durable. Raises OSError."""


class Stream:
    """One client's attachment to one session."""

    def __init__(self, session_id: str, parent_session: str | None, outbox: SessionOutbox) -> None:
        """Wrap a new outbox; the link sends nothing until the stream is attached."""
        self.session_id = session_id
        self.parent_session = parent_session
        self.outbox = outbox
        self.id = outbox.stream
        self.window = Window()
        self._lock = threading.Lock()  # held while the link changes the fields below and settles futures
        self._awaited: list[tuple[Callable[[], bool], Future[None]]] = []
        self.state = StreamState.DETACHED
        self.journal: str | None = None  # the journal that gave `journaled`
        self.journaled = 0
        self.checkpointed = 0  # up to this number, entries are in a checkpoint or the auto-save
        self.saved = 0  # up to this number, entries are in the auto-save
        self.attachments_left: int | None = None  # bytes that the daemon still accepts; None: unknown
        self.marks: dict[int, Future[CheckpointInfo]] = {}  # of callers that wait for a checkpoint
        self.failed: EdiCheckpointError | None = None  # the next call raises it
        self.fenced: EdiCheckpointError | None = None  # every call from now on raises it
        self._hurry = 0  # a caller waits for entries up to this number
        self._save_wanted = 0  # entries up to this number are to be saved in a file
        # only the link thread uses these:
        self._attach_again_s = 0.0  # when to ask again, if the daemon has not answered
        self._save_asked = 0

    @property
    def attach_due_s(self) -> float:
        """When the link asks the daemon again to attach the stream: monotonic time, or infinity."""
        return self._attach_again_s or inf if self.state is StreamState.ATTACHING else inf

    @property
    def due_s(self) -> float:
        """When the link has work for the stream, while a daemon is connected: monotonic time, or infinity."""
        return min(self.window.due_s, self.attach_due_s)

    @property
    def gathers(self) -> bool:
        """Whether unsent entries wait for more, so that one frame carries them together.

        A frame costs both sides more than its content. Entries wait while another frame is in flight, and briefly
        after a burst for the next one. Entries that a caller waits for are sent at once.
        """
        window, outbox = self.window, self.outbox
        if window.sent < self._hurry or outbox.unsent_bytes >= GATHERED_BYTES:
            return False
        return window.gathers(outbox.published)

    @property
    def wants_link(self) -> bool:
        """Whether the publisher has to wake the link after an entry.

        Otherwise the link sends the entry after the next acknowledgement or attachment. The link clears its reason to
        wait before it reads the outbox: it finds the entry there, or the publisher finds no reason to wait.
        """
        return not self.gathers if self.state is _ATTACHED else self.outbox.full

    @property
    def save_due(self) -> bool:
        """Whether the link has to send `Save` now: the daemon has the entries, and was not asked yet."""
        return self._save_asked < self._save_wanted <= self.journaled

    def durable(self) -> Durable:
        """Return how far the stream's entries have come."""
        return Durable(self.outbox.published, self.outbox.spooled, self.journaled, self.checkpointed)

    def when(self, reached: Callable[[], bool]) -> Future[None]:
        """Return a future that ends once `reached()` is true; the link evaluates it after each message.

        The future fails with the error that shuts the stream out. Cancel it to give up.
        """
        future: Future[None] = Future()
        with self._lock:
            self._awaited.append((reached, future))
            self._settle_waiting()
        return future

    def wait_for(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `reached()`, at most `timeout_s` or until the stream is shut out; return whether it is reached."""
        future = self.when(reached)
        wait(future, timeout_s)
        future.cancel()
        return reached()

    def when_marked(self, number: int) -> Future[CheckpointInfo]:
        """Return a future of the checkpoint for the mark `number`.

        It fails with `CheckpointFailed`, or with the error that shuts the stream out. Cancel it to give up.
        """
        future: Future[CheckpointInfo] = Future()
        future.add_done_callback(lambda _: self.marks.pop(number, None))
        self.hurry(number)
        with self._lock:
            self.marks[number] = future
            self._settle_waiting()
        return future

    def _settle_waiting(self) -> None:
        """Settle the futures that are due, and drop the cancelled ones; the caller holds `_lock`."""
        remaining = []
        for reached, future in self._awaited:
            if self.fenced is not None or reached():
                settle(future, self.fenced)
            elif not future.cancelled():
                remaining.append((reached, future))
        self._awaited = remaining
        if self.fenced is not None:
            for mark in list(self.marks.values()):
                settle(mark, self.fenced)

    def raise_failure(self) -> None:
        """Raise the daemon's refusal since the last call, once; raise it at every call if the stream is shut out."""
        if self.fenced is not None:
            raise self.fenced
        if self.failed is not None:
            failed, self.failed = self.failed, None
            raise failed

    def hurry(self, number: int) -> None:
        """Have entries up to `number` sent at once, because a caller waits for them."""
        self._hurry = number

    def want_saved(self, number: int) -> None:
        """Have entries up to `number` saved in the auto-save."""
        self._save_wanted = number

    def note_attachments_left(self, left_bytes: int | None) -> None:
        """Set how many bytes of new attachments the daemon still accepts; None: unknown."""
        self.attachments_left = left_bytes

    def advance(self, event: StreamEvent) -> None:
        """Enter the state after `event`. Raises `ProtocolError` if it is not allowed in the present state."""
        self.state = advance(STREAM, self.state, event)

    def check(self, event: StreamEvent) -> None:
        """Raise `ProtocolError` if `event` is not allowed in the present state."""
        advance(STREAM, self.state, event)

    # -- called by the link ------------------------------------------------------------------------------------------

    def acknowledge(self, number: int, checkpointed: int, saved: int = 0) -> None:
        """Record that entries up to `number` are durable, to `checkpointed` in a file, to `saved` in the auto-save."""
        self.window.acknowledge(number)
        self.outbox.acknowledged(number)
        with self._lock:
            self.journaled = max(self.journaled, number)
            self.checkpointed = max(self.checkpointed, checkpointed)
            self.saved = max(self.saved, saved)
            self._settle_waiting()
        self.outbox.trim(checkpointed)

    def attach(self, message: Attached, journal: str | None, *, after: int) -> None:
        """Record that the daemon with `journal` accepts entries; those after the number `after` are sent next."""
        self.window.rewind(after)
        with self._lock:
            if self.journal not in (None, journal):  # these numbers are of a journal that was replaced
                self.journaled = self.checkpointed = self.saved = 0
            self.journal = journal
            self.parent_session = message.parent_session
            self._save_asked = 0
            self.advance(StreamEvent.ATTACHED)
        self.note_attachments_left(message.attachments_left)
        self.acknowledge(message.number, message.checkpointed)

    def ask_again_at(self, monotonic_s: float) -> None:
        """Set when the link asks the daemon again, if it has not attached the stream by then."""
        self._attach_again_s = monotonic_s

    def lose(self) -> None:
        """Record that the connection is lost; unacknowledged entries are sent again to the next daemon."""
        self.advance(StreamEvent.LOST)
        self.window.rewind(self.journaled)

    def note_save_asked(self) -> None:
        """Record that `Save` was sent."""
        self._save_asked = self._save_wanted

    def settle_mark(self, number: int, outcome: CheckpointInfo | CheckpointFailed) -> None:
        """Settle the future of the mark `number`, if a caller waits for it."""
        with self._lock:
            if future := self.marks.get(number):
                settle(future, outcome)

    def refuse(self, error: EdiCheckpointError, *, for_ever: bool) -> None:
        """Have the publisher's next call raise `error`, or with `for_ever` every call from now on."""
        with self._lock:
            if for_ever:
                self.advance(StreamEvent.SHUT_OUT)
                self.fenced = error
            else:
                self.advance(StreamEvent.REFUSED)
                self.failed = error
            self._settle_waiting()


def wait(future: Future[_T], timeout_s: float) -> None:
    """Wait until `future` is done, at most `timeout_s`. `concurrent.futures.wait` would add a waiter object."""
    with contextlib.suppress(TimeoutError):
        future.exception(timeout_s)


def settle(future: Future[_T], outcome: _T | EdiCheckpointError) -> None:
    """End `future` with a result or an error, unless its caller has cancelled it."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, EdiCheckpointError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
