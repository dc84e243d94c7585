"""The fold is one: a client without a daemon, the command without one and a start have the state that was live."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.fragments import fragment
from edi_checkpoint.documents.layout import AUTOSAVE, Header, autosave_document, checkpoint_document
from edi_checkpoint.documents.names import autosave_name, checkpoint_name
from edi_checkpoint.home import offline
from edi_checkpoint.model import Kind
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.wire.entries import Base, Entry, Mark, Pin, Rollback, Update, encode_entry
from edi_checkpoint.wire.fold import apply, texts_of
from edi_checkpoint.wire.messages import GetState
from edi_checkpoint.wire.records import pack, scan
from edi_checkpointd.config import Config
from edi_checkpointd.journal import Frame
from edi_checkpointd.sessions.queries import Queries
from edi_checkpointd.sessions.replay import Replay
from edi_checkpointd.state import Moment, State, fold, read

KEYS = Config().transition_keys
SESSION = "s"
TIMES_US = st.integers(0, 5_000_000)
NAMES = st.sampled_from(["current_stage", "status", "a", "b", "ä"])
VALUES = st.dictionaries(NAMES, st.sampled_from([b'"x"', b"1", b"[1,[2]]", b'{"k":null}', '"ü"'.encode()]), max_size=4)
ENTRIES = (
    st.builds(Update, TIMES_US, VALUES, st.lists(NAMES, max_size=2).map(tuple), st.none() | st.just("why"))
    | st.builds(Base, TIMES_US, VALUES)
    | st.builds(Rollback, TIMES_US, VALUES, st.integers(0, 9), st.just("back"))
    | st.builds(Mark, TIMES_US, st.sampled_from(["manual", "shutdown", "interrupted"]), st.just("asked"))
    | st.builds(Pin, TIMES_US, st.just("name.json"), st.none() | st.booleans())
)


class Published(NamedTuple):
    """What a writer published by its stream: the first entry's number, and the entries."""

    stream: str
    first: int
    entries: list[Entry]

    def records(self, start: int = 0, end: int | None = None) -> bytes:
        numbered = list(enumerate(self.entries, start=self.first))[start:end]
        return b"".join(pack(number, encode_entry(entry)) for number, entry in numbered)


@st.composite
def writers(draw: st.DrawFn) -> list[Published]:
    """What several writers published, one after the other; a stream's numbers may begin behind a gap."""
    streams = [digit * 32 for digit in "cab"[: draw(st.integers(1, 3))]]
    return [Published(one, draw(st.integers(1, 3)), draw(st.lists(ENTRIES, max_size=8))) for one in streams]


def lived(state: State, published: Published, start: int = 0, end: int | None = None) -> tuple[State, list[Moment]]:
    """The state that the daemon has once it has taken these entries."""
    return fold(state, published.stream, read(scan(published.records(start, end))), KEYS)


def leave_outbox(home: Paths, order: int, published: Published, data: st.DataObject) -> None:
    """Write a stream's outbox in segments, each beginning with entries that the one before has, too."""
    folder = home.outbox / SESSION
    folder.mkdir(parents=True, exist_ok=True)
    owner = {"stream": published.stream, "session_id": SESSION, "parent_session": None, "app": "test", "pid": 1}
    (folder / f"{published.stream}.lock").write_text(json.dumps({**owner, "since": "", "order": order}))
    count = len(published.entries)
    cuts = sorted(data.draw(st.sets(st.integers(0, count), max_size=3), label="cuts") | {0, count})
    for index, (start, end) in enumerate(pairwise(cuts)):
        again = data.draw(st.integers(0, start), label="twice from")
        (folder / f"{published.stream}.{index:08d}.seg").write_bytes(published.records(again, end))


def save(home: Paths, state: State, at: datetime, *, as_checkpoint: bool) -> None:
    """Write a document of `state`."""
    kind = Kind.MANUAL if as_checkpoint else AUTOSAVE
    header = Header(session_id=SESSION, timestamp=at, kind=kind, sequence=state.sequence, streams=state.streams)
    make = checkpoint_document if as_checkpoint else autosave_document
    name = checkpoint_name(SESSION, at) if as_checkpoint else autosave_name(SESSION)
    (home.sessions / name).write_bytes(b"".join(make(header, state.fragments)))


@settings(deadline=None, max_examples=150)
@given(writers(), st.data())
def test_a_client_without_a_daemon_has_the_state_that_was_live(published: list[Published], data: st.DataObject) -> None:
    """With and without documents; the outboxes have entries that a document or another segment has, too."""
    with tempfile.TemporaryDirectory() as folder:
        home = Paths(*(Path(folder) / name for name in ("sessions", "state", "runtime", "config")))
        home.sessions.mkdir()
        live, in_file, waiting = State(), 0, list[Entry]()
        for order, one in enumerate(published):
            leave_outbox(home, order, one, data)
            known = data.draw(st.integers(0, len(one.entries)), label="known to a document")
            live = lived(live, one, 0, known)[0]
            waiting += one.entries[:known]
            if data.draw(st.booleans(), label="document"):
                at = datetime(2026, 11, 23, 12, order, tzinfo=UTC)
                save(home, live, at, as_checkpoint=data.draw(st.booleans(), label="as checkpoint"))
                in_file, waiting = live.sequence, []
            live = lived(live, one, known)[0]
            waiting += one.entries[known:]

        found = offline.load_state(home, SESSION)
        laid_out = [(key, fragment(text)) for key, text in found.state.items()]
        assert laid_out == list(live.fragments.items())  # in this order, too
        assert found.sequence == live.sequence
        assert found.from_outbox == live.sequence - in_file
        assert found.time_us == max((entry.time_us for entry in waiting), default=0)

        catalog = Catalog(home.sessions)
        catalog.load()
        shown = Queries(home, catalog, None).state(GetState(1, SESSION))
        assert list(shown.state.items()) == [(key, value.text) for key, value in live.fragments.items()]
        assert shown.sequence == live.sequence


@settings(deadline=None)
@given(st.lists(ENTRIES, min_size=1, max_size=12), st.lists(st.integers(0, 99), max_size=4))
def test_a_start_has_the_state_that_was_live_and_meets_the_same_moments(entries: list[Entry], at: list[int]) -> None:
    published = Published("a" * 32, 1, entries)
    expected, moments = lived(State(), published)
    replay, met = Replay(State(), KEYS), []
    for start, end in pairwise(sorted({0, len(entries), *(position % (len(entries) + 1) for position in at)})):
        records = published.records(start, end)
        met += replay.add(Frame(1, start + 1, end, published.stream, 0, records))
    assert replay.state == expected
    assert list(replay.state.fragments) == list(expected.fragments)
    assert met == moments


@given(VALUES, ENTRIES)
def test_an_entry_does_what_it_says(before: dict[str, bytes], entry: Entry) -> None:
    values = dict(before)
    is_change = apply(values, entry, texts_of(entry))
    match entry:
        case Update(changed=changed, removed=removed):
            assert values == {key: text for key, text in before.items() if key not in removed} | changed
        case Base(state=state) | Rollback(state=state):
            assert values == state
        case _:
            assert values == before
    assert is_change is not isinstance(entry, Mark | Pin)


def test_a_base_leaves_keys_in_their_places_and_a_rollback_brings_its_own_order() -> None:
    values = {"a": b"1", "b": b"1", "c": b"1"}
    apply(values, Base(0, whole := {"d": b"2", "c": b"2", "a": b"2"}), whole)
    assert list(values) == ["a", "c", "d"]
    apply(values, Rollback(0, whole, 1, "back"), whole)
    assert list(values) == ["d", "c", "a"]
