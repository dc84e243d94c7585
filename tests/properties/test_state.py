from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ledgers import Decided, ledger_on

from edi_checkpoint.errors import Fenced, ProtocolError
from edi_checkpoint.wire.entries import Base, Entry, Mark, Update, encode_entry
from edi_checkpoint.wire.records import pack, scan, scan_all
from edi_checkpointd.attachments.store import AttachmentStore
from edi_checkpointd.config import Config
from edi_checkpointd.journal import Frame, Journal, Notes
from edi_checkpointd.sessions.replay import Replay
from edi_checkpointd.sessions.session import Files, WriterStream
from edi_checkpointd.state import MarkMoment, State, TransitionMoment, ValidEntry, fold, read, snapshot_of, state_at

KEYS = Config().transition_keys
NAMES = st.sampled_from(["current_stage", "status", "a", "b", "ä"])
TEXTS = st.sampled_from([b'"x"', b'"y"', b"1", b"[1,[2]]", b'{"k":null}', '"ü"'.encode()])
TIMES_US = st.integers(0, 5_000_000)
STATES = st.dictionaries(NAMES, TEXTS, max_size=4)
ENTRIES = (
    st.builds(Update, TIMES_US, STATES, st.lists(NAMES, max_size=2).map(tuple), st.none() | st.just("why"))
    | st.builds(Base, TIMES_US, STATES)
    | st.builds(Mark, TIMES_US, st.sampled_from(["manual", "shutdown"]), st.just("asked"))
)
HISTORIES = st.lists(ENTRIES, max_size=12)
STREAMS = ["a" * 32, "b" * 32]


