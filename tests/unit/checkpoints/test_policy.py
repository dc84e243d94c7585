from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edi_checkpoint.model import Kind
from edi_checkpoint.wire.entries import Mark
from edi_checkpointd.checkpoints.policy import PendingPoint, Wish, decide, point_due_s, transition_wish
from edi_checkpointd.state import MarkMoment, Moment, State, TransitionMoment

QUIET_S = 0.25
STAGE = "current_stage"


def state(sequence: int, changed: int | None = None) -> State:
    return State(sequence=sequence, changed=sequence if changed is None else changed)


def transition(at_s: float, before: int = 0, *, rule: str = STAGE, reason: str | None = None) -> TransitionMoment:
    """A transition at `at_s` by the publisher's clock; `before` is the sequence before it."""
    return TransitionMoment(state(before), rule, reason, round(at_s * 1_000_000))


def mark(sequence: int, kind: str = "manual", *, changed: int | None = None, **fields: object) -> MarkMoment:
    """The mark with the number 100 + `sequence` of its stream."""
    asked = Mark(0, kind, **({"reason": "asked"} | fields))  # type: ignore[arg-type]
    return MarkMoment(state(sequence, sequence - 1 if changed is None else changed), 100 + sequence, asked)


def decided(
    *moments: Moment, point: PendingPoint | None = None, checkpointed: int = 0, now_s: float = 50.0
) -> tuple[PendingPoint | None, list[Wish]]:
    return decide(point, moments, checkpointed=checkpointed, quiet_s=QUIET_S, now_s=now_s)


# -- the pending point -------------------------------------------------------------------------------------------------


def test_a_transition_opens_a_point_and_writes_nothing_yet() -> None:
    point, wishes = decided(transition(3.0, reason="uploaded"), now_s=51.5)
    assert point == PendingPoint(rule=STAGE, reason="uploaded", sequence=1, opened_us=3_000_000, opened_s=51.5)
    assert wishes == []


@pytest.mark.parametrize("pause_s", [0.0, 0.1, 0.25])
def test_a_transition_right_after_another_takes_its_point_over(pause_s: float) -> None:
    point, wishes = decided(transition(3.0, 4), transition(3.0 + pause_s, 5, rule="status", reason="newer"))
    assert point == PendingPoint(rule="status", reason="newer", sequence=6, opened_us=3_000_000, opened_s=50.0)
    assert wishes == []


@pytest.mark.parametrize("pause_s", [0.26, 1.0, 3600.0])
def test_a_point_older_than_the_quiet_time_is_written_just_before_the_next_transition(pause_s: float) -> None:
    point, wishes = decided(transition(3.0, 4, reason="older"), transition(3.0 + pause_s, 9, rule="status"))
    opened_us = round((3.0 + pause_s) * 1_000_000)
    assert point == PendingPoint(rule="status", reason=None, sequence=10, opened_us=opened_us, opened_s=50.0)
    assert wishes == [Wish(state(9), Kind.TRANSITION, "older", rule="current_stage")]


def test_taking_over_does_not_put_a_point_off() -> None:
    """A transition each 0.2 s: every second one ends a point, so that none waits for ever."""
    point, wishes = decided(*[transition(0.2 * n, n) for n in range(10)])
    assert [wish.state.sequence for wish in wishes] == [2, 4, 6, 8]
    assert point is not None
    assert point.opened_us == 1_600_000


def test_a_counter_cannot_flood() -> None:
    _, wishes = decided(*[transition(0.001 * n, n, rule="current_iteration") for n in range(1000)])
    assert len(wishes) == 3


def test_a_point_without_a_reason_names_what_opened_it() -> None:
    assert transition_wish(PendingPoint("attempt", None, 3, 0, 0.0), state(3)).reason == "attempt changed"
    assert transition_wish(PendingPoint("attempt", "retry", 3, 0, 0.0), state(3)) == Wish(
        state(3), Kind.TRANSITION, "retry", rule="attempt"
    )


