"""The ledger: the sessions in memory, their streams, and the one way in for entries.

    accept    records of a stream -> the open transaction        (live frames, drained outboxes)
    commit    the open transaction -> the journal -> the states  (then, and only then, numbers move)
    load      the journal's rows -> the states                   (replay; the same `read` and `fold`)

Owned by the intake thread. Others are handed `State` values, which never change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple

import msgspec
from msgspec import structs

from edi_checkpoint.entries import Base, Mark, Update, decode_entry, encode_entry
from edi_checkpoint.errors import ProtocolError
from edi_checkpoint.fragments import fragment
from edi_checkpoint.names import branch_id
from edi_checkpoint.protocol import FRAME_BYTES, Ack
from edi_checkpoint.records import Record, pack, scan_all, whole
from edi_checkpointd.attachments import Attachments
from edi_checkpointd.clock import Clock, to_us
from edi_checkpointd.config import Config
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.journal import Fence, Frame, Gap, Journal, Notes, SessionRow, Shown, Transaction
from edi_checkpointd.policy import Amendment, Wish, decide
from edi_checkpointd.replay import Replay
from edi_checkpointd.sessions import Files, Session, Stream, fenced_error
from edi_checkpointd.state import Moment, Prepared, State, fold, read, snapshot_of, state_at

log = logging.getLogger(__name__)

SNAPSHOT_MIN_BYTES = 1 << 20
SHORT_LIFE_S = 60.0  # a writer that dies within it after it was shown the state may have died of that


def _without_attachments(records: list[Record], entries: list[Prepared]) -> bytes:
    """Return the records as the journal's history keeps them; what they carried is kept by its digest, once."""
    return b"".join(
        pack(number, encode_entry(structs.replace(entry, attachments={})) if entry.attachments else record.entry)
        for record, (number, entry, _) in zip(records, entries, strict=True)
    )


def branch_stream(stream_id: str) -> str:
    """Return the id that a fenced stream has in its branch: always the same one."""
    return sha256(stream_id.encode()).hexdigest()[: len(stream_id)]


class Committed(NamedTuple):
    """What a commit brought: the streams whose numbers moved, the checkpoints wished for, and the entries, in order."""

    streams: list[Stream]
    wishes: list[tuple[Session, Wish | Amendment]]
    entries: list[tuple[Session, list[Prepared]]]


class _Accepted(NamedTuple):
    stream: Stream
    entries: list[Prepared]
    bytes: int


