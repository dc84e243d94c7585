"""The ledger: the sessions in memory, their streams, and the only way for entries into the journal.

    accept    records of a stream -> the open transaction        (live frames, drained outboxes)
    commit    the open transaction -> the journal -> the states  (numbers move only afterwards)

The loop's thread owns it. Other threads get `State` values, which never change.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import NamedTuple

from msgspec import structs

from edi_checkpoint.errors import ProtocolError
from edi_checkpoint.wire.entries import Base, Mark, Update, decode_entry, encode_entry
from edi_checkpoint.wire.messages import FRAME_BYTES
from edi_checkpoint.wire.records import Record, pack, scan_all, whole
from edi_checkpointd.attachments.store import AttachmentStore
from edi_checkpointd.config import LiveConfig
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.journal import Fence, Frame, GapRow, Journal, Shown, Transaction
from edi_checkpointd.sessions.loading import Opened, SessionLoader
from edi_checkpointd.sessions.session import OpenSession, WriterStream, fenced_error
from edi_checkpointd.state import Moment, State, ValidEntry, fold, read, snapshot_of
from edi_checkpointd.system.clock import Clock, to_us

log = logging.getLogger(__name__)

SNAPSHOT_MIN_BYTES = 1 << 20
PURGED_REMEMBERED = 1024
SHORT_LIFE_S = 60.0  # a writer that dies so soon after it was shown the state may have died of the state


def _without_attachments(records: list[Record], entries: list[ValidEntry]) -> bytes:
    """Return the records for the journal's history; it stores their attachments once, by digest."""
    return b"".join(
        pack(number, encode_entry(structs.replace(entry, attachments={})) if entry.attachments else record.entry)
        for record, (number, entry, _) in zip(records, entries, strict=True)
    )


class SessionChange(NamedTuple):
    """A session that a commit changed, with the entries and the moments at which a checkpoint may be wanted."""

    session: OpenSession
    entries: list[ValidEntry]
    moments: list[Moment]


class Committed(NamedTuple):
    """The result of a commit: the streams whose numbers moved, and the changes, in order."""

    streams: list[WriterStream]
    changes: list[SessionChange]


class _Accepted(NamedTuple):
    stream: WriterStream
    entries: list[ValidEntry]
    bytes: int


