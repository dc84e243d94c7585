"""The coordinator of checkpoints: it asks the policy which checkpoints to write, runs the timers, and orders the files.

Everything here runs in the loop's thread. Timers and the writer post their results to it as calls. So every decision
sees the current states, and no lock is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from edi_checkpoint.errors import CheckpointFailed
from edi_checkpoint.model import CheckpointInfo, Kind
from edi_checkpoint.wire import messages
from edi_checkpointd.checkpoints.policy import Amendment, PendingPoint, Wish, decide, point_due_s, transition_wish
from edi_checkpointd.checkpoints.writer import CheckpointWriter, Subject, Written
from edi_checkpointd.journal import JournalDamaged
from edi_checkpointd.retention.janitor import Janitor
from edi_checkpointd.retention.rules import Own
from edi_checkpointd.sessions.feed import Feed
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.sessions.loading import Opened
from edi_checkpointd.sessions.session import OpenSession, WriterStream
from edi_checkpointd.sessions.upkeep import Upkeep
from edi_checkpointd.state import Moment
from edi_checkpointd.system.clock import Clock, from_us
from edi_checkpointd.system.timers import Scheduler

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Progress:
    """How far the checkpoints and the auto-save of one session in memory have come."""

    point: PendingPoint | None = None
    touched_s: float = 0.0  # when the newest entry came
    asked: int = 0  # the newest sequence for which a checkpoint was ordered, written or not
    under_way: int = 0  # checkpoints that the writer has not reported yet
    covered: Mapping[str, int] = field(default_factory=dict)  # by stream: the highest number that a file contains
    autosaved: Mapping[str, int] = field(default_factory=dict)  # by stream: the highest number in the auto-save


@dataclass(slots=True, eq=False)
class Coordinator:
    """Saves the sessions of `_ledger` to files in time. `_notify` sends a message to a stream's client, if connected.

    Holds one record for each session in memory; `release` and `forget` drop it.
    """

    _ledger: Ledger
    _timers: Scheduler
    _writer: CheckpointWriter
    _upkeep: Upkeep
    _janitor: Janitor
    _feed: Feed
    _clock: Clock
    _notify: Callable[[str, messages.DaemonMessage], None]
    _progress: dict[str, _Progress] = field(default_factory=dict, init=False)
    failing: dict[str, str] = field(default_factory=dict, init=False)  # by session: why its last write failed
    # By stream: the number that its client wants in the auto-save.
    _save_asked: dict[str, int] = field(default_factory=dict, init=False)

    # -- after a commit ----------------------------------------------------------------------------------------------

    def opened(self, opened: Opened) -> None:
        """Add a session that was loaded, and order the checkpoints that a crash left unwritten."""
        session = opened.session
        self._progress[session.session_id] = _Progress(covered=dict(opened.covered))
        for wish in self._decide(session, opened.moments):
            if wish.state.sequence > session.checkpointed:
                self._order(session, wish)
        self.changed(session)

    def committed(self, session: OpenSession, moments: Iterable[Moment]) -> None:
        """Order the checkpoints that the moments of committed entries ask for."""
        for wish in self._decide(session, moments):
            self._order(session, wish)

    def _decide(self, session: OpenSession, moments: Iterable[Moment]) -> list[Wish | Amendment]:
        progress = self._of(session)
        progress.touched_s = self._clock.monotonic_s()
        checkpointed, quiet_s = max(session.checkpointed, progress.asked), self._ledger.config.now.transition_quiet_s
        progress.point, wishes = decide(
            progress.point, moments, checkpointed=checkpointed, quiet_s=quiet_s, now_s=progress.touched_s
        )
        self._settle(session)
        return wishes

    def _order(self, session: OpenSession, wish: Wish | Amendment) -> None:
        """Have a checkpoint written or amended."""
        progress = self._of(session)
        if self._writer.checkpoint(_subject(session), wish, self.written):
            progress.under_way += 1
        if isinstance(wish, Wish):
            progress.asked = max(progress.asked, wish.state.sequence)
        self._settle(session)

    def checkpoint(self, session: OpenSession, kind: Kind, reason: str) -> None:
        """Have a checkpoint of the current state written, unless the newest holds it; it replaces a pending point."""
        self._of(session).point = None
        self._settle(session)
        if self._unasked(session):
            self._order(session, Wish(session.state, kind, reason))

    def save_again(self, session: OpenSession, reason: str) -> None:
        """Have a checkpoint and the auto-save of the current state written, because the session's files are gone."""
        self._upkeep.unsave(session)
        self._ledger.unsave(session)
        progress = self._of(session)
        progress.asked, progress.covered, progress.autosaved = 0, {}, {}
        self.checkpoint(session, Kind.RECOVERED, reason)
        self.changed(session)

    def save_now(self, stream: WriterStream) -> None:
        """Write the auto-save with a stream's entries, and acknowledge it to the client that asked."""
        if stream.session.unsaved:
            self._save_asked[stream.id] = stream.number
            self._autosave(stream.session)
        else:
            self._notify(stream.id, self.acknowledgement(stream))

    def _autosave(self, session: OpenSession) -> None:
        if session.unsaved:
            self._writer.autosave(_subject(session), session.state, self.written)

    # -- timers ------------------------------------------------------------------------------------------------------

    def changed(self, session: OpenSession) -> None:
        """Set the timers that a changed session needs; a timer that runs already is not moved."""
        config = self._ledger.config.now
        if self._of(session).point:
            self._set_timer("point", session, config.transition_quiet_s, self._point_due)
        if session.unsaved:
            self._set_timer("autosave", session, config.autosave_every_s, self._autosave)
        self._upkeep.grew(session)
        if session.uncheckpointed:
            self._set_timer("interval", session, config.checkpoint_every_s, self._interval_due)

    def _set_timer(self, kind: str, session: OpenSession, delay_s: float, due: Callable[[OpenSession], None]) -> None:
        name = f"{kind}:{session.session_id}"
        if name in self._timers.pending:
            return

        def fire() -> None:
            current = self._ledger.sessions.get(session.session_id)
            if current is not None:
                due(current)

        self._timers.after(delay_s, name, fire)

    def _point_due(self, session: OpenSession) -> None:
        progress, config = self._of(session), self._ledger.config.now
        if (point := progress.point) is None:
            return
        quiet_s, max_s = config.transition_quiet_s, config.transition_max_s
        wait_s = point_due_s(point, progress.touched_s, quiet_s=quiet_s, max_s=max_s) - self._clock.monotonic_s()
        if wait_s > 0:
            self._set_timer("point", session, wait_s, self._point_due)
        else:
            self._end_point(session, point)

    def _end_point(self, session: OpenSession, point: PendingPoint) -> None:
        self._of(session).point = None
        self._order(session, transition_wish(point, session.state))

    def _interval_due(self, session: OpenSession) -> None:
        if self._unasked(session) and not self.has_point(session):
            every_s = self._ledger.config.now.checkpoint_every_s
            self._order(session, Wish(session.state, Kind.INTERVAL, f"{every_s:g} s passed"))
        else:
            self.changed(session)

    # -- results -----------------------------------------------------------------------------------------------------

    def written(self, result: Written) -> None:
        """Note what the writer saved, notify the clients that wait for it, and continue with what is unsaved.

        Raises the `JournalDamaged` that the writer met: no file is written beside a journal that cannot be read.
        """
        if isinstance(result.error, JournalDamaged):
            raise result.error
        self._upkeep.filed(result.filed)
        session = self._ledger.sessions.get(result.session_id)
        if session is None:
            return
        amended = isinstance(result.wish, Amendment)
        if result.wish is not None:
            progress = self._of(session)
            progress.under_way = max(0, progress.under_way - 1)
            self._answer_mark(session, result)
        if result.checkpoint is not None:
            self._feed.checkpoint(result.checkpoint, amended=amended)
        if amended:
            self._janitor.keep_within_limits(session.session_id, Own(session.keep, session.seen))
        elif result.error is not None:
            self._failed(session, result.error)
        else:
            self._saved(session, result)
        self._settle(session)

    def _failed(self, session: OpenSession, error: Exception) -> None:
        fault = getattr(error, "strerror", None) or str(error)
        if fault != self.failing.get(session.session_id):  # every timer retries, one line is enough
            log.error("files not written session=%s: %s", session.session_id, error)
            self._feed.fault("checkpoints_failing", fault, session.session_id)
        self.failing[session.session_id] = fault
        self._of(session).asked = session.checkpointed
        self.changed(session)

    def _saved(self, session: OpenSession, result: Written) -> None:
        if self.failing.pop(result.session_id, None):
            log.info("files written again session=%s", result.session_id)
        progress = self._of(session)
        if result.state.sequence >= max(session.saved, session.checkpointed):
            progress.covered = dict(result.state.streams)
        if result.wish is None:
            progress.autosaved = result.state.streams
        self._ledger.saved(session, result.state, checkpoint=result.wish is not None)
        self._upkeep.saved(session)
        for stream in session.streams.values():
            self._notify(stream.id, self.acknowledgement(stream))
            if self._save_asked.get(stream.id, 0) <= self._saved_number(stream):
                self._save_asked.pop(stream.id, None)
            elif result.wish is None:  # this auto-save was older than asked; after a checkpoint one is still queued
                self._autosave(session)
        if result.checkpoint is not None:
            self._janitor.grew(result.checkpoint.size_bytes)
            self._janitor.keep_within_limits(session.session_id, Own(session.keep, session.seen))
        self.changed(session)

    def _answer_mark(self, session: OpenSession, result: Written) -> None:
        if result.wish is None or (mark := result.wish.mark) is None:
            return
        for stream in session.streams.values():
            if result.state.streams.get(stream.id) != mark:
                continue
            if result.checkpoint is not None:
                self._notify(stream.id, messages.MarkDone(stream.id, mark, result.checkpoint))
            else:
                fault = f"checkpoint not written: {result.error}"
                hint = getattr(result.error, "hint", CheckpointFailed.default_hint)
                self._notify(stream.id, messages.MarkFailed(stream.id, mark, fault, hint))

    # -- progress ----------------------------------------------------------------------------------------------------

    def _of(self, session: OpenSession) -> _Progress:
        return self._progress[session.session_id]

    def _unasked(self, session: OpenSession) -> bool:
        """Whether the state is newer than any checkpoint that was ordered."""
        return session.state.changed > max(session.checkpointed, self._of(session).asked)

    def _settle(self, session: OpenSession) -> None:
        progress = self._of(session)
        session.settled = progress.point is None and not progress.under_way and session.session_id not in self.failing

    def acknowledgement(self, stream: WriterStream, probe: int = 0) -> messages.Ack:
        """Return the cumulative acknowledgement of `stream`; send it only after the commit that moved its number."""
        return messages.Ack(
            stream.id, stream.number, self.covered_number(stream), probe, self._saved_number(stream),
            self._ledger.attachments.remaining_bytes,
        )  # fmt: skip

    def covered_number(self, stream: WriterStream) -> int:
        """Return the highest number of `stream` that a file contains; marks that changed nothing count as contained."""
        session = stream.session
        return self._of(session).covered.get(stream.id, 0) if session.uncovered else stream.number

    def _saved_number(self, stream: WriterStream) -> int:
        """Return the highest number of `stream` in the auto-save, as far as this daemon has written it."""
        session = stream.session
        return self._of(session).autosaved.get(stream.id, 0) if session.unsaved else stream.number

    def has_point(self, session: OpenSession) -> bool:
        """Whether a transition of the session waits for its checkpoint."""
        return self._of(session).point is not None

    def busy(self, session: OpenSession) -> bool:
        """Whether files of the session are still to be written."""
        return session.unsaved or self._of(session).under_way > 0

    def checkpoint_at(self, session: OpenSession, sequence: int) -> CheckpointInfo | None:
        """Return the checkpoint of the state after the entry `sequence`, None while there is none."""
        return self._writer.newest_checkpoint(session.session_id, range(sequence, sequence + 1))

    def checkpoint_before(self, session: OpenSession, sequence: int) -> CheckpointInfo | None:
        """Return the session's newest checkpoint of a state older than `sequence`, None when there is none."""
        return self._writer.newest_checkpoint(session.session_id, range(1, sequence))

    def newest_checkpoint(self, session: OpenSession) -> str | None:
        """Return the name of the session's newest checkpoint, None when there is none."""
        newest = self.checkpoint_before(session, session.state.sequence + 1)
        return newest.name if newest else None

    # -- the end of a session or of the daemon -----------------------------------------------------------------------

    def release(self, session: OpenSession) -> None:
        """Drop the record of a session that leaves memory; its files are written."""
        self._progress.pop(session.session_id, None)

    def discard(self, session: OpenSession) -> None:
        """Drop all pending work of a session that is being purged."""
        self.release(session)
        self.failing.pop(session.session_id, None)
        for stream_id in session.streams:
            self._save_asked.pop(stream_id, None)
        self._upkeep.discard(session)

    def cancel(self, session_id: str) -> None:
        """Drop the files that were ordered of a session, except the file that is being written now."""
        self._writer.cancel(session_id)

    def note_saved(self) -> None:
        """Note in the journal what files hold by now. Raises `JournalRefused`."""
        self._upkeep.note()

    def finish(self, drains: Callable[[str], bool]) -> None:
        """At the daemon's end: order checkpoints of kind `shutdown` of unsaved states; the journal holds them anyway.

        `drains` says whether an outbox is being drained into a session. Such a session is left to the next start: that
        finishes the drain, and then knows the kind of the checkpoint.
        """
        for session in list(self._ledger.sessions.values()):
            if (point := self._of(session).point) is not None:
                self._end_point(session, point)
            elif not drains(session.session_id):
                self.checkpoint(session, Kind.SHUTDOWN, "the daemon was stopped")
            self._autosave(session)


def _subject(session: OpenSession) -> Subject:
    started = from_us(session.started_us)
    return Subject(session.session_id, session.parent_session, started, session.app, session.pid, session.keep)
