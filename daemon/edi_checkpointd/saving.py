"""Saving: what follows a commit. Which timers run, which documents are asked for, what is noted of them.

All of it happens in the intake thread. Timers (scheduler) and results (checkpointer) come back to it as calls, so every
decision sees the states as they are, and nothing needs a lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta

from edi_checkpoint import protocol
from edi_checkpoint.errors import CheckpointFailed, EdiCheckpointError
from edi_checkpoint.model import CheckpointInfo, Kind
from edi_checkpointd.checkpointer import Checkpointer, Subject, Written
from edi_checkpointd.clock import Clock, from_us, to_us
from edi_checkpointd.config import Config
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.feed import Feed
from edi_checkpointd.fs import Reserve
from edi_checkpointd.journal import JournalDamaged, Notes
from edi_checkpointd.ledger import Ledger
from edi_checkpointd.policy import Amendment, Point, Wish, point_due_s, transition_wish
from edi_checkpointd.scheduler import Scheduler
from edi_checkpointd.sessions import Session, Stream

log = logging.getLogger(__name__)

HOLD_AGAIN_S = 10.0  # how often the reserve is tried for after it was given back
NOTE_AFTER_S = 1.0  # noting is a commit of its own; until then a start finds out by the files' heads
COLLECT_LOOKS = 1440  # in the time between two collections: whether it is over, also for a daemon that runs for minutes
TRIM_ROWS = 200  # a slice of clean-up; frames may wait behind it


class Saving:
    """Brings the ledger's sessions into files in time.

    `post` has a call made in the intake thread; `notify` sends a message to a stream's client, if one is connected.
    """

    def __init__(
        self,
        ledger: Ledger,
        scheduler: Scheduler,
        checkpointer: Checkpointer,
        reserve: Reserve,
        config: Config,
        clock: Clock,
        feed: Feed,
        *,
        post: Callable[[Callable[[], None]], None],
        notify: Callable[[str, protocol.DaemonMessage], None],
    ) -> None:
        """Take the parts; no timer runs yet."""
        self._ledger = ledger
        self._scheduler = scheduler
        self._checkpointer = checkpointer
        self._reserve = reserve
        self._hold_again_s = 0.0
        self.config = config
        self._clock = clock
        self._feed = feed
        self._post = post
        self._notify = notify
        self.grew: Callable[[int], None] = lambda _: None  # told of the size of each checkpoint written
        self.failing: dict[str, str] = {}  # by session: why its files could not be written the last time
        self._notes: dict[int, Notes] = {}
        self._filed: set[str] = set()  # attachments that have come into files
        self._collect_at_s = clock.monotonic_s() + config.collect_every_s / COLLECT_LOOKS
        self._notes_due = False
        self._under_way: dict[str, int] = {}  # by session: checkpoints asked for and not yet told of
        self._save_asked: dict[str, int] = {}  # streams whose clients wait for the auto-save, with the number they want
        self._grown: dict[str, Session] = {}  # whose rows outweigh their snapshot
        self._untrimmed: list[Session] = []

    # -- after a commit ----------------------------------------------------------------------------------------------

    def changed(self, session: Session) -> None:
        """Set the timers that a changed session needs; those that run already stay as they are."""
        if session.point:
            self._set_timer("point", session, self.config.transition_quiet_s, self._point_due)
        if session.unsaved:
            self._set_timer("autosave", session, self.config.autosave_every_s, self._autosave_due)
        if self._ledger.snapshot_due(session):
            self._grown[session.session_id] = session
        if session.unphotographed:
            self._set_timer("interval", session, self.config.checkpoint_every_s, self._interval_due)

    def wish(self, session: Session, wish: Wish | Amendment) -> None:
        """Have a checkpoint written, or one that is there amended."""
        if self._checkpointer.checkpoint(_subject(session), wish):
            self._under_way[session.session_id] = self._under_way.get(session.session_id, 0) + 1
        if isinstance(wish, Wish):
            session.asked = max(session.asked, wish.state.sequence)

    def photograph(self, session: Session, kind: Kind, reason: str) -> None:
        """Have a checkpoint of the present state written, unless the newest one holds it; a pending point gives way."""
        session.point = None
        if session.unasked:
            self.wish(session, Wish(session.state, kind, reason))

    def save_again(self, session: Session, reason: str) -> None:
        """Have all written that tells of the present state: its files are gone."""
        self._notes.pop(session.key, None)
        self._ledger.unsave(session)
        self.photograph(session, Kind.RECOVERED, reason)
        self.changed(session)

    def save_now(self, stream: Stream) -> None:
        """Bring a stream's entries into a file and acknowledge that, as its client asked."""
        if stream.session.unsaved:
            self._save_asked[stream.id] = stream.number
            self._checkpointer.autosave(_subject(stream.session), stream.session.state)
        else:
            self._notify(stream.id, self._ledger.acknowledgement(stream))

    # -- timers ------------------------------------------------------------------------------------------------------

    def _set_timer(self, kind: str, session: Session, delay_s: float, due: Callable[[Session], None]) -> None:
        name = f"{kind}:{session.session_id}"
        if name in self._scheduler.pending:
            return

        def gone_off() -> None:
            current = self._ledger.sessions.get(session.session_id)
            if current is not None:
                due(current)

        self._scheduler.after(delay_s, name, lambda: self._post(gone_off))

    def _point_due(self, session: Session) -> None:
        if session.point is None:
            return
        due_s = point_due_s(
            session.point,
            session.touched_s,
            quiet_s=self.config.transition_quiet_s,
            max_s=self.config.transition_max_s,
        )
        if (left_s := due_s - self._clock.monotonic_s()) > 0:
            self._set_timer("point", session, left_s, self._point_due)
            return
        self._end_point(session, session.point)

    def _end_point(self, session: Session, point: Point) -> None:
        self.wish(session, transition_wish(point, session.state))
        session.point = None

    def _autosave_due(self, session: Session) -> None:
        if session.unsaved:
            self._checkpointer.autosave(_subject(session), session.state)

    def _interval_due(self, session: Session) -> None:
        if session.unasked and session.point is None:
            self.wish(session, Wish(session.state, Kind.INTERVAL, f"{self.config.checkpoint_every_s:g} s passed"))
        else:
            self.changed(session)

    # -- results -----------------------------------------------------------------------------------------------------

    def written(self, result: Written) -> None:
        """Note what has come into a file, tell who waits for it, and go on with what is still unsaved.

        Raises `JournalDamaged` that was met on the way: no file is written beside a journal that cannot be read.
        """
        if isinstance(result.error, JournalDamaged):
            raise result.error
        self._filed.update(result.filed)
        session = self._ledger.sessions.get(result.session_id)
        if session is None:
            return
        if result.wish is not None:
            left = self._under_way.pop(result.session_id, 1) - 1
            if left:
                self._under_way[result.session_id] = left
            self._settle_mark(session, result)
        if result.checkpoint is not None:
            self._feed.checkpoint(result.checkpoint, amended=isinstance(result.wish, Amendment))
        if isinstance(result.wish, Amendment):
            self._checkpointer.keep_within_limits(_subject(session))
            return
        if result.error is not None:
            fault = getattr(result.error, "strerror", None) or str(result.error)
            if fault != self.failing.get(result.session_id):  # it is tried again with every timer
                log.error("files not written session=%s: %s", result.session_id, result.error)
                self._feed.fault("checkpoints_failing", fault, result.session_id)
            self.failing[result.session_id] = fault
            session.asked = session.checkpointed
            self.changed(session)  # the timers try again
            return
        if self.failing.pop(result.session_id, None):
            log.info("files written again session=%s", result.session_id)
        self._ledger.saved(session, result.state, checkpoint=result.wish is not None)
        if result.checkpoint is not None:
            self.grew(result.checkpoint.size_bytes)
        self._notes[session.key] = Notes(session.saved, session.checkpointed)
        if "notes" not in self._scheduler.pending:
            self._scheduler.after(NOTE_AFTER_S, "notes", lambda: self._post(self._note_now))
        for stream in session.streams.values():
            self._notify(stream.id, self._ledger.acknowledgement(stream))
            if self._save_asked.get(stream.id, 0) <= session.saved_number(stream):
                self._save_asked.pop(stream.id, None)
            elif result.wish is None:  # it was of an older state; behind a checkpoint, one is still on its way
                self._checkpointer.autosave(_subject(session), session.state)
        if result.wish is not None:
            self._checkpointer.keep_within_limits(_subject(session))
        self.changed(session)

    def _note_now(self) -> None:
        self._notes_due = True

    def _settle_mark(self, session: Session, result: Written) -> None:
        if result.wish is None or result.wish.mark is None:
            return
        for stream in session.streams.values():
            if result.state.streams.get(stream.id) == result.wish.mark:
                if result.checkpoint is not None:
                    self._notify(stream.id, protocol.MarkDone(stream.id, result.wish.mark, result.checkpoint))
                else:
                    self._notify(
                        stream.id,
                        protocol.MarkFailed(
                            stream.id, result.wish.mark, f"checkpoint not written: {result.error}",
                            getattr(result.error, "hint", CheckpointFailed.default_hint),
                        ),
                    )  # fmt: skip

    def checkpoint_at(self, session: Session, sequence: int) -> CheckpointInfo | None:
        """Return the checkpoint that the entry `sequence` asked for, when it is written."""
        return self._checkpointer.checkpoint_at(session.session_id, sequence)

    def checkpoint_before(self, session: Session, sequence: int) -> CheckpointInfo | None:
        """Return the session's newest checkpoint of a state older than `sequence`, None when there is none."""
        return self._checkpointer.newest_before(session.session_id, sequence)

    def newest_checkpoint(self, session: Session) -> str | None:
        """Return the name of the session's newest checkpoint, None when there is none."""
        newest = self._checkpointer.newest_before(session.session_id, session.state.sequence + 1)
        return newest.name if newest else None

    def busy(self, session: Session) -> bool:
        """Whether files of the session are still to be written."""
        return session.unsaved or session.session_id in self._under_way

    def _settled(self, session: Session) -> bool:
        """Whether every checkpoint that was wished for of the session is written."""
        return session.point is None and session.session_id not in self._under_way.keys() | self.failing.keys()

    def forget(self, session: Session) -> None:
        """Let go of all that is to be done of a session; its key may be another's next."""
        session_id = session.session_id
        for held in (self._under_way, self._grown, self.failing):
            held.pop(session_id, None)
        for stream_id in session.streams:
            self._save_asked.pop(stream_id, None)
        self._notes.pop(session.key, None)
        self._untrimmed = [other for other in self._untrimmed if other is not session]
        self._checkpointer.forget([session_id])

    # -- upkeep, a slice at a time ------------------------------------------------------------------------------------

    def tidy(self) -> bool:
        """Do one slice of upkeep; return whether there is more to do at once. Raises `JournalRefused`."""
        journal = self._ledger.journal
        if self._notes and self._notes_due:
            self.note()
            return True
        if self._grown:
            _, session = self._grown.popitem()
            self._ledger.snapshot(session, settled=self._settled(session))
            self._untrimmed.append(session)
            return True
        if self._untrimmed:
            session = self._untrimmed[-1]
            before = self._clock.now() - timedelta(hours=self.config.history_hours)
            if journal.bytes > self.config.history_max_bytes:
                before = self._clock.now()
            if journal.trim(session.key, before_us=to_us(before), limit=TRIM_ROWS) < TRIM_ROWS:
                self._untrimmed.pop()
            return True
        if self._clock.monotonic_s() >= self._collect_at_s:
            self._collect_at_s = self._clock.monotonic_s() + self.config.collect_every_s / COLLECT_LOOKS
            self._checkpointer.collect()
        if journal.wants_carry_over:
            journal.carry_over()
        if not self._reserve.held and self._clock.monotonic_s() >= self._hold_again_s:
            self._hold_again_s = self._clock.monotonic_s() + HOLD_AGAIN_S
            self._reserve.hold()
        return False

    def note(self) -> None:
        """Note in the journal what has come into files by now. Raises `JournalRefused`."""
        if not self._notes:
            return
        if self._filed:
            reached(CrashPoint.BLOBS_FILED)
        self._ledger.journal.note(self._notes, self._filed)
        self._notes, self._filed, self._notes_due = {}, set(), False
        reached(CrashPoint.SAVED_NOTED)

    def make_room(self) -> None:
        """The disk is full: give the reserve's blocks back, and have the journal take them before others do."""
        if self._reserve.held:
            self._reserve.release()
            self._ledger.journal.carry_over()
            self._hold_again_s = self._clock.monotonic_s() + HOLD_AGAIN_S
            self._untrimmed = list(self._ledger.sessions.values())

    def finish(self, drains: Callable[[str], bool]) -> None:
        """At the end: have what is unsaved written, as checkpoints of kind `shutdown`; the journal has it anyway.

        Not of sessions of which `drains` says that an outbox goes into them: the next start ends that, and says of what
        kind their checkpoint is.
        """
        for session in list(self._ledger.sessions.values()):
            if session.point is not None:
                self._end_point(session, session.point)
            elif not drains(session.session_id):
                self.photograph(session, Kind.SHUTDOWN, "the daemon was stopped")
            if session.unsaved:
                self._checkpointer.autosave(_subject(session), session.state)

    def note_all(self) -> None:
        """Note what came into files while the daemon was ending; the next start would find out by itself."""
        try:
            self.note()
        except EdiCheckpointError as error:
            log.warning("saved sequences not noted: %s", error)


def _subject(session: Session) -> Subject:
    return Subject(
        session.session_id, session.parent_session, from_us(session.started_us), session.app, session.pid,
        session.seen, session.keep,
    )  # fmt: skip
