from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from edi_checkpoint.documents.fragments import Fragment, fragment, parent_of, stage_of, summarise
from edi_checkpoint.documents.layout import Header, autosave_document, checkpoint_document
from edi_checkpoint.documents.reader import (
    UNDATED,
    Document,
    parse_autosave,
    parse_checkpoint,
    read_autosave_header,
    read_header,
)
from edi_checkpoint.errors import DocumentDamaged, ProtocolError, VersionMismatch
from edi_checkpoint.model import AUTOMATIC, Kind

DATA = Path(__file__).parents[2] / "data"
NAME = "session_12345_checkpoint_20261123_061232_123456.json"
AUTOSAVE = "session_12345.json"
STATE: dict[str, object] = {
    "current_stage": "refinement",
    "status": "in_progress",
    "image_path": "/home/kim/Bilder/Dächer/roof.jpg",
    "naive_prompt": 'make the sky "dramatic"\n\tand keep the roof – 屋根 \u2028 \x7f',
    "scene_analysis": {
        "entities": [{"id": "sky_0", "bbox": [0, 0, 1024, 310], "centroid": [512.0, 151.25], "color": [], "notes": {}}],
        "spatial_layout": None,
    },
    "prompts": ["one", "two"],
    "validation": {"score": 0.62, "delta": 1e-07, "seed": 123456789012345678901234567890},
    "parent_session": "session_12344",
    'odd "key"\n': [[[]], [{}], True, False],
    "metadata": {},
}
HEADER = Header(
    session_id="session_12345",
    timestamp=datetime(2026, 11, 23, 6, 12, 32, 123456, UTC),
    reason="workflow_transition",
    stage="refinement",
    parent_session="session_12344",
    kind=Kind.MANUAL,
    sequence=812,
    previous="session_12345_checkpoint_20261123_061132_000001.json",
    label="before the sky",
    pinned=True,
    note="größer",
    client={"app": "edi", "pid": 4711},
    streams={"6f1c": 800, "9d2e": 12},
    summary={"status": "in_progress", "image": "roof.jpg", "prompt": "make the sky", "score": 0.62},
)


def fragments_of(state: dict[str, object]) -> dict[str, Fragment]:
    return {
        key: fragment(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
        for key, value in state.items()
    }


def checkpoint(header: Header = HEADER, state: dict[str, object] = STATE) -> bytes:
    return b"".join(checkpoint_document(header, fragments_of(state)))


def autosave(header: Header = HEADER, state: dict[str, object] = STATE) -> bytes:
    return b"".join(autosave_document(header, fragments_of(state)))


def reference(state: dict[str, object] = STATE, **changed: object) -> bytes:
    """A checkpoint as EDI's own class writes it."""
    document = {
        "session_id": "session_12345",
        "timestamp": "2026-11-23T07:12:32.123456",
        "reason": "manual",
        "stage": "refinement",
        "state_info": state,
        "parent_session": "session_12344",
        **changed,
    }
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def test_a_fragment_is_the_value_as_json_dump_nests_it() -> None:
    whole = json.dumps({"state_info": {"k": STATE}}, indent=2, ensure_ascii=False)
    text = fragment(json.dumps(STATE, ensure_ascii=False).encode()).text
    assert text.decode() == whole.removeprefix('{\n  "state_info": {\n    "k": ').removesuffix("\n  }\n}")


def test_a_fragment_knows_its_digest_and_its_equals() -> None:
    one, other = fragment(b'{"a":1}'), fragment(b' { "a" : 1 }\n')
    assert one == other
    assert hash(one) == hash(other)
    assert one.digest == sha256(one.text).hexdigest() == one.digest
    assert one != fragment(b'{"a":2}')
    assert one != one.text


@pytest.mark.parametrize(
    "text", [b"1.0E+5", b"-0", b"123456789012345678901234567890", b"0.10000000149011612", b'"\\u00e9\\/"']
)
def test_numbers_and_strings_keep_their_text(text: bytes) -> None:
    assert fragment(text).text == text


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"", "truncated"),
        (b"[1,", "truncated"),
        (b"NaN", "malformed"),
        (b"-Infinity", "malformed"),
        (b"1 2", "trailing"),
        (b'{"a":1,}', "comma"),
        (b"{1:2}", "malformed"),
        (b'"a\nb"', "invalid character"),
        (b'"\\ud800x______"', "escape"),
        (b'"\xff"', "utf-8"),
        (b'{"\xed\xa0\x80":1}', "utf-8"),
        (b"\xef\xbb\xbf1", "malformed"),
        (b"[" * 102 + b"]" * 102, "deeper than 100"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "deeper than 100"),
        (b"[" * 5000 + b"]" * 5000, "deeper than 100"),
        (b"[" * 200_000, "deeper than 100"),
    ],
)
def test_what_is_no_json_value_is_refused_by_name(value: bytes, fault: str) -> None:
    with pytest.raises(ProtocolError, match=fault):
        fragment(value)


