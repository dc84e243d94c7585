from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from json_states import VALUES, pairs, texts

from edi_checkpoint.diff.changes import Change, Reordered, changes, spelled
from edi_checkpoint.diff.numbers import number, step
from edi_checkpoint.diff.patch import patch
from edi_checkpoint.diff.summary import LINE_MAX_CHARS, summary
from edi_checkpoint.diff.words import TOKENS_MAX, parts

WORDS = st.lists(st.sampled_from(["storm", "sky", "sky,", "a", "lit-up", "(sea:1.2)", "ü"]), max_size=9).map(" ".join)

EDI_STATES = st.dictionaries(
    st.sampled_from(["current_stage", "status", "current_iteration", "prompts", "validation", "validation_results"]),
    st.one_of(
        VALUES,
        st.fixed_dictionaries({"score": VALUES}),
        st.lists(WORDS),
        st.dictionaries(WORDS, st.fixed_dictionaries({"positive": WORDS})),
    ),
    max_size=4,
)


def told(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What changed, by place, in Python's values; `...` for what was not there."""
    return [
        (
            spelled(change.path),
            ... if change.before is None else json.loads(change.before),
            ... if change.after is None else json.loads(change.after),
        )
        for change in changes(texts(before), texts(after))
        if isinstance(change, Change)
    ]


def summed(before: dict[str, Any], after: dict[str, Any]) -> str:
    return summary(texts(before), texts(after))


# -- what changed ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(pairs())
def test_people_are_told_of_the_keys_that_programs_are_told_of(states: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = (texts(state) for state in states)
    by_patch = {operation.path.split("/")[1] for operation in patch(before, after)}
    by_changes = {change.path[0] for change in changes(before, after)}
    assert {key.replace("~1", "/").replace("~0", "~") for key in by_patch} == by_changes
    line = summary(before, after)
    assert 0 < len(line) <= LINE_MAX_CHARS
    assert (line == "no change") == (not by_changes)


@settings(deadline=None)
@example({}, {"current_stage": ""})
@given(EDI_STATES, EDI_STATES)
def test_a_line_says_of_any_change_that_there_is_one(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert (summed(before, after) == "no change") == (not changes(texts(before), texts(after)))


def test_changes_are_told_by_their_place() -> None:
    before = {"stage": "a", "scene": {"layout": "x", "old": None}, "a key": {"b": 1}}
    after = {"stage": "b", "scene": {"layout": "y", "new": []}, "a key": {"b": 2}}
    assert told(before, after) == [
        ("stage", "a", "b"),
        ("scene.layout", "x", "y"),
        ("scene.new", ..., []),
        ("scene.old", None, ...),
        ("['a key'].b", 1, 2),
    ]


def test_an_element_is_called_by_its_id_or_else_by_its_position() -> None:
    before = {
        "entities": [{"id": "sky_0", "area": 1}, {"id": "sea_0"}],
        "names": ["a", "b c"],
        "masks": [{"entity_id": 7}],
    }
    after = {"entities": [{"id": "hut_0"}, {"id": "sky_0", "area": 2}], "names": ["a", "b d", "e"], "masks": []}
    assert told(before, after) == [
        ("entities[hut_0]", ..., {"id": "hut_0"}),
        ("entities[sky_0].area", 1, 2),
        ("entities[sea_0]", {"id": "sea_0"}, ...),
        ("names[1]", "b c", "b d"),
        ("names[2]", ..., "e"),
        ("masks[7]", {"entity_id": 7}, ...),
    ]


def test_a_list_of_numbers_is_one_value() -> None:
    assert told({"bbox": [0, 1, 2.5, 3]}, {"bbox": [0, 1, 2.5, 4, 5]}) == [("bbox", [0, 1, 2.5, 3], [0, 1, 2.5, 4, 5])]


def test_elements_that_only_moved_are_counted() -> None:
    names = [{"id": name} for name in "abcd"]
    found = changes(texts({"l": names}), texts({"l": [names[3], *names[:3]]}))
    assert found == [Reordered(("l",), 1)]


# -- numbers and texts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("0.62", "0.87", "+0.25"),
        ("3", "2", "-1"),
        ("123456789012345678", "123456789012345679", "+1"),
        ("1", "1.0", ""),
        ("1e400", "1e401", ""),
        ("9" * 5000, "1", ""),
        ("0.1", "0.30000000000000004", "+0.2"),
    ],
)
def test_the_change_of_a_number_is_told(before: str, after: str, told: str) -> None:
    assert step(before.encode(), after.encode()) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [("0.87", "0.87"), ("0.30000000000000004", "0.3"), ("-12345678901234", "-1.23457e+13"), ("1E400", "1E400")],
)
def test_a_long_number_is_rounded(text: str, told: str) -> None:
    assert number(text.encode()) == told


