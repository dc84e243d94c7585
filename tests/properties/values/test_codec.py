from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edi_checkpoint.errors import ProtocolError, StateValueError
from edi_checkpoint.values import arrays
from edi_checkpoint.values.cache import Recent
from edi_checkpoint.values.codec import decode, encode
from edi_checkpoint.wire.references import Attachment, Reference, digests_in, references

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["null", '"', "\\", '\\"', "1e-7", "0.00001", ",1e-7,", "[1e16]", ":0.00001}", "e-7]", "\u2028", "\x7f"]
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-1e-3, 1e-3) | st.floats(1e14, 1e18)
LEAVES = st.none() | st.booleans() | st.integers() | st.integers(-(10**400), 10**400) | FLOATS | TEXT
JSON = st.recursive(LEAVES, lambda part: st.lists(part, max_size=5) | st.dictionaries(TEXT, part, max_size=5))


def canonical(form: object) -> bytes:
    return json.dumps(form, ensure_ascii=False, separators=(",", ":")).encode()


def same(a: object, b: object) -> bool:
    """Equal, and of the same types: True is not 1, 1 is not 1.0, -0.0 is not 0.0."""
    return repr(a) == repr(b)


@given(JSON)
def test_a_json_value_comes_back_as_it_was(value: object) -> None:
    text = encode(value, "k")
    assert text == canonical(value)
    assert same(decode(text), value)


@given(st.lists(FLOATS, max_size=50))
def test_floats_are_spelled_as_json_spells_them_and_come_back_to_the_bit(numbers: list[float]) -> None:
    text = encode({"a": numbers})
    assert text == canonical({"a": numbers})
    assert [number.hex() for number in decode(text)["a"]] == [number.hex() for number in numbers]
    for number in numbers:
        assert encode(number) == canonical(number)


@given(st.text())
def test_any_text_comes_back_or_is_refused(text: str) -> None:
    try:
        stored = encode([text], "k")
    except StateValueError as error:
        assert any("\ud800" <= letter <= "\udfff" for letter in text)
        assert str(error).startswith("k[0]: ")
    else:
        assert stored == canonical([text])
        assert decode(stored) == [text]


@given(st.binary(max_size=64))
def test_decode_takes_what_json_takes_or_raises_one_error(noise: bytes) -> None:
    try:
        value = decode(noise)
    except ProtocolError:
        return
    assert same(value, json.loads(noise))


@dataclass
class Box:
    x: object
    y: object = 0


class Wrapped(Enum):
    SKY = "sky"
    BOX = (1, 2.5)


class Model:
    def __init__(self, fields: dict[str, object]) -> None:
        self.fields = fields

    def model_dump(self, *, mode: str) -> dict[str, object]:
        return self.fields


class Pair:
    """A value and the JSON form expected of it, or the path of the part in it that has none."""

    def __init__(self, value: object, form: object, bad: str | None = None) -> None:
        self.value, self.form, self.bad = value, form, bad

    def __repr__(self) -> str:
        return f"Pair(a {type(self.value).__name__} of the form {self.form!r}, bad={self.bad!r})"


GOOD = (
    LEAVES.map(lambda leaf: Pair(leaf, leaf))
    | st.sampled_from(Wrapped).map(
        lambda member: Pair(member, list(member.value) if isinstance(member.value, tuple) else member.value)
    )
    | st.uuids().map(lambda uuid: Pair(uuid, str(uuid)))
    | st.datetimes().map(lambda moment: Pair(moment, moment.isoformat()))
    | st.dates().map(lambda day: Pair(day, day.isoformat()))
    | st.decimals().map(lambda number: Pair(number, str(number)))
    | st.sets(st.integers()).map(lambda members: Pair(members, sorted(members)))
    | st.frozensets(TEXT).map(lambda members: Pair(members, sorted(members)))
    | st.just(Pair(PurePosixPath("a/b"), "a/b"))
)
BAD_KEYS = [{1: 1}, {True: 1}, {None: 1}, {2.5: 1}, {b"k": 1}, {"\ud800": 1}, {Wrapped.SKY: 1}]
BAD_NUMBERS = [math.nan, math.inf, -math.inf, 10**4300, -(10**4299), 1j]
BAD_OTHERS = [{"$attachment": 0}, object(), "\ud800", "x\udfff", range(2), Box]
BAD_MEMBERS = [{1j}, frozenset({math.nan})]
BAD = st.sampled_from(
    [Pair(value, None, "") for value in [*BAD_KEYS, *BAD_NUMBERS, *BAD_OTHERS]]
    + [Pair(value, None, "[0]") for value in BAD_MEMBERS]
)
STEPS = st.from_regex(r"[a-z_0-9]{1,6}", fullmatch=True)