class Ledger:
    """Sessions and streams on top of a journal."""

    def __init__(
        self,
        journal: Journal,
        attachments: Attachments,
        config: Config,
        clock: Clock,
        files_of: Callable[[str, int], Files],
    ) -> None:
        """`files_of(session_id, sequence)` tells of a session's files, with the state if newer than `sequence`."""
        self.journal = journal
        self.attachments = attachments
        self.config = config
        self._clock = clock
        self._files_of = files_of
        self.sessions: dict[str, Session] = {}
        self.streams: dict[str, Stream] = {}
        self.before_open: Callable[[str], None] = lambda _: None  # told of a session before its rows are read
        self._open = Transaction()
        self._accepted: list[_Accepted] = []

    # -- entries in --------------------------------------------------------------------------------------------------

    def accept(self, stream: Stream, data: bytes | memoryview) -> bool:
        """Take records of `stream` into the open transaction; return False when all of them are known already.

        What is known already is passed over; a gap before the first is noted, never waited for. Raises `ProtocolError`
        when anything in `data` is refused, `AttachmentsFull` when it carries more than is taken: then nothing of it is
        taken.
        """
        if len(data) > FRAME_BYTES and whole(data, 1)[0] != len(data):  # each record costs ten times its bytes
            raise ProtocolError(f"{len(data)} bytes of more than one record; at most {FRAME_BYTES} come together")
        records = scan_all(data)
        new = [record for record in records if record.number > stream.expected]
        if not new:
            return False
        entries = read(new)
        carried = {digest: attachment for _, entry, _ in entries for digest, attachment in entry.attachments.items()}
        blobs = self.attachments.lacking(carried, self.journal.read, self._open.blobs)
        session = stream.session
        now_us = to_us(self._clock.now())
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

    def skips(self, stream: Stream, data: bytes | memoryview) -> bool:
        """Whether `data` begins beyond what the disk refused of `stream`; if not, that has come again.

        What cannot be read is passed over until then: refusing it would use up the numbers before it.
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

    def _note_gaps(self, stream: Stream, entries: list[Prepared], now_us: int) -> None:
        before = stream.expected
        for at, (number, entry, _) in enumerate(entries, start=stream.session.sequence + 1):
            covers = entry.covers if isinstance(entry, Update | Base) else 0
            if number - covers > before + 1:
                gap = Gap(stream.session.key, at, stream.id, before + 1, number - covers - 1, now_us)
                self._open.gaps.append(gap)
                log.warning(
                    "entries missing session=%s stream=%s first=%d last=%d",
                    stream.session.session_id, stream.id, gap.first, gap.last,
                )  # fmt: skip
            before = number

    def pass_over(self, stream: Stream, number: int) -> None:
        """Use up the numbers of a refused frame, durably, without an entry."""
        stream.expected = max(stream.expected, number)
        self._open.numbers[stream.id] = stream.expected

    def commit(self) -> Committed:
        """Make the open transaction durable, then fold it in. Raises `JournalRefused`: nothing of it happened then."""
        transaction, accepted = self._open, self._accepted
        self._open, self._accepted = Transaction(), []
        if not transaction:
            return Committed([], [], [])
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
        wishes: list[tuple[Session, Wish | Amendment]] = []
        for stream, entries, size in accepted:
            session = stream.session
            session.bytes_since_snapshot += size
            wishes += [(session, wish) for wish in self._fold(session, stream.id, entries)]
            session.keep = transaction.keeps.get(session.key, session.keep)
            stream.note_last(entries[-1].entry)
        return Committed(moved, wishes, [(one.stream.session, one.entries) for one in accepted])

    def acknowledgement(self, stream: Stream, probe: int = 0) -> Ack:
        """Return the cumulative acknowledgement of `stream`; sent only after the commit that moved its number."""
        session = stream.session
        return Ack(
            stream.id, stream.number, session.covered_number(stream), probe, session.saved_number(stream),
            self.attachments.left_bytes,
        )  # fmt: skip

    def _fold(self, session: Session, stream_id: str, entries: list[Prepared]) -> list[Wish | Amendment]:
        session.state, moments = fold(session.state, stream_id, entries, self.config.transition_keys)
        return self._decide(session, moments)

    def _decide(self, session: Session, moments: list[Moment]) -> list[Wish | Amendment]:
        session.touched_s = self._clock.monotonic_s()
        session.point, wishes = decide(
            session.point,
            moments,
            checkpointed=max(session.checkpointed, session.asked),
            quiet_s=self.config.transition_quiet_s,
            now_s=session.touched_s,
        )
        return wishes

    # -- sessions ----------------------------------------------------------------------------------------------------

    def open(self, session_id: str, parent_session: str | None = None) -> tuple[Session, list[Wish | Amendment]]:
        """Return a session, loaded, begun if there is none; and the wishes that a crash left unfulfilled."""
        if session_id in self.sessions:
            return self.sessions[session_id], []
        self.before_open(session_id)
        read, now_us = self.journal.read, to_us(self._clock.now())
        row = read.session(session_id)
        last = read.last_sequence(row.key) if row else 0
        files = self._files_of(session_id, last)
        if row is None:
            row = self.journal.begin_session(session_id, parent_session or files.parent_session, now_us)
        if files.ahead is not None:
            log.warning("files ahead session=%s journal=%d files=%d", session_id, last, files.ahead.sequence)
            notes = Notes(files.saved, files.checkpointed)
            self.journal.adopt(row.key, files.ahead.sequence, snapshot_of(files.ahead), now_us, notes, files.keep)
            reached(CrashPoint.STATE_ADOPTED)
            row = row._replace(keep=files.keep if row.keep is None else row.keep)
        elif files.gone and row.saved:  # its user's wish, or `Journal.unsave` would say so: nothing is made again
            row = row._replace(saved=last, checkpointed=last)
        return self._load(row, files)

    def _load(self, row: SessionRow, files: Files) -> tuple[Session, list[Wish | Amendment]]:
        """Bring a session into memory: a snapshot, and the rows after it.

        The snapshot is one not after the newest checkpoint, so that the marks and transitions that a crash left without
        their files are met again; or one that was taken when there were none. Where rows are missing (trimmed, or a
        file was ahead of the journal) a later snapshot stands for them.
        """
        read_journal = self.journal.read
        last = read_journal.last_sequence(row.key)
        checkpointed = min(max(row.checkpointed, files.checkpointed), last)
        state = state_at(
            read_journal.settled_snapshot(row.key, after=checkpointed)
            or read_journal.snapshot(row.key, upto=checkpointed)
        )
        row = row._replace(saved=max(row.saved, files.saved), checkpointed=checkpointed)
        session = Session(
            **row._asdict(), state=state, sequence=last, covered=dict(files.streams), document=files.document
        )
        for stream_id, (epoch, number) in read_journal.streams(row.key).items():
            session.streams[stream_id] = self.streams[stream_id] = Stream(stream_id, session, epoch, number, number)
        wishes: list[Wish | Amendment] = []
        replay = Replay(state, self.config.transition_keys)
        newest: dict[str, tuple[Stream, Frame]] = {}
        for frame in read_journal.frames(row.key, after=min(state.sequence, last - 1)):
            if stream := session.streams.get(frame.stream):
                newest[stream.id] = stream, frame
            if frame.first > replay.sequence + 1:
                before = read_journal.snapshot(row.key, upto=frame.first - 1)
                if before is None or before[0] + 1 < frame.first:
                    continue  # a row that is kept though a snapshot covers it
                replay = Replay(state_at(before), self.config.transition_keys)
            if frame.last > replay.sequence:
                session.bytes_since_snapshot += len(frame.records)
                wishes += self._decide(session, replay.add(frame))
        session.state = replay.state
        for stream, frame in newest.values():
            stream.note_last(decode_entry(frame.entries()[0][-1]))
        if session.state.sequence < last:
            session.state = state_at(read_journal.snapshot(row.key, upto=last))
        self.sessions[row.session_id] = session
        return session, [wish for wish in wishes if wish.state.sequence > checkpointed]

    def attach(self, session: Session, stream_id: str, *, seen: bool = False, fences: Collection[str] = ()) -> Stream:
        """Let a stream write to `session`: a new one raises the epoch and so fences the one before.

        `seen`: its writer is shown the state. `fences`: streams of living writers that it takes over from; what these
        have published is committed. Raises `Fenced` for a stream that another has followed, `ProtocolError` for one of
        another session.
        """
        stream = self.streams.get(stream_id)
        if stream and stream.session is not session:
            raise ProtocolError(f"stream {stream_id} belongs to session {stream.session.session_id}")
        if stream and stream.fenced:
            raise fenced_error(stream)
        if stream is None or stream.epoch == 0:  # new, or known from a file only
            number = stream.number if stream else 0
            self._raise_epoch(session, stream_id, number, seen=seen, fences=fences)
            stream = Stream(stream_id, session, session.epoch, number, number)
            session.streams[stream_id] = self.streams[stream_id] = stream
        session.left_as = "live"
        return stream

    def _raise_epoch(
        self, session: Session, stream_id: str, number: int, *, seen: bool, fences: Collection[str]
    ) -> None:
        state, now_us = session.state, to_us(self._clock.now())
        shown = Shown(drained=session.drained)
        if seen:
            shown = Shown(state.sequence, now_us, session.resumed_at if session.short_lives else state.changed)
        fence = Fence(state.sequence, snapshot_of(state), now_us, tuple(fences)) if fences else None
        self.journal.attach(session.key, stream_id, session.epoch + 1, number, shown, fence)
        reached(CrashPoint.EPOCH_RAISED)
        session.epoch += 1
        session.seen = max(session.seen, shown.seen)
        session.resumed_us, session.resumed_at, session.drained = shown.resumed_us, shown.resumed_at, shown.drained

    def branch(self, stream: Stream) -> Stream:
        """Return the stream that takes what the writer of the fenced `stream` published after that, in a session of its
        own: it begins, as its first entry, with the state as it was then. Both ids follow from the stream's, so that a
        branch cut short by a crash is gone on with.
        """
        parent = stream.session
        session_id = branch_id(parent.session_id, stream.id)
        stream_id = branch_stream(stream.id)
        session, _ = self.open(session_id, parent.session_id)
        if stream_id not in session.streams:
            fenced_at = self.journal.read.fenced_at(stream.id)
            begun = self.journal.read.snapshot(parent.key, upto=parent.sequence if fenced_at is None else fenced_at)
            base = replace(state_at(begun), sequence=1, changed=1, streams={stream_id: stream.number})
            if "session_id" in base.fragments:
                named = {**base.fragments, "session_id": fragment(msgspec.json.encode(session_id))}
                base = replace(base, fragments=named)
            now_us = to_us(self._clock.now())
            self.journal.adopt(session.key, 1, snapshot_of(base), now_us, Notes(0, 0), parent.keep)
            reached(CrashPoint.BRANCH_BEGUN)
            self.evict(session)
            session, _ = self.open(session_id)
        return self.attach(session, stream_id)

    def sequence_of(self, stream: Stream, number: int) -> int | None:
        """Return the sequence that the entry `number` of a stream got, None when the journal no longer holds it."""
        for frame in self.journal.read.frames(stream.session.key, after=0):
            if frame.stream == stream.id:
                for sequence, record in enumerate(frame.scanned(), start=frame.first):
                    if record.number == number:
                        return sequence
        return None

    def left(self, session: Session, *, cleanly: bool) -> None:
        """Note that the session's writer is gone, and whether it died soon after it was shown the state."""
        lived_s = (to_us(self._clock.now()) - session.resumed_us) / 1_000_000
        died_soon = not cleanly and session.resumed_at > 0 and 0 <= lived_s < SHORT_LIFE_S
        session.short_lives = session.short_lives + 1 if died_soon else 0
        session.left_as = "clean" if cleanly else "interrupted"
        self.journal.leave(session.key, session.left_as, session.short_lives, session.drained)
        reached(CrashPoint.LEFT_NOTED)

    def forget_stream(self, stream: Stream) -> None:
        """Drop a stream whose outbox is unlinked."""
        self.journal.forget_stream(stream.id)
        stream.session.streams.pop(stream.id, None)
        stream.session.covered.pop(stream.id, None)
        self.streams.pop(stream.id, None)
        state = stream.session.state
        kept = {known: number for known, number in state.streams.items() if known in stream.session.streams}
        stream.session.state = State(state.sequence, state.changed, state.time_us, state.fragments, kept)

    def evict(self, session: Session) -> None:
        """Let go of a session that nobody writes and whose state is in files; it is loaded again when wanted."""
        self.sessions.pop(session.session_id, None)

    def forget(self, session: Session) -> None:
        """Let go of a session that is being forgotten, with its streams; its rows are the journal's to delete."""
        self.evict(session)
        for stream_id in session.streams:
            self.streams.pop(stream_id, None)

    def saved(self, session: Session, state: State, *, checkpoint: bool) -> None:
        """Note, in memory, that `state` has come into a checkpoint or the auto-save."""
        if state.sequence >= max(session.saved, session.checkpointed):
            session.covered = dict(state.streams)
        if checkpoint:
            session.checkpointed = max(session.checkpointed, state.sequence)
        else:
            session.saved = max(session.saved, state.sequence)
            session.autosaved = state.streams

    def unsave(self, session: Session) -> None:
        """Note, in memory, that the session's files are gone."""
        session.saved = session.checkpointed = session.asked = 0
        session.covered, session.autosaved = {}, {}

    def snapshot_due(self, session: Session) -> bool:
        """Whether the rows since the newest snapshot outweigh the state."""
        if session.bytes_since_snapshot <= SNAPSHOT_MIN_BYTES:
            return False
        return session.bytes_since_snapshot > sum(len(value.text) for value in session.state.fragments.values())

    def snapshot(self, session: Session, *, settled: bool = False) -> None:
        """Put the session's state into the journal, so that replay begins there; see `Snapshot` for `settled`."""
        state = session.state
        self.journal.add_snapshot(
            session.key, state.sequence, snapshot_of(state, settled=settled), to_us(self._clock.now())
        )
        session.bytes_since_snapshot = 0
        reached(CrashPoint.SNAPSHOT_WRITTEN)
