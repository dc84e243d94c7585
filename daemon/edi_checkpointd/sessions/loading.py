"""Loads a session into memory: from the journal's snapshot and the rows after it, compared with the files.

The journal alone restores the state of every session. Where a file is newer, the journal adopts the state of the file.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import NamedTuple, Protocol

import msgspec

from edi_checkpoint.documents.fragments import fragment
from edi_checkpoint.model import Kind
from edi_checkpoint.wire.entries import decode_entry
from edi_checkpointd.config import LiveConfig
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.journal import Frame, Journal, Notes, SessionRow
from edi_checkpointd.sessions.replay import Replay
from edi_checkpointd.sessions.session import Files, OpenSession, WriterStream
from edi_checkpointd.state import MarkMoment, Moment, RollbackMoment, TransitionMoment, snapshot_of, state_at
from edi_checkpointd.system.clock import Clock, to_us

log = logging.getLogger(__name__)


class SessionFiles(Protocol):
    """The questions of the loader about a session's documents."""

    def prepare(self, session_id: str) -> None:
        """Finish pending work on a session's documents, before its rows are read. Raises OSError."""

    def tell(self, session_id: str, sequence: int) -> Files:
        """Return the facts that the documents give, with the newest state if it is newer than `sequence`."""


class Opened(NamedTuple):
    """A loaded session, the moments that may still want a checkpoint, and how much of each stream is in files."""

    session: OpenSession
    moments: list[Moment]
    covered: Mapping[str, int]


def branch_stream(stream_id: str) -> str:
    """Return the id of a fenced stream in its branch; it follows from `stream_id` alone."""
    return sha256(stream_id.encode()).hexdigest()[: len(stream_id)]


@dataclass(slots=True, eq=False)
class SessionLoader:
    """Loads sessions from the journal and the files. Used by the loop's thread."""

    _journal: Journal
    _files: SessionFiles
    _clock: Clock
    _config: LiveConfig

    def load(self, session_id: str, parent_session: str | None = None) -> Opened:
        """Return a session; the journal gets a row for it if it has none. Raises `JournalRefused`, OSError."""
        self._files.prepare(session_id)
        read, now_us = self._journal.read, to_us(self._clock.now())
        row = read.session(session_id)
        last = read.last_sequence(row.key) if row else 0
        files = self._files.tell(session_id, last)
        if row is None:
            row = self._journal.begin_session(session_id, parent_session or files.parent_session, now_us)
        if files.ahead is not None:
            log.warning("files ahead session=%s journal=%d files=%d", session_id, last, files.ahead.sequence)
            notes = Notes(files.saved, files.checkpointed)
            self._journal.adopt(row.key, files.ahead.sequence, snapshot_of(files.ahead), now_us, notes, files.keep)
            reached(CrashPoint.STATE_ADOPTED)
            row = row._replace(keep=files.keep if row.keep is None else row.keep)
        elif files.gone and row.saved:  # the user deleted them on purpose: they stay deleted
            row = row._replace(saved=last, checkpointed=last)
        return self._load(row, files)

    def _load(self, row: SessionRow, files: Files) -> Opened:
        """Return a session from a snapshot and the rows after it.

        The snapshot is no newer than the newest checkpoint, so that the replay meets the marks and transitions whose
        files a crash prevented. A newer one serves if it was taken when no checkpoint was pending. Where rows are
        missing (trimmed, or a file was ahead of the journal), a later snapshot replaces them.
        """
        read_journal = self._journal.read
        last = read_journal.last_sequence(row.key)
        checkpointed = min(max(row.checkpointed, files.checkpointed), last)
        state = state_at(
            read_journal.settled_snapshot(row.key, after=checkpointed)
            or read_journal.snapshot(row.key, upto=checkpointed)
        )
        row = row._replace(saved=max(row.saved, files.saved), checkpointed=checkpointed)
        session = OpenSession(**row._asdict(), state=state, sequence=last, document=files.document)
        for stream_id, (epoch, number) in read_journal.streams(row.key).items():
            session.streams[stream_id] = WriterStream(stream_id, session, epoch, number, number)
        moments: list[Moment] = []
        transition_keys = self._config.now.transition_keys
        replay = Replay(state, transition_keys)
        newest: dict[str, tuple[WriterStream, Frame]] = {}
        for frame in read_journal.frames(row.key, after=min(state.sequence, last - 1)):
            if stream := session.streams.get(frame.stream):
                newest[stream.id] = stream, frame
            if frame.first > replay.sequence + 1:
                before = read_journal.snapshot(row.key, upto=frame.first - 1)
                if before is None or before[0] + 1 < frame.first:
                    continue  # a row that the journal keeps although a snapshot covers it
                replay = Replay(state_at(before), transition_keys)
            if frame.last > replay.sequence:
                session.bytes_since_snapshot += len(frame.records)
                # Each moment holds a state, so those that cannot lead to a checkpoint are dropped.
                moments += [moment for moment in replay.add(frame) if _may_matter(moment, checkpointed)]
        session.state = replay.state
        for stream, frame in newest.values():
            stream.note_last(decode_entry(frame.entries()[0][-1]))
        if session.state.sequence < last:
            session.state = state_at(read_journal.snapshot(row.key, upto=last))
        return Opened(session, moments, files.streams)

    def begin_branch(self, session: OpenSession, stream: WriterStream) -> None:
        """Store the state at the fence of `stream` as the first entry of `session`, its branch, in the journal.

        A session in memory has to be loaded again.
        """
        parent = stream.session
        fenced_at = self._journal.read.fenced_at(stream.id)
        at_fence = self._journal.read.snapshot(parent.key, upto=parent.sequence if fenced_at is None else fenced_at)
        base = replace(state_at(at_fence), sequence=1, changed=1, streams={branch_stream(stream.id): stream.number})
        if "session_id" in base.fragments:
            own_id = {"session_id": fragment(msgspec.json.encode(session.session_id))}
            base = replace(base, fragments={**base.fragments, **own_id})
        now_us = to_us(self._clock.now())
        self._journal.adopt(session.key, 1, snapshot_of(base), now_us, Notes(0, 0), parent.keep)
        reached(CrashPoint.BRANCH_BEGUN)


def _may_matter(moment: Moment, checkpointed: int) -> bool:
    """Whether a moment may lead to an unwritten checkpoint; `checkpointed` is the sequence of the newest."""
    match moment:
        case TransitionMoment(before):
            return before.sequence + 1 > checkpointed
        case RollbackMoment(_, after):
            return after.sequence > checkpointed
        case MarkMoment(state, _, mark) if mark.kind != Kind.MANUAL:
            return state.changed > checkpointed  # only a manual mark wants a checkpoint of an unchanged state
        case _:
            return moment.state.sequence > checkpointed