def step(prefix: str, pair: Pair) -> str | None:
    return None if pair.bad is None else prefix + pair.bad


def first(paths: list[str | None]) -> str | None:
    return next((path for path in paths if path is not None), None)


def in_list(pairs: list[Pair], kind: type = list) -> Pair:
    bad = first([step(f"[{at}]", pair) for at, pair in enumerate(pairs)])
    return Pair(kind(pair.value for pair in pairs), [pair.form for pair in pairs], bad)


def in_dict(pairs: dict[str, Pair], kind: Any = dict) -> Pair:
    bad = first([step(f".{key}", pair) for key, pair in pairs.items()])
    return Pair(
        kind({key: pair.value for key, pair in pairs.items()}), {key: pair.form for key, pair in pairs.items()}, bad
    )


def in_box(x: Pair, y: Pair) -> Pair:
    return Pair(Box(x.value, y.value), {"x": x.form, "y": y.form}, first([step(".x", x), step(".y", y)]))


def around(part: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    rows, fields = st.lists(part, max_size=4), st.dictionaries(STEPS, part, max_size=4)
    return (
        rows.map(in_list)
        | rows.map(lambda pairs: in_list(pairs, tuple))
        | fields.map(in_dict)
        | fields.map(lambda pairs: in_dict(pairs, Model))
        | st.builds(in_box, part, part)
    )


@given(st.recursive(GOOD | BAD, around, max_leaves=12))
def test_a_mixed_value_is_stored_in_full_or_refused_by_the_path_of_its_first_bad_part(pair: Pair) -> None:
    if pair.bad is None:
        text = encode(pair.value, "k")
        assert text == canonical(pair.form)
        assert same(decode(text), pair.form)
    else:
        with pytest.raises(StateValueError) as caught:
            encode(pair.value, "k")
        assert str(caught.value).startswith(f"k{pair.bad}: ")


ARRAYS = hnp.arrays(
    hnp.scalar_dtypes() | hnp.array_dtypes() | st.just(np.dtype(bool)) | st.just(np.dtype(object)),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
) | hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=5), elements=st.integers(0, 1))
CONTENT = ARRAYS | st.binary(max_size=40) | st.binary(max_size=9).map(bytearray)


def same_content(back: object, value: object) -> bool:
    """Whether what was read back is `value` in its stored form: JSON's types exactly, arrays and bytes to the bit."""
    if isinstance(value, np.ndarray):
        alike = type(back) is np.ndarray and (back.dtype, back.shape) == (value.dtype, value.shape)
        return alike and back.tobytes() == value.tobytes()
    if isinstance(value, (bytes, bytearray)):
        return type(back) is bytes and back == value
    if isinstance(value, Box):
        return same_content(back, {"x": value.x, "y": value.y})
    if isinstance(value, dict):
        assert isinstance(back, dict)
        return list(back) == list(value) and all(same_content(back[key], value[key]) for key in value)
    if isinstance(value, (list, tuple)):
        assert isinstance(back, list)
        return len(back) == len(value) and all(map(same_content, back, value))
    return same(back, value)


@given(
    st.recursive(
        LEAVES | CONTENT,
        lambda part: (
            st.lists(part, max_size=4)
            | st.lists(part, max_size=4).map(tuple)
            | st.dictionaries(TEXT, part, max_size=4)
            | st.builds(Box, part, part)
        ),
        max_leaves=10,
    )
)
def test_any_nested_value_with_arrays_and_bytes_comes_back_or_is_refused_by_name(value: object) -> None:
    carried: dict[str, Attachment] = {}
    try:
        text = encode(value, "k", carried, Recent())
    except StateValueError as error:
        assert re.search("object|npy", str(error)), error  # arrays of Python objects, and types that npy does not keep
        assert str(error).startswith("k")
        return
    for digest, attachment in carried.items():
        assert digest == sha256(attachment.data).hexdigest()
    paths: list[str] = []

    def restore(reference: Reference, path: str) -> object:
        paths.append(path)
        return arrays.decode(reference, carried[reference.sha256].data)

    assert same_content(decode(text, "k", restore), value)
    assert digests_in(text) == carried.keys()
    assert {found.sha256 for _, found in references(decode(text))} == carried.keys()
    assert all(path.startswith("k") for path in paths)


@given(st.recursive(GOOD, around, max_leaves=12))
def test_storing_what_was_read_back_changes_nothing(pair: Pair) -> None:
    text = encode(pair.value)
    assert encode(decode(text)) == text
