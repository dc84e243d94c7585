"""The loop of the one thread that owns the journal and all states.

A turn receives a batch of entries, commits it with one fsync, and acknowledges it. After that it answers the other
messages. Tasks do long work in slices, between two batches.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edi_checkpointd.intake.listener import Listener
from edi_checkpointd.intake.pipeline import Pipeline
from edi_checkpointd.server.dispatch import Dispatcher
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.system.clock import Clock
from edi_checkpointd.system.pulse import Pulse
from edi_checkpointd.system.timers import Scheduler
from edi_checkpointd.system.worker import Mailbox

log = logging.getLogger(__name__)

GUARD_S = 1.0  # while timers run, the loop notices a step of the wall clock at most so late
BACKGROUND_EVERY_S = 0.1  # also under constant load: otherwise no row would be trimmed and no outbox unlinked


class Busy(Protocol):
    """A part that may have work to do."""

    @property
    def pending(self) -> bool:
        """Whether it has work; an idle daemon does not exit then."""


class Task(Busy, Protocol):
    """Work that the loop does in slices, between two batches."""

    def wait_s(self) -> float | None:
        """Return in how many seconds the next slice is due; None: only after another event."""

    def step(self) -> None:
        """Do one slice. Raises OSError if the disk refuses; the loop retries the slice."""


class Slice(Protocol):
    """Work that can wait until no frames wait."""

    def step(self) -> bool:
        """Do one slice; return whether more work is due. Raises OSError if the disk refuses."""


@dataclass(slots=True, eq=False)
class Background:
    """The slices that are done when no frames wait. The first one with work runs; the later ones wait for it.

    `_unless_purging` also waits for the end of a purge. `pending` says whether more work is due.
    """

    _always: Sequence[Slice]
    _unless_purging: Sequence[Slice]
    _purger: Task
    _pipeline: Pipeline
    _pulse: Pulse
    _clock: Clock
    pending: bool = field(default=True, init=False)  # a start leaves work
    _due_s: float = field(default=0.0, init=False)

    def step(self, *, frames_wait: bool) -> None:
        """Do one slice if no frames wait, or if the last one was `BACKGROUND_EVERY_S` ago."""
        now_s = self._clock.monotonic_s()
        if frames_wait and now_s < self._due_s:
            self.pending = True  # perhaps; so the next turn checks again without waiting for a message
            return
        self._due_s = now_s + BACKGROUND_EVERY_S
        self.pending = False
        if self._pipeline.paused_s > 0:
            return
        try:
            with self._pulse.disk():  # most of a slice's time
                slices = self._always if self._purger.pending else (*self._always, *self._unless_purging)
                self.pending = any(part.step() for part in slices)
            if self.pending:
                self._pipeline.recovered()
        except OSError as error:
            self._pipeline.pause(error)


class Idleness:
    """Decides when a daemon that a client started exits: after `idle_exit_s` without work."""

    def __init__(
        self, listener: Listener, timers: Scheduler, ledger: Ledger, busy: Sequence[Busy], *, on: bool
    ) -> None:
        """Watch the parts in `busy`, the connections and the timers. If `on` is false, the daemon stays for ever."""
        self._listener = listener
        self._timers = timers
        self._ledger = ledger
        self._busy = busy
        self._on = on
        self._busy_at_s = ledger.clock.monotonic_s()

    @property
    def limit_s(self) -> float | None:
        """After how many seconds without work the daemon exits; None: never."""
        return (self._ledger.config.now.idle_exit_s or None) if self._on else None

    def is_over(self, *, heard: bool) -> bool:
        """Whether the daemon exits now; `heard` says whether a client asked something in this turn."""
        now_s, limit_s = self._ledger.clock.monotonic_s(), self.limit_s
        timers = bool(self._ledger.sessions) and not self._timers.idle  # timers of sessions that left memory do nothing
        if heard or timers or self._listener.routes or any(part.pending for part in self._busy):
            self._busy_at_s = now_s
            return False
        if limit_s is None or now_s - self._busy_at_s < limit_s:
            return False
        log.info("leaving: no client wrote for seconds=%.0f", limit_s)
        return True


@dataclass(slots=True, eq=False)
class Loop:
    """Serves one socket until `stop`. In each turn, each task whose slice is due does one."""

    _listener: Listener
    _mailbox: Mailbox
    _pipeline: Pipeline
    _dispatcher: Dispatcher
    _tasks: Sequence[Task]
    _background: Background
    _timers: Scheduler
    _idleness: Idleness
    stopping: bool = field(default=False, init=False)

    def stop(self) -> None:
        """End `run` after the current batch is committed; safe in a signal handler."""
        self.stopping = True
        self._mailbox.wake()

    def run(self) -> None:
        """Serve until `stop`, or until an idle daemon exits. Raises `JournalDamaged`; only a restart helps then."""
        while not self.stopping:
            self.turn()

    def turn(self) -> None:
        """Receive one batch, commit it and acknowledge it; then do whatever else is due."""
        notices = self._listener.poll(self._timeout_s())
        messages = self._pipeline.receive()
        self._pipeline.commit_batch()
        for routing_id, message in messages:
            self._dispatcher.dispatch(routing_id, message)
        for notice in notices:
            notice()
        self._mailbox.run()
        self._timers.follow_clock()
        for task in self._tasks:
            self._step(task)
        self._background.step(frames_wait=bool(messages) or self._listener.waiting)
        self._dispatcher.send_events()
        if self._idleness.is_over(heard=bool(messages)):
            self.stopping = True

    def _timeout_s(self) -> float | None:
        if self._mailbox.waiting or self._background.pending:
            return 0
        paused_s = max(0, self._pipeline.paused_s)
        waits = [max(wait_s, paused_s) for task in self._tasks if (wait_s := task.wait_s()) is not None]
        if not self._timers.idle:
            waits.append(GUARD_S)
        elif (limit_s := self._idleness.limit_s) is not None:
            waits.append(limit_s)
        return min(waits, default=None)

    def _step(self, task: Task) -> None:
        if task.wait_s() == 0 and self._pipeline.paused_s <= 0:
            try:
                task.step()
            except OSError as error:
                self._pipeline.pause(error)
