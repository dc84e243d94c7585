"""Which step the intake thread is in, and since when.

The intake thread sets it, the heartbeat thread reads it. A step that waits for the disk is never taken for a hang:
the next daemon would wait for the same disk.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoopStep:
    """What the intake is at: waiting for the disk or not, since when (monotonic)."""

    since_s: float
    on_disk: bool = False


class Pulse:
    """Which step the intake is at. Its thread alone sets it, whole; the heartbeat's reads it."""

    def __init__(self) -> None:
        """Begin at rest."""
        self.step: LoopStep | None = None
        """None while the intake waits for messages."""

    def work(self) -> None:
        """Begin a step."""
        self.step = LoopStep(time.monotonic())

    def rest(self) -> None:
        """Wait for messages."""
        self.step = None

    @contextlib.contextmanager
    def disk(self) -> Iterator[None]:
        """Wait for the disk; what comes afterwards is another step."""
        resting = self.step is None
        self.step = LoopStep(time.monotonic(), on_disk=True)
        try:
            yield
        finally:
            self.step = None if resting else LoopStep(time.monotonic())


def is_hung(step: LoopStep | None, now_s: float, patience_s: float) -> bool:
    """Whether the intake has been in `step` for longer than `patience_s` and no disk keeps it."""
    return step is not None and not step.on_disk and now_s - step.since_s > patience_s
