from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

import pytest
from apscheduler.schedulers import base as apscheduler_base

from edi_checkpointd.system.timers import Scheduler

HOUR_S, MONTH_S = 3600.0, 30 * 86400.0
SOON_S = 0.05
PATIENCE_S = 10.0


class WallClock:
    """The machine's clocks, with a wall clock that can be stepped, for us and for APScheduler alike."""

    def __init__(self) -> None:
        self.stepped_s = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.stepped_s)

    def monotonic_s(self) -> float:
        return time.monotonic()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    made = WallClock()

    class Stepped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return made.now().astimezone(tz)

    monkeypatch.setattr(apscheduler_base, "datetime", Stepped)
    return made


@pytest.fixture
def scheduler(clock: WallClock) -> Iterator[Scheduler]:
    made = Scheduler(clock, lambda call: call())
    yield made
    made.close()
    assert made.faults == 0


class Bell:
    """What a timer calls; tells when, in monotonic seconds since the bell was made."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._rung = threading.Event()
        self.times_s: list[float] = []

    def __call__(self) -> None:
        self.times_s.append(time.monotonic() - self._began_s)
        self._rung.set()

    def rings(self, timeout_s: float = PATIENCE_S) -> bool:
        rung = self._rung.wait(timeout_s)
        self._rung.clear()
        return rung

    @property
    def first_s(self) -> float:
        return self.times_s[0]


def test_a_timer_goes_off_once_at_its_time(scheduler: Scheduler) -> None:
    bell = Bell()
    scheduler.after(SOON_S, "one", bell)
    assert bell.rings()
    assert bell.first_s >= SOON_S
    assert not bell.rings(0.1)


def test_a_timer_that_is_due_already_goes_off_at_once(scheduler: Scheduler) -> None:
    for delay_s in (0.0, -5.0):
        bell = Bell()
        scheduler.after(delay_s, "one", bell)
        assert bell.rings()


def test_timers_go_off_in_the_order_of_their_times(scheduler: Scheduler) -> None:
    order: list[str] = []
    bell = Bell()
    for name, delay_s in (("third", 0.15), ("first", 0.05), ("second", 0.1)):
        scheduler.after(delay_s, name, lambda name=name: order.append(name))  # type: ignore[misc]
    scheduler.after(0.2, "last", bell)
    assert bell.rings()
    assert order == ["first", "second", "third"]


def test_setting_a_timer_again_moves_it(scheduler: Scheduler) -> None:
    never, bell = Bell(), Bell()
    scheduler.after(HOUR_S, "one", never)
    scheduler.after(SOON_S, "one", bell)  # earlier
    assert bell.rings()
    scheduler.after(SOON_S, "one", never)
    scheduler.after(2 * SOON_S, "one", bell)  # later
    assert bell.rings()
    assert never.times_s == []


def test_without_timers_it_is_idle(scheduler: Scheduler) -> None:
    assert scheduler.idle
    bell = Bell()
    scheduler.after(SOON_S, "one", bell)
    assert not scheduler.idle
    assert bell.rings()
    assert scheduler.idle
    assert scheduler.pending == set()


def test_a_timer_can_be_set_again_by_what_it_calls(scheduler: Scheduler) -> None:
    bell = Bell()

    def again() -> None:
        scheduler.after(0.0, "one", bell)

    scheduler.after(0.0, "one", again)
    assert bell.rings()


def test_a_timer_set_again_while_its_call_still_runs_is_not_lost(scheduler: Scheduler) -> None:
    """The call wakes the intake, which may set the timer anew before the worker has returned from it."""
    running, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        running.set()
        go_on.wait(PATIENCE_S)

    bell, other = Bell(), Bell()
    scheduler.after(0.0, "one", slow)
    assert running.wait(PATIENCE_S)
    scheduler.after(0.0, "one", bell)
    scheduler.after(0.05, "two", other)  # by then APScheduler has tried to run the other
    bell.rings(0.2)
    go_on.set()
    assert bell.times_s or bell.rings()
    assert other.times_s or other.rings()
    assert scheduler.faults == 0


def test_what_a_timer_raises_is_counted_and_does_no_harm(clock: WallClock) -> None:
    scheduler = Scheduler(clock, lambda call: call())
    bell = Bell()

    def fail() -> None:
        raise ValueError("injected")

    scheduler.after(0.0, "one", fail)
    scheduler.after(SOON_S, "two", bell)
    assert bell.rings()
    scheduler.close()
    assert scheduler.faults == 1


# -- the wall clock is stepped -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S, MONTH_S, -MONTH_S])
def test_a_timer_goes_off_at_its_time_whatever_the_wall_clock_does(
    clock: WallClock, scheduler: Scheduler, step_s: float
) -> None:
    """Forward it may go off early, when APScheduler looks before we do: saving twice does no harm, saving late does."""
    near, far = Bell(), Bell()
    scheduler.after(0.3, "near", near)
    scheduler.after(3 * MONTH_S, "far", far)
    clock.stepped_s = step_s
    scheduler.follow_clock()
    assert near.rings()
    assert near.first_s < 0.3 + PATIENCE_S / 2
    assert near.first_s >= 0.29 or step_s > 0
    assert far.times_s == []
    assert scheduler.pending == {"far"}


@pytest.mark.parametrize("step_s", [-HOUR_S, MONTH_S])
def test_a_timer_set_after_a_step_goes_off_at_its_time_too(
    clock: WallClock, scheduler: Scheduler, step_s: float
) -> None:
    """A message that comes first after a sleep sets timers before anybody has looked at the clock."""
    clock.stepped_s = step_s
    soon, later = Bell(), Bell()
    scheduler.after(SOON_S, "soon", soon)
    scheduler.after(HOUR_S / 2, "later", later)
    scheduler.follow_clock()
    assert soon.rings()
    assert soon.first_s >= SOON_S
    assert later.times_s == []


def test_a_clock_that_is_stepped_to_and_fro_moves_no_timer(clock: WallClock, scheduler: Scheduler) -> None:
    bell, never = Bell(), Bell()
    scheduler.after(0.2, "one", bell)
    scheduler.after(3 * MONTH_S, "two", never)
    for step_s in (HOUR_S, -HOUR_S, -MONTH_S, HOUR_S, 0.0):
        clock.stepped_s = step_s
        scheduler.follow_clock()
    assert bell.rings()
    assert never.times_s == []


def test_a_clock_that_is_slewed_for_long_moves_no_timer(clock: WallClock, scheduler: Scheduler) -> None:
    """Small steps that nobody follows one by one are followed together."""
    bell, never = Bell(), Bell()
    scheduler.after(0.2, "one", bell)
    scheduler.after(5.0, "two", never)
    for _ in range(100):
        clock.stepped_s += 0.1
        scheduler.follow_clock()
    assert bell.rings()
    assert never.times_s == []


def test_following_a_clock_that_stands_right_costs_no_look_at_the_timers(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler._scheduler, "get_jobs", lambda: pytest.fail("the timers were looked at"))
    scheduler.follow_clock()


def test_closing_drops_what_is_not_due(clock: WallClock) -> None:
    scheduler = Scheduler(clock, lambda call: call())
    bell = Bell()
    scheduler.after(HOUR_S, "one", bell)
    scheduler.close()
    assert bell.times_s == []
    assert not [thread for thread in threading.enumerate() if "APScheduler" in thread.name]


def test_closing_just_when_a_timer_goes_off_is_quiet(clock: WallClock) -> None:
    """APScheduler's thread fails on it otherwise, which pytest tells."""
    for _ in range(40):
        scheduler = Scheduler(clock, lambda call: call())
        bell = Bell()
        scheduler.after(0.0, "one", bell)
        assert bell.rings()
        scheduler.close()
