"""The heartbeat: notifies systemd that the loop moves, and stops when the loop hangs. systemd then restarts the daemon.

A loop that is long in one step counts as hung, but not while it waits for the disk: a restarted daemon would wait for
the same disk.
"""

from __future__ import annotations

import threading
import time

from edi_checkpointd.system.pulse import Pulse, is_hung
from edi_checkpointd.systemd.notify import Notifier

SLOW_S = 5.0  # after this wait for the disk, the unit's status says so


class Heartbeat:
    """A thread that sends three heartbeats in systemd's watchdog period; no thread if systemd wants none."""

    def __init__(self, notifier: Notifier, pulse: Pulse, status: str) -> None:
        """Start the thread. `status` is the unit's status while the disk is not slow."""
        self._notifier = notifier
        self._pulse = pulse
        self._status = status
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if notifier.watchdog_s is not None:
            self._thread = threading.Thread(target=self._run, args=(notifier.watchdog_s,), name="heartbeat")
            self._thread.start()

    def _run(self, period_s: float) -> None:
        sent = self._status
        while not self._ended.wait(period_s / 3):
            step, now_s = self._pulse.step, time.monotonic()
            if is_hung(step, now_s, period_s / 2):
                continue
            self._notifier.heartbeat()
            slow = step is not None and step.on_disk and now_s - step.since_s > SLOW_S
            status = "waits for the disk, which takes long" if slow else self._status
            if status != sent:
                self._notifier.status(status)
                sent = status

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