def test_a_drained_outbox_leads_to_the_checkpoints_it_would_have_led_to_live() -> None:
    history = [transition(n * 60.0, 10 * n, reason=f"stage {n}") for n in range(5)]
    point, at_once = decided(*history)
    live: list[Wish] = []
    pending: PendingPoint | None = None
    for at, moment in enumerate(history):
        pending, wishes = decided(moment, point=pending, now_s=1000.0 + 60 * at)
        live += wishes
    assert at_once == live
    assert [wish.reason for wish in at_once] == ["stage 0", "stage 1", "stage 2", "stage 3"]
    assert point is not None and pending is not None
    assert (point.reason, point.opened_us) == (pending.reason, pending.opened_us)


def test_a_publishers_clock_that_is_set_back_writes_no_flood_and_loses_no_point() -> None:
    point, wishes = decided(transition(7200.0, 1, reason="before"), *[transition(n, n) for n in range(1, 50)])
    assert wishes == []  # the timer writes what is pending
    assert point is not None
    assert point.rule == STAGE


@pytest.mark.parametrize(
    ("touched_s", "due_s"),
    [
        (10.0, 10.25),  # quiet for so long
        (10.1, 10.35),  # touched again: put off
        (11.75, 12.0),
        (11.9, 12.0),  # but not beyond the limit
        (99.0, 12.0),
    ],
)
def test_a_point_is_due_when_its_session_was_quiet_or_it_is_too_old(touched_s: float, due_s: float) -> None:
    assert point_due_s(PendingPoint(STAGE, None, 1, 0, 10.0), touched_s, quiet_s=0.25, max_s=2.0) == due_s


def test_a_replay_does_not_open_again_what_a_checkpoint_holds() -> None:
    """The journal is read from before the newest checkpoint: what led to that is met once more."""
    history = [transition(1.0, 1), transition(2.0, 5), transition(3.0, 9)]
    assert decided(*history, checkpointed=10) == (None, [])
    point, wishes = decided(*history, checkpointed=7)
    assert wishes == []
    assert point is not None
    assert (point.sequence, point.opened_us) == (10, 3_000_000)
    point, wishes = decided(*history, checkpointed=5)
    assert [wish.state.sequence for wish in wishes] == [9]
    assert decided(transition(1.0, 1), point=None, checkpointed=1)[0] is not None


# -- marks -------------------------------------------------------------------------------------------------------------


def test_a_manual_mark_is_written_as_it_was_asked_for() -> None:
    asked = mark(7, reason="my reason", label="good", pinned=True)
    assert decided(asked) == (None, [Wish(asked.state, Kind.MANUAL, "my reason", "good", pinned=True, mark=107)])


def test_a_manual_mark_is_written_although_nothing_changed() -> None:
    _, wishes = decided(mark(7, changed=3), mark(8, changed=3), checkpointed=5)
    assert [wish.mark for wish in wishes] == [107, 108]


def test_a_mark_replaces_the_pending_point() -> None:
    point, wishes = decided(transition(1.0, 3), mark(4), transition(9.0, 5))
    assert [wish.kind for wish in wishes] == [Kind.MANUAL]
    assert point is not None
    assert point.opened_us == 9_000_000  # a new one


def test_leaving_writes_what_no_checkpoint_holds() -> None:
    asked = mark(7, "shutdown", changed=6)
    assert decided(asked, checkpointed=5) == (None, [Wish(asked.state, Kind.SHUTDOWN, "asked", mark=107)])


@pytest.mark.parametrize("checkpointed", [6, 7])
def test_leaving_writes_nothing_that_a_checkpoint_holds(checkpointed: int) -> None:
    assert decided(mark(7, "shutdown", changed=6), checkpointed=checkpointed) == (None, [])


def test_leaving_right_after_a_checkpoint_writes_it_once() -> None:
    _, wishes = decided(mark(6, changed=5), mark(7, "shutdown", changed=5), checkpointed=2)
    assert [wish.mark for wish in wishes] == [106]


