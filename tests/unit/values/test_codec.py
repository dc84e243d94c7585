from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from uuid import UUID

import attrs
import msgspec
import numpy as np
import pytest

from edi_checkpoint.errors import ProtocolError, StateValueError
from edi_checkpoint.values import codec
from edi_checkpoint.values.codec import VALUE_MAX_BYTES, VALUE_MAX_DEPTH, check_key, decode, encode


class Word(str):
    def __str__(self) -> str:
        return "its own words"


class Count(int):
    pass


class Ratio(float):
    pass


class Stage(Enum):
    REFINEMENT = "refinement"
    BOX = (1, 2)


class Named(str, Enum):  # noqa: UP042 - this older form must work too
    SKY = "sky"


class Short(StrEnum):
    SKY = "sky"


class Level(IntEnum):
    HIGH = 3


class Marks(Flag):
    A = 1
    B = 2


class IntMarks(IntFlag):
    A = 1
    B = 2


Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Entity:
    id: str
    bbox: object = None
    _score: float = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: object


@dataclasses.dataclass
class Empty:
    pass


class Message(msgspec.Struct, rename="camel", tag=True, omit_defaults=True):
    edit_type: object = None


@attrs.define
class Attrs:
    x: object


class Model:
    """Stands for a pydantic model, which is known by its method alone."""

    def __init__(self, **fields: object) -> None:
        self.fields = fields

    def model_dump(self, *, mode: str) -> dict[str, object]:
        assert mode == "python"
        return self.fields


class BrokenModel:
    def model_dump(self, *, mode: str) -> dict[str, object]:
        raise OSError("cannot")


class EndlessModel:
    def model_dump(self, *, mode: str) -> EndlessModel:
        return EndlessModel()


@dataclasses.dataclass
class MappingDataclass(Mapping[str, object]):
    hidden: object = 1j

    def __getitem__(self, key: str) -> object:
        return {"a": 1}[key]

    def __iter__(self):
        return iter(["a"])

    def __len__(self) -> int:
        return 1


STORED = [
    # what is published, its JSON form
    (None, None),
    (True, True),
    (0, 0),
    (-5, -5),
    (2**63 - 1, 2**63 - 1),
    (-(2**63), -(2**63)),
    (2**63, 2**63),
    (2**64 + 1, 2**64 + 1),
    (-(10**40), -(10**40)),
    (10**4300 - 1, 10**4300 - 1),
    (0.5, 0.5),
    (-0.0, -0.0),
    (1.7976931348623157e308, 1.7976931348623157e308),
    (5e-324, 5e-324),
    ("", ""),
    ("grün \U0001f600 \u2028\u2029\ufeff", "grün \U0001f600 \u2028\u2029\ufeff"),
    ('\x00\x01\b\t\n\f\r\x1f"\\/\x7f', '\x00\x01\b\t\n\f\r\x1f"\\/\x7f'),
    ([], []),
    ({}, {}),
    ({"": 1}, {"": 1}),
    ({"_edi_checkpoint": 1}, {"_edi_checkpoint": 1}),
    # subclasses of JSON's types, by value
    (Word("sky"), "sky"),
    (Count(7), 7),
    (Ratio(0.25), 0.25),
    (Level.HIGH, 3),
    (IntMarks.A | IntMarks.B, 3),
    (OrderedDict(a=1), {"a": 1}),
    (defaultdict(list, a=[1]), {"a": [1]}),
    (Counter("aab"), {"a": 2, "b": 1}),
    (Point(1, 2.5), [1, 2.5]),
    # keys
    ({Word("k"): 1}, {"k": 1}),
    ({Named.SKY: 1}, {"sky": 1}),
    ({Short.SKY: 1}, {"sky": 1}),
    ({Short.SKY: (1, {Word("k"): Path("p")})}, {"sky": [1, {"k": "p"}]}),
    # other types
    ((1, (2, [3])), [1, [2, [3]]]),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a"}), ["a", "b"]),
    ({1, "a", None}, ["a", 1, None]),
    ({(2, "b"), (1, "a")}, [[1, "a"], [2, "b"]]),
    (set(), []),
    (Stage.REFINEMENT, "refinement"),
    (Stage.BOX, [1, 2]),
    (Named.SKY, "sky"),
    (Short.SKY, "sky"),
    (Marks.A | Marks.B, 3),
    (Path("/a/b.jpg"), "/a/b.jpg"),
    (PurePosixPath("ü"), "ü"),
    (datetime(2026, 11, 23, 6, 12, 32, 123456, tzinfo=UTC), "2026-11-23T06:12:32.123456+00:00"),
    (datetime(2026, 11, 23), "2026-11-23T00:00:00"),  # noqa: DTZ001 - a naive one stays naive
    (datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=7))), "2026-01-01T00:00:00+00:00:07"),
    (date(2026, 11, 23), "2026-11-23"),
    (time(6, 12, 32), "06:12:32"),
    (timedelta(days=1, microseconds=3), "P1DT0.000003S"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Decimal("1.50"), "1.50"),
    (Decimal("NaN"), "NaN"),
    (Decimal("1E+5"), "1E+5"),
    (Entity("sky_0", (1, 2)), {"id": "sky_0", "bbox": [1, 2], "_score": 0.5}),
    (
        Entity("sky_0", Entity("in", Path("p"))),
        {"id": "sky_0", "bbox": {"id": "in", "bbox": "p", "_score": 0.5}, "_score": 0.5},
    ),
    (Frozen(UUID(int=0)), {"x": "00000000-0000-0000-0000-000000000000"}),
    (Empty(), {}),
    (Message("add"), {"edit_type": "add"}),
    (Attrs({1}), {"x": [1]}),
    (Model(score=Decimal(1), inner=Model(stage=Stage.BOX)), {"score": "1", "inner": {"stage": [1, 2]}}),
    (np.float64(0.1), 0.1),
    (np.float32(0.1), 0.1),
    (np.float16(0.1), 0.1),
    (np.float32(16777217), 16777216.0),
    (np.int64(-3), -3),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.bool_(True), True),
    (np.str_("sky"), "sky"),
    (np.datetime64("2026-11-23T06:12:32.000000001"), "2026-11-23T06:12:32.000000001"),
]