class Ledger:
    """Sessions and streams on top of a journal."""

    def __init__(
        self, journal: Journal, attachments: AttachmentStore, loader: SessionLoader, clock: Clock, config: LiveConfig
    ) -> None:
        """Start with no session in memory; `loader` loads one when it is opened."""
        self.journal = journal
        self.attachments = attachments
        self.config = config
        self.clock = clock
        self._loader = loader
        self.sessions: dict[str, OpenSession] = {}
        self.streams: dict[str, WriterStream] = {}
        self._purged: dict[str, None] = {}  # streams of purged sessions, the latest last
        self._open = Transaction()
        self._accepted: list[_Accepted] = []

    # -- entries -----------------------------------------------------------------------------------------------------

    def accept(self, stream: WriterStream, data: bytes | memoryview) -> bool:
        """Add the records of `stream` to the open transaction; return False when all of them are known already.

        Known records are skipped. A gap before the first is noted, never waited for. Raises `ProtocolError` when
        anything in `data` is invalid, `AttachmentsFull` when its attachments exceed the limit. It then adds nothing.
        """
        if len(data) > FRAME_BYTES and whole(data, 1)[0] != len(data):  # each record costs ten times its bytes
            raise ProtocolError(f"{len(data)} bytes of more than one record; at most {FRAME_BYTES} are accepted")
        records = scan_all(data)
        new = [record for record in records if record.number > stream.expected]
        if not new:
            return False
        entries = read(new)
        carried = {digest: attachment for _, entry, _ in entries for digest, attachment in entry.attachments.items()}
        blobs = self.attachments.lacking(carried, self.journal.read, self._open.blobs)
        session = stream.session
        now_us = to_us(self.clock.now())
        self._note_gaps(stream, entries, now_us)
        kept = bytes(data) if len(new) == len(records) else bytes(data[records[-len(new) - 1].end :])
        if carried:
            kept = _without_attachments(new, entries)
        first = session.sequence + 1
        session.sequence += len(new)
        stream.expected = new[-1].number
        self._open.frames.append(Frame(session.key, first, session.sequence, stream.id, now_us, kept))
        self._open.numbers[stream.id] = stream.expected
        self._open.blobs |= blobs
        for _, entry, _ in entries:
            if isinstance(entry, Mark) and entry.keep is not None:
                self._open.keeps[session.key] = entry.keep
        self._accepted.append(_Accepted(stream, entries, len(kept)))
        return True

    def skips(self, stream: WriterStream, data: bytes | memoryview) -> bool:
        """Whether `data` begins after the entries of `stream` that the disk refused; if not, the client resent them.

        Unreadable data is skipped until then: a refusal would use up the numbers before it.
        """
        try:
            first = scan_all(data)[0]
            entry = decode_entry(first.entry)
        except ProtocolError:
            return whole(data, 1)[1] != stream.expected + 1
        covers = entry.covers if isinstance(entry, Update | Base) else 0
        if not isinstance(entry, Base) and first.number - covers > stream.expected + 1:
            return True
        stream.dropped = False
        return False

    def _note_gaps(self, stream: WriterStream, entries: list[ValidEntry], now_us: int) -> None:
        before = stream.expected
        for at, (number, entry, _) in enumerate(entries, start=stream.session.sequence + 1):
            covers = entry.covers if isinstance(entry, Update | Base) else 0
            if number - covers > before + 1:
                gap = GapRow(stream.session.key, at, stream.id, before + 1, number - covers - 1, now_us)
                self._open.gaps.append(gap)
                values = stream.session.session_id, stream.id, gap.first, gap.last
                log.warning("entries missing session=%s stream=%s first=%d last=%d", *values)
            before = number

    def pass_over(self, stream: WriterStream, number: int) -> None:
        """Use up the numbers of a refused frame, durably, without an entry."""
        stream.expected = max(stream.expected, number)
        self._open.numbers[stream.id] = stream.expected

    def commit(self) -> Committed:
        """Make the open transaction durable, then fold it into the states. Raises `JournalRefused`, without effect."""
        transaction, accepted = self._open, self._accepted
        self._open, self._accepted = Transaction(), []
        if not transaction:
            return Committed([], [])
        reached(CrashPoint.RECEIVED_NOT_COMMITTED)
        try:
            self.journal.commit(transaction)
        except BaseException:
            for stream_id in transaction.numbers:
                stream = self.streams[stream_id]
                stream.expected, stream.session.sequence = stream.number, stream.session.state.sequence
                stream.dropped = True
            raise
        self.attachments.committed(transaction.blobs)
        reached(CrashPoint.COMMITTED_NOT_ACKNOWLEDGED)
        moved = [self.streams[stream_id] for stream_id in transaction.numbers]
        for stream in moved:
            stream.number = transaction.numbers[stream.id]
        changes: list[SessionChange] = []
        for stream, entries, size in accepted:
            session = stream.session
            session.bytes_since_snapshot += size
            session.state, moments = fold(session.state, stream.id, entries, self.config.now.transition_keys)
            session.keep = transaction.keeps.get(session.key, session.keep)
            stream.note_last(entries[-1].entry)
            changes.append(SessionChange(session, entries, moments))
        return Committed(moved, changes)

    # -- sessions ----------------------------------------------------------------------------------------------------

    def open(self, session_id: str, parent_session: str | None = None) -> Opened:
        """Load a session that is not in memory, or make a new one. `Opened` holds what a crash left undone."""
        opened = self._loader.load(session_id, parent_session)
        self.sessions[session_id] = opened.session
        self.streams.update(opened.session.streams)
        return opened

    def begin_branch(self, session: OpenSession, stream: WriterStream) -> None:
        """Store the state at the fence of `stream` as the first entry of `session`, its branch, in the journal.

        The session leaves memory: it has to be opened again.
        """
        self._loader.begin_branch(session, stream)
        self.evict(session)

    def attach(
        self, session: OpenSession, stream_id: str, *, seen: bool = False, fences: Collection[str] = ()
    ) -> WriterStream:
        """Let a stream write to `session`, and return it. A new stream raises the epoch, which fences the earlier ones.

        `seen`: its writer is shown the state. `fences`: streams of living writers from which it takes the session over;
        their entries are committed. Raises `Fenced` for a fenced stream, `ProtocolError` for a stream of another
        session.
        """
        stream = self.streams.get(stream_id)
        if stream and stream.session is not session:
            raise ProtocolError(f"stream {stream_id} belongs to session {stream.session.session_id}")
        if stream and stream.fenced:
            raise fenced_error(stream)
        if stream is None or stream.epoch == 0:  # new, or known from a file only
            number = stream.number if stream else 0
            self._raise_epoch(session, stream_id, number, seen=seen, fences=fences)
            stream = WriterStream(stream_id, session, session.epoch, number, number)
            session.streams[stream_id] = self.streams[stream_id] = stream
        session.left_as = "live"
        return stream

    def _raise_epoch(
        self, session: OpenSession, stream_id: str, number: int, *, seen: bool, fences: Collection[str]
    ) -> None:
        state, now_us = session.state, to_us(self.clock.now())
        shown = Shown(drained=session.drained)
        if seen:
            shown = Shown(state.sequence, now_us, session.resumed_at if session.short_lives else state.changed)
        fence = Fence(state.sequence, snapshot_of(state), now_us, tuple(fences)) if fences else None
        self.journal.attach(session.key, stream_id, session.epoch + 1, number, shown, fence)
        reached(CrashPoint.EPOCH_RAISED)
        session.epoch += 1
        session.seen = max(session.seen, shown.seen)
        session.resumed_us, session.resumed_at, session.drained = shown.resumed_us, shown.resumed_at, shown.drained

    def sequence_of(self, stream: WriterStream, number: int) -> int | None:
        """Return the sequence that the entry `number` of a stream got, None when the journal no longer holds it."""
        for frame in self.journal.read.frames(stream.session.key, after=0):
            if frame.stream == stream.id:
                for sequence, record in enumerate(frame.scanned(), start=frame.first):
                    if record.number == number:
                        return sequence
        return None

    def detach(self, session: OpenSession, *, cleanly: bool) -> None:
        """Note that the session's writer left, and whether it died soon after it was shown the state."""
        lived_s = (to_us(self.clock.now()) - session.resumed_us) / 1_000_000
        died_soon = not cleanly and session.resumed_at > 0 and 0 <= lived_s < SHORT_LIFE_S
        session.short_lives = session.short_lives + 1 if died_soon else 0
        session.left_as = "clean" if cleanly else "interrupted"
        self.journal.leave(session.key, session.left_as, session.short_lives, session.drained)
        reached(CrashPoint.LEFT_NOTED)

    def delete_stream(self, stream: WriterStream) -> None:
        """Drop a stream whose outbox is unlinked."""
        self.journal.delete_stream(stream.id)
        stream.session.streams.pop(stream.id, None)
        self.streams.pop(stream.id, None)
        state = stream.session.state
        kept = {known: number for known, number in state.streams.items() if known in stream.session.streams}
        stream.session.state = State(state.sequence, state.changed, state.time_us, state.fragments, kept)

    def evict(self, session: OpenSession) -> None:
        """Remove a session without a writer from memory; its state is in files, and `open` loads it again."""
        self.sessions.pop(session.session_id, None)

    def purge(self, session: OpenSession | None, streams: Collection[str]) -> None:
        """Remove a session that is being purged from memory; the journal deletes its rows.

        The latest `PURGED_REMEMBERED` streams stay known as purged: their writers may not have received the error.
        """
        if session is not None:
            self.evict(session)
        for stream_id in streams:
            self.streams.pop(stream_id, None)
            self._purged[stream_id] = None
        while len(self._purged) > PURGED_REMEMBERED:
            del self._purged[next(iter(self._purged))]

    def is_purged(self, stream_id: str) -> bool:
        """Whether the session of a stream was purged while it was open."""
        return stream_id in self._purged

    def saved(self, session: OpenSession, state: State, *, checkpoint: bool) -> None:
        """Note, in memory, that a checkpoint or the auto-save holds `state`."""
        if checkpoint:
            session.checkpointed = max(session.checkpointed, state.sequence)
        else:
            session.saved = max(session.saved, state.sequence)

    def unsave(self, session: OpenSession) -> None:
        """Note, in memory, that the session's files are gone."""
        session.saved = session.checkpointed = 0

    def snapshot_due(self, session: OpenSession) -> bool:
        """Whether the rows since the newest snapshot outweigh the state."""
        size, values = session.bytes_since_snapshot, session.state.fragments.values()
        return size > SNAPSHOT_MIN_BYTES and size > sum(len(value.text) for value in values)

    def snapshot(self, session: OpenSession, *, settled: bool = False) -> None:
        """Store the session's state in the journal, so that replay begins there; see `Snapshot` for `settled`."""
        snapshot = snapshot_of(session.state, settled=settled)
        self.journal.add_snapshot(session.key, session.state.sequence, snapshot, to_us(self.clock.now()))
        session.bytes_since_snapshot = 0
        reached(CrashPoint.SNAPSHOT_WRITTEN)
