"""A stream as its publisher sees it: what is published, sent, acknowledged and in files, and who waits for that.

The outbox holds the entries; the link moves them. Both sides meet here under one lock, which publishing never takes.
Who waits holds a future that the link settles: a thread waits for it, an event loop awaits it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from math import inf
from typing import Final, TypeVar

from edi_checkpoint.errors import CheckpointFailed, EdiCheckpointError
from edi_checkpoint.link.contracts import SessionOutbox
from edi_checkpoint.link.window import Window
from edi_checkpoint.model import CheckpointInfo, Durable
from edi_checkpoint.wire.messages import Attached
from edi_checkpoint.wire.states import STREAM, StreamEvent, StreamState, advance

_T = TypeVar("_T")

_ATTACHED: Final = StreamState.ATTACHED  # an enum's attribute costs each publishing call twice as much
GATHERED_BYTES: Final = 64 << 10  # unsent; so many leave without waiting for more


class Stream:
    """One client's attachment to one session."""

    def __init__(self, session_id: str, parent_session: str | None, outbox: SessionOutbox) -> None:
        """Wrap a new outbox; nothing is sent before the link has the stream."""
        self.session_id = session_id
        self.parent_session = parent_session
        self.outbox = outbox
        self.id = outbox.stream
        self.window = Window()
        self.news = threading.Lock()  # held while the link changes one of the fields below and tells who waits for it
        self._awaited: list[tuple[Callable[[], bool], Future[None]]] = []
        self.state = StreamState.DETACHED
        self.journal: str | None = None  # the journal that gave `journaled`
        self.journaled = 0
        self.checkpointed = 0  # in a checkpoint or the auto-save
        self.saved = 0  # in the auto-save
        self.attachments_left: int | None = None  # bytes of them that the daemon takes; None: it has not said
        self.marks: dict[int, Future[CheckpointInfo]] = {}  # those that are waited for
        self.failed: EdiCheckpointError | None = None  # raised at the next call
        self.fenced: EdiCheckpointError | None = None  # raised at every call from now on
        self._hurry = 0  # somebody waits for entries up to this number
        self._save_wanted = 0  # bring entries up to this number into a file
        # the link thread's own:
        self._attach_again_s = 0.0  # when to ask once more, if the daemon has not answered
        self._save_asked = 0

    @property
    def attach_due_s(self) -> float:
        """When the link asks the daemon once more to let the stream in: monotonic, or infinity."""
        return self._attach_again_s or inf if self.state is StreamState.ATTACHING else inf

    @property
    def due_s(self) -> float:
        """When the link has to look at the stream by itself, while a daemon is connected: monotonic, or infinity."""
        return min(self.window.due_s, self.attach_due_s)

    @property
    def gathers(self) -> bool:
        """Whether what is unsent waits to leave in one frame with what comes: a frame costs both sides more than what
        is in it.

        While a frame is on its way it does, since the daemon is busy with that; and after a burst for a moment, or
        until as much has come again. What somebody waits for leaves at once.
        """
        window, outbox = self.window, self.outbox
        if window.sent < self._hurry or outbox.unsent_bytes >= GATHERED_BYTES:
            return False
        return window.gathers(outbox.published)

    @property
    def wants_link(self) -> bool:
        """Whether what was just published needs the link; else an acknowledgement or the next attach brings it along.

        For the publishing thread: the link first forgets why it waits, then looks into the outbox; so either it finds
        the entry there, or we find no reason to wait.
        """
        return not self.gathers if self.state is _ATTACHED else self.outbox.full

    @property
    def save_due(self) -> bool:
        """Whether the daemon is to be asked now to bring entries into a file: it has them, and was not asked yet."""
        return self._save_asked < self._save_wanted <= self.journaled

    def durable(self) -> Durable:
        """Return how far the stream's entries have come."""
        return Durable(
            published=self.outbox.published,
            spooled=self.outbox.spooled,
            journaled=self.journaled,
            checkpointed=self.checkpointed,
        )

    def when(self, reached: Callable[[], bool]) -> Future[None]:
        """Return a future that is done once `reached()`, which is looked at whenever the link has news.

        It fails with what fences the stream. Cancel it to give up.
        """
        future: Future[None] = Future()
        with self.news:
            self._awaited.append((reached, future))
            self._tell()
        return future

    def wait_for(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `reached()`, at most `timeout_s`, or until the stream is fenced; return whether it is reached."""
        future = self.when(reached)
        wait(future, timeout_s)
        future.cancel()
        return reached()

    def when_marked(self, number: int) -> Future[CheckpointInfo]:
        """Return a future of the checkpoint that the mark under `number` asks for.

        It fails with `CheckpointFailed`, and with what fences the stream. Cancel it to give up.
        """
        future: Future[CheckpointInfo] = Future()
        future.add_done_callback(lambda _: self.marks.pop(number, None))
        self.hurry(number)
        with self.news:
            self.marks[number] = future
            self._tell()
        return future

    def _tell(self) -> None:
        """Settle what has come, and drop what was given up; `news` is held."""
        still = []
        for reached, future in self._awaited:
            if self.fenced is not None or reached():
                _settle(future, self.fenced)
            elif not future.cancelled():
                still.append((reached, future))
        self._awaited = still
        if self.fenced is not None:
            for mark in list(self.marks.values()):
                _settle(mark, self.fenced)

    def raise_failure(self) -> None:
        """Raise what the daemon refused since the last call: once, or for ever when the stream is fenced."""
        if self.fenced is not None:
            raise self.fenced
        if self.failed is not None:
            failed, self.failed = self.failed, None
            raise failed

    def hurry(self, number: int) -> None:
        """Have entries up to `number` sent at once: somebody waits for them."""
        self._hurry = number

    def want_saved(self, number: int) -> None:
        """Have entries up to `number` brought into the auto-save."""
        self._save_wanted = number

    def note_attachments_left(self, left_bytes: int | None) -> None:
        """Note how many bytes of new attachments the daemon still takes; None: it does not say."""
        self.attachments_left = left_bytes

    def advance(self, event: StreamEvent) -> None:
        """Note what happened on the wire. Raises `ProtocolError` where that has no place."""
        self.state = advance(STREAM, self.state, event)

    # -- told by the link --------------------------------------------------------------------------------------------

    def acknowledge(self, number: int, checkpointed: int, saved: int = 0) -> None:
        """Note that entries up to `number` are durable, to `checkpointed` in a file, to `saved` in the auto-save."""
        self.window.acknowledge(number)
        self.outbox.acknowledged(number)
        with self.news:
            self.journaled = max(self.journaled, number)
            self.checkpointed = max(self.checkpointed, checkpointed)
            self.saved = max(self.saved, saved)
            self._tell()
        self.outbox.trim(checkpointed)

    def attach(self, message: Attached, journal: str | None, *, after: int) -> None:
        """Note that the daemon with `journal` takes entries; those after the number `after` are sent next."""
        self.window.rewind(after)
        with self.news:
            if self.journal not in (None, journal):  # the journal that gave the numbers is gone
                self.journaled = self.checkpointed = self.saved = 0
            self.journal = journal
            self.parent_session = message.parent_session
            self._save_asked = 0
            self.advance(StreamEvent.ATTACHED)
        self.note_attachments_left(message.attachments_left)
        self.acknowledge(message.number, message.checkpointed)

    def ask_again_at(self, monotonic_s: float) -> None:
        """Have the daemon asked once more to let the stream in, if it has not by then."""
        self._attach_again_s = monotonic_s

    def lose(self) -> None:
        """Note that the daemon is gone; what it has not acknowledged is sent again to the next."""
        self.advance(StreamEvent.LOST)
        self.window.rewind(self.journaled)

    def note_save_asked(self) -> None:
        """Note that the daemon was asked to bring entries into a file."""
        self._save_asked = self._save_wanted

    def settle_mark(self, number: int, outcome: CheckpointInfo | CheckpointFailed) -> None:
        """Hand the outcome of a mark to whoever waits for it; nobody may."""
        with self.news:
            if future := self.marks.get(number):
                _settle(future, outcome)

    def refuse(self, error: EdiCheckpointError, *, for_ever: bool) -> None:
        """Note an error that the publisher's next call raises."""
        with self.news:
            if for_ever:
                self.advance(StreamEvent.SHUT_OUT)
                self.fenced = error
            else:
                self.advance(StreamEvent.REFUSED)
                self.failed = error
            self._tell()


def wait(future: Future[_T], timeout_s: float) -> None:
    """Wait until `future` is done, at most `timeout_s`, without the waiter that `concurrent.futures.wait` makes."""
    with contextlib.suppress(TimeoutError):
        future.exception(timeout_s)


def _settle(future: Future[_T], outcome: _T | EdiCheckpointError) -> None:
    """Let `future` end with `outcome`, which may be an error, unless whoever waited has given up."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, EdiCheckpointError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