def test_a_hundred_levels_are_not_too_deep() -> None:
    text = fragment(b"[" * 100 + b"1" + b"]" * 100).text
    assert json.loads(text) == json.loads("[" * 100 + "1" + "]" * 100)


def test_a_checkpoint_is_what_json_dump_writes() -> None:
    data = checkpoint()
    document = json.loads(data)
    assert data == json.dumps(document, indent=2, ensure_ascii=False).encode()
    assert list(document) == [
        "session_id", "timestamp", "reason", "stage", "parent_session", "checkpoint", "state_info", "integrity",
    ]  # fmt: skip
    assert list(document["checkpoint"]) == [
        "format", "kind", "sequence", "previous", "label", "pinned", "note", "client", "streams", "summary",
    ]  # fmt: skip
    assert document["state_info"] == STATE
    assert list(document["state_info"]) == list(STATE)
    assert document["timestamp"] == "2026-11-23T06:12:32.123456+00:00"


def test_the_digests_cover_the_bytes_of_header_and_values() -> None:
    data = checkpoint()
    integrity = json.loads(data)["integrity"]
    head = data[: data.index(b'  "state_info": {')]
    assert head.endswith(b"  },\n")
    assert integrity["header"] == sha256(head).hexdigest()
    assert integrity["state_info"]["prompts"] == sha256(b'[\n      "one",\n      "two"\n    ]').hexdigest()
    assert integrity["state_info"]["status"] == sha256(b'"in_progress"').hexdigest()


def test_an_auto_save_is_the_flat_state_as_json_dump_writes_it() -> None:
    data = autosave()
    document = json.loads(data)
    assert data == json.dumps(document, indent=2, ensure_ascii=False).encode()
    assert list(document) == ["session_id", *STATE, "_edi_checkpoint"]
    assert {key: document[key] for key in STATE} == STATE
    block = document["_edi_checkpoint"]
    assert list(block) == [
        "format", "kind", "timestamp", "sequence", "previous", "parent_session", "stage", "client", "streams",
        "summary", "integrity",
    ]  # fmt: skip
    assert block["kind"] == "autosave"
    start, end = data.index(b'  "_edi_checkpoint": {'), data.index(b'    "integrity": {')
    assert block["integrity"] == {
        "state": sha256(data[:start]).hexdigest(),
        "header": sha256(data[start:end]).hexdigest(),
    }


def test_large_fragments_are_not_copied() -> None:
    fragments = fragments_of(STATE)
    parts = checkpoint_document(HEADER, fragments)
    assert all(any(part is value.text for part in parts) for value in fragments.values())


def test_an_empty_state_is_an_empty_object() -> None:
    assert b'\n  "state_info": {},\n  "integrity": {' in checkpoint(state={})
    assert parse_checkpoint(checkpoint(state={}), NAME).values == {}
    assert parse_autosave(autosave(state={}), AUTOSAVE).values == {}


def test_a_checkpoint_comes_back_as_it_was() -> None:
    document = parse_checkpoint(checkpoint(), NAME)
    assert document.header == HEADER
    assert document.values == {key: value.text for key, value in fragments_of(STATE).items()}
    assert read_header(checkpoint(), NAME) == HEADER


def test_an_auto_save_comes_back_as_it_was() -> None:
    document = parse_autosave(autosave(), AUTOSAVE)
    assert document.header == replace(HEADER, kind="autosave", reason="", label=None, pinned=False, note=None)
    assert {key: fragment(value) for key, value in document.values.items()} == fragments_of(STATE)
    data = autosave()
    assert read_autosave_header(data, AUTOSAVE) == document.header
    assert read_autosave_header(data[data.index(b'\n  "_edi') :], AUTOSAVE) == document.header