@pytest.mark.parametrize(("value", "form"), STORED, ids=lambda part: type(part).__name__)
def test_a_value_is_stored_in_its_json_form(value: object, form: object) -> None:
    text = encode(value, "k")
    assert text == json.dumps(form, ensure_ascii=False, separators=(",", ":")).encode()
    assert repr(decode(text)) == repr(form)


@pytest.mark.parametrize(("value", "form"), STORED, ids=lambda part: type(part).__name__)
def test_the_form_is_the_same_deep_inside_other_types(value: object, form: object) -> None:
    outer = {"l": [value, (value,)], "d": Entity("e", {"v": value}), "m": Model(v=value), "s": Message(Attrs(value))}
    assert repr(decode(encode(outer))) == repr(
        {
            "l": [form, [form]],
            "d": {"id": "e", "bbox": {"v": form}, "_score": 0.5},
            "m": {"v": form},
            "s": {"edit_type": {"x": form}},
        }
    )
    plain = {"l": [value], "d": {"v": value}}
    assert repr(decode(encode(plain))) == repr({"l": [form], "d": {"v": form}})


REFUSED = [
    # what is published, the step from it to the part at fault, words of the reason
    (float("nan"), "", "NaN"),
    (float("inf"), "", "Infinity"),
    (float("-inf"), "", "-Infinity"),
    (np.float32("nan"), "", "NaN"),
    (np.float64("inf"), "", "Infinity"),
    (Ratio("nan"), "", "NaN"),
    (Frozen(float("nan")), ".x", "NaN"),
    (Model(score=float("inf")), ".score", "Infinity"),
    (Message(float("nan")), ".edit_type", "NaN"),
    (Attrs(float("nan")), ".x", "NaN"),
    ({"a": [1, (2, float("nan"))]}, ".a[1][1]", "NaN"),
    ({"a": None, "b": float("nan")}, ".b", "NaN"),
    ({1: "a"}, "", "the key 1 is of type int"),
    ({True: "a"}, "", "the key True is of type bool"),
    ({None: "a"}, "", "the key None is of type NoneType"),
    ({1.5: "a"}, "", "the key 1.5 is of type float"),
    ({(1, 2): "a"}, "", "of type tuple"),
    ({b"k": "a"}, "", "of type bytes"),
    ({Level.HIGH: 1}, "", "Level"),
    ({Stage.REFINEMENT: 1}, "", "Stage"),
    ({UUID(int=1): 1}, "", "uuid.UUID"),
    ({date(2026, 1, 1): 1}, "", "datetime.date"),
    ({np.int64(1): 1}, "", "numpy.int64"),
    ({10**5000: 1}, "", "int"),
    ({"1": "a", 1: "b"}, "", "the key 1 is of type int"),
    ([[[{"a": {"b": {2: 0}}}]]], "[0][0][0].a.b", "the key 2 is of type int"),
    ({"a": Frozen({False: 1})}, ".a.x", "the key False is of type bool"),
    (np.ma.array([1]), "", "numpy.ma.MaskedArray: would be read back as an array of another class"),
    (np.array([{}]), "", "numpy.ndarray: holds Python objects"),
    ({"a": [np.array([object()])]}, ".a[0]", "holds Python objects"),
    ({"$attachment": 1}, "", "the key '$attachment' is reserved"),
    ({"a": [{"b": {"$attachment": {"sha256": "0" * 64}}}]}, ".a[0].b", "reserved"),
    ({"a": MappingDataclass()}, ".a.hidden", "complex"),
    (np.longdouble(0.1), "", "numpy.longdouble"),
    (np.complex64(1), "", "numpy.complex64"),
    (np.datetime64("NaT", "s"), "", "numpy.datetime64"),
    (np.timedelta64(1, "s"), "", "numpy.timedelta64"),
    (object(), "", "object has no JSON form"),
    (1j, "", "complex has no JSON form"),
    (..., "", "ellipsis"),
    (Fraction(1, 2), "", "fractions.Fraction"),
    (range(3), "", "range"),
    (deque([1]), "", "collections.deque"),
    ({}.keys(), "", "dict_keys"),
    (MappingProxyType({}), "", "mappingproxy"),
    (len, "", "builtin_function"),
    (Entity, "", "type has no JSON form"),
    (msgspec.Raw(b"garbage"), "", "msgspec.Raw"),
    (msgspec.UNSET, "", "UnsetType"),
    ({"a": msgspec.Raw(b"1")}, ".a", "msgspec.Raw"),
    ("\ud800", "", "surrogate"),
    (Word("\udfff"), "", "surrogate"),
    (Path(os.fsdecode(b"/caf\xe9")), "", "surrogate"),
    ({"a": ["ok", "\udc00"]}, ".a[1]", "surrogate"),
    ({"a": {"k\ud800": 1}}, ".a", r"the key 'k\ud800'"),
    (10**4300, "", "digits"),
    (-(10**4300), "", "digits"),
    (-(10**4299), "", "digits"),  # msgspec writes it and does not read it
    ({"a": [10**9999]}, ".a[0]", "digits"),
    (BrokenModel(), "", "cannot be read (OSError)"),
    ({"a b": float("nan")}, "['a b']", "NaN"),
    ({"a.b": [float("nan")]}, "['a.b'][0]", "NaN"),
    ({"": float("nan")}, "['']", "NaN"),
]


