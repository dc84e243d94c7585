"""The janitor: carries out clean-ups, those that are due and those that somebody asks for. In the intake thread.

A look is planned where questions are answered, by reading; its plan comes back here. Sessions go into the trash and out
of it in slices, when no frame waits, each looked at once more: whoever opened it meanwhile keeps it. Checkpoints are
deleted in the files thread.

No timer runs when nothing could be due. A look is set for when the next one goes by age, for some time after a session
was left, and for when documents have grown beyond their bound.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.home.problems import Trouble
from edi_checkpointd.retention.deletion import Deletion
from edi_checkpointd.retention.inventory import Planner
from edi_checkpointd.retention.plan import Cleanup, Departure, Thinned
from edi_checkpointd.retention.rules import Own
from edi_checkpointd.retention.trash import Trash
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.sessions.loading import SessionLoader
from edi_checkpointd.sessions.session import OpenSession
from edi_checkpointd.sessions.upkeep import TRIM_ROWS
from edi_checkpointd.system.clock import from_us, to_us
from edi_checkpointd.system.timers import Scheduler
from edi_checkpointd.system.worker import Worker

log = logging.getLogger(__name__)

AGAIN_S = 3600.0  # after a look that could not do what was due
FURTHEST_S = 86400.0  # a date further away is looked at again on the way
ANNOUNCED = "cleanup_announced_us"

Outcome = Cleanup | EdiCheckpointError


class Janitor:
    """Keeps a home within its bounds. `troubles` is what people should know of that."""

    def __init__(
        self,
        ledger: Ledger,
        loader: SessionLoader,
        trash: Trash,
        deletion: Deletion,
        planner: Planner,
        reader: Worker,
        timers: Scheduler,
    ) -> None:
        """Take the parts; nothing is looked at yet. Plans are made by `planner`, in the thread of `reader`."""
        self._ledger = ledger
        self._loader = loader
        self._trash = trash
        self._deletion = deletion
        self._planner = planner
        self._reader = reader
        self._timers = timers
        self._clock = ledger.clock
        self._config = ledger.config
        self._spare_bytes = ledger.config.now.sessions_max_bytes
        self._looking = False
        self._asked: list[Callable[[Outcome], None]] = []
        self._slices: deque[Callable[[], None]] = deque()
        self.troubles: tuple[Trouble, ...] = ()

    # -- when --------------------------------------------------------------------------------------------------------

    def soon(self) -> None:
        """Have a look in a while: the daemon has just started, a session was left, documents have grown."""
        if "keeping" not in self._timers.pending:
            self._timers.after(self._config.now.checkpoint_every_s, "keeping", self.clean_up)

    def grew(self, size_bytes: int) -> None:
        """Take note that a document of this size was written."""
        self._spare_bytes -= size_bytes
        if self._spare_bytes < 0:
            self.soon()

    def keep_within_limits(self, session_id: str, own: Own) -> None:
        """Delete the checkpoints of a session beyond what is kept of it, because one was written."""
        self._deletion.keep_within_limits(session_id, own)

    def prune(self, tell: Callable[[Outcome], None]) -> None:
        """Clean up now, also what is only announced, and `tell` what was done when it is."""
        self._asked.append(tell)
        self.clean_up()

    def clean_up(self) -> None:
        """Have a clean-up planned, and carry it out."""
        if not self._looking:
            self._looking = True
            self._trash.begin_plan()
            take_inventory = self._planner.prepare(frozenset(self._ledger.sessions))
            self._reader.ask(lambda: take_inventory().cleanup, self._planned)

    # -- what --------------------------------------------------------------------------------------------------------

    def _planned(self, outcome: Outcome) -> None:
        asked, self._asked = self._asked, []
        if isinstance(outcome, EdiCheckpointError):
            log.warning("nothing cleaned up: %s", outcome)
            self._done(outcome, asked, self._clock.now() + timedelta(seconds=AGAIN_S))
            return
        self._spare_bytes = outcome.spare_bytes
        waits_until = self._announced(outcome, by_hand=bool(asked))
        self.troubles = (*self._first(outcome, waits_until), *self._over(outcome))
        if waits_until is None:
            self._slices += [partial(self._take, one) for one in outcome.trash]
        self._slices += [partial(self._delete, one) for one in outcome.empty]
        self._slices += [partial(self._thin, one) for one in outcome.history]
        self._slices += [partial(self._unlink_damaged, one.path) for one in outcome.damaged]
        due = min((time for time in (outcome.due, waits_until) if time), default=None)

        def done() -> None:
            self._done(outcome, asked, due)

        self._slices.append(lambda: self._deletion.delete(outcome.drop, done))

    def _done(self, outcome: Outcome, asked: list[Callable[[Outcome], None]], due: datetime | None) -> None:
        self._looking = False
        self._trash.end_plan()
        for tell in asked:
            tell(outcome)
        if due is not None:
            delay_s = (due - self._clock.now()).total_seconds()
            delay_s = min(max(delay_s, self._config.now.checkpoint_every_s), FURTHEST_S)
            self._timers.on(self._clock.now() + timedelta(seconds=delay_s), "age", self.clean_up)
        if self._asked:
            self.clean_up()

    def _announced(self, cleanup: Cleanup, *, by_hand: bool) -> datetime | None:
        """Return until when sessions stay that would go into the trash; None: they go now.

        The first clean-up ever is announced one grace earlier, unless somebody asks for it.
        """
        if not cleanup.trash:
            return None
        journal, now = self._ledger.journal, self._clock.now()
        grace = timedelta(days=self._config.now.trash_days)
        since_us = journal.read.remembered(ANNOUNCED)
        if by_hand:
            if since_us is None:
                journal.remember(ANNOUNCED, 0)
            return None
        if since_us is None or from_us(since_us) > now:
            log.info("sessions go into the trash from %s on: %d", now + grace, len(cleanup.trash))
            since_us = to_us(now)
            journal.remember(ANNOUNCED, since_us)
        until = from_us(since_us) + grace
        return until if now < until else None

    def _first(self, cleanup: Cleanup, waits_until: datetime | None) -> list[Trouble]:
        if waits_until is None:
            return []
        count, config = len(cleanup.trash), self._config.now
        return [
            Trouble(
                "cleanup_announced",
                f"from {waits_until.isoformat(timespec='minutes')} on, sessions that were left go into the trash when"
                f" {config.keep_sessions} newer ones were, or after {config.keep_closed_days:g} days: {count} of them"
                f" then, for {config.trash_days:g} days",
                "`edi-checkpoint prune` shows which; raise keep_sessions and keep_closed_days to keep more; a session"
                " with a pinned checkpoint stays",
            )
        ]

    def _over(self, cleanup: Cleanup) -> list[Trouble]:
        if cleanup.spare_bytes >= 0:
            return []
        return [
            Trouble(
                "documents_over_bound",
                f"checkpoints and auto-saves that no rule may delete are {-cleanup.spare_bytes} bytes over"
                f" sessions_max_bytes ({self._config.now.sessions_max_bytes})",
                "raise it, unpin checkpoints, dismiss interrupted sessions, or purge what is not needed",
            )
        ]

    # -- one slice at a time -----------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether a clean-up is under way."""
        return self._looking or bool(self._slices)

    def step(self) -> bool:
        """Do one slice; return whether there is more. One that fails is left to the next look."""
        if self._slices:
            try:
                self._slices.popleft()()
            except OSError as error:
                log.warning("not cleaned up: %s", error)
        return bool(self._slices)

    def _take(self, leaving: Departure) -> None:
        if not self._trash.was_reclaimed(leaving.session_id) and leaving.session_id not in self._ledger.sessions:
            self._trash.add(leaving.session_id, leaving.rule)

    def _delete(self, leaving: Departure) -> None:
        session_id, rule = leaving.session_id, leaving.rule
        if not self._trash.find(session_id):
            return
        if session_id in self._ledger.sessions or self._trash.has_come_back(session_id):
            log.info("documents left in the trash deleted session=%s rule=%s", session_id, rule)
            self._trash.delete(session_id)
            return
        self._trash.condemn(session_id, rule)
        self._forget(session_id)

    def _forget(self, session_id: str) -> None:
        """Delete a slice of a condemned session; come back for the next one."""
        if self._trash.delete_slice(session_id):
            self._slices.appendleft(partial(self._forget, session_id))

    def _thin(self, thinned: Thinned) -> None:
        """Have the journal keep the newest state of a session at rest, and none of the changes that led to it."""
        journal = self._ledger.journal
        if thinned.rule == "history_max_bytes" and journal.bytes <= self._config.now.history_max_bytes:
            return
        known = journal.read.session(thinned.session_id) is not None  # else it was purged, and would be begun anew
        if known and thinned.session_id not in self._ledger.sessions:
            session, unwritten, _ = self._loader.load(thinned.session_id)
            if unwritten:  # a crash left a checkpoint unwritten: the rows stay until somebody opens the session
                return
            self._ledger.snapshot(session)
            self._trim(session, to_us(self._clock.now()))
            log.info("history trimmed session=%s rule=%s", thinned.session_id, thinned.rule)

    def _trim(self, session: OpenSession, before_us: int) -> None:
        if self._ledger.journal.trim(session.key, before_us=before_us, limit=TRIM_ROWS) == TRIM_ROWS:
            self._slices.appendleft(partial(self._trim, session, before_us))

    def _unlink_damaged(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        log.info("file set aside deleted name=%s rule=damaged_max_bytes", path)

    def settle(self) -> None:
        """At a start: go on with what a crash has cut short."""
        self._slices += [partial(self._forget, one) for one in self._trash.settle()]
