from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edi_checkpoint.documents.names import (
    CheckpointName,
    autosave_name,
    check_session_id,
    checkpoint_name,
    new_session_id,
    next_stamp,
    parse_autosave_name,
    parse_checkpoint_name,
    stamp_time,
)
from edi_checkpoint.errors import SessionIdError

NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, UTC)
SESSION_IDS = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,40}", fullmatch=True).filter(
    lambda text: "_checkpoint_" not in text
)


@pytest.mark.parametrize(
    "session_id", ["a", "session_12345", "s.1", "-", "a" * 128, "a_checkpoint_b", "x_checkpoint_20261123", "x.tmp"]
)
def test_a_usable_session_id_is_returned_as_it_is(session_id: str) -> None:
    assert check_session_id(session_id) == session_id


@pytest.mark.parametrize(
    "session_id",
    [
        "",
        ".hidden",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "s[1]",
        "a b",
        "a\n",
        "ü",
        "\u0661",
        "a" * 129,
        "a\0",
        "x_checkpoint_20261123_120000",
        "x_checkpoint_20261123_120000_123456",
        "x_checkpoint_20261123_120000_123456.json",
        "x_checkpoint_20261123_120000_123456.tmp",
        None,
        7,
        b"a",
        "x" * 10_000,
    ],
)
def test_an_unusable_session_id_is_refused_in_a_short_sentence(session_id: object) -> None:
    with pytest.raises(SessionIdError) as caught:
        check_session_id(session_id)
    assert repr(session_id)[:70] in str(caught.value)
    assert len(str(caught.value)) < 120


def test_a_new_session_id_is_usable_and_new() -> None:
    assert check_session_id(new_session_id()) != new_session_id()


@given(SESSION_IDS, st.datetimes(min_value=datetime(1000, 1, 1), max_value=datetime(9999, 1, 1)))  # noqa: DTZ001
def test_a_name_says_what_it_was_made_of(session_id: str, moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)
    named = parse_checkpoint_name(checkpoint_name(session_id, moment))
    assert named is not None
    assert (named.session_id, stamp_time(named.stamp)) == (session_id, moment)
    assert parse_autosave_name(autosave_name(session_id)) == session_id
    assert parse_autosave_name(checkpoint_name(session_id, moment)) is None
    assert parse_checkpoint_name(autosave_name(session_id)) is None


def test_a_name_is_in_utc() -> None:
    moment = NOON.astimezone(timezone(timedelta(hours=14)))
    assert checkpoint_name("s", moment) == "s_checkpoint_20261123_120000_123456.json"


def test_files_of_a_longer_session_id_are_not_those_of_the_shorter() -> None:
    assert parse_checkpoint_name("a_checkpoint_b_checkpoint_20261123_120000_123456.json") == CheckpointName(
        "a_checkpoint_b", "20261123_120000_123456"
    )


def test_a_whole_second_name_of_edi_is_a_checkpoint() -> None:
    assert parse_checkpoint_name("s_checkpoint_20261123_120000.json") == CheckpointName("s", "20261123_120000")
    assert stamp_time("20261123_120000") == NOON.replace(microsecond=0)


@pytest.mark.parametrize(
    "name",
    [
        "s_checkpoint_20261123_120000_123456.tmp.json",
        ".s_checkpoint_20261123_120000_123456.json",
        ".s_checkpoint_20261123_120000_123456.json.4711.tmp",
        "s_checkpoint_20261123_120000_123456_checkpoint_20261123_120000_123456.json",
        "s_checkpoint_20261323_120000_123456.json",
        "s_checkpoint_20260230_120000_123456.json",
        "s_checkpoint_00000101_000000_000000.json",
        "s_checkpoint_99991231_235959_999999.json",
        "s_checkpoint_20261123_120000_123456.json\n",
        "s_checkpoint_20261123_120000_123456.JSON",
        "_checkpoint_20261123_120000_123456.json",
        "s[1]_checkpoint_20261123_120000_123456.json",
        "",
        ".json",
        "json",
        ".daemon.lock",
    ],
)
def test_what_only_looks_like_ours_is_neither_checkpoint_nor_auto_save(name: str) -> None:
    assert parse_checkpoint_name(name) is None
    assert parse_autosave_name(name) is None


def test_names_increase_although_the_clock_steps_back() -> None:
    assert next_stamp(NOON, None) == NOON
    assert next_stamp(NOON, "20261123_115959_000000") == NOON
    assert next_stamp(NOON, "20261123_120000_123456") == NOON + timedelta(microseconds=1)
    assert next_stamp(NOON, "20270101_000000") == datetime(2027, 1, 1, 0, 0, 0, 1, UTC)
