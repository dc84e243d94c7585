"""The one place that reads clocks, so that a test can pass another one."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime.fromtimestamp(0, UTC)


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


def to_us(moment: datetime) -> int:
    """Return microseconds since 1970 of an aware `moment`."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(time_us: int) -> datetime:
    """Return the aware UTC time of microseconds since 1970; a number no calendar holds becomes its nearest end."""
    try:
        return datetime.fromtimestamp(time_us // 1_000_000, UTC).replace(microsecond=time_us % 1_000_000)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC) if time_us > 0 else datetime.min.replace(tzinfo=UTC)
