"""Records which step the loop's thread is in, and since when.

The loop's thread sets it, the heartbeat thread reads it. A step that waits for the disk never counts as hung, since a
restarted daemon would wait for the same disk.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoopStep:
    """One step of the loop: since when (monotonic), and whether it waits for the disk."""

    since_s: float
    on_disk: bool = False


class Pulse:
    """The loop's present step. Only the loop's thread sets it, always as a whole."""

    def __init__(self) -> None:
        """Start without a step."""
        self.step: LoopStep | None = None
        """None while the loop waits for messages."""

    def work(self) -> None:
        """Note that a step begins now."""
        self.step = LoopStep(time.monotonic())

    def rest(self) -> None:
        """Note that the loop waits for messages."""
        self.step = None

    @contextlib.contextmanager
    def disk(self) -> Iterator[None]:
        """Note that the block waits for the disk; after the block another step begins."""
        resting = self.step is None
        self.step = LoopStep(time.monotonic(), on_disk=True)
        try:
            yield
        finally:
            self.step = None if resting else LoopStep(time.monotonic())


def is_hung(step: LoopStep | None, now_s: float, limit_s: float) -> bool:
    """Return whether `step` has taken longer than `limit_s` without waiting for the disk."""
    return step is not None and not step.on_disk and now_s - step.since_s > limit_s
