"""Convert times between aware datetimes and microseconds since 1970 (UTC), the form in entries and in the journal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime.fromtimestamp(0, UTC)


def to_us(moment: datetime) -> int:
    """Return the microseconds since 1970 of an aware `moment`."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_us(time_us: int) -> datetime:
    """Return microseconds since 1970 as an aware UTC time; a number out of range gives the first or last datetime."""
    try:
        return datetime.fromtimestamp(time_us // 1_000_000, UTC).replace(microsecond=time_us % 1_000_000)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC) if time_us > 0 else datetime.min.replace(tzinfo=UTC)