@pytest.mark.parametrize(("value", "step", "reason"), REFUSED, ids=lambda part: type(part).__name__)
def test_what_has_no_json_form_is_refused_by_its_path(value: object, step: str, reason: str) -> None:
    for outer, start in (
        (value, "k"),
        ({"in": [0, value]}, "k.in[1]"),
        (Frozen(value), "k.x"),
        ({"p": {"q": value}}, "k.p.q"),
    ):
        with pytest.raises(StateValueError) as caught:
            encode(outer, "k")
        message = str(caught.value)
        assert message.startswith(f"{start}{step}: ")
        assert reason in message
        message.encode()


@pytest.mark.parametrize(("value", "step", "reason"), REFUSED, ids=lambda part: type(part).__name__)
def test_what_is_far_into_a_long_list_is_refused_by_its_path_too(value: object, step: str, reason: str) -> None:
    long = [*range(250), value, *range(250)]
    for outer, start in ((long, "k[250]"), ({"n": None, "in": long}, "k.in[250]"), ([long], "k[0][250]")):
        with pytest.raises(StateValueError) as caught:
            encode(outer, "k")
        assert str(caught.value).startswith(f"{start}{step}: ")
        assert reason in str(caught.value)


@pytest.mark.parametrize(("value", "form"), STORED, ids=lambda part: type(part).__name__)
def test_the_form_is_the_same_far_into_a_long_list(value: object, form: object) -> None:
    for outer in (list, lambda long: {"n": 1, "in": long, "also": long}):
        stored, expected = outer([*range(250), value, None]), outer([*range(250), form, None])
        assert encode(stored) == json.dumps(expected, ensure_ascii=False, separators=(",", ":")).encode()


