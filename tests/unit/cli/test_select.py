from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edi_checkpoint.documents.names import checkpoint_name
from edi_checkpoint.errors import NotFound
from edi_checkpoint.model import CheckpointInfo
from edi_checkpointd.cli import select
from edi_checkpointd.cli.select import Ambiguous, CommandLineError

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
BERLIN = timezone(timedelta(hours=1))
IDS = st.lists(st.text("abs1-", min_size=1, max_size=4), min_size=1, max_size=8, unique=True)
STAMPS = st.lists(
    st.timedeltas(timedelta(0), timedelta(days=3)).map(lambda later: NOON + later), min_size=1, max_size=8, unique=True
)


def made(at: datetime, label: str | None = None, *, name: str | None = None) -> CheckpointInfo:
    name = checkpoint_name("s1", at) if name is None else name
    return CheckpointInfo(name, "s1", 1, at, "manual", "why", "refinement", label, False, 9)


def at(*seconds: float, labels: Sequence[str | None] = ()) -> list[CheckpointInfo]:
    texts = [*labels, *[None] * len(seconds)]
    return [made(NOON + timedelta(seconds=second), text) for second, text in zip(seconds, texts, strict=False)]


def chosen(text: str, infos: Sequence[CheckpointInfo]) -> int:
    return list(infos).index(select.checkpoint(text, infos, BERLIN))


# -- sessions --------------------------------------------------------------------------------------------------------


@given(IDS)
def test_a_whole_id_selects_its_session_whatever_the_others_are_called(ids: list[str]) -> None:
    assert [select.session(session_id, ids) for session_id in ids] == ids


@given(IDS, st.text("abs1-", min_size=1, max_size=4))
def test_a_prefix_selects_the_one_session_it_fits_or_names_those_it_fits(ids: list[str], text: str) -> None:
    fitting = [session_id for session_id in ids if session_id.startswith(text)]
    if text in ids:
        assert select.session(text, ids) == text
    elif not fitting:
        with pytest.raises(NotFound):
            select.session(text, ids)
    elif len(fitting) == 1:
        assert select.session(text, ids) == fitting[0]
    else:
        with pytest.raises(Ambiguous) as raised:
            select.session(text, ids)
        assert all(session_id in raised.value.message for session_id in fitting[:5])


def test_latest_is_the_newest_unless_a_session_is_called_so() -> None:
    assert select.session("latest", ["b", "a"]) == "b"
    assert select.session("latest", ["b", "latest"]) == "latest"
    with pytest.raises(NotFound):
        select.session("latest", [])


def test_an_empty_selector_is_a_mistake_not_everything() -> None:
    with pytest.raises(CommandLineError, match="the session is empty"):
        select.session("", ["a"])
    with pytest.raises(CommandLineError, match="the checkpoint is empty"):
        select.checkpoint("", at(0))


def test_a_few_of_many_fitting_sessions_are_named() -> None:
    with pytest.raises(Ambiguous, match=r"s fits 7 sessions: s0, s1, s2, s3, s4 and 2 more"):
        select.session("s", [f"s{n}" for n in range(7)])


# -- checkpoints -----------------------------------------------------------------------------------------------------


@given(STAMPS)
def test_a_name_a_stamp_and_a_position_select_each_checkpoint(stamps: list[datetime]) -> None:
    infos = [made(stamp) for stamp in sorted(stamps)]
    for index, info in enumerate(infos):
        stamp = info.name.removeprefix("s1_checkpoint_").removesuffix(".json")
        assert chosen(info.name, infos) == index
        assert chosen(stamp, infos) == index
        assert chosen(f"@{len(infos) - index}", infos) == index
        assert chosen(info.timestamp.isoformat(timespec="microseconds").replace("+00:00", "Z"), infos) == index
        assert chosen(info.timestamp.astimezone(BERLIN).isoformat(), infos) == index


@given(STAMPS, st.integers(1, 22))
def test_the_beginning_of_a_stamp_selects_one_checkpoint_or_names_two(stamps: list[datetime], length: int) -> None:
    infos = [made(stamp) for stamp in sorted(stamps)]
    text = infos[0].name.removeprefix("s1_checkpoint_")[:length]
    fitting = [info.name for info in infos if info.name.startswith(f"s1_checkpoint_{text}")]
    if len(fitting) == 1:
        assert chosen(text, infos) == 0
    else:
        with pytest.raises(Ambiguous) as raised:
            chosen(text, infos)
        assert all(name in raised.value.message for name in fitting[:5])


