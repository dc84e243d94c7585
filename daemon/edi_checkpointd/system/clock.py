"""Reads the clocks. No other module does, so that a test can pass a clock of its own."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

from edi_checkpoint.system.times import from_us as from_us
from edi_checkpoint.system.times import to_us as to_us


class Clock(Protocol):
    """A wall clock in UTC, for people and file names, and a monotonic clock, for intervals."""

    def now(self) -> datetime:
        """Return the wall clock's time, aware, in UTC."""

    def monotonic_s(self) -> float:
        """Return seconds that never go back."""


def wall_minus_monotonic_s(clock: Clock) -> float:
    """Return how far the wall clock is ahead of the monotonic clock; it changes only if the wall clock is stepped."""
    return clock.now().timestamp() - clock.monotonic_s()


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Return the wall clock's time."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()


JUMP_S = 86400.0


class Jumps:
    """Detects when the wall clock jumps by more than a day.

    For a day after a jump nothing is deleted by age, so that the user can notice and correct a wrong clock. A machine's
    sleep looks like a jump.
    """

    def __init__(self, clock: Clock) -> None:
        """Compare `clock` with its present time from now on."""
        self._clock = clock
        self._offset_s = wall_minus_monotonic_s(clock)
        self._until_s = 0.0

    def lately(self) -> bool:
        """Compare the clocks, and return whether a call within the last day found a jump."""
        offset_s, now_s = wall_minus_monotonic_s(self._clock), self._clock.monotonic_s()
        if abs(offset_s - self._offset_s) > JUMP_S:
            self._until_s = now_s + JUMP_S
        self._offset_s = offset_s
        return now_s < self._until_s
