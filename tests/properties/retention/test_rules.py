from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from edi_checkpoint.model import AUTOMATIC, NOT_OURS, Kind
from edi_checkpointd.retention.rules import StoredCheckpoint, plan

NAMES = [f"c{number:02}" for number in range(30)]
HELD = st.lists(
    st.builds(StoredCheckpoint, st.sampled_from(NAMES), st.integers(0, 9), st.sampled_from(Kind), st.booleans()),
    unique_by=lambda checkpoint: checkpoint.name,
    max_size=30,
)
SOME = st.frozensets(st.sampled_from(NAMES), max_size=5)


@given(HELD, st.integers(1, 12), st.integers(0, 12), SOME, SOME, st.randoms(use_true_random=False))
def test_a_plan_keeps_what_was_promised(
    held: list[StoredCheckpoint],
    keep: int,
    keep_automatic: int,
    exempt: frozenset[str],
    unseen: frozenset[str],
    rng: random.Random,
) -> None:
    result = plan(held, keep=keep, keep_automatic=keep_automatic, exempt=exempt, unseen=unseen)
    kept, dropped = [c.name for c in result.keep], [c.name for c in result.drop]
    by_name = {checkpoint.name: checkpoint for checkpoint in held}
    ours = [checkpoint for checkpoint in held if checkpoint.kind not in NOT_OURS]

    assert sorted(kept + dropped) == sorted(by_name)
    assert all(checkpoint.reasons for checkpoint in result.keep)
    assert all(checkpoint.rule in ("keep_automatic", "keep_per_session") for checkpoint in result.drop)

    assert {c.name for c in held if c.kind in NOT_OURS or c.pinned or c.name in exempt} <= set(kept)
    assert {c.name for c in held if c.kind == Kind.INTERRUPTED and c.name in unseen} <= set(kept)
    if ours:
        assert max(ours, key=lambda checkpoint: (checkpoint.sequence, checkpoint.name)).name in kept

    counted = [
        by_name[name]
        for name in kept
        if by_name[name] in ours and not by_name[name].pinned and name not in exempt and name not in unseen
    ]
    assert len(counted) <= max(keep, 2 if any(c.kind in AUTOMATIC for c in counted) else 1)
    assert sum(checkpoint.kind in AUTOMATIC for checkpoint in counted) <= max(keep_automatic, 1)

    shuffled = list(held)
    rng.shuffle(shuffled)
    assert plan(shuffled, keep=keep, keep_automatic=keep_automatic, exempt=exempt, unseen=unseen) == result


@given(HELD, st.integers(1, 12), st.integers(0, 12))
def test_a_plan_carried_out_leaves_nothing_to_do(held: list[StoredCheckpoint], keep: int, keep_automatic: int) -> None:
    left = {checkpoint.name for checkpoint in plan(held, keep=keep, keep_automatic=keep_automatic).keep}
    rest = [checkpoint for checkpoint in held if checkpoint.name in left]
    assert plan(rest, keep=keep, keep_automatic=keep_automatic).drop == ()


@given(st.lists(st.sampled_from(sorted(AUTOMATIC)), max_size=40), st.integers(2, 12), st.integers(0, 4))
def test_no_number_of_timer_saves_reaches_the_slots_of_the_others(
    timer_saves: list[Kind], keep: int, keep_automatic: int
) -> None:
    others = [StoredCheckpoint(f"a{number:03}", number, Kind.TRANSITION, False) for number in range(1, 21)]
    held = others + [
        StoredCheckpoint(f"b{number:03}", number, kind, False) for number, kind in enumerate(timer_saves, 30)
    ]
    kept = {checkpoint.name for checkpoint in plan(held, keep=keep, keep_automatic=keep_automatic).keep}
    assured = max(keep - max(keep_automatic, 1), 1)
    assert {checkpoint.name for checkpoint in others[-assured:]} <= kept


@given(HELD, st.integers(1, 6), st.integers(0, 4), st.integers(0, 4))
def test_the_best_and_the_ends_of_stages_are_kept_besides_and_cost_the_others_nothing(
    held: list[StoredCheckpoint], keep: int, keep_best: int, keep_stages: int
) -> None:
    held = [one._replace(score=(one.sequence * 7) % 5 / 5, stage=str(one.sequence // 3)) for one in held]
    without = {one.name for one in plan(held, keep=keep, keep_automatic=2).keep}
    kept = {
        one.name: one.reasons
        for one in plan(held, keep=keep, keep_automatic=2, keep_best=keep_best, keep_stages=keep_stages).keep
    }
    assert without <= set(kept)
    assert len(kept) <= len(without) + keep_best + keep_stages
    counted = [one for one in held if one.kind not in NOT_OURS and not one.pinned]
    best = sorted((one.score, one.sequence, one.name) for one in counted)[-1:] if keep_best else []
    assert all("keep_best" in kept[name] for _, _, name in best)
    newest = max((one.sequence, one.name) for one in counted) if counted and keep_stages else None
    assert newest is None or "keep_stages" in kept[newest[1]]