@given(STAMPS, st.integers(4, 26), st.sampled_from([UTC, BERLIN, timezone(-timedelta(hours=9, minutes=30))]))
def test_the_beginning_of_a_time_with_its_offset_is_taken_at_its_word(
    stamps: list[datetime], length: int, zone: timezone
) -> None:
    infos = [made(stamp) for stamp in sorted(stamps)]
    written = [info.timestamp.astimezone(zone).isoformat(timespec="microseconds") for info in infos]
    start = written[0][:length].rstrip("T:.-")
    if len(start) <= len("2026-11-23"):
        return  # a date alone has no offset
    fitting = [index for index, text in enumerate(written) if text.startswith(start)]
    text = start + written[0][26:]
    if len(fitting) == 1:
        assert chosen(text, infos) == 0
    else:
        with pytest.raises(Ambiguous):
            chosen(text, infos)


def test_a_time_without_an_offset_is_read_in_utc_and_locally_and_never_guessed() -> None:
    infos = at(0, 7200)  # 12:00 and 14:00 UTC, 13:00 and 15:00 in Berlin
    assert chosen("2026-11-23T12", infos) == 0
    assert chosen("2026-11-23 15:00", infos) == 1
    with pytest.raises(Ambiguous):
        chosen("2026-11-23T13", at(0, 3600))
    assert chosen("2026-11-23T13:00Z", at(0, 3600)) == 1
    assert chosen("2026-11-23 13:00 +01:00", at(0, 3600)) == 0


def test_a_whole_time_wins_over_one_that_begins_so() -> None:
    infos = at(5.0, 5.5)
    assert chosen("2026-11-23T12:00:05Z", infos) == 0
    old = [made(NOON, name="s1_checkpoint_20261123_120000.json"), made(NOON + timedelta(microseconds=1))]
    assert chosen("20261123_120000", old) == 0


def test_a_label_selects_and_two_that_are_alike_are_named() -> None:
    infos = at(0, 1, 2, labels=["before the sky", "20261123", "before the sky"])
    assert chosen("20261123", infos) == 1
    with pytest.raises(Ambiguous) as raised:
        chosen("before the sky", infos)
    assert infos[0].name in raised.value.message
    assert infos[2].name in raised.value.message


def test_a_file_name_wins_over_a_label_that_says_the_same() -> None:
    infos = at(0, 1)
    infos = [made(NOON, label=infos[1].name), infos[1]]
    assert chosen(infos[1].name, infos) == 1


@pytest.mark.parametrize("text", ["@0", "@3", "@999999999", "@-1", "@x", "@1234567890", "nothing", "2025", "s1"])
def test_what_there_is_not_is_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        chosen(text, at(0, 1))


@given(st.text(max_size=40), STAMPS)
def test_any_text_gives_a_checkpoint_or_a_named_error(text: str, stamps: list[datetime]) -> None:
    infos = [made(stamp) for stamp in sorted(stamps)]
    with contextlib.suppress(CommandLineError, NotFound):
        assert select.checkpoint(text, infos) in infos


# -- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", NOON - timedelta(minutes=10)),
        ("30s", NOON - timedelta(seconds=30)),
        ("2h", NOON - timedelta(hours=2)),
        ("1d", NOON - timedelta(days=1)),
        ("1.5h", NOON - timedelta(minutes=90)),
        ("12:03", NOON - timedelta(minutes=57)),
        ("9:03:04", datetime(2026, 11, 23, 8, 3, 4, tzinfo=UTC)),
        ("2026-11-23T06:12:32.123456Z", datetime(2026, 11, 23, 6, 12, 32, 123456, tzinfo=UTC)),
        ("2026-11-23T06:12:32", datetime(2026, 11, 23, 5, 12, 32, tzinfo=UTC)),
        ("2026-11-23 06:12:32 +02:00", datetime(2026, 11, 23, 4, 12, 32, tzinfo=UTC)),
        ("2026-11-23 06:12:32-0930", datetime(2026, 11, 23, 15, 42, 32, tzinfo=UTC)),
        ("2026-11-23", datetime(2026, 11, 22, 23, tzinfo=UTC)),
        (" 10m ", NOON - timedelta(minutes=10)),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str, expected: datetime) -> None:
    assert select.time(text, NOON, BERLIN) == expected


def test_today_is_the_day_where_the_person_is() -> None:
    late = datetime(2026, 11, 23, 23, 30, tzinfo=UTC)  # the 24th in Berlin
    assert select.time("0:10", late, BERLIN) == datetime(2026, 11, 23, 23, 10, tzinfo=UTC)


NO_TIMES = ["", "now", "10", "10x", "-5m", "24:00", "12:60", "2026-13-01", "20261123_061232", "99999999d", "1e3s"]


@pytest.mark.parametrize("text", [*NO_TIMES, "0001-01-01T00:00+23:59"])
def test_what_is_no_time_is_a_usage_error_with_an_example(text: str) -> None:
    with pytest.raises(CommandLineError, match="is no time") as raised:
        select.time(text, NOON, BERLIN)
    assert "10m" in raised.value.hint


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.+Z-]{0,15}", fullmatch=True))
def test_any_text_gives_an_aware_time_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(CommandLineError):
        assert select.time(text, NOON).tzinfo is not None