def test_an_auto_save_has_its_own_words_once() -> None:
    data = autosave(state={"session_id": "other", "_edi_checkpoint": 1, "n": 2})
    assert json.loads(data)["session_id"] == "session_12345"
    assert parse_autosave(data, AUTOSAVE).values == {"n": b"2"}


def test_a_header_is_read_from_the_head_alone() -> None:
    data = checkpoint()
    end = data.index(b'\n  "state_info": ') + len(b'\n  "state_info": ')
    assert read_header(data[:end], NAME) == HEADER
    assert read_header(data[: end - 1], NAME) is None
    assert read_autosave_header(autosave()[-100:], AUTOSAVE) is None


def test_another_time_zone_is_written_as_utc() -> None:
    east = HEADER.timestamp.astimezone(timezone(timedelta(hours=14)))
    assert checkpoint(replace(HEADER, timestamp=east)) == checkpoint()


def test_extra_keys_of_the_same_format_are_ignored() -> None:
    document = json.loads(checkpoint())
    document["checkpoint"]["colour"] = "blue"
    document["mood"] = "good"
    header, state_info, integrity = (
        {key: value for key, value in document.items() if key not in ("state_info", "integrity")},
        {"state_info": document["state_info"]},
        {"integrity": document["integrity"]},
    )
    head = json.dumps(header, indent=2, ensure_ascii=False).encode().removesuffix(b"\n}") + b",\n"
    integrity["integrity"]["header"] = sha256(head).hexdigest()
    integrity["integrity"]["more"] = {}
    rest = json.dumps(state_info | integrity, indent=2, ensure_ascii=False).encode().removeprefix(b"{\n")
    assert parse_checkpoint(head + rest, NAME).header == HEADER


def test_a_newer_format_or_kind_is_left_to_newer_software() -> None:
    for data in (
        checkpoint().replace(b'"format": 1', b'"format": 2'),
        checkpoint().replace(b'"kind": "manual"', b'"kind": "psychic"'),
    ):
        with pytest.raises(VersionMismatch, match=NAME):
            read_header(data, NAME)
    newer = json.dumps({"checkpoint": {"format": 2, "kind": 7}, "state_info": [], "integrity": None}).encode()
    with pytest.raises(VersionMismatch, match="format 2"):
        parse_checkpoint(newer, NAME)
    newer = json.dumps({"a": 1, "_edi_checkpoint": {"format": 9}}, indent=2).encode()
    for parse in (parse_autosave, read_autosave_header):
        with pytest.raises(VersionMismatch, match="format 9"):
            parse(newer, AUTOSAVE)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (b'"one"', b'"onf"', "state_info.prompts: digest differs"),
        (b'"label": "before', b'"label": "bexore', "header: digest differs"),
        (b'"sequence": 812', b'"sequence": 813', "header: digest differs"),
        (b'\n    "status": ', b'\n    "statuz": ', "state_info.status: missing"),
        (b'"state_info": {\n    "cur', b'"state_infO": {\n    "cur', "state_info: missing"),
        (b'"checkpoint": {', b'"checkpoinT": {', "checkpoint: missing"),
        (b'"integrity": {', b'"integritY": {', "integrity: missing"),
        (b'\n    "prompts": [', b'\n    "prompts":  [', "layout was changed"),
        (b'\n    "prompts": [', b'\n    "status": "x",\n    "prompts": [', "status: digest differs|layout was changed"),
        (b'\n    "current_stage": ', b'\n    "status": "x",\n    "current_stage": ', "layout was changed"),
        (b'"session_12345"', b'"session_1\xff345"', "byte 28 is not UTF-8"),
        (b'"format": 1', b'"format": 1.5', "format"),
        (b'"streams": {', b'"streams": [', "malformed"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_its_fault(old: bytes, new: bytes, fault: str) -> None:
    data = checkpoint()
    assert old in data
    with pytest.raises(DocumentDamaged, match=rf"{NAME}: .*({fault})"):
        parse_checkpoint(data.replace(old, new, 1), NAME)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (b'"one"', b'"onf"', "state: digest differs"),
        (b'\n    "sequence": 812', b'\n    "sequence": 813', "header: digest differs"),
        (b'"6f1c": 800', b'"6f1c": 801', "header: digest differs"),
        (b'"integrity"', b'"integritY"', "state: digest differs|header: digest differs"),
        (b'\n  "_edi_checkpoint": ', b'\n   "_edi_checkpoint": ', "state: digest differs"),
    ],
)
def test_a_damaged_auto_save_is_named_with_its_fault(old: bytes, new: bytes, fault: str) -> None:
    data = autosave()
    assert old in data
    with pytest.raises(DocumentDamaged, match=rf"{AUTOSAVE}: .*({fault})"):
        parse_autosave(data.replace(old, new, 1), AUTOSAVE)


