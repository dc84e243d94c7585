from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime

import msgspec
import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edi_checkpoint.documents.fragments import Fragment, fragment, parent_of, stage_of, summarise
from edi_checkpoint.documents.layout import Header, autosave_document, checkpoint_document
from edi_checkpoint.documents.reader import parse_autosave, parse_checkpoint, read_autosave_header, read_header
from edi_checkpoint.errors import DocumentDamaged, ProtocolError, VersionMismatch
from edi_checkpoint.model import Kind

NAME = "s_checkpoint_20261123_061232_123456.json"
AUTOSAVE = "s.json"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)
KNOWN = st.sampled_from(["current_stage", "status", "image_path", "naive_prompt", "validation", "parent_session"])
STATES = st.dictionaries(st.text() | KNOWN, JSON, max_size=6).filter(
    lambda state: not state.keys() & {"session_id", "_edi_checkpoint"}
)
OPTIONAL_TEXT = st.none() | st.text(max_size=20)
HEADERS = st.builds(
    Header,
    session_id=st.just("s"),
    timestamp=st.datetimes(timezones=st.just(UTC)),
    reason=st.text(max_size=20),
    stage=st.text(max_size=20),
    parent_session=OPTIONAL_TEXT,
    kind=st.sampled_from(Kind),
    sequence=st.integers(0, 2**62),
    previous=OPTIONAL_TEXT,
    label=OPTIONAL_TEXT,
    pinned=st.booleans(),
    note=OPTIONAL_TEXT,
    client=st.fixed_dictionaries({"app": st.text(max_size=9), "pid": st.integers(0, 2**22)}),
    streams=st.dictionaries(st.text(max_size=9), st.integers(0, 2**63 - 1), max_size=3),
    summary=st.fixed_dictionaries({"status": OPTIONAL_TEXT, "score": st.none() | st.just(0.62)}),
)
DEFAULT = Header(session_id="s", timestamp=datetime(2026, 11, 23, tzinfo=UTC), kind=Kind.MANUAL, sequence=1)


def fragments_of(state: dict[str, object]) -> dict[str, Fragment]:
    return {
        key: fragment(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
        for key, value in state.items()
    }


@settings(deadline=None)
@given(HEADERS, STATES)
def test_a_checkpoint_is_the_text_of_json_dump_and_comes_back(header: Header, state: dict[str, object]) -> None:
    fragments = fragments_of(state)
    data = b"".join(checkpoint_document(header, fragments))
    loaded = json.loads(data)
    assert data == json.dumps(loaded, indent=2, ensure_ascii=False).encode()
    assert loaded["state_info"] == msgspec.json.decode(data)["state_info"] == state
    assert orjson.loads(data)["state_info"].keys() == state.keys()

    document = parse_checkpoint(data, NAME)
    assert document.header == header == read_header(data, NAME)
    assert document.values == {key: value.text for key, value in fragments.items()}
    assert {key: fragment(value) for key, value in document.values.items()} == fragments


@settings(deadline=None)
@given(HEADERS, STATES)
def test_an_auto_save_is_the_text_of_json_dump_and_comes_back(header: Header, state: dict[str, object]) -> None:
    fragments = fragments_of(state)
    data = b"".join(autosave_document(header, fragments))
    loaded = json.loads(data)
    assert data == json.dumps(loaded, indent=2, ensure_ascii=False).encode()
    assert {key: loaded[key] for key in state} == state
    assert msgspec.json.decode(data) == loaded
    assert list(orjson.loads(data)) == ["session_id", *state, "_edi_checkpoint"]

    document = parse_autosave(data, AUTOSAVE)
    assert document.header == read_autosave_header(data, AUTOSAVE)
    assert (document.header.sequence, document.header.streams) == (header.sequence, header.streams)
    assert {key: fragment(value) for key, value in document.values.items()} == fragments


@given(STATES)
def test_a_file_of_edis_own_class_comes_back_as_it_is(state: dict[str, object]) -> None:
    data = json.dumps({"session_id": "s", "timestamp": "", "state_info": state}, indent=2, ensure_ascii=False).encode()
    document = parse_checkpoint(data, NAME)
    assert document.header.kind == Kind.REFERENCE
    assert {key: json.loads(value) for key, value in document.values.items()} == state
    assert read_header(data, NAME) == document.header


@given(STATES)
def test_any_state_has_a_summary_a_stage_and_perhaps_a_parent(state: dict[str, object]) -> None:
    fragments = fragments_of(state)
    json.dumps(summarise(fragments), allow_nan=False)
    stage_of(fragments).encode()
    assert parent_of(fragments) in (None, state.get("parent_session"))


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"state_info": {"a": 1' + b"0" * 5000 + b"}}")
@example(b'{"session_id": 1e999, "state_info": {}}')
@example(b'{"checkpoint": {"format": 1e999}, "state_info": {}}')
@example(b'{"checkpoint": {"format": 99999999999999999999}, "state_info": {}}')
@example(b'{"\\ud800": 1}')
@example("{}".encode("utf-16"))
def test_noise_ends_in_a_named_error(data: bytes) -> None:
    for read in (parse_checkpoint, read_header, parse_autosave, read_autosave_header):
        for name in (NAME, AUTOSAVE, "", "../x"):
            with suppress(DocumentDamaged, VersionMismatch):
                read(data, name)
    with suppress(ProtocolError):
        fragment(data)


def mutations(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` with one byte changed, some cut out, some repeated, or something put in."""
    places = st.tuples(st.integers(0, len(data) - 1), st.integers(0, len(data))).map(sorted)
    return st.one_of(
        st.builds(lambda at, byte: data[: at[0]] + bytes([byte]) + data[at[0] + 1 :], places, st.integers(0, 255)),
        st.builds(lambda at: data[: at[0]] + data[at[1] :], places),
        st.builds(lambda at: data[: at[1]] + data[at[0] :], places),
        st.builds(lambda at, more: data[: at[0]] + more + data[at[0] :], places, st.binary(max_size=8)),
        st.builds(lambda at: data[: at[0]] + bytes(at[1] - at[0]) + data[at[1] :], places),
    )


SAMPLE = fragments_of({"current_stage": "a", "n": {"trail": [1, {"x": []}], "score": 0.5}, "prompt": "größer\n"})
CHECKPOINT_DATA = b"".join(checkpoint_document(DEFAULT, SAMPLE))
AUTOSAVE_DATA = b"".join(autosave_document(DEFAULT, SAMPLE))


@settings(max_examples=500, deadline=None)
@given(mutations(CHECKPOINT_DATA))
def test_a_changed_checkpoint_is_never_read_as_another(data: bytes) -> None:
    with suppress(DocumentDamaged, VersionMismatch):
        read_header(data, NAME)
    with suppress(DocumentDamaged, VersionMismatch):
        assert parse_checkpoint(data, NAME) == parse_checkpoint(CHECKPOINT_DATA, NAME)


@settings(max_examples=500, deadline=None)
@given(mutations(AUTOSAVE_DATA))
def test_a_changed_auto_save_is_never_read_as_another_of_ours(data: bytes) -> None:
    with suppress(DocumentDamaged, VersionMismatch):
        read_autosave_header(data, AUTOSAVE)
    with suppress(DocumentDamaged, VersionMismatch):
        document = parse_autosave(data, AUTOSAVE)
        assert document.header.kind == Kind.FOREIGN or document == parse_autosave(AUTOSAVE_DATA, AUTOSAVE)
