from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edi_checkpoint.outbox.segments import Owner, StreamFiles, heads, last_number, read_records
from edi_checkpoint.outbox.survey import WaitingStream, between, holds_changes, survey_session
from edi_checkpoint.wire.entries import Entry, Mark, Pin, Update, encode_entry
from edi_checkpoint.wire.records import pack, scan

STREAM = "0" * 32
OWNER = Owner(stream=STREAM, session_id="s", parent_session=None, app="edi", pid=1, since="", order=1)

entries = st.one_of(
    st.builds(Update, st.integers(1, 1 << 50), st.just({"n": b"1"})),
    st.builds(Mark, st.integers(1, 1 << 50), st.sampled_from(["manual", "shutdown"]), st.just("x")),
    st.builds(Pin, st.integers(1, 1 << 50), st.just("s_checkpoint_20261123_120000_000000.json")),
)
# Segments as an outbox leaves them: numbers rise, may leave gaps, and begin anew lower after a compaction cut short.
numbered = st.dictionaries(st.integers(1, 40), entries, max_size=12).map(lambda found: sorted(found.items()))
segments = st.lists(numbered, max_size=4)


def written(folder: Path, parts: list[bytes]) -> StreamFiles:
    paths = []
    for at, data in enumerate(parts):
        path = folder / f"{STREAM}.{at:08d}.seg"
        path.write_bytes(data)
        paths.append(path)
    return StreamFiles(folder / f"{STREAM}.lock", OWNER, tuple(paths))


def packed(of_segments: list[list[tuple[int, Entry]]]) -> list[bytes]:
    return [b"".join(pack(number, encode_entry(entry)) for number, entry in part) for part in of_segments]


def read(files: StreamFiles) -> list[int]:
    """The numbers as a drain takes them: verified, each once."""
    found = [0]
    for data in read_records(files):
        found += [record.number for record in scan(data) if record.number > found[-1]]
    return found[1:]


@given(segments, st.data())
def test_a_walk_over_heads_finds_what_a_drain_takes_also_of_a_torn_outbox(
    of_segments: list[list[tuple[int, Entry]]], data: st.DataObject
) -> None:
    parts = packed(of_segments)
    if parts:
        end = data.draw(st.sampled_from(["whole", "torn", "zeros"]))
        if end == "torn":
            parts[-1] = parts[-1][: data.draw(st.integers(0, len(parts[-1])))]
        elif end == "zeros":
            parts[-1] += bytes(data.draw(st.integers(1, 100)))
    with tempfile.TemporaryDirectory() as folder:
        files = written(Path(folder), parts)
        numbers = read(files)
        assert [head.number for head in heads(files)] == numbers
        assert last_number(files) == max(numbers, default=0)


@given(numbered, st.integers(0, 41), st.integers(0, 41))
def test_what_waits_is_what_lies_between_two_numbers_since_the_first_of_it(
    of_segment: list[tuple[int, Entry]], after: int, upto: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = written(Path(folder), packed([of_segment]))
        among = [entry for number, entry in of_segment if after < number <= upto]
        count, since = between(files, after, upto)
        assert count == len(among)
        assert (since is None) == (not among)
        if since is not None:
            assert round(since.timestamp() * 1_000_000) == among[0].time_us
        behind = [entry for number, entry in of_segment if number > after]
        changes = any(isinstance(entry, Update) for entry in behind)
        assert holds_changes([WaitingStream(files, False, 0, False)], {STREAM: after}) == changes


@given(segments)
def test_a_writer_left_cleanly_exactly_if_its_last_entry_says_so(of_segments: list[list[tuple[int, Entry]]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / OWNER.session_id
        folder.mkdir()
        files = written(folder, packed(of_segments))
        by_number: dict[int, Entry] = {}
        for part in of_segments:
            for number, entry in part:
                if number > max(by_number, default=0):
                    by_number[number] = entry
        last = by_number[max(by_number)] if by_number else None
        files.lock.write_bytes(msgspec.json.encode(OWNER))
        (seen,) = survey_session(folder)
        assert (seen.files, seen.held, seen.last) == (files, False, max(by_number, default=0))
        assert seen.cleanly == (isinstance(last, Mark) and last.kind == "shutdown")
