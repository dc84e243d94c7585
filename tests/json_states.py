"""Pairs of states as JSON values, of which one may be a change of the other, and their texts as in a document."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

KEYS = st.sampled_from(["a", "b", "id", "entity_id", "", "~", "/", "a/b", "~1", "-", "0", "ü", '"'])
NUMBERS = st.sampled_from(
    ["0", "1", "1.0", "1.00", "1e0", "-0", "0.1000000000000000000000000000001", "1E400", "9" * 40, "-1.5e-7"]
)
STRINGS = st.sampled_from(["", "x", "y", "1", "null", "ü", "a\nb", "\\", '"', "sky_0"])
LONG = st.sampled_from([letter * 80 for letter in "pqrstu"])  # moving such a value takes less text than replacing all


@dataclass(frozen=True)
class Number:
    """A JSON number as text: 1, 1.0 and true differ in JSON, but are equal in Python."""

    spelled: str


VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS.map(Number) | STRINGS | LONG,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.lists(LONG, max_size=8)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.lists(
            st.builds(lambda name, rest: {**rest, "id": name}, STRINGS, st.dictionaries(KEYS, inner, max_size=2))
        )
    ),
    max_leaves=12,
)
STATES = st.dictionaries(KEYS.filter(bool), VALUES, max_size=4)


@st.composite
def edited(draw: st.DrawFn, value: Any) -> Any:
    """Return a change of `value`: parts changed, removed, added, or in another order."""
    if draw(st.integers(0, 5)) == 0:
        return draw(VALUES)
    if type(value) is list:
        kept = [draw(edited(part)) for part in value if draw(st.integers(0, 4))]
        for part in draw(st.lists(VALUES, max_size=2)):
            kept.insert(draw(st.integers(0, len(kept))), part)
        return draw(st.permutations(kept)) if draw(st.booleans()) else kept
    if type(value) is dict:
        kept = {key: draw(edited(part)) for key, part in value.items() if draw(st.integers(0, 4))}
        return {**kept, **draw(st.dictionaries(KEYS, VALUES, max_size=1))}
    return value


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    before = draw(STATES)
    after = {key: draw(edited(value)) for key, value in before.items() if draw(st.integers(0, 5))}
    return before, {**after, **draw(STATES)}


def text(value: Any) -> bytes:
    """Return the indented JSON text as in a document; a `Number` keeps its text."""
    if isinstance(value, Number):
        return value.spelled.encode()
    if isinstance(value, list):
        return b"[\n  " + b",\n  ".join(map(text, value)) + b"\n]" if value else b"[]"
    if isinstance(value, dict):
        inner = b",\n  ".join(json.dumps(key).encode() + b": " + text(part) for key, part in value.items())
        return b"{\n  " + inner + b"\n}" if value else b"{}"
    return json.dumps(value, ensure_ascii=False).encode()


def exactly(data: bytes) -> Any:
    return json.loads(data, parse_int=Number, parse_float=Number)


def texts(state: dict[str, Any]) -> dict[str, bytes]:
    return {key: text(value) for key, value in state.items()}
