from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edi_checkpoint.outbox import compaction
from edi_checkpoint.outbox import outbox as outbox_module
from edi_checkpoint.outbox.compaction import TRANSITION_KEYS, compact
from edi_checkpoint.outbox.outbox import Outbox
from edi_checkpoint.outbox.segments import list_streams, read_records
from edi_checkpoint.wire.entries import Base, Entry, Mark, Update, decode_entry, encode_entry
from edi_checkpoint.wire.records import Record, pack, scan_all
from edi_checkpoint.wire.references import Attachment, digests_in

keys = st.sampled_from(["a", "b", "current_stage", "prompts"])
changes = st.dictionaries(keys, st.integers(0, 9).map(lambda n: str(n).encode()), max_size=3)
entries = st.lists(
    st.one_of(
        st.builds(Update, st.integers(0, 99), changes, st.lists(keys, max_size=2, unique=True).map(tuple)),
        st.builds(Base, st.integers(0, 99), changes),
        st.builds(Mark, st.integers(0, 99), st.just("manual"), st.text(max_size=4)),
    ),
    max_size=30,
)


def apply(state: dict[str, bytes], entry: Entry) -> dict[str, bytes]:
    match entry:
        case Update(changed=changed, removed=removed):
            return {**{key: text for key, text in state.items() if key not in removed}, **changed}
        case Base(state=whole):
            return dict(whole)
    return state


def records_of(published: list[Entry]) -> list[Record]:
    return scan_all(b"".join(pack(n, encode_entry(entry)) for n, entry in enumerate(published, 1)))


def moments(records: list[Record]) -> list[tuple[int, dict[str, bytes]]]:
    """The states at marks and at transitions, each with its number."""
    state: dict[str, bytes] = {}
    found = []
    for number, data, _ in records:
        entry = decode_entry(data)
        state = apply(state, entry)
        if isinstance(entry, Mark) or (isinstance(entry, Update) and not TRANSITION_KEYS.isdisjoint(entry.changed)):
            found.append((number, state))
    return [*found, (records[-1].number, state)] if records else []


@given(entries.filter(bool))
def test_every_state_at_a_mark_a_transition_or_the_end_survives_compaction(published: list[Entry]) -> None:
    records = records_of(published)
    thin = scan_all(b"".join(compact(records)))
    had = dict(moments(records))
    assert {number: state for number, state in moments(thin) if number in had} == had


@given(entries.filter(bool))
def test_compacted_entries_cover_all_numbers_without_gap_or_overlap(published: list[Entry]) -> None:
    last = 0
    for number, data, _ in scan_all(b"".join(compact(records_of(published)))):
        entry = decode_entry(data)
        covers = 0 if isinstance(entry, Mark) else entry.covers
        assert number - covers == last + 1
        last = number
    assert last == len(published)


CONTENT = [Attachment("raw", bytes([number]) * 40) for number in range(4)]
DIGESTS = [sha256(attachment.data).hexdigest() for attachment in CONTENT]


def carrying(numbers: dict[str, int], *, base: bool) -> Update | Base:
    """An entry whose values name attachments and which carries them, as a session publishes it."""
    texts = {key: b'{"$attachment":{"sha256":"%s"}}' % DIGESTS[number].encode() for key, number in numbers.items()}
    carried = {DIGESTS[number]: CONTENT[number] for number in numbers.values()}
    return Base(1, texts, 0, carried) if base else Update(1, texts, (), None, 0, carried)


@given(
    st.lists(
        st.builds(carrying, st.dictionaries(keys, st.integers(0, 3), max_size=3), base=st.booleans())
        | st.builds(Update, st.integers(0, 99), changes, st.lists(keys, max_size=2, unique=True).map(tuple)),
        min_size=1,
        max_size=20,
    )
)
def test_what_the_values_name_after_a_compaction_is_carried_and_nothing_else(published: list[Entry]) -> None:
    state: dict[str, bytes] = {}
    there: set[str] = set()
    for _, data, _ in scan_all(b"".join(compact(records_of(published)))):
        entry = decode_entry(data)
        texts = entry.changed if isinstance(entry, Update) else entry.state
        assert entry.attachments.keys() == set().union(*map(digests_in, texts.values()))
        assert all(sha256(held.data).hexdigest() == digest for digest, held in entry.attachments.items())
        there |= entry.attachments.keys()
        state = apply(state, entry)
        assert set().union(*map(digests_in, state.values())) <= there


def test_entries_that_together_would_be_too_large_are_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "ENTRY_MAX_BYTES", 500)
    published = [carrying({f"k{number}": number}, base=False) for number in range(4)]
    sizes = [len(data) for _, data, _ in scan_all(b"".join(compact(records_of(published))))]
    assert len(sizes) > 1
    assert max(sizes) <= 500


@given(entries.filter(bool), st.integers(1, 29))
def test_compacting_twice_is_compacting_once(published: list[Entry], split: int) -> None:
    once = b"".join(compact(records_of(published)))
    again = b"".join(compact(scan_all(once)))
    assert moments(scan_all(again))[-1] == moments(scan_all(once))[-1]
    assert scan_all(again)[-1].number == scan_all(once)[-1].number


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "SEGMENT_BYTES", 2000)


def test_an_outbox_that_nobody_drains_stays_bounded_and_leads_to_the_same_state(
    tmp_path: Path, small_segments: None
) -> None:
    outbox = Outbox(tmp_path, "s", app="test", max_bytes=10_000)
    for n in range(5000):
        outbox.append(encode_entry(Update(n, {f"k{n % 7}": str(n).encode()})))
        outbox.compact(0)
    size = sum(path.stat().st_size for path in (tmp_path / "s").iterdir())
    assert size < 20_000
    state: dict[str, bytes] = {}
    last = 0
    for data in read_records(list_streams(tmp_path / "s")[0]):
        for number, entry, _ in scan_all(data):
            assert number > last
            last = number
            state = apply(state, decode_entry(entry))
    assert last == 5000
    assert state == {f"k{n % 7}": str(n).encode() for n in range(4993, 5000)}
    frames = []
    after = 0
    while (frame := outbox.frame(after, 1 << 20)) is not None:
        frames.append(frame[0])
        after = frame[1]
    assert [record.number for record in scan_all(b"".join(frames))][-1] == 5000
    outbox.close()


def test_what_a_crash_within_compaction_leaves_is_read_without_going_back(tmp_path: Path, small_segments: None) -> None:
    outbox = Outbox(tmp_path, "s", app="test", max_bytes=1000)
    for n in range(200):
        outbox.append(encode_entry(Update(n, {"n": str(n).encode()})))
        outbox.roll()
    before = {path: path.read_bytes() for path in list_streams(tmp_path / "s")[0].segments}
    assert outbox.compact(0)
    for path, data in before.items():  # the others were not unlinked yet
        if not path.exists():
            path.write_bytes(data)
    from edi_checkpoint.home.offline import load_state
    from edi_checkpoint.system.paths import Paths

    found = load_state(Paths(tmp_path / "none", tmp_path, tmp_path, tmp_path), "s")
    assert found.state == {} and not found.found  # outboxes lie below `outbox`, not here
    (tmp_path / "outbox").mkdir()
    (tmp_path / "s").rename(tmp_path / "outbox" / "s")
    found = load_state(Paths(tmp_path / "none", tmp_path, tmp_path, tmp_path), "s")
    assert found.state == {"n": b"199"}
    outbox.close()