@pytest.mark.parametrize(
    "beyond",
    [
        {"sequence": -1}, {"sequence": 2**62 + 1}, {"sequence": 2**70},
        {"keep": 0}, {"keep": 2**70}, {"streams": {"a": 2**63}},
    ],
)  # fmt: skip
def test_numbers_that_no_journal_takes_are_damage_however_right_the_digests_are(beyond: dict[str, Any]) -> None:
    header = replace(HEADER, **beyond)
    with pytest.raises(DocumentDamaged, match=NAME):
        parse_checkpoint(checkpoint(header), NAME)
    with pytest.raises(DocumentDamaged, match=NAME):
        read_header(checkpoint(header), NAME)
    with pytest.raises(DocumentDamaged, match=AUTOSAVE):
        parse_autosave(autosave(header), AUTOSAVE)
    assert parse_checkpoint(checkpoint(replace(HEADER, sequence=2**62, keep=1)), NAME).header.sequence == 2**62


def test_a_score_that_no_float_holds_is_none() -> None:
    assert parse_checkpoint(checkpoint(replace(HEADER, summary={"score": 10**400})), NAME).header.score is None


@pytest.mark.parametrize("parse", [parse_checkpoint, parse_autosave])
def test_empty_truncated_and_zeroed_files_are_damaged(parse: Callable[[bytes, str], Document]) -> None:
    data = checkpoint() if parse is parse_checkpoint else autosave()
    for cut in (0, 1, 100, len(data) - 1):
        with pytest.raises(DocumentDamaged, match=f"{NAME}: truncated at byte {cut}$"):
            parse(data[:cut], NAME)
    with pytest.raises(DocumentDamaged, match="malformed"):
        parse(bytes(len(data)), NAME)
    with pytest.raises(DocumentDamaged, match="object"):
        parse(b"[]", NAME)


def test_a_file_of_edis_own_class_is_a_reference_without_digests() -> None:
    document = parse_checkpoint(reference(), NAME)
    assert document.header == Header(
        session_id="session_12345",
        timestamp=datetime(2026, 11, 23, 7, 12, 32, 123456).astimezone(UTC),
        reason="manual",
        stage="refinement",
        parent_session="session_12344",
        kind=Kind.REFERENCE,
        sequence=0,
    )
    assert {key: json.loads(value) for key, value in document.values.items()} == STATE
    from_head = read_header(reference()[:300], NAME)
    assert from_head == replace(document.header, parent_session=None)  # that key comes after the state


def test_a_reference_file_may_say_odd_things_about_itself() -> None:
    data = reference(session_id=None, timestamp="yesterday", reason={"why": [1]}, stage=3, parent_session=7)
    header = parse_checkpoint(data, NAME).header
    assert header.session_id == "session_12345"
    assert header.timestamp == HEADER.timestamp
    assert (header.reason, header.stage, header.parent_session) == ('{"why": [1]}', "3", None)
    compact = parse_checkpoint(b'{"state_info":{"a":1}}', NAME)
    assert (compact.header.reason, compact.header.stage, compact.values) == ("", "unknown", {"a": b"1"})


def test_a_reference_file_without_a_usable_name_or_time_is_damaged() -> None:
    with pytest.raises(DocumentDamaged, match="session_id"):
        parse_checkpoint(reference(session_id="../x"), "x")
    with pytest.raises(DocumentDamaged, match="timestamp"):
        parse_checkpoint(reference(timestamp="0001-01-01T00:00:00+14:00"), "x")