class StoppedClock:
    """A clock that stands, until it is moved."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def now(self) -> datetime:
        return datetime(2026, 11, 23, 6, tzinfo=UTC) + timedelta(seconds=self.passed_s)

    def monotonic_s(self) -> float:
        return self.passed_s


def packed(entries: list[Entry], first: int = 1) -> bytes:
    return b"".join(pack(number, encode_entry(entry)) for number, entry in enumerate(entries, start=first))


def prepared(entries: list[Entry], first: int = 1) -> list[ValidEntry]:
    return read(scan(packed(entries, first)))


def plainly(entries: list[Entry]) -> dict[str, bytes]:
    """What the entries lead to, said in the plainest way."""
    state: dict[str, bytes] = {}
    for entry in entries:
        match entry:
            case Update():
                state = {key: text for key, text in state.items() if key not in entry.removed} | entry.changed
            case Base():
                state = dict(entry.state)
    return state


def values(state: State) -> dict[str, object]:
    return {key: msgspec.json.decode(fragment.text) for key, fragment in state.fragments.items()}


def split(items: list[Entry], at: list[int]) -> list[list[Entry]]:
    """`items` in parts, none of them empty."""
    bounds = sorted({0, len(items), *(position % (len(items) + 1) for position in at)})
    return [items[start:end] for start, end in pairwise(bounds)]


# -- fold --------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(HISTORIES.filter(bool), st.lists(st.integers(0, 99), max_size=6))
def test_folding_at_once_is_folding_in_parts(entries: list[Entry], at: list[int]) -> None:
    whole, moments = fold(State(), STREAMS[0], prepared(entries), KEYS)
    state, found = State(), []
    first = 1
    for part in split(entries, at):
        state, more = fold(state, STREAMS[0], prepared(part, first), KEYS)
        found += more
        first += len(part)
    assert state == whole
    assert found == moments


@settings(deadline=None, max_examples=60)
@given(HISTORIES)
def test_a_state_is_what_its_entries_say(entries: list[Entry]) -> None:
    state, _ = fold(State(), STREAMS[0], prepared(entries), KEYS)
    assert values(state) == {key: msgspec.json.decode(text) for key, text in plainly(entries).items()}
    assert state.sequence == len(entries)
    assert state.streams == {STREAMS[0]: len(entries)}
    assert state.time_us == max((entry.time_us for entry in entries), default=0)
    changing = [at for at, entry in enumerate(entries, start=1) if not isinstance(entry, Mark)]
    assert state.changed == (changing[-1] if changing else 0)


@settings(deadline=None, max_examples=60)
@given(HISTORIES)
def test_a_moment_shows_the_state_as_it_was_just_then(entries: list[Entry]) -> None:
    _, moments = fold(State(), STREAMS[0], prepared(entries), KEYS)
    marked = [moment for moment in moments if isinstance(moment, MarkMoment)]
    assert [moment.number for moment in marked] == [
        number for number, entry in enumerate(entries, start=1) if isinstance(entry, Mark)
    ]
    for moment in moments:
        state = moment.state if isinstance(moment, MarkMoment) else moment.before
        until, _ = fold(State(), STREAMS[0], prepared(entries[: state.sequence]), KEYS)
        assert state.fragments == until.fragments
        assert (state.sequence, state.changed, state.time_us) == (until.sequence, until.changed, until.time_us)
    assert [m.state.sequence if isinstance(m, MarkMoment) else m.before.sequence + 1 for m in moments] == sorted(
        {m.state.sequence if isinstance(m, MarkMoment) else m.before.sequence + 1 for m in moments}
    )  # one entry is one moment at most


@settings(deadline=None, max_examples=60)
@given(HISTORIES)
def test_a_transition_is_a_change_of_a_key_that_matters(entries: list[Entry]) -> None:
    _, moments = fold(State(), STREAMS[0], prepared(entries), KEYS)
    found = {moment.before.sequence + 1: moment.rule for moment in moments if isinstance(moment, TransitionMoment)}
    for number in range(1, len(entries) + 1):
        before, after = plainly(entries[: number - 1]), plainly(entries[:number])
        changed = {key for key in KEYS if before.get(key) != after.get(key)}
        taken_away_and_set_again = getattr(entries[number - 1], "removed", ())
        if changed:
            assert found[number] in {*changed, *taken_away_and_set_again}
        elif number in found:
            assert found[number] in taken_away_and_set_again


def test_a_state_that_was_handed_out_never_changes() -> None:
    first, _ = fold(State(), STREAMS[0], prepared([Update(1, {"a": b"1"})]), KEYS)
    kept = (dict(first.fragments), dict(first.streams))
    fold(first, STREAMS[0], prepared([Update(2, {"a": b"2", "b": b"1"}), Base(3, {})], first=2), KEYS)
    assert (first.fragments, first.streams) == kept


@settings(deadline=None, max_examples=60)
@given(HISTORIES)
def test_a_snapshot_is_the_state(entries: list[Entry]) -> None:
    state, _ = fold(State(), STREAMS[0], prepared(entries), KEYS)
    assert state_at((state.sequence, snapshot_of(state))) == state
    assert state_at(None) == State()


BAD_ENTRIES = {
    "no JSON": Update(0, {"a": b"nope"}),
    "half of JSON": Update(0, {"a": b'{"k": '}),
    "two JSON texts": Update(0, {"a": b"1 2"}),
    "no text": Update(0, {"a": b""}),
    "NaN": Update(0, {"a": b"NaN"}),
    "no UTF-8": Update(0, {"a": b'"\xff"'}),
    "too deep": Update(0, {"a": b"[" * 101 + b"1" + b"]" * 101}),
    "far too deep": Base(0, {"a": b"[" * 100_000 + b"]" * 100_000}),
    "an empty key": Update(0, {"": b"1"}),
    "a key too long": Base(0, {"k" * 1025: b"1"}),
    "a key too long in bytes": Base(0, {"ü" * 513: b"1"}),
    "our own key": Update(0, {"_edi_checkpoint": b"1"}),
}


@pytest.mark.parametrize("bad", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_an_entry_that_cannot_be_stored_is_refused_by_its_number(bad: Entry) -> None:
    with pytest.raises(ProtocolError, match=r"^entry 7: "):
        prepared([Update(0, {"a": b"1"}), bad], first=6)


def test_a_value_of_the_greatest_depth_is_taken() -> None:
    state, _ = fold(State(), STREAMS[0], prepared([Update(0, {"a": b"[" * 100 + b"1" + b"]" * 100})]), KEYS)
    assert state.fragments.keys() == {"a"}


def test_bytes_that_are_no_entry_are_refused_by_their_number() -> None:
    with pytest.raises(ProtocolError, match=r"^entry 3: "):
        read(scan(pack(3, b"\xc1")))


# -- the ledger --------------------------------------------------------------------------------------------------------


def no_files(session_id: str, sequence: int) -> Files:
    return Files()


class Opened(Decided):
    def stream(self, stream_id: str = STREAMS[0], session_id: str = "s") -> WriterStream:
        return super().stream(stream_id, session_id)


@contextmanager
def opened(path: Path, files: Files | None = None) -> Iterator[Opened]:
    journal = Journal(path)
    try:
        attachments = AttachmentStore(path.parent / "attachments", path, 1 << 30, StoppedClock())
        yield Opened(ledger_on(journal, attachments, StoppedClock(), files))
    finally:
        journal.close()


@contextmanager
def new_journal() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "journal.sqlite"


def same(one: State, other: State) -> None:
    assert list(one.fragments.items()) == list(other.fragments.items())  # a file has them in this order
    assert (one.sequence, one.changed, one.time_us) == (other.sequence, other.changed, other.time_us)
    assert one.streams == other.streams


@example([Base(0, dict.fromkeys(KEYS, b"1"))], [], 0)  # the first of the keys that changed is the rule
@given(HISTORIES.filter(bool), st.lists(st.integers(0, 99), max_size=4), st.integers(0, 3))
def test_rows_lead_to_what_their_entries_led_to(entries: list[Entry], at: list[int], known: int) -> None:
    """Also where the state holds the first entries already."""
    known = min(known, len(entries) - 1)
    begun, _ = fold(State(), STREAMS[0], prepared(entries)[:known], KEYS)
    expected, moments = fold(begun, STREAMS[0], prepared(entries)[known:], KEYS)
    replay, met, first = Replay(begun, KEYS), [], 1
    for part in split(entries, at):
        frame = Frame(1, first, first + len(part) - 1, STREAMS[0], 0, packed(part, first))
        first += len(part)
        if part and frame.last > replay.sequence:
            met += replay.add(frame)
    same(replay.state, expected)
    assert met == moments


def test_a_start_asks_for_no_checkpoint_from_before_a_settled_snapshot() -> None:
    with new_journal() as path:
        with opened(path) as live:
            stream = live.stream()
            for number in (1, 3):
                live.take(stream, packed([Update(0, {"n": b"%d" % number}), Mark(0, "manual", f"m{number}")], number))
                if number == 1:
                    live.ledger.snapshot(stream.session, settled=True)
        with opened(path) as again:
            session, wishes = again.session()
            assert [wish.reason for wish in wishes] == ["m3"]
            assert session.state.sequence == 4


@settings(deadline=None, max_examples=35)
@given(HISTORIES, st.lists(st.integers(0, 99), max_size=4), st.data())
def test_replay_is_what_was_live(entries: list[Entry], at: list[int], data: st.DataObject) -> None:
    """Two writers, one after the other; snapshots, trims and notes of files at any place; then a new start."""
    with new_journal() as path:
        with opened(path) as live:
            first = 0
            writers = data.draw(st.integers(0, len(entries)))
            for stream_id, own in zip(STREAMS, (entries[:writers], entries[writers:]), strict=True):
                stream = live.stream(stream_id)
                first = 1
                for part in split(own, at):
                    live.take(stream, packed(part, first))
                    first += len(part)
                    session = stream.session
                    match data.draw(st.sampled_from(["go on", "snapshot", "settled", "trim", "note", "saved"])):
                        case "snapshot":
                            live.ledger.snapshot(session)
                        case "settled":
                            live.ledger.snapshot(session, settled=not live.has_point(session))
                        case "trim":
                            live.ledger.snapshot(session)
                            live.journal.trim(session.key, before_us=2**62, limit=data.draw(st.integers(1, 4)))
                        case "note":
                            live.ledger.saved(session, session.state, checkpoint=True)
                            live.journal.note({session.key: Notes(session.saved, session.checkpointed)})
                        case "saved":
                            live.ledger.saved(session, session.state, checkpoint=False)
                            live.journal.note({session.key: Notes(session.saved, session.checkpointed)})
            session = live.session()[0]
            assert session.sequence == session.state.sequence == len(entries)
            known = {one.id: (one.number, one.epoch) for one in session.streams.values()}
        with opened(path) as again:
            replayed, wishes = again.session()
            same(replayed.state, session.state)
            assert replayed.sequence == session.sequence
            assert {one.id: (one.number, one.epoch) for one in replayed.streams.values()} == known
            assert (replayed.epoch, replayed.left_as, replayed.saved, replayed.checkpointed) == (
                session.epoch, session.left_as, session.saved, session.checkpointed,
            )  # fmt: skip
            assert all(wish.state.sequence > session.checkpointed for wish in wishes)
            # and it goes on
            stream = again.stream(STREAMS[1])
            again.take(stream, packed([Update(0, {"after": b"1"})], stream.number + 1))
            assert replayed.state.sequence == len(entries) + 1
            assert replayed.state.fragments.keys() == {*session.state.fragments, "after"}


@settings(deadline=None, max_examples=35)
@given(HISTORIES.filter(bool), st.data())
def test_each_entry_counts_once_whatever_is_sent_again(entries: list[Entry], data: st.DataObject) -> None:
    """A link that sends from its outbox again and again, from any earlier place; the disk may refuse a commit."""
    expected, _ = fold(State(), STREAMS[0], prepared(entries), KEYS)
    with new_journal() as path:
        with opened(path) as live:
            stream = live.stream()
            sent = 0
            while stream.number < len(entries):
                sent = min(sent, data.draw(st.integers(0, stream.number), label="rewound to"))
                for _ in range(data.draw(st.integers(1, 3), label="frames")):
                    start = data.draw(st.integers(0, sent), label="again from")
                    part = entries[start : start + data.draw(st.integers(1, len(entries)), label="entries")]
                    if part:
                        live.ledger.accept(stream, packed(part, start + 1))
                    sent = max(sent, start + len(part))
                live.ledger.commit()
                assert stream.number == stream.expected >= sent
            same(stream.session.state, expected)
            rows = list(live.journal.read.frames(stream.session.key, after=0))
            assert [(row.first, row.last) for row in rows] == [
                (first, first + len(scan_all(row.records)) - 1)
                for row, first in zip(rows, [1, *(row.last + 1 for row in rows)], strict=False)
            ]
            assert [record.number for row in rows for record in scan_all(row.records)] == list(
                range(1, len(entries) + 1)
            )
            assert not live.journal.read.gaps(stream.session.key)
        with opened(path) as again:
            same(again.session()[0].state, expected)


@settings(deadline=None, max_examples=35)
@given(HISTORIES.filter(bool), st.integers(1, 5))
def test_what_is_known_already_changes_nothing(entries: list[Entry], more: int) -> None:
    with new_journal() as path, opened(path) as live:
        stream = live.stream()
        live.take(stream, packed(entries))
        before, rows = stream.session.state, len(list(live.journal.read.frames(stream.session.key, after=0)))
        for first in range(1, len(entries) + 1):
            assert not live.ledger.accept(stream, packed(entries[first - 1 :], first))
        assert live.ledger.commit() == ([], [])
        assert stream.session.state is before
        overlapping = [*entries[-1:], *[Update(0, {"n": b"1"})] * more]
        assert live.ledger.accept(stream, packed(overlapping, len(entries)))
        live.ledger.commit()
        assert stream.session.state.sequence == stream.number == len(entries) + more
        kept = list(live.journal.read.frames(stream.session.key, after=0))
        assert len(kept) == rows + 1
        assert len(scan_all(kept[-1].records)) == more


@settings(deadline=None, max_examples=35)
@given(HISTORIES.filter(bool), st.integers(1, 1000), st.integers(0, 3))
@example([Base(0, {}), Mark(0, "manual", "r")], 2**62, 0)
def test_a_gap_is_noted_and_never_blocks(entries: list[Entry], missing: int, before: int) -> None:
    with new_journal() as path, opened(path) as live:
        stream = live.stream()
        if before:
            live.take(stream, packed([Update(0, {"old": b"1"})] * before))
        first = before + missing + 1
        live.take(stream, packed(entries, first))
        live.take(stream, packed([Update(0, {"next": b"1"})], first + len(entries)))
        (gap,) = live.journal.read.gaps(stream.session.key)
        assert (gap.stream, gap.first, gap.last, gap.sequence) == (stream.id, before + 1, first - 1, before + 1)
        assert stream.number == first + len(entries)
        assert stream.session.state.sequence == before + len(entries) + 1  # sequences have no gap


def test_what_a_compaction_left_out_is_no_gap(tmp_path: Path) -> None:
    with opened(tmp_path / "journal.sqlite") as live:
        stream = live.stream()
        thin = [
            pack(100, encode_entry(Update(0, {"n": b"100"}, covers=99))),
            pack(101, encode_entry(Mark(0, "manual", "r"))),
            pack(150, encode_entry(Base(0, {"n": b"150"}, covers=48))),
        ]
        live.take(stream, b"".join(thin))
        assert not live.journal.read.gaps(stream.session.key)
        live.take(stream, pack(170, encode_entry(Base(0, {"n": b"170"}, covers=18))))
        (gap,) = live.journal.read.gaps(stream.session.key)
        assert (gap.first, gap.last, gap.sequence) == (151, 151, 4)


@pytest.mark.parametrize("bad", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_of_a_refused_frame_nothing_is_taken(tmp_path: Path, bad: Entry) -> None:
    with opened(tmp_path / "journal.sqlite") as live:
        stream, other = live.stream(), live.stream(STREAMS[1], "other")
        live.take(stream, packed([Update(0, {"a": b"1"})]))
        before = stream.session.state
        live.ledger.accept(other, packed([Update(0, {"mine": b"1"})]))
        with pytest.raises(ProtocolError):
            live.ledger.accept(stream, packed([Update(0, {"a": b"2"}), bad], first=2))
        live.ledger.accept(other, packed([Update(0, {"mine": b"2"})], first=2))
        assert [moved.id for moved in live.ledger.commit().streams] == [other.id]
        assert stream.session.state is before
        assert (stream.number, stream.expected) == (1, 1)
        assert other.session.state.sequence == 2  # the batch it came with goes on
        live.ledger.pass_over(stream, 3)
        live.take(stream, packed([Update(0, {"a": b"4"})], first=4))
        assert stream.number == 4
        assert stream.session.state.sequence == 2
        assert not live.journal.read.gaps(stream.session.key)
    with opened(tmp_path / "journal.sqlite") as again:
        assert again.stream().number == 4


@pytest.mark.parametrize("cut", [1, 17])
def test_a_frame_with_left_overs_takes_nothing(tmp_path: Path, cut: int) -> None:
    with opened(tmp_path / "journal.sqlite") as live:
        stream = live.stream()
        with pytest.raises(ProtocolError):
            live.ledger.accept(stream, packed([Update(0, {"a": b"1"})] * 2)[:-cut])
        assert not live.ledger.commit().streams
        assert stream.session.sequence == 0


def test_numbers_move_only_after_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edi_checkpointd.journal import JournalRefused

    with opened(tmp_path / "journal.sqlite") as live:
        stream, other = live.stream(), live.stream(STREAMS[1], "other")
        live.take(stream, packed([Update(0, {"a": b"1"})]))
        live.ledger.accept(stream, packed([Update(0, {"a": b"2"})], first=2))
        live.ledger.accept(other, packed([Update(0, {"b": b"1"})] * 3))
        assert (stream.number, other.number) == (1, 0)

        def refuse(_: object) -> None:
            raise JournalRefused("no room")

        with monkeypatch.context() as patch:
            patch.setattr(live.journal, "commit", refuse)
            with pytest.raises(JournalRefused):
                live.ledger.commit()
        assert (stream.number, stream.expected, stream.session.sequence) == (1, 1, 1)
        assert (other.number, other.expected, other.session.sequence) == (0, 0, 0)
        assert not live.ledger.commit().streams  # nothing of it is left over
        live.take(other, packed([Update(0, {"b": b"1"})] * 3))
        live.take(stream, packed([Update(0, {"a": b"2"})], first=2))
        assert (stream.session.state.sequence, other.session.state.sequence) == (2, 3)


def test_a_new_stream_fences_the_one_before(tmp_path: Path) -> None:
    with opened(tmp_path / "journal.sqlite") as live:
        stream = live.stream()
        live.take(stream, packed([Update(0, {"a": b"1"})]))
        newer = live.stream(STREAMS[1])
        assert newer.epoch == stream.epoch + 1 == live.session()[0].epoch
        with pytest.raises(Fenced):
            live.stream()
        assert live.stream(STREAMS[1]) is newer  # it may come again
        with pytest.raises(ProtocolError, match="belongs to session s"):
            live.stream(STREAMS[1], "other")
    with opened(tmp_path / "journal.sqlite") as again:
        session, _ = again.session()
        assert session.epoch == newer.epoch
        with pytest.raises(Fenced):
            again.stream()


def test_a_mark_that_a_crash_left_without_its_file_is_wished_again(tmp_path: Path) -> None:
    history: list[Entry] = [
        Update(0, {"a": b"1"}),
        Mark(0, "manual", "first"),
        Update(0, {"a": b"2"}),
        Mark(0, "manual", "second", "label", pinned=True),
        Update(0, {"a": b"3"}),
    ]
    with opened(tmp_path / "journal.sqlite") as live:
        stream = live.stream()
        assert [wish.reason for wish in live.take(stream, packed(history))] == ["first", "second"]
        session = stream.session
        written, _ = fold(State(), stream.id, prepared(history[:2]), KEYS)
        live.ledger.saved(session, written, checkpoint=True)
        live.journal.note({session.key: Notes(session.saved, session.checkpointed)})
    with opened(tmp_path / "journal.sqlite") as again:
        _, (wish,) = again.session()
        assert (wish.reason, wish.label, wish.pinned, wish.mark) == ("second", "label", True, 4)
        assert values(wish.state) == {"a": 2}
        assert wish.state.sequence == 4
        assert again.session()[1] == []  # once


# -- a file that is ahead ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=35)
@given(
    st.integers(0, 6), st.integers(1, 9), st.integers(0, 4), st.sampled_from(["saved", "checkpointed", "both"]),
    st.booleans(),
)  # fmt: skip
def test_a_file_that_is_ahead_of_the_journal_is_gone_on_from(
    journaled: int, ahead: int, after: int, which: str, snapshotted: bool
) -> None:
    """The journal was restored from yesterday's: what the files hold counts, and stays after the next starts."""
    everything: list[Entry] = [Update(n, {f"k{n}": b"%d" % n, "current_stage": b"%d" % n}) for n in range(1, 30)]
    upto = journaled + ahead
    of_file, _ = fold(State(), STREAMS[0], prepared(everything[:upto]), KEYS)
    files = Files(
        saved=upto if which != "checkpointed" else 0,
        checkpointed=upto if which != "saved" else 0,
        streams=of_file.streams,
        ahead=of_file,
    )
    with new_journal() as path:
        with opened(path) as live:
            stream = live.stream()
            if journaled:
                live.take(stream, packed(everything[:journaled]))
                if snapshotted:
                    live.ledger.snapshot(stream.session)
        with opened(path, files) as live:
            session, _ = live.session()
            same(session.state, of_file)
            assert session.sequence == upto
            stream = live.stream()
            assert stream.number == upto
            if after:
                assert not live.ledger.accept(stream, packed(everything[:upto]))
                live.take(stream, packed(everything[: upto + after]))
            expected, _ = fold(State(), STREAMS[0], prepared(everything[: upto + after]), KEYS)
            same(session.state, expected)
        for told in (files._replace(ahead=None), Files()):  # the files as they were; and all of them deleted
            with opened(path, told) as again:
                session, _ = again.session()
                same(session.state, expected)
                assert session.sequence == upto + after
