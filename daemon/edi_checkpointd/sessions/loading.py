"""Loading a session into memory: the journal's snapshot and the rows after it, compared with the files.

The journal alone restores the state of every session. Where a file is newer, the journal adopts its state.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
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
    """What the loader asks of a session's documents."""

    def prepare(self, session_id: str) -> None:
        """Finish what is under way with a session's documents, before its rows are read. Raises OSError."""

    def tell(self, session_id: str, sequence: int) -> Files:
        """Return what the documents hold, with the newest state if it is newer than `sequence`."""


class Opened(NamedTuple):
    """A session in memory, the moments that may still want a checkpoint, and what files contain of each stream."""

    session: OpenSession
    moments: list[Moment]
    covered: Mapping[str, int]


def branch_stream(stream_id: str) -> str:
    """Return the id that a fenced stream has in its branch: always the same one."""
    return sha256(stream_id.encode()).hexdigest()[: len(stream_id)]


class SessionLoader:
    """Loads sessions from the journal and the files. Used by the loop's thread."""

    def __init__(self, journal: Journal, files: SessionFiles, clock: Clock, config: LiveConfig) -> None:
        """Take the parts; nothing is read yet."""
        self._journal = journal
        self._files = files
        self._clock = clock
        self._config = config

    def load(self, session_id: str, parent_session: str | None = None) -> Opened:
        """Return a session, begun in the journal if it has none. Raises `JournalRefused`, OSError."""
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
        elif files.gone and row.saved:  # the user deleted them (else `Journal.unsave` would say so): they stay deleted
            row = row._replace(saved=last, checkpointed=last)
        return self._load(row, files)

    def _load(self, row: SessionRow, files: Files) -> Opened:
        """Read a snapshot and the rows after it.

        The snapshot is one not after the newest checkpoint, so that the marks and transitions that a crash left without
        their files are met again; or one that was taken when there were none. Where rows are missing (trimmed, or a
        file was ahead of the journal) a later snapshot stands for them.
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
                    continue  # a row that is kept though a snapshot covers it
                replay = Replay(state_at(before), transition_keys)
            if frame.last > replay.sequence:
                session.bytes_since_snapshot += len(frame.records)
                # The others lead to nothing, and each holds a state: they are not kept.
                moments += [moment for moment in replay.add(frame) if _may_matter(moment, checkpointed)]
        session.state = replay.state
        for stream, frame in newest.values():
            stream.note_last(decode_entry(frame.entries()[0][-1]))
        if session.state.sequence < last:
            session.state = state_at(read_journal.snapshot(row.key, upto=last))
        return Opened(session, moments, files.streams)

    def begin_branch(self, session: OpenSession, stream: WriterStream) -> None:
        """Give `session`, the branch of the fenced `stream`, the state at the fence as its first entry.

        The journal holds it then; a session in memory has to be loaded again.
        """
        parent = stream.session
        fenced_at = self._journal.read.fenced_at(stream.id)
        begun = self._journal.read.snapshot(parent.key, upto=parent.sequence if fenced_at is None else fenced_at)
        base = replace(state_at(begun), sequence=1, changed=1, streams={branch_stream(stream.id): stream.number})
        if "session_id" in base.fragments:
            named = {**base.fragments, "session_id": fragment(msgspec.json.encode(session.session_id))}
            base = replace(base, fragments=named)
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
            return state.changed > checkpointed  # only a manual mark asks for a state that did not change
        case _:
            return moment.state.sequence > checkpointed