@given(WORDS, WORDS)
def test_what_stayed_and_went_is_the_text_before_and_what_stayed_and_came_the_one_after(
    before: str, after: str
) -> None:
    found = parts(before, after)
    for sign, text in (("-", before), ("+", after)):
        joined = "".join(part.text for part in found if part.sign in ("", sign))
        assert joined.replace(" ", "") == text.replace(" ", "")


def test_a_prompt_is_told_by_words() -> None:
    found = parts("storm clouds, sunny sky over the sea", "storm clouds, volumetric sky over the sea, lit")
    assert [(part.sign, part.text) for part in found] == [
        ("", "storm clouds,"),
        ("-", "sunny"),
        ("+", "volumetric"),
        ("", "sky over the sea"),
        ("+", ", lit"),
    ]


def test_a_text_of_which_little_is_left_and_a_very_long_one_count_as_rewritten() -> None:
    long = "word " * TOKENS_MAX
    assert [part.sign for part in parts("a storm over the sea", "the quiet harbour at night")] == ["-", "+"]
    assert [part.text for part in parts(long + "a", long + "b")] == [long + "a", long + "b"]


# -- one line --------------------------------------------------------------------------------------------------------

SKY, SEA = ({"id": name, "confidence": 0.9, "bbox": [0, 1, 2, 3]} for name in ("sky_0", "sea_0"))
BEFORE = {
    "current_stage": "refinement",
    "current_iteration": 2,
    "prompts": {"iteration_1": {"positive": "a sunny sky over the sea", "negative": "blur"}},
    "scene_analysis": {"entities": [SKY, SEA]},
    "validation": {"score": 0.62},
}


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {
                "current_iteration": 3,
                "prompts": {**BEFORE["prompts"], "final": {"positive": "a volumetric sky over the sea"}},
                "scene_analysis": {"entities": [SKY]},
                "validation": {"score": 0.87},
            },
            "refinement 2->3: +volumetric -sunny, score 0.62->0.87, 1 entity lost",
        ),
        ({"current_stage": "approval"}, "refinement->approval"),
        ({"status": "completed", "approved": True}, "completed, new approved"),
        ({"prompts": ["a", "b"]}, "prompts changed"),
        ({"scene_analysis": {"entities": [{**SKY, "confidence": 0.5}, SEA, {"id": "a"}, {"id": "b"}]}},
         "2 entities found, confidence 0.9->0.5"),
        ({"scene_analysis": {"entities": [SEA, SKY]}}, "entities reordered"),
        ({"scene_analysis": {"entities": [SKY, {**SEA, "bbox": [0, 1, 2, 4]}]}}, "bbox changed"),
        ({"scene_analysis": None}, "scene_analysis changed"),
        ({"scene_analysis": {"entities": [{**SKY, "confidence": 0.5}, {**SEA, "confidence": 0.6}]}},
         "confidence changed 2 times"),
        ({"naive_prompt": "a redder sky"}, "new naive_prompt"),
        ({"current_stage": "x" * 99}, f"refinement->{'x' * 61}..."),
        ({"validation": {"score": 0.62, "delta": 1}}, "new validation.delta"),
        ({}, "no change"),
    ],
)  # fmt: skip
def test_a_checkpoint_is_summed_up_in_one_line(changed: dict[str, Any], line: str) -> None:
    assert summed(BEFORE, {**BEFORE, **changed}) == line


def test_a_line_says_how_much_it_leaves_out() -> None:
    line = summed({}, {f"key_{at}": at for at in range(30)})
    assert len(line) <= LINE_MAX_CHARS
    assert line.endswith(" more")
    assert line.count("new key_") + int(line.split()[-2]) == 30
