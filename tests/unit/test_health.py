from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from edi_checkpoint.home.status import DaemonReport
from edi_checkpointd.health import REPORT_S, Health


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.s = 100.0

    def now(self) -> datetime:
        return datetime(2026, 11, 23, tzinfo=UTC) + timedelta(seconds=self.s)

    def monotonic_s(self) -> float:
        return self.s


def told(
    stats: Health,
    failing: Mapping[str, str] | None = None,
    refused_streams: int = 0,
    stepped: tuple[float, float] | None = None,
) -> DaemonReport:
    return stats.report(connections=0, failing=failing or {}, refused_streams=refused_streams, stepped=stepped)


def codes(found: DaemonReport) -> list[str]:
    return [trouble.code for trouble in found.troubles]


def test_a_daemon_without_troubles_tells_who_it_is_and_since_when() -> None:
    clock = HandClock()
    stats = Health(clock, "0.1.0")
    clock.s += 42
    found = told(stats)
    assert (found.daemon.pid, found.daemon.version, found.daemon.uptime_s) == (os.getpid(), "0.1.0", 42.0)
    assert (found.answered, found.troubles, found.errors) == (True, [], {})


def test_a_disk_that_refuses_is_told_with_its_beginning_until_it_takes_something() -> None:
    clock = HandClock()
    stats = Health(clock, "0.1.0")
    stats.disk_refused(OSError(28, "No space left on device"))
    clock.s += 3600
    stats.disk_refused(OSError(5, "Input/output error"))
    (trouble,) = told(stats).troubles
    assert trouble.code == "disk_refused"
    assert "since 2026-11-23T00:01:40+00:00" in trouble.message
    assert "Input/output error" in trouble.message
    stats.disk_took()
    assert codes(told(stats)) == []
    assert told(stats).errors == {"disk": 2}


def test_every_trouble_that_only_a_daemon_knows_is_told_with_a_remedy() -> None:
    clock = HandClock()
    stats = Health(clock, "0.1.0", journal_fault="journal.sqlite is gone")
    failing = {"s1": "No space left on device", "s2": "Permission denied"}
    found = told(stats, failing=failing, refused_streams=2, stepped=(-3600.0, clock.s))
    assert codes(found) == ["journal_begun_anew", "checkpoints_failing", "streams_refused", "clock_stepped"]
    assert all(trouble.hint for trouble in found.troubles)
    assert "session s1, and of 1 more" in found.troubles[1].message
    assert "-3600 s" in found.troubles[3].message


def test_a_step_of_the_clock_is_told_of_for_an_hour() -> None:
    clock = HandClock()
    stats = Health(clock, "0.1.0")
    step = (60.0, clock.s)
    clock.s += REPORT_S - 1
    assert codes(told(stats, stepped=step)) == ["clock_stepped"]
    clock.s += 1
    assert codes(told(stats, stepped=step)) == []
