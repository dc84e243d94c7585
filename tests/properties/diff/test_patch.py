from __future__ import annotations

import json
import os
import random
import time
from typing import Any

import jsonpatch
import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from json_states import STATES, Number, exactly, pairs, text, texts

from edi_checkpoint.diff.delta import COMPARED_MAX_BYTES, LIST_MAX
from edi_checkpoint.diff.patch import Operation, patch

EXAMPLES = 1000 if os.environ.get("EDI_TEST_FULL") else 150


def entity(at: int, **other: Any) -> dict[str, Any]:
    return {
        "id": f"sky_{at}", "label": "sky", "confidence": 0.9 + at / 100_000, "bbox": [at, 0, 1920, 612],
        "color_dominant": "#8fb4d9", "centroid": [958.4, 301.7], "similarity_score": 0.31, **other,
    }  # fmt: skip


ENTITIES = [entity(at) for at in range(1500)]


def applied(before: dict[str, Any], operations: list[Operation]) -> Any:
    """What a stranger's library makes of the state before and the patch, by way of JSON text."""
    return jsonpatch.apply_patch(exactly(text(before)), exactly(msgspec.json.encode(operations)))


def patch_of(before: dict[str, Any], after: dict[str, Any]) -> list[Operation]:
    return patch(texts(before), texts(after))


def plain(operations: list[Operation]) -> list[dict[str, Any]]:
    return json.loads(msgspec.json.encode(operations))