def test_a_reference_file_with_nan_is_said_to_hold_it() -> None:
    with pytest.raises(DocumentDamaged, match=f"{NAME}: holds NaN, which is not JSON"):
        parse_checkpoint(reference({"validation": {"score": float("nan")}}), NAME)
    with pytest.raises(DocumentDamaged, match=f"{AUTOSAVE}: holds -Infinity"):
        parse_autosave(b'{"a": -Infinity}', AUTOSAVE)


def test_an_auto_save_by_somebody_else_is_foreign_and_whole() -> None:
    data = json.dumps({"session_id": "session_12345", **STATE}, indent=4).encode()
    document = parse_autosave(data, AUTOSAVE)
    assert {key: json.loads(value) for key, value in document.values.items()} == json.loads(data)
    assert document.header == Header(
        session_id="session_12345",
        timestamp=UNDATED,
        kind=Kind.FOREIGN,
        sequence=0,
        stage="refinement",
        parent_session="session_12344",
        summary=summarise(fragments_of(STATE)),
    )
    assert parse_autosave(b'{"session_id": "../x"}', AUTOSAVE).header.session_id == "session_12345"


def test_format_1_stays_readable() -> None:
    document = parse_checkpoint((DATA / "checkpoint_v1.json").read_bytes(), NAME)
    assert document.header == HEADER
    assert {key: json.loads(value) for key, value in document.values.items()} == STATE
    saved = parse_autosave((DATA / "autosave_v1.json").read_bytes(), AUTOSAVE)
    assert saved.header.streams == HEADER.streams
    assert {key: json.loads(value) for key, value in saved.values.items()} == STATE


def test_format_1_is_still_what_is_written() -> None:
    assert checkpoint() == (DATA / "checkpoint_v1.json").read_bytes()
    assert autosave() == (DATA / "autosave_v1.json").read_bytes()


def test_a_summary_shows_what_a_session_list_needs() -> None:
    assert summarise(fragments_of(STATE)) == {
        "status": "in_progress",
        "image": "roof.jpg",
        "prompt": STATE["naive_prompt"],
        "score": 0.62,
    }


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, {}),
        ({"status": 3, "image_path": None, "naive_prompt": ["a"], "validation": "good"}, {}),
        ({"image_path": "roof.jpg"}, {"image": "roof.jpg"}),
        ({"image_path": "C:\\pictures\\roof.jpg"}, {"image": "roof.jpg"}),
        ({"naive_prompt": "é" * 300}, {"prompt": "é" * 200}),
        ({"naive_prompt": "é" * 40_000}, {}),
        ({"validation": {"score": True}}, {}),
        ({"validation": {"score": "0.5"}}, {}),
        ({"validation": {"score": 10**400}}, {}),
        ({"validation": {"score": 1}}, {"score": 1}),
        ({"validation": {"delta": 1}, "validation_results": {"score": 0}}, {"score": 0}),
        ({"validation": {"score": 0.5}, "validation_results": {"score": 0.25}}, {"score": 0.5}),
    ],
)
def test_a_summary_leaves_out_what_is_something_else(state: dict[str, object], expected: dict[str, object]) -> None:
    nothing = {"status": None, "image": None, "prompt": None, "score": None}
    assert summarise(fragments_of(state)) == nothing | expected


def test_the_stage_is_text_whatever_the_state_holds() -> None:
    assert stage_of({}) == "unknown"
    assert stage_of(fragments_of({"current_stage": "größer\n"})) == "größer\n"
    assert stage_of(fragments_of({"current_stage": {"name": "x", "n": [1]}})) == '{"name": "x","n": [1]}'
    assert len(stage_of(fragments_of({"current_stage": ["é"] * 100_000}))) == 200


def test_the_parent_is_a_string_or_nothing() -> None:
    assert parent_of(fragments_of({"parent_session": "a"})) == "a"
    assert parent_of(fragments_of({"parent_session": 7})) is None
    assert parent_of({}) is None


def test_automatic_kinds_are_those_nobody_asked_for() -> None:
    assert {"interval", "shutdown", "interrupted", "recovered"} == AUTOMATIC
