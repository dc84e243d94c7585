"""The plan of a clean-up, for any home and any clock: what was promised stays, and all that goes has its rule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edi_checkpoint.documents.trash import Trashed
from edi_checkpoint.home.condition import CONDITIONS
from edi_checkpoint.model import AUTOMATIC, NOT_OURS, Kind
from edi_checkpointd.config import SETTINGS, Config
from edi_checkpointd.retention.plan import Cleanup, SessionFacts, SetAside, plan_cleanup
from edi_checkpointd.retention.rules import Own, StoredCheckpoint

TIMES = st.datetimes(timezones=st.just(UTC))
BYTES = st.integers(0, 1 << 16)
HELD = st.builds(
    StoredCheckpoint,
    st.text("abcdef", min_size=8, max_size=8),
    st.integers(0, 30),
    st.sampled_from(Kind),
    st.sampled_from([False, False, False, True]),
    st.sampled_from(["upload", "analysis"]),
    st.none() | st.floats(0, 1),
    BYTES,
)
IDS = st.sampled_from([f"s{number}" for number in range(12)])


@st.composite
def standing(draw: st.DrawFn) -> SessionFacts:
    session_id = draw(IDS)
    held = draw(st.lists(HELD, unique_by=lambda one: one.name, max_size=8))
    named = tuple(one._replace(name=f"{session_id}-{one.name}") for one in held)
    return SessionFacts(
        session_id,
        draw(st.sampled_from(CONDITIONS)),
        draw(TIMES),
        named,
        sum(one.size_bytes for one in named) + draw(BYTES),
        Own(draw(st.none() | st.integers(1, 5)), draw(st.integers(0, 30))),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.none() | TIMES),
    )


STANDINGS = st.lists(standing(), unique_by=lambda one: one.session_id, max_size=12)
TRASHED = st.lists(
    st.builds(Trashed, IDS.map(lambda text: f"t{text}"), TIMES, st.just("keep_sessions"), BYTES),
    unique_by=lambda one: one.session_id,
    max_size=6,
)
SET_ASIDE = st.lists(
    st.builds(SetAside, st.text("xyz", min_size=4, max_size=4).map(Path), BYTES, st.floats(0, 1e9)),
    unique_by=lambda one: one.path,
    max_size=6,
)
CONFIG = st.builds(
    Config,
    keep_per_session=st.integers(1, 6),
    keep_automatic=st.integers(0, 3),
    keep_best=st.integers(0, 2),
    keep_stages=st.integers(0, 2),
    keep_sessions=st.integers(1, 6),
    keep_closed_days=st.floats(0, 36500),
    trash_days=st.floats(0, 36500),
    sessions_max_bytes=st.integers(1 << 16, 1 << 20),
    damaged_max_bytes=BYTES,
)


def newest_of(held: tuple[StoredCheckpoint, ...]) -> str | None:
    ours = [one for one in held if one.kind not in NOT_OURS]
    return max(ours, key=lambda one: (one.sequence, one.name)).name if ours else None


def plan(
    standings: list[SessionFacts], trashed: list[Trashed], config: Config, now: datetime, doubted: bool = False
) -> Cleanup:
    return plan_cleanup(standings, trashed, config, now, doubted=doubted)


@given(STANDINGS, TRASHED, CONFIG, TIMES, st.booleans())
def test_the_newest_and_every_pin_survive_whatever_the_clock_says(
    standings: list[SessionFacts], trashed: list[Trashed], config: Config, now: datetime, doubted: bool
) -> None:
    found = plan(standings, trashed, config, now, doubted)
    dropped, moved = {drop.name for drop in found.drop}, {one.session_id for one in found.trash}
    for one in standings:
        assert newest_of(one.checkpoints) not in dropped
        assert not dropped & {held.name for held in one.checkpoints if held.pinned or held.kind in NOT_OURS}
        unseen = [held for held in one.checkpoints if held.kind == Kind.INTERRUPTED and held.sequence > one.own.seen]
        if len(unseen) <= (one.own.keep or config.keep_per_session):
            assert not dropped & {held.name for held in unseen}
        if one.condition in ("live", "interrupted") or one.in_use or not one.ours:
            assert one.session_id not in moved
        if any(held.pinned for held in one.checkpoints):
            assert one.session_id not in moved


@given(STANDINGS, TRASHED, CONFIG, TIMES, st.booleans())
def test_everything_has_a_reason_or_a_rule_and_just_one_fate(
    standings: list[SessionFacts], trashed: list[Trashed], config: Config, now: datetime, doubted: bool
) -> None:
    found = plan(standings, trashed, config, now, doubted)
    moved = {one.session_id for one in found.trash}
    staying = [held.name for one in standings if one.session_id not in moved for held in one.checkpoints]
    assert sorted([*(keep.name for keep in found.keep), *(drop.name for drop in found.drop)]) == sorted(staying)
    assert sorted([*moved, *(one.session_id for one in found.sessions)]) == sorted(one.session_id for one in standings)
    assert all(keep.reasons for keep in found.keep)
    assert all(one.reasons for one in found.sessions)
    assert {one.rule for one in (*found.drop, *found.trash, *found.empty, *found.history)} <= set(SETTINGS)
    assert {one.session_id for one in found.empty} <= {one.session_id for one in trashed}
    assert len({one.session_id for one in found.empty}) == len(found.empty)


@given(STANDINGS, TRASHED, CONFIG, TIMES, st.booleans())
def test_what_is_left_is_within_its_bounds_or_nothing_may_go(
    standings: list[SessionFacts], trashed: list[Trashed], config: Config, now: datetime, doubted: bool
) -> None:
    found = plan(standings, trashed, config, now, doubted)
    held = {checkpoint.name: checkpoint for one in standings for checkpoint in one.checkpoints}
    total = sum(one.size_bytes for one in [*standings, *trashed])
    total -= sum(one.bytes for one in (*found.drop, *found.empty))
    assert found.spare_bytes == config.sessions_max_bytes - total
    if total > config.sessions_max_bytes:
        assert len(found.empty) == len(trashed)
        promised = {"newest_valid", "pinned", "exempt", "unseen", *map(str, NOT_OURS)}
        assert all(promised & set(keep.reasons) for keep in found.keep)
    by_bytes = [held[drop.name] for drop in found.drop if drop.rule == "sessions_max_bytes"]
    if any(checkpoint.kind not in AUTOMATIC for checkpoint in by_bytes):  # those of timers and exits have gone before
        kept_for = [keep.reasons for keep in found.keep if held[keep.name].kind in AUTOMATIC]
        assert all({"newest_valid", "pinned", "unseen"} & set(reasons) for reasons in kept_for)
    for one in standings:
        kept = [held[keep.name] for keep in found.keep if keep.name in {own.name for own in one.checkpoints}]
        numbered = {
            keep.name: keep.reasons for keep in found.keep if {"keep_automatic", "keep_per_session"} & set(keep.reasons)
        }
        counted = [checkpoint for checkpoint in kept if checkpoint.name in numbered and not checkpoint.pinned]
        limit = one.own.keep or config.keep_per_session
        assert len(counted) <= max(limit, 2)
        assert sum(checkpoint.kind in AUTOMATIC for checkpoint in counted) <= max(config.keep_automatic, 1)


@given(STANDINGS, TRASHED, CONFIG, TIMES)
def test_by_a_doubted_clock_nothing_goes_into_the_trash_and_nothing_leaves_it_by_age(
    standings: list[SessionFacts], trashed: list[Trashed], config: Config, now: datetime
) -> None:
    found = plan(standings, trashed, config, now, doubted=True)
    assert found.trash == ()
    assert {one.rule for one in found.empty} <= {"sessions_max_bytes"}
    assert {one.rule for one in found.history} <= {"history_max_bytes"}


@given(STANDINGS, TRASHED, CONFIG, TIMES)
def test_a_clean_up_that_was_carried_out_leaves_nothing_to_do(
    standings: list[SessionFacts], trashed: list[Trashed], config: Config, now: datetime
) -> None:
    found = plan(standings, trashed, config, now)
    dropped = {drop.name: drop.bytes for drop in found.drop}
    moved, gone = {one.session_id: one for one in found.trash}, {one.session_id for one in found.empty}
    left = [
        one._replace(
            checkpoints=tuple(held for held in one.checkpoints if held.name not in dropped),
            size_bytes=one.size_bytes - sum(dropped.get(held.name, 0) for held in one.checkpoints),
        )
        for one in standings
        if one.session_id not in moved
    ]
    kept = [one for one in trashed if one.session_id not in gone]
    in_trash = [Trashed(one.session_id, now, one.rule, one.bytes) for one in moved.values()]
    again = plan(left, [*kept, *in_trash], config, now)
    assert again.trash == ()
    assert {one.session_id for one in again.empty} <= set(moved)
    assert again.drop == () or again.empty


@given(STANDINGS, CONFIG, TIMES)
def test_of_sessions_that_were_left_the_newest_stay(
    standings: list[SessionFacts], config: Config, now: datetime
) -> None:
    found = plan(standings, [], config, now)
    updated = {one.session_id: (one.updated, one.session_id) for one in standings}
    kept = [one.session_id for one in found.sessions if "keep_sessions" in one.reasons]
    assert len(kept) <= config.keep_sessions
    for one in found.trash:
        assert all(updated[one.session_id] < updated[other] for other in kept)
        if one.rule == "keep_closed_days":
            assert now - updated[one.session_id][0] >= timedelta(days=config.keep_closed_days)
        else:
            assert len(kept) + sum(other.rule == "keep_closed_days" for other in found.trash) >= config.keep_sessions


@given(SET_ASIDE, CONFIG, TIMES)
def test_what_was_set_aside_goes_oldest_first_until_it_is_within_its_bound(
    set_aside: list[SetAside], config: Config, now: datetime
) -> None:
    gone = plan_cleanup([], [], config, now, set_aside=set_aside).damaged
    kept = [one for one in set_aside if one not in gone]
    assert sum(one.size_bytes for one in kept) <= config.damaged_max_bytes
    assert all((one.since_s, one.path) < (other.since_s, other.path) for one in gone for other in kept)
    without_last = [*kept, *gone[-1:]]
    assert not gone or sum(one.size_bytes for one in without_last) > config.damaged_max_bytes
