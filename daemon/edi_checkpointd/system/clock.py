"""The one place that reads clocks, so that a test can pass another one."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

from edi_checkpoint.system.times import from_us as from_us
from edi_checkpoint.system.times import to_us as to_us


class Clock(Protocol):
    """What the daemon asks of time: UTC for people and names, monotonic for intervals."""

    def now(self) -> datetime:
        """Return the wall clock's time, aware, in UTC."""

    def monotonic_s(self) -> float:
        """Return seconds that only rise."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Return the wall clock's time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Return seconds that only rise."""
        return time.monotonic()


JUMP_S = 86400.0


class Jumps:
    """Whether the wall clock jumped by more than a day within the last one, as far as anybody looked meanwhile.

    Ages are not believed then: who set it right knows, who set it wrong notices. A machine's sleep looks like a jump.
    """

    def __init__(self, clock: Clock) -> None:
        """Begin with a clock that is believed."""
        self._clock = clock
        self._offset_s = self._wall_minus_monotonic_s()
        self._until_s = 0.0

    def lately(self) -> bool:
        """Look, and return whether there was one lately."""
        offset_s, now_s = self._wall_minus_monotonic_s(), self._clock.monotonic_s()
        if abs(offset_s - self._offset_s) > JUMP_S:
            self._until_s = now_s + JUMP_S
        self._offset_s = offset_s
        return now_s < self._until_s

    def _wall_minus_monotonic_s(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic_s()
