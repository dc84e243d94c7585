"""The one place that reads clocks, so that a test can pass another one."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

from edi_checkpoint.times import from_us as from_us
from edi_checkpoint.times import to_us as to_us


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
