"""The janitor: carries out clean-ups, those that are due and those that a user asks for. Runs in the loop's thread.

The reader thread makes the plan. The janitor moves sessions into the trash and deletes them from it in slices, when no
frame waits. It checks each session again first: a session that a writer opened meanwhile stays. The files thread
deletes checkpoints.

No timer runs when nothing could be due. A clean-up follows when the next session or document goes by age. It also
follows a while after a writer left, and when documents have grown beyond their limit.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
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

RETRY_S = 3600.0  # after a plan that could not be made
FURTHEST_S = 86400.0  # no timer is set further ahead
ANNOUNCED = "cleanup_announced_us"

Outcome = Cleanup | EdiCheckpointError


@dataclass(slots=True, eq=False)
class Janitor:
    """Keeps a home within its limits. `troubles` is what `status` reports of that.

    `_planner` makes the plans in the thread of `_reader`.
    """

    _ledger: Ledger
    _loader: SessionLoader
    _trash: Trash
    _deletion: Deletion
    _planner: Planner
    _reader: Worker
    _timers: Scheduler
    _spare_bytes: int = field(init=False)  # how much documents may grow before the next clean-up
    _busy: bool = field(default=False, init=False)  # from the order of a plan until it is carried out
    _waiting: list[Callable[[Outcome], None]] = field(default_factory=list, init=False)
    _slices: deque[Callable[[], None]] = field(default_factory=deque, init=False)
    troubles: tuple[Trouble, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self._spare_bytes = self._ledger.config.now.sessions_max_bytes

    # -- when --------------------------------------------------------------------------------------------------------

    def soon(self) -> None:
        """Clean up in a while: the daemon has started, a writer has left, or documents have grown."""
        if "clean-up" not in self._timers.pending:
            self._timers.after(self._ledger.config.now.checkpoint_every_s, "clean-up", self.clean_up)

    def grew(self, size_bytes: int) -> None:
        """Count a document of this size that was written."""
        self._spare_bytes -= size_bytes
        if self._spare_bytes < 0:
            self.soon()

    def keep_within_limits(self, session_id: str, own: Own) -> None:
        """Delete the checkpoints of a session beyond its limits, because one was written."""
        self._deletion.keep_within_limits(session_id, own)

    def prune(self, notify: Callable[[Outcome], None]) -> None:
        """Clean up now, including sessions that are only announced; call `notify` with the result at the end."""
        self._waiting.append(notify)
        self.clean_up()

    def clean_up(self) -> None:
        """Have a clean-up planned, and carry it out; nothing happens while one is under way."""
        if not self._busy:
            self._busy = True
            self._trash.begin_plan()
            take_inventory = self._planner.prepare(frozenset(self._ledger.sessions))
            self._reader.ask(lambda: take_inventory().cleanup, self._planned)

    # -- carrying a plan out -----------------------------------------------------------------------------------------

    def _planned(self, outcome: Outcome) -> None:
        waiting, self._waiting = self._waiting, []
        if isinstance(outcome, EdiCheckpointError):
            log.warning("clean-up not planned: %s", outcome)
            self._done(outcome, waiting, self._ledger.clock.now() + timedelta(seconds=RETRY_S))
            return
        self._spare_bytes = outcome.spare_bytes
        waits_until = self._waits_until(outcome, asked=bool(waiting))
        self.troubles = self._troubles(outcome, waits_until)
        if waits_until is None:
            self._slices += [partial(self._move_to_trash, one) for one in outcome.trash]
        self._slices += [partial(self._delete, one) for one in outcome.empty]
        self._slices += [partial(self._thin, one) for one in outcome.history]
        self._slices += [partial(self._unlink_damaged, one.path) for one in outcome.damaged]
        due = min((time for time in (outcome.due, waits_until) if time), default=None)
        done = partial(self._done, outcome, waiting, due)
        self._slices.append(lambda: self._deletion.delete(outcome.drop, done))

    def _done(self, outcome: Outcome, waiting: list[Callable[[Outcome], None]], due: datetime | None) -> None:
        self._busy = False
        self._trash.end_plan()
        for notify in waiting:
            notify(outcome)
        if due is not None:
            now = self._ledger.clock.now()
            delay_s = max((due - now).total_seconds(), self._ledger.config.now.checkpoint_every_s)
            self._timers.on(now + timedelta(seconds=min(delay_s, FURTHEST_S)), "age", self.clean_up)
        if self._waiting:
            self.clean_up()

    def _waits_until(self, cleanup: Cleanup, *, asked: bool) -> datetime | None:
        """Return until when the sessions stay that would go into the trash; None: they go now.

        The first clean-up ever is announced for `trash_days`, unless a user asks for it.
        """
        if not cleanup.trash:
            return None
        journal, now = self._ledger.journal, self._ledger.clock.now()
        grace = timedelta(days=self._ledger.config.now.trash_days)
        since_us = journal.read.remembered(ANNOUNCED)
        if asked:
            if since_us is None:
                journal.remember(ANNOUNCED, 0)
            return None
        if since_us is None or from_us(since_us) > now:
            log.info("sessions will go into the trash from=%s count=%d", now + grace, len(cleanup.trash))
            since_us = to_us(now)
            journal.remember(ANNOUNCED, since_us)
        until = from_us(since_us) + grace
        return until if now < until else None

    def _troubles(self, cleanup: Cleanup, waits_until: datetime | None) -> tuple[Trouble, ...]:
        troubles, config = [], self._ledger.config.now
        if waits_until is not None:
            fault = (
                f"from {waits_until.isoformat(timespec='minutes')} on, the daemon moves old closed sessions into the"
                f" trash for {config.trash_days:g} days: those older than {config.keep_closed_days:g} days, and those"
                f" beyond the newest {config.keep_sessions}; now {len(cleanup.trash)} of them"
            )
            hint = "`edi-checkpoint prune` lists them; raise keep_sessions and keep_closed_days, or pin a checkpoint"
            troubles.append(Trouble("cleanup_announced", fault, hint))
        if cleanup.spare_bytes < 0:
            fault = (
                f"checkpoints and auto-saves that no rule may delete are {-cleanup.spare_bytes} bytes over"
                f" sessions_max_bytes ({config.sessions_max_bytes})"
            )
            hint = "raise it, unpin checkpoints, dismiss interrupted sessions, or purge sessions you do not need"
            troubles.append(Trouble("documents_over_bound", fault, hint))
        return tuple(troubles)

    # -- one slice at a time -----------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether a clean-up is under way."""
        return self._busy or bool(self._slices)

    def step(self) -> bool:
        """Do one slice; return whether there is more. The next clean-up retries a slice that fails."""
        if self._slices:
            try:
                self._slices.popleft()()
            except OSError as error:
                log.warning("clean-up slice failed: %s", error)
        return bool(self._slices)

    def _move_to_trash(self, leaving: Departure) -> None:
        if not self._trash.was_reclaimed(leaving.session_id) and leaving.session_id not in self._ledger.sessions:
            self._trash.add(leaving.session_id, leaving.rule)

    def _delete(self, leaving: Departure) -> None:
        session_id, rule = leaving.session_id, leaving.rule
        if not self._trash.find(session_id):
            return
        if session_id in self._ledger.sessions or self._trash.has_come_back(session_id):
            log.info("leftover documents in the trash deleted session=%s rule=%s", session_id, rule)
            self._trash.delete(session_id)
            return
        self._trash.condemn(session_id, rule)
        self._forget(session_id)

    def _forget(self, session_id: str) -> None:
        """Delete a slice of a condemned session, and queue the next one."""
        if self._trash.delete_slice(session_id):
            self._slices.appendleft(partial(self._forget, session_id))

    def _thin(self, thinned: Thinned) -> None:
        """Have the journal keep the newest state of a session at rest, and delete the changes that led to it."""
        journal = self._ledger.journal
        if thinned.rule == "history_max_bytes" and journal.bytes <= self._ledger.config.now.history_max_bytes:
            return
        # A purged session has no row, and `load` would make a new one.
        if journal.read.session(thinned.session_id) and thinned.session_id not in self._ledger.sessions:
            session, unwritten, _ = self._loader.load(thinned.session_id)
            if unwritten:  # a crash left a checkpoint unwritten: the rows stay until a writer opens the session
                return
            self._ledger.snapshot(session)
            self._trim(session, to_us(self._ledger.clock.now()))
            log.info("history trimmed session=%s rule=%s", thinned.session_id, thinned.rule)

    def _trim(self, session: OpenSession, before_us: int) -> None:
        if self._ledger.journal.trim(session.key, before_us=before_us, limit=TRIM_ROWS) == TRIM_ROWS:
            self._slices.appendleft(partial(self._trim, session, before_us))

    def _unlink_damaged(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        log.info("file set aside deleted name=%s rule=damaged_max_bytes", path)

    def settle(self) -> None:
        """At a start: finish the deletions that a crash interrupted."""
        self._slices += [partial(self._forget, one) for one in self._trash.settle()]
