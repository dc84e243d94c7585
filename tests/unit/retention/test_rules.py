from __future__ import annotations

import pytest

from edi_checkpoint.model import Kind
from edi_checkpointd.retention.rules import Dropped, Kept, Plan, StoredCheckpoint, plan


def held(*kinds: str, pinned: frozenset[int] = frozenset()) -> list[StoredCheckpoint]:
    """Checkpoints 1, 2, … of these kinds, named by their numbers."""
    return [StoredCheckpoint(str(number), number, kind, number in pinned) for number, kind in enumerate(kinds, 1)]


def kept(of: Plan) -> list[int]:
    return [int(checkpoint.name) for checkpoint in of.keep]


def test_a_timer_never_evicts_transitions() -> None:
    kinds = ["transition", *["interval"] * 5] * 12
    result = plan(held(*kinds), keep=10, keep_automatic=2)
    assert kept(result) == [25, 31, 37, 43, 49, 55, 61, 67, 71, 72]
    assert {drop.rule for drop in result.drop if int(drop.name) % 6 != 1} == {"keep_automatic"}
    assert {drop.rule for drop in result.drop if int(drop.name) % 6 == 1} == {"keep_per_session"}


@pytest.mark.parametrize("kind", ["transition", "manual"])
def test_the_slots_of_the_timer_are_lent_while_it_needs_none(kind: str) -> None:
    assert kept(plan(held(*[kind] * 100), keep=10, keep_automatic=2)) == list(range(91, 101))


def test_automatic_checkpoints_alone_have_their_slots_and_no_more() -> None:
    assert kept(plan(held(*["interval"] * 60), keep=10, keep_automatic=2)) == [59, 60]


def test_the_reasons_are_all_told() -> None:
    checkpoints = held("reference", "interval", "manual", "manual", "transition", pinned=frozenset({3}))
    assert plan(checkpoints, keep=1, keep_automatic=1, exempt={"2"}) == Plan(
        keep=(
            Kept("1", ("reference",)),
            Kept("2", ("exempt",)),
            Kept("3", ("pinned",)),
            Kept("5", ("newest_valid", "keep_per_session")),
        ),
        drop=(Dropped("4", "keep_per_session"),),
    )


def test_files_that_are_not_ours_are_never_dropped_and_take_no_slot() -> None:
    result = plan(held(*["reference"] * 20, "foreign", *["manual"] * 15), keep=10, keep_automatic=2)
    assert kept(result) == [*range(1, 22), *range(27, 37)]


def test_pins_take_no_slot() -> None:
    result = plan(held(*["manual"] * 20, pinned=frozenset({1, 20})), keep=3, keep_automatic=2)
    assert kept(result) == [1, 17, 18, 19, 20]


def test_an_interruption_stays_until_it_was_seen() -> None:
    checkpoints = held("interrupted", *["manual"] * 12, "interval", "interval")
    assert kept(plan(checkpoints, keep=10, keep_automatic=2, unseen={"1"})) == [1, *range(6, 16)]
    assert kept(plan(checkpoints, keep=10, keep_automatic=2)) == list(range(6, 16))


def test_only_an_interruption_can_be_unseen() -> None:
    assert kept(plan(held("interval", "manual", "manual"), keep=1, keep_automatic=0, unseen={"1", "2"})) == [3]


def test_the_newest_stays_even_if_its_kind_has_no_slot() -> None:
    assert kept(plan(held("manual", "manual", "interval"), keep=2, keep_automatic=0)) == [2, 3]
    assert kept(plan(held("manual", "manual", "interval"), keep=1, keep_automatic=2)) == [2, 3]
    assert kept(plan(held("interval", "manual"), keep=1, keep_automatic=2)) == [2]


def test_nothing_held_is_nothing_planned() -> None:
    assert plan([], keep=10, keep_automatic=2) == Plan((), ())


def test_every_kind_is_planned() -> None:
    assert len(plan(held(*Kind), keep=100, keep_automatic=100).keep) == len(Kind)