def test_the_message_begins_with_the_path() -> None:
    with pytest.raises(StateValueError, match=r"^validation\.score: NaN "):
        encode({"score": float("nan")}, "validation")
    with pytest.raises(StateValueError, match=r"^scene\.entities\[3\]\.bbox\[0\]: "):
        encode({"entities": [0, 1, 2, {"bbox": (object(),)}]}, "scene")
    with pytest.raises(StateValueError, match=r"^score: NaN "):
        encode({"score": float("nan")})
    with pytest.raises(StateValueError, match=r"^value: NaN "):
        encode(float("nan"))


def nested(levels: int) -> object:
    value: object = 1
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


def test_the_depth_is_bounded_and_named() -> None:
    assert decode(encode(nested(VALUE_MAX_DEPTH))) == nested(VALUE_MAX_DEPTH)
    for levels in (VALUE_MAX_DEPTH + 1, 1500, 100_000):
        with pytest.raises(StateValueError, match=r"^k[\[.].*: nested in more than 100 containers"):
            encode(nested(levels), "k")
    for long in ([nested(VALUE_MAX_DEPTH)] * 250, {"k": [nested(VALUE_MAX_DEPTH - 1)] * 250}):
        with pytest.raises(StateValueError, match=r"^k[\[.].*: nested in more than 100 containers"):
            encode(long, "k")
    levels = codec._PLAIN_DEPTH + 1
    long = {"k": [nested(levels - 2)] * 250}
    assert decode(encode(long, max_depth=levels)) == long
    with pytest.raises(StateValueError, match="nested in more than"):
        encode(long, max_depth=levels - 1)
    assert encode([[1]], max_depth=2) == b"[[1]]"
    assert encode(1, max_depth=0) == b"1"
    assert encode([Path("p")], max_depth=1) == b'["p"]'
    for value in ([[1]], [Frozen(1)], [()], [set()], Frozen({})):
        with pytest.raises(StateValueError, match=r"^k.*: nested in more than 1 containers"):
            encode(value, "k", max_depth=1)


def test_cycles_are_named_and_shared_parts_are_not_cycles() -> None:
    row: list[object] = []
    row.append({"x": row})
    entity = Entity("e")
    entity.bbox = [entity]
    with pytest.raises(StateValueError, match=r"^k\[0\]\.x: the list contains itself"):
        encode(row, "k")
    with pytest.raises(StateValueError, match=r"^k\.bbox\[0\]: .*Entity contains itself"):
        encode(entity, "k")
    shared = (Path("p"),)
    assert decode(encode([shared, shared])) == [["p"], ["p"]]


def test_a_model_that_dumps_models_for_ever_is_refused() -> None:
    with pytest.raises(StateValueError, match=r"^k: nested deeper than the stack of this thread allows"):
        encode([EndlessModel()], "k")


def test_the_size_is_bounded_and_named() -> None:
    assert VALUE_MAX_BYTES == (64 << 20) - 1024
    assert encode("é" * 4, "k", max_bytes=10) == '"éééé"'.encode()
    for value in ("é" * 5, [Path("é" * 5)]):
        with pytest.raises(StateValueError, match=r"^k: 1[24] bytes"):
            encode(value, "k", max_bytes=11)


def test_a_value_published_on_a_deep_stack_is_stored_or_refused() -> None:
    def below(calls: int) -> bytes:
        return below(calls - 1) if calls else encode(nested(VALUE_MAX_DEPTH), "k")

    outcomes = set()
    for calls in range(0, sys.getrecursionlimit(), 50):
        try:
            outcomes.add(below(calls))
        except StateValueError as error:
            assert str(error).startswith("k: nested deeper")
        except RecursionError:
            pass
    assert outcomes == {encode(nested(VALUE_MAX_DEPTH), "k")}


