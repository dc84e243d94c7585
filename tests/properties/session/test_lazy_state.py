"""A restored state is a dict in everything but that it reads late."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edi_checkpoint.session.lazy_state import LazyState

STATES = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2))
ACTS: dict[str, Callable[[Any, str, object], object]] = {
    "get": lambda d, key, value: d.get(key, value),
    "item": lambda d, key, _: d[key],
    "set": lambda d, key, value: d.__setitem__(key, value),
    "del": lambda d, key, _: d.__delitem__(key),
    "pop": lambda d, key, _: d.pop(key),
    "pop with a default": lambda d, key, value: d.pop(key, value),
    "popitem": lambda d, *_: d.popitem(),
    "setdefault": lambda d, key, value: d.setdefault(key, value),
    "update": lambda d, key, value: d.update({key: value}, z=value),
    "update by itself": lambda d, *_: d.update(d),
    "|": lambda d, key, value: d | {key: value},
    "| from the left": lambda d, key, value: {key: value} | d,
    "|=": lambda d, key, value: d.__ior__({key: value}),
    "in": lambda d, key, _: key in d,
    "len": lambda d, *_: len(d),
    "bool": lambda d, *_: bool(d),
    "list": lambda d, *_: list(d),
    "reversed": lambda d, *_: list(reversed(d)),
    "keys": lambda d, *_: list(d.keys()),
    "values": lambda d, *_: list(d.values()),
    "items": lambda d, *_: list(d.items()),
    "copy": lambda d, *_: d.copy(),
    "dict": lambda d, *_: dict(d),
    "**": lambda d, *_: {**d},
    "called with": lambda d, *_: (lambda **fields: fields)(**d),
    "copy.copy": lambda d, *_: copy.copy(d),
    "deepcopy": lambda d, *_: copy.deepcopy(d),
    "pickle": lambda d, *_: pickle.loads(pickle.dumps(d)),
    "json": lambda d, *_: json.dumps(d),
    "json, indented": lambda d, *_: json.dumps(d, indent=1),
    "repr": lambda d, *_: repr(d),
    "==": lambda d, key, value: d == {key: value},
    "!=": lambda d, key, value: d != {key: value},
    "clear": lambda d, *_: d.clear(),
}


def restored(state: dict[str, object], read: Callable[[str, bytes], object] | None = None) -> LazyState:
    texts = {key: json.dumps(value).encode() for key, value in state.items()}
    return LazyState(texts, read or (lambda _, text: json.loads(text)))


def outcome(act: Callable[[Any, str, object], object], state: Any, key: str, value: object) -> object:
    try:
        done = act(state, key, value)
    except KeyError:
        return KeyError
    return "itself" if done is state else done


@given(
    STATES, st.lists(st.tuples(st.sampled_from(sorted(ACTS)), st.sampled_from("abcd"), st.integers(0, 3)), max_size=9)
)
def test_it_behaves_as_the_dict_it_stands_for(state: dict[str, object], acts: list[tuple[str, str, int]]) -> None:
    late, plain = restored(state), copy.deepcopy(state)
    for name, key, value in acts:
        assert outcome(ACTS[name], late, key, value) == outcome(ACTS[name], plain, key, value), name
    assert (late == plain, plain == late.copy(), list(late)) == (True, True, list(plain))


def test_only_what_is_looked_at_is_read_and_once() -> None:
    seen: list[str] = []

    def read(key: str, text: bytes) -> object:
        seen.append(key)
        return json.loads(text)

    late = restored({"a": [1], "b": [2], "c": 3}, read)
    assert (len(late), "b" in late, list(late), bool(late)) == (3, True, ["a", "b", "c"], True)
    assert seen == []
    late["b"].append(9)
    late["c"] = 4
    del late["a"]
    assert late == {"b": [2, 9], "c": 4}
    assert seen == ["b"]


def test_a_value_that_cannot_be_read_keeps_no_other_away() -> None:
    def read(key: str, text: bytes) -> object:
        if key == "bad":
            raise LookupError("gone")
        return json.loads(text)

    late = restored({"a": 1, "bad": 2}, read)
    assert late["a"] == 1
    for look in (lambda: late["bad"], lambda: dict(late), lambda: late == {}, lambda: late.get("bad")):
        with pytest.raises(LookupError, match="gone"):
            look()
    late["bad"] = 3
    assert late == {"a": 1, "bad": 3}
