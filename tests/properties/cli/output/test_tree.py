from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edi_checkpoint.model import SessionInfo
from edi_checkpointd.cli.output.tree import Branch, flat, grown, with_parents

NAMES = "abcdefg"


def row(session_id: str, parent: str | None = None) -> SessionInfo:
    return SessionInfo(session_id, "ended", None, None, None, None, None, None, None, 1, 1, parent)


# Any graph at all: chains, forks, parents that are gone, cycles, and sessions that say they came from themselves.
rows = st.dictionaries(st.sampled_from(NAMES), st.none() | st.sampled_from(NAMES), max_size=7).map(
    lambda parents: [row(name, parent) for name, parent in parents.items()]
)


def drawn(branches: list[Branch]) -> list[str]:
    return [one.lines + one.session_id + ("" if one.info else " missing") for one in branches]


@given(rows)
def test_every_session_stands_in_the_tree_exactly_once(every: list[SessionInfo]) -> None:
    found = [one.info for one in grown(every) if one.info]
    assert sorted(info.session_id for info in found) == sorted(info.session_id for info in every)


@given(rows)
def test_what_stands_below_a_line_came_from_the_line_above_it(every: list[SessionInfo]) -> None:
    path: list[str] = []
    for one in grown(every):
        depth = len(one.lines) // 3
        assert depth <= len(path)
        del path[depth:]
        if depth and one.info:
            assert one.info.parent_session == path[-1]
        path.append(one.session_id)


@given(rows)
def test_roots_keep_the_order_of_the_list(every: list[SessionInfo]) -> None:
    order = [info.session_id for info in every if info.parent_session is None]
    roots = [one.session_id for one in grown(every) if not one.lines]
    assert [name for name in roots if name in order] == order


@given(rows, st.integers(0, 7))
def test_a_part_of_the_list_is_shown_with_all_it_came_from(every: list[SessionInfo], count: int) -> None:
    shown = with_parents(every[:count], every)
    names = {info.session_id for info in shown}
    assert [info for info in every if info in shown] == shown
    assert {info.session_id for info in every[:count]} <= names
    known = {info.session_id for info in every}
    assert all(info.parent_session in names for info in shown if info.parent_session in known)


def test_children_stand_below_their_parents_with_lines_and_a_missing_parent_says_so() -> None:
    every = [row("d", "b"), row("a"), row("c", "b"), row("e", "gone"), row("b", "a"), row("f", "f")]
    assert drawn(grown(every)) == ["a", "`- b", "   |- d", "   `- c", "gone missing", "`- e", "f"]
    assert drawn(flat(every)) == ["d", "a", "c", "e", "b", "f"]


def test_a_deep_chain_does_not_push_the_ids_out_of_sight() -> None:
    every = [row(str(number), str(number - 1) if number else None) for number in range(5000)]
    found = grown(every)
    assert len(found) == 5000
    assert max(len(one.lines) for one in found) <= 20
    assert found[-1].session_id == "4999"