def test_keys_that_read_the_same_are_refused() -> None:
    class Odd(str):
        __slots__ = ()
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            return self is other

    with pytest.raises(StateValueError, match=r"^k: two of its keys have the text 'a'"):
        encode({Odd("a"): Path("1"), Odd("a"): Path("2")}, "k")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1e-4, "0.0001"),
        (9.999e-5, "9.999e-05"),
        (1e-5, "1e-05"),
        (-1.234e-5, "-1.234e-05"),
        (1e-6, "1e-06"),
        (-1e-7, "-1e-07"),
        (1.5e-10, "1.5e-10"),
        (1e-100, "1e-100"),
        (1e15, "1000000000000000.0"),
        (9999999999999998.0, "9999999999999998.0"),
        (1e16, "1e+16"),
        (-1.2345678901234568e17, "-1.2345678901234568e+17"),
        (1e22, "1e+22"),
        (1e100, "1e+100"),
        (10.00001, "10.00001"),
        (100000.00001, "100000.00001"),
    ],
)
def test_floats_are_spelled_as_json_spells_them(number: float, text: str) -> None:
    assert json.dumps(number) == text
    assert encode(number) == text.encode()
    strings = r'"0.00001,1e-7,[1e16]","\",1e-7,\\","e-7","123e-4567"'
    for shape in ("[{0},{0}]", '{{"1e-7":{0},"a\\"0.00001":[{0},true,false,null,10.00001]}}', "[" + strings + ",{0}]"):
        spelled = shape.format(text)
        assert encode(json.loads(spelled)) == spelled.encode()
        assert encode((Path("1e-7,"), json.loads(spelled))) == f'["1e-7,",{spelled}]'.encode()


def test_typical_values_take_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_encode_any", None)
    entity = {"id": "sky_0", "label": None, "bbox": [0, 0, 9, 9], "score": 0.5, "ok": True, "points": [[0.25, 1e-7]]}
    for value in (
        "x", True, None, 3, 0.25, [], {}, entity, {"entities": [entity] * 3, "box": (1, (2.5, "a"))},
        [entity] * 250, {"entities": [entity] * 250, "box": (1, 2)}, [[0.5] * 512, [(1, 2)] * 250],
    ):  # fmt: skip
        assert encode(value) == json.dumps(value, separators=(",", ":")).encode()


def test_the_text_is_a_snapshot() -> None:
    value = {"a": [1, 2], "s": "x"}
    text = encode(value)
    value["a"].append(3)
    assert text == b'{"a":[1,2],"s":"x"}'


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_a_set_gives_one_text_in_every_process(seed: str) -> None:
    script = (
        "from edi_checkpoint.values.codec import encode\n"
        "print(encode([{'sky', 'roof', 'wall', 'lake'}, {1, 'a', None, (1, 'x')}]).decode())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    printed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == '[["lake","roof","sky","wall"],["a",1,[1,"x"],null]]'


def test_decode_takes_white_space_and_keeps_integers_exact() -> None:
    assert decode(b' {\n  "a": [1, 123456789012345678901234567890, -0.0]\n}\n') == {
        "a": [1, 123456789012345678901234567890, 0]
    }


NO_JSON = [b"", b"[1", b"NaN", b"Infinity", b'"\xff"', b'"\\ud800"', b"[1]x", b"1e400", b"[" * 5000, b"9" * 5000]


@pytest.mark.parametrize("text", NO_JSON, ids=range(len(NO_JSON)))
def test_decode_refuses_what_is_no_json(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(text)


@pytest.mark.parametrize(
    "key", ["a", "current stage", "ü" * 512, "k" * 1024, "session_id", "__x", "\x00", Word("w"), Short.SKY]
)
def test_a_key_of_the_state_comes_back_as_a_plain_str(key: str) -> None:
    name = check_key(key)
    assert type(name) is str
    assert name == str.__str__(key)


@pytest.mark.parametrize(
    "key", ["", "_edi_checkpoint", Word(""), Word("_edi_checkpoint"), "k" * 1025, "ü" * 513, "\ud800"]
)
def test_a_key_that_cannot_be_one_is_refused(key: str) -> None:
    with pytest.raises(StateValueError):
        check_key(key)


@pytest.mark.parametrize("key", [None, 1, True, 1.5, b"k", ("a",), Stage.REFINEMENT, Path("p")])
def test_a_key_of_another_type_is_refused(key: object) -> None:
    with pytest.raises(StateValueError, match="keys are strings"):
        check_key(key)


FIRST = """
import sys, threading
from edi_checkpoint.values import codec as values

sys.setswitchinterval(1e-6)
together = threading.Barrier(24)

def work():
    together.wait()
    values.encode({"n": [1, 2.5, {"a": None}]}, "k")

threads = [threading.Thread(target=work) for _ in range(24)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_the_first_values_of_a_process_may_be_encoded_by_many_threads_at_once() -> None:
    children = [subprocess.Popen([sys.executable, "-c", FIRST], stderr=subprocess.PIPE) for _ in range(6)]
    assert [(child.communicate(timeout=60), child.returncode) for child in children] == [((None, b""), 0)] * 6