@settings(max_examples=EXAMPLES, deadline=None)
@given(pairs())
@example(({"a": [Number("1"), Number("1.0"), True]}, {"a": [True, Number("1"), Number("1.00")]}))
@example(({"a": None}, {}))
@example(({}, {"a": None}))
def test_a_strangers_library_applies_the_patch_and_gets_the_state_after(
    states: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    before, after = states
    assert applied(before, patch_of(before, after)) == after


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_patch_of_two_states_of_edi_gives_the_second(source: random.Random) -> None:
    before = edi_state(source)
    after = later(source, before)
    assert applied(before, patch_of(before, after)) == exactly(text(after))


def edi_state(source: random.Random) -> dict[str, Any]:
    return {
        "current_stage": source.choice(["analysis", "refinement"]),
        "scene_analysis": {"entities": [entity(at) for at in range(source.randrange(20))], "spatial_layout": "sky"},
        "prompts": {f"iteration_{at}": {"positive": words(source), "negative": words(source)} for at in range(3)},
        "prompt_history": [words(source) for _ in range(source.randrange(6))],
        "validation": {"score": source.random(), "delta": None},
        "metadata": {"seed": source.getrandbits(80), "embedding": [source.random() for _ in range(16)]},
    }


def words(source: random.Random) -> str:
    return " ".join(source.choices(["storm", "sky", "volumetric", "sunny", "sea,", "~", "a/b"], k=8))


def later(source: random.Random, before: dict[str, Any]) -> dict[str, Any]:
    state = json.loads(json.dumps(before))
    entities = state["scene_analysis"]["entities"]
    for found in entities:
        if source.random() < 0.2:
            found["confidence"] = source.random()
    entities[:] = source.sample(entities, source.randint(0, len(entities)))
    entities.insert(source.randint(0, len(entities)), entity(source.randrange(1000, 2000), embedding=None))
    state["prompts"]["final"] = state["prompts"].pop("iteration_1")
    state["prompt_history"].insert(0, words(source))
    state["validation"] = source.choice([None, {"score": 1}, {"score": 1.0}, {"score": True, "delta": 0}])
    state["metadata"]["embedding"][3] = -1
    return state


@given(STATES)
def test_a_state_does_not_differ_from_itself(state: dict[str, Any]) -> None:
    assert patch_of(state, turned(state)) == []


def turned(value: Any) -> Any:
    """The same value with the members of its objects in another order."""
    return {key: turned(value[key]) for key in reversed(value)} if type(value) is dict else value


def test_equal_texts_are_not_decoded() -> None:
    assert patch({"a": b"no JSON", "b": b"1"}, {"a": b"no JSON", "b": b"2"}) == patch({"b": b"1"}, {"b": b"2"})


def test_one_character_written_in_two_ways_is_equal() -> None:
    assert patch({"a": b'"\\u00fc"', "b": b'["\\u00fc"]'}, {"a": '"ü"'.encode(), "b": '["ü"]'.encode()}) == []


# -- how small it is -------------------------------------------------------------------------------------------------


def test_an_insertion_in_the_middle_is_one_operation() -> None:
    new = entity(4711)
    changed = [*ENTITIES[:700], new, *ENTITIES[700:]]
    assert plain(patch_of({"l": ENTITIES}, {"l": changed})) == [{"op": "add", "path": "/l/700", "value": new}]


def test_a_removal_and_a_move_are_one_operation_each() -> None:
    assert plain(patch_of({"l": ENTITIES}, {"l": ENTITIES[:700] + ENTITIES[701:]})) == [
        {"op": "remove", "path": "/l/700"}
    ]
    moved = [*ENTITIES[:700], *ENTITIES[701:], ENTITIES[700]]
    assert plain(patch_of({"l": ENTITIES}, {"l": moved})) == [{"op": "move", "from": "/l/700", "path": "/l/1499"}]


def test_an_element_with_an_id_is_known_again_wherever_it_stands() -> None:
    changed = [entity(99), *ENTITIES[3:10], {**ENTITIES[0], "label": "cloud"}, *ENTITIES[1:3]]
    found = plain(patch_of({"l": ENTITIES[:10]}, {"l": changed}))
    assert [operation["op"] for operation in found] == ["add", "move", "move", "move", "replace"]
    assert found[-1] == {"op": "replace", "path": "/l/8/label", "value": "cloud"}


def test_a_patch_of_a_value_is_no_longer_than_the_value_itself() -> None:
    assert plain(patch_of({"bbox": [1, 2, 3, 4]}, {"bbox": [5, 6, 7, 8]})) == [
        {"op": "replace", "path": "/bbox", "value": [5, 6, 7, 8]}
    ]


def test_an_attachment_is_replaced_whole() -> None:
    masks = [{"$attachment": {"sha256": digest * 64, "type": "png"}} for digest in "ab"]
    assert plain(patch_of({"mask": masks[0]}, {"mask": masks[1]})) == [
        {"op": "replace", "path": "/mask", "value": masks[1]}
    ]


def test_numbers_of_any_size_keep_their_text() -> None:
    operations = patch({"n": b"[1, 2]"}, {"n": b"[1, " + b"9" * 5000 + b", 1.50, 1E400]"})
    assert b"9" * 5000 + b", 1.50, 1E400".replace(b" ", b"") in msgspec.json.encode(operations)


# -- how fast it is --------------------------------------------------------------------------------------------------


def test_lists_of_1500_entities_take_20_ms() -> None:
    shuffled = random.Random(1).sample(ENTITIES, len(ENTITIES))
    renewed = [{**found, "confidence": 0.5} for found in ENTITIES]
    mixed = [entity(4711), *renewed[:300], *ENTITIES[301:1499]]
    for after in (shuffled, renewed, mixed, ENTITIES[::-1], ENTITIES[1:], [*ENTITIES, entity(4711)]):
        states = texts({"l": ENTITIES}), texts({"l": after})
        taken_s = []
        for _ in range(5):
            started_s = time.process_time()
            patch(*states)
            taken_s.append(time.process_time() - started_s)
        assert min(taken_s) < 0.04  # twice the figure, for slower machines and busy ones


def test_a_value_beyond_the_bounds_is_replaced_whole() -> None:
    long, large = [0] * (LIST_MAX + 1), "x" * (COMPARED_MAX_BYTES // 2)
    found = plain(patch_of({"a": long, "b": [large], "c": [1, 2]}, {"a": [*long, 1], "b": [large, 1], "c": [1]}))
    assert [(operation["op"], operation["path"]) for operation in found] == [
        ("replace", "/a"), ("replace", "/b"), ("remove", "/c/1"),
    ]  # fmt: skip


def test_hostile_lists_take_no_quadratic_time() -> None:
    source = random.Random(1)
    before, after = ([source.randrange(3) for _ in range(LIST_MAX)] for _ in range(2))
    started_s = time.process_time()
    patch_of({"l": before}, {"l": after})
    assert time.process_time() - started_s < 5
