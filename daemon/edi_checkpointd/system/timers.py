"""One-shot timers on APScheduler. Only this module imports apscheduler.

A timer posts its call to the loop's thread, which decides what to do. No timer runs when nothing is unsaved.
APScheduler 3 uses the wall clock: `follow_clock` shifts the timers when that clock is stepped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from edi_checkpointd.system.clock import Clock, wall_minus_monotonic_s

log = logging.getLogger(__name__)

_JUMP_S = 0.5  # NTP's slewing stays far below


class Scheduler:
    """Timers by name. Setting a timer again moves it."""

    def __init__(self, clock: Clock, post: Callable[[Callable[[], None]], None]) -> None:
        """Start APScheduler's thread and one worker. `post` makes a call in the loop's thread."""
        self._clock = clock
        self._post = post
        self._offset_s = wall_minus_monotonic_s(clock)
        self.pending: set[str] = set()  # timers that have not fired yet
        self._dated: set[str] = set()  # timers for a date, which a step of the clock does not shift
        self.stepped: tuple[float, float] | None = None  # the last step in seconds, and its monotonic time
        self.faults = 0  # missed, overlapping and failed timers; always 0 unless something is wrong
        self._scheduler = BackgroundScheduler(
            timezone="UTC",
            executors={"default": ThreadPoolExecutor(1)},
            # A timer may be set again before the worker has returned from its call: APScheduler must not drop that.
            job_defaults={"coalesce": True, "max_instances": 1000, "misfire_grace_time": None},
        )
        self._scheduler.add_listener(self._note_fault, EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES | EVENT_JOB_ERROR)
        self._scheduler.start()

    def after(self, delay_s: float, name: str, call: Callable[[], None]) -> None:
        """Make `call` once in the loop's thread, `delay_s` from now."""

        def fire() -> None:
            self.pending.discard(name)
            self._post(call)

        self.follow_clock()  # else a step before now, noticed later, would shift this timer, too
        self.pending.add(name)
        date = self._clock.now() + timedelta(seconds=delay_s)
        self._scheduler.add_job(fire, "date", run_date=date, id=name, replace_existing=True)

    def on(self, date: datetime, name: str, call: Callable[[], None]) -> None:
        """Make `call` once in the loop's thread, at a date of the wall clock, even if that clock is stepped.

        Such a timer does not count as pending, so the loop need not follow the clock for it.
        """
        self._dated.add(name)
        self._scheduler.add_job(self._post, "date", [call], run_date=date, id=name, replace_existing=True)

    @property
    def idle(self) -> bool:
        """Whether no timer is pending."""
        return not self.pending

    def follow_clock(self) -> None:
        """Shift all timers by the wall clock's step since the last call; cheap if there was none."""
        offset_s = wall_minus_monotonic_s(self._clock)
        jump_s = offset_s - self._offset_s
        if abs(jump_s) < _JUMP_S:
            return
        self._offset_s = offset_s
        self.stepped = (jump_s, self._clock.monotonic_s())
        log.warning("wall clock stepped seconds=%.1f", jump_s)
        for job in self._scheduler.get_jobs():
            if job.id in self._dated:
                continue
            try:
                job.modify(next_run_time=job.next_run_time + timedelta(seconds=jump_s))
            except JobLookupError:
                log.debug("timer had fired name=%s", job.id)

    def close(self) -> None:
        """Drop all timers and end the threads."""
        self._scheduler.remove_all_jobs()  # APScheduler's thread fails on a timer that fires during the shutdown
        self._scheduler.shutdown(wait=True)

    def _note_fault(self, event: JobEvent) -> None:
        self.faults += 1
        log.error("timer fault code=%d name=%s", event.code, event.job_id, exc_info=getattr(event, "exception", None))
