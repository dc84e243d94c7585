"""The heartbeat: tells the service manager that the intake moves on, and stops when it does not.

An intake that is long in one step is taken for hung, and the manager starts the daemon anew; one that waits for the
disk is not: a new daemon would wait for the same disk.
"""

from __future__ import annotations

import threading
import time

from edi_checkpointd.system.pulse import Pulse, is_hung
from edi_checkpointd.systemd.notify import Notifier

SLOW_S = 5.0  # from then on the manager is told what the daemon waits for


class Heartbeat:
    """A thread that beats three times in the manager's period; none where no manager wants it."""

    def __init__(self, notifier: Notifier, pulse: Pulse, status: str) -> None:
        """Begin to beat; `status` is what the manager is told again when the disk has answered."""
        self._notifier = notifier
        self._pulse = pulse
        self._status = status
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if notifier.watchdog_s is not None:
            self._thread = threading.Thread(target=self._run, args=(notifier.watchdog_s,), name="heartbeat")
            self._thread.start()

    def _run(self, period_s: float) -> None:
        told = self._status
        while not self._ended.wait(period_s / 3):
            step, now_s = self._pulse.step, time.monotonic()
            if is_hung(step, now_s, period_s / 2):
                continue
            self._notifier.heartbeat()
            slow = step is not None and step.on_disk and now_s - step.since_s > SLOW_S
            status = "waits for the disk, which takes long" if slow else self._status
            if status != told:
                self._notifier.status(status)
                told = status

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
