"""A stream as its publisher sees it: what is published, sent, acknowledged and in files, and who waits for that.

The outbox holds the entries; the link moves them. Both sides meet here under one lock, which publishing never takes.
Who waits holds a future that the link settles: a thread waits for it, an event loop awaits it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from math import inf
from typing import Final, TypeVar

from edi_checkpoint.errors import CheckpointFailed, EdiCheckpointError
from edi_checkpoint.model import CheckpointInfo, Durable
from edi_checkpoint.outbox import Outbox
from edi_checkpoint.protocol import Attached

_T = TypeVar("_T")

GATHERED_BYTES: Final = 64 << 10  # unsent; so many leave without waiting for more


class Stream:
    """One client's attachment to one session.

    `publish_base` publishes the whole mapping as one `Base` entry and returns its number; the link calls it when the
    daemon lacks entries (`docs/protocol.md`, Gaps).
    """

    def __init__(self, session_id: str, parent_session: str | None, outbox: Outbox) -> None:
        """Wrap a new outbox; nothing is sent before the link has the stream."""
        self.session_id = session_id
        self.parent_session = parent_session
        self.outbox = outbox
        self.id = outbox.stream
        self.publish_base: Callable[[], int] = lambda: outbox.published
        self.news = threading.Lock()  # held while the link changes one of the fields below and tells who waits for it
        self._awaited: list[tuple[Callable[[], bool], Future[None]]] = []
        self.attached: Attached | None = None  # the answer of the daemon now connected
        self.journal: str | None = None  # the journal that gave `journaled`
        self.journaled = 0
        self.checkpointed = 0  # in a checkpoint or the auto-save
        self.saved = 0  # in the auto-save
        self.attachments_left: int | None = None  # bytes of them that the daemon takes; None: it has not said
        self.marks: dict[int, Future[CheckpointInfo]] = {}  # those that are waited for
        self.hurry = 0  # somebody waits for entries up to this number
        self.save_wanted = 0  # bring entries up to this number into a file
        self.failed: EdiCheckpointError | None = None  # raised at the next call
        self.fenced: EdiCheckpointError | None = None  # raised at every call from now on
        # the link thread's own:
        self.attach_again_s = 0.0  # when to ask once more, if the daemon has not answered
        self.sent = 0
        self.in_flight: deque[tuple[int, int]] = deque()  # (last number, bytes) of each frame sent
        self.in_flight_bytes = 0
        self.burst = 0  # how many entries the last frame had, if they were many
        self.leave_at_s = 0.0  # when what gathers after a burst leaves; 0: nothing does
        self.unsent: tuple[bytes, int] | None = None  # a frame that the socket did not take
        self.save_sent = 0
        self.probe_at_s = 0.0
        self.probe_pause_s = 0.0
        self.probed = 0  # `sent` when the probe under way left; 0: none

    @property
    def unattached(self) -> bool:
        """Whether the daemon now connected has not let the stream in, and may yet."""
        return self.attached is None and self.fenced is None

    @property
    def due_s(self) -> float:
        """When the link has to look at the stream by itself, while a daemon is connected: monotonic, or infinity."""
        due_s = self.probe_at_s if self.in_flight else inf
        if self.leave_at_s:
            due_s = min(due_s, self.leave_at_s)
        if self.attach_again_s and self.unattached:
            due_s = min(due_s, self.attach_again_s)
        return due_s

    @property
    def gathers(self) -> bool:
        """Whether what is unsent waits to leave in one frame with what comes: a frame costs both sides more than what
        is in it.

        While a frame is on its way it does, since the daemon is busy with that; and after a burst for a moment, or
        until as much has come again. What somebody waits for leaves at once.
        """
        if self.sent < self.hurry or self.outbox.unsent_bytes >= GATHERED_BYTES:
            return False
        return bool(self.in_flight) or (self.leave_at_s > 0 and self.outbox.published - self.sent < self.burst)

    @property
    def wants_link(self) -> bool:
        """Whether what was just published needs the link; else an acknowledgement or the next attach brings it along.

        For the publishing thread: the link first forgets why it waits, then looks into the outbox; so either it finds
        the entry there, or we find no reason to wait.
        """
        return self.outbox.full if self.attached is None else not self.gathers

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
        self.hurry = number
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

    # -- told by the link --------------------------------------------------------------------------------------------

    def acknowledge(self, number: int, checkpointed: int, saved: int = 0) -> None:
        """Note that entries up to `number` are durable, to `checkpointed` in a file, to `saved` in the auto-save."""
        while self.in_flight and self.in_flight[0][0] <= number:
            self.in_flight_bytes -= self.in_flight.popleft()[1]
        self.outbox.acknowledged(number)
        with self.news:
            self.journaled = max(self.journaled, number)
            self.checkpointed = max(self.checkpointed, checkpointed)
            self.saved = max(self.saved, saved)
            self._tell()
        self.outbox.trim(checkpointed)

    def forget_acknowledged(self) -> None:
        """Count nothing as acknowledged or in a file: the journal that said so is gone."""
        with self.news:
            self.journaled = self.checkpointed = self.saved = 0

    def rewind(self, number: int) -> None:
        """Send again all that follows `number`."""
        self.sent = number
        self.in_flight.clear()
        self.in_flight_bytes = 0
        self.leave_at_s = 0.0
        self.unsent = None
        self.probed = 0

    def settle_mark(self, number: int, outcome: CheckpointInfo | CheckpointFailed) -> None:
        """Hand the outcome of a mark to whoever waits for it; nobody may."""
        with self.news:
            if future := self.marks.get(number):
                _settle(future, outcome)

    def refuse(self, error: EdiCheckpointError, *, for_ever: bool) -> None:
        """Note an error that the publisher's next call raises."""
        with self.news:
            if for_ever:
                self.fenced = error
            else:
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
