"""The loop of the one thread that owns journal and states.

A turn is the way of an entry: receive a batch, commit it (one fsync for all of it), acknowledge it, and only then do
whatever else was asked. What can wait is done by tasks, in slices between two batches.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
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

GUARD_S = 1.0  # how late a step of the wall clock may be noticed while timers run
BACKGROUND_EVERY_S = 0.1  # also while frames always wait: without it no row is trimmed and no outbox unlinked for long


class Busy(Protocol):
    """What may have work to do."""

    @property
    def pending(self) -> bool:
        """Whether it has work, so that the daemon may not leave."""


class Task(Busy, Protocol):
    """Work that the loop does in slices, between two batches."""

    def wait_s(self) -> float | None:
        """Return in how many seconds the next slice is due; None: not before something else happens."""

    def step(self) -> None:
        """Do one slice. Raises OSError when the disk refuses: the slice is tried again."""


class Slice(Protocol):
    """Work that can wait for a pause."""

    def step(self) -> bool:
        """Do one slice; return whether there is more to do at once. Raises OSError when the disk refuses."""


class Background:
    """The slices that wait for a pause. The first with work to do has its turn; the later ones wait for it."""

    def __init__(
        self,
        always: Sequence[Slice],
        unless_purging: Sequence[Slice],
        purger: Task,
        pipeline: Pipeline,
        pulse: Pulse,
        clock: Clock,
    ) -> None:
        """Take them in the order of their turns; some wait for the end of a purge as well."""
        self._always = always
        self._unless_purging = unless_purging
        self._purger = purger
        self._pipeline = pipeline
        self._pulse = pulse
        self._clock = clock
        self._more = True  # a start leaves some
        self._due_s = 0.0

    def wait_s(self) -> float | None:
        """Return 0 when there is more to do at once, else None."""
        return 0 if self._more else None

    def step(self, *, frames_wait: bool) -> None:
        """Do one slice in a pause, or because there was none for long."""
        now_s = self._clock.monotonic_s()
        if frames_wait and now_s < self._due_s:
            self._more = True  # there may be: the next turn is not to wait for a message before it looks
            return
        self._due_s = now_s + BACKGROUND_EVERY_S
        self._more = False
        if self._pipeline.paused_s > 0:
            return
        try:
            with self._pulse.disk():  # slices do little else
                slices = self._always if self._purger.pending else (*self._always, *self._unless_purging)
                self._more = any(part.step() for part in slices)
            if self._more:
                self._pipeline.recovered()
        except OSError as error:
            self._pipeline.pause(error)


class Idleness:
    """Tells when a daemon that a client started may leave: it had nothing to do for `idle_exit_s`."""

    def __init__(
        self, listener: Listener, timers: Scheduler, ledger: Ledger, busy: Sequence[Busy], *, on: bool
    ) -> None:
        """Ask `busy`, beside the connections and the timers; with `on` false the daemon never leaves by itself."""
        self._listener = listener
        self._timers = timers
        self._ledger = ledger
        self._tasks = busy
        self._on = on
        self._busy_at_s = ledger.clock.monotonic_s()

    @property
    def limit_s(self) -> float | None:
        """How long the daemon stays without anything to do; None: for ever."""
        return (self._ledger.config.now.idle_exit_s or None) if self._on else None

    def is_over(self, *, heard: bool) -> bool:
        """Whether the daemon may leave now; `heard` says whether somebody asked something in this turn."""
        now_s, limit_s = self._ledger.clock.monotonic_s(), self.limit_s
        timers = bool(self._ledger.sessions) and not self._timers.idle  # those of sessions let go of do nothing
        if heard or timers or self._listener.routes or any(task.pending for task in self._tasks):
            self._busy_at_s = now_s
            return False
        if limit_s is None or now_s - self._busy_at_s < limit_s:
            return False
        log.info("leaving: nobody wrote for seconds=%.0f", limit_s)
        return True


class Loop:
    """Serves one socket until `stop`."""

    def __init__(
        self,
        listener: Listener,
        mailbox: Mailbox,
        pipeline: Pipeline,
        dispatcher: Dispatcher,
        tasks: Sequence[Task],
        background: Background,
        timers: Scheduler,
        idleness: Idleness,
    ) -> None:
        """Take the finished parts. The tasks have a slice in each turn in which they want one."""
        self._listener = listener
        self._mailbox = mailbox
        self._pipeline = pipeline
        self._dispatcher = dispatcher
        self._tasks = tasks
        self._background = background
        self._timers = timers
        self._idleness = idleness
        self._stopping = False

    def stop(self) -> None:
        """Let `run` return after the present batch is committed; safe in a signal handler."""
        self._stopping = True
        self._mailbox.wake()

    def run(self) -> None:
        """Serve until `stop`, or until the daemon may leave. Raises `JournalDamaged`: only another start helps then."""
        while not self._stopping:
            self.turn()

    @property
    def stopping(self) -> bool:
        """Whether the loop ends."""
        return self._stopping

    def turn(self) -> None:
        """Take one batch from the socket to disk and acknowledge it; then do what else is due."""
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
            self._stopping = True

    def _timeout_s(self) -> float | None:
        if self._mailbox.waiting or self._background.wait_s() == 0:
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
