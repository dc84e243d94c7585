"""One-shot timers on APScheduler, each for one changed session. The only importer of apscheduler.

A timer's call is made in the loop's thread, which decides there what to do. No timer runs when nothing is unsaved.
APScheduler 3 follows the wall clock: `follow_clock` shifts what is due when that jumps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from edi_checkpointd.system.clock import Clock

log = logging.getLogger(__name__)

_JUMP_S = 0.5  # slewing by NTP stays far below


class Scheduler:
    """Timers by name; setting one that is set already moves it."""

    def __init__(self, clock: Clock, post: Callable[[Callable[[], None]], None]) -> None:
        """Start APScheduler's thread and one worker; `post` has a call made in the loop's thread."""
        self._clock = clock
        self._post = post
        self._offset_s = self._wall_minus_monotonic_s()
        self.pending: set[str] = set()  # timers set and not gone off
        self._dated: set[str] = set()  # those for a date, which nobody watches the clock for
        self.stepped: tuple[float, float] | None = None  # by how many seconds the clock was, the last time; monotonic
        self.faults = 0  # missed, overlapping and failed timers: none of them should ever be
        self._scheduler = BackgroundScheduler(
            timezone="UTC",
            executors={"default": ThreadPoolExecutor(1)},
            # A timer may be set again before the worker has returned from its call: APScheduler must not drop that.
            job_defaults={"coalesce": True, "max_instances": 1000, "misfire_grace_time": None},
        )
        self._scheduler.add_listener(self._note_fault, EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES | EVENT_JOB_ERROR)
        self._scheduler.start()

    def after(self, delay_s: float, name: str, call: Callable[[], None]) -> None:
        """Have `call` made once, in the loop's thread, `delay_s` from now."""

        def go_off() -> None:
            self.pending.discard(name)
            self._post(call)

        self.follow_clock()  # else a step that nobody has noticed yet would shift this timer too
        self.pending.add(name)
        self._scheduler.add_job(
            go_off, "date", run_date=self._clock.now() + timedelta(seconds=delay_s), id=name, replace_existing=True
        )

    def on(self, date: datetime, name: str, call: Callable[[], None]) -> None:
        """Have `call` made once, in the loop's thread, at a date of the wall clock, even if that is stepped meanwhile.

        It keeps nothing awake: such a timer does not count as pending.
        """
        self._dated.add(name)
        self._scheduler.add_job(self._post, "date", [call], run_date=date, id=name, replace_existing=True)

    @property
    def idle(self) -> bool:
        """Whether no timer is set."""
        return not self.pending

    def follow_clock(self) -> None:
        """Shift all timers by as much as the wall clock was stepped since the last call; cheap when it was not."""
        offset_s = self._wall_minus_monotonic_s()
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
                log.debug("timer had gone off name=%s", job.id)

    def close(self) -> None:
        """Drop all timers and end the threads."""
        self._scheduler.remove_all_jobs()  # its thread fails on a timer that goes off while it is shut down
        self._scheduler.shutdown(wait=True)

    def _wall_minus_monotonic_s(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic_s()

    def _note_fault(self, event: JobEvent) -> None:
        self.faults += 1
        log.error("timer fault code=%d name=%s", event.code, event.job_id, exc_info=getattr(event, "exception", None))