def test_leaving_with_a_pending_point_writes_that() -> None:
    asked = mark(7, "shutdown")
    point, wishes = decided(transition(1.0, 5, reason="done"), asked)
    assert point is None
    assert wishes == [Wish(asked.state, Kind.TRANSITION, "done", rule="current_stage")]


# -- any history -------------------------------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> list[Moment]:
    """Moments of one publisher whose clock rises, in the order of their sequences."""
    moments: list[Moment] = []
    at_us = sequence = 0
    for _ in range(draw(st.integers(0, 30))):
        at_us += draw(st.integers(0, 400_000))
        sequence += draw(st.integers(1, 3))
        kind = draw(st.sampled_from(["transition", "transition", "manual", "shutdown"]))
        if kind == "transition":
            moments.append(TransitionMoment(state(sequence), draw(st.sampled_from([STAGE, "status"])), None, at_us))
        else:
            moments.append(mark(sequence, kind))
    return moments


@settings(deadline=None)
@given(histories(), st.floats(0, 2), st.lists(st.integers(0, 30), max_size=4))
def test_transitions_write_no_more_than_one_checkpoint_in_the_quiet_time(
    moments: list[Moment], quiet_s: float, at: list[int]
) -> None:
    point: PendingPoint | None = None
    written_us: list[int] = []
    bounds = sorted({0, len(moments), *(min(position, len(moments)) for position in at)})
    for start, end in pairwise(bounds):
        for moment in moments[start:end]:
            point, wishes = decide(point, [moment], checkpointed=0, quiet_s=quiet_s, now_s=0.0)
            if isinstance(moment, TransitionMoment):
                assert len(wishes) <= 1
                written_us += [moment.time_us for _ in wishes]
    assert all(later - earlier > quiet_s * 1_000_000 for earlier, later in pairwise(written_us))


@settings(deadline=None)
@given(histories(), st.integers(0, 60), st.integers(0, 30))
def test_each_manual_mark_is_written_once_with_its_state(moments: list[Moment], checkpointed: int, cut: int) -> None:
    point, wishes = decide(None, moments[:cut], checkpointed=checkpointed, quiet_s=QUIET_S, now_s=0.0)
    point, more = decide(point, moments[cut:], checkpointed=checkpointed, quiet_s=QUIET_S, now_s=0.0)
    manual = [(wish.mark, wish.state) for wish in [*wishes, *more] if wish.kind == Kind.MANUAL]
    assert manual == [
        (moment.number, moment.state)
        for moment in moments
        if isinstance(moment, MarkMoment) and moment.mark.kind == "manual"
    ]


@settings(deadline=None)
@given(histories(), st.integers(0, 60))
def test_what_is_written_is_in_order_and_never_twice_the_same(moments: list[Moment], checkpointed: int) -> None:
    point, wishes = decide(None, moments, checkpointed=checkpointed, quiet_s=QUIET_S, now_s=0.0)
    sequences = [wish.state.sequence for wish in wishes]
    assert sequences == sorted(set(sequences))
    assert all(wish.state.sequence > checkpointed for wish in wishes if wish.kind != Kind.MANUAL)
    match moments[-1:]:
        case [TransitionMoment(before)] if before.sequence >= checkpointed:
            assert point is not None  # what is open is due one day
        case _:
            assert point is None


@settings(deadline=None)
@given(histories(), st.lists(st.integers(0, 30), max_size=4), st.integers(0, 60))
def test_deciding_at_once_is_deciding_in_parts(moments: list[Moment], at: list[int], checkpointed: int) -> None:
    whole = decide(None, moments, checkpointed=checkpointed, quiet_s=QUIET_S, now_s=0.0)
    point: PendingPoint | None = None
    found: list[Wish] = []
    bounds = sorted({0, len(moments), *(min(position, len(moments)) for position in at)})
    for start, end in pairwise(bounds):
        asked = max([checkpointed, *(wish.state.sequence for wish in found)])  # as the ledger tells it
        point, wishes = decide(point, moments[start:end], checkpointed=asked, quiet_s=QUIET_S, now_s=0.0)
        found += wishes
    assert (point, found) == whole
