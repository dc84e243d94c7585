"""Values of the state: a Python value to its compact JSON text, and back.

The text is byte for byte what `json.dumps(form, ensure_ascii=False, separators=(",", ":"))` writes for the value's
JSON form (the table in `docs/format.md`), and shares nothing with the caller's objects. A part that has no such form
fails the call by its path; nothing becomes null, base64 or an abbreviation silently.

msgspec writes the text, 14 times as fast as json. It would quietly turn NaN into null, the key 1 into "1" and bytes
into base64, so its own validator must take the value for plain JSON too, which costs half of a look at each part from
Python and next to nothing for long texts and embeddings. What it does not take is walked, part by part.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import chain
from pathlib import PurePath
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from edi_checkpoint.errors import ProtocolError, StateValueError

VALUE_MAX_BYTES: Final = (64 << 20) - 1024  # an entry is at most 64 MiB, with its key and head
VALUE_MAX_DEPTH: Final = 100
KEY_MAX_BYTES: Final = 1024
RESERVED_KEY: Final = "_edi_checkpoint"

_PLAIN_DEPTH = 6  # of the type below; msgspec copies it for every branch, so each level doubles it (6: 1.4 ms, once)
_SAFE = frozenset({str, bool, type(None)})  # what msgspec writes it reads back
_LEAVES = _SAFE | {int, float}
_CONTAINERS = frozenset({dict, list, tuple})
_INTEGER_MAX_CHARS = 4300  # longer ones msgspec writes but does not read
_SHORT_BITS = 2048  # fewer digits than that, and than the lowest limit that Python takes for str(int)
_PLAIN_STEP = re.compile(r"[\w-]{1,64}")
_STRINGS = re.compile(rb'("(?:[^"\\]++|\\.)*+")')
_SHORT_EXPONENT = re.compile(rb"-(?<=\de-)\d(?:[,\]}]|\Z)")  # begins with its rarest byte, which re jumps to
_EXPONENT = re.compile(rb"e(-?)(\d++)")
_SMALL = re.compile(rb"0\.0000(?<!\d0\.0000)\d++")


def _plain_json(levels: int) -> Any:
    """Return the type of plain JSON nested up to `levels` deep, with numbers of common size."""
    integer = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
    number = Annotated[float, msgspec.Meta(gt=-1e16, lt=1e16)]  # NaN fails it too
    leaf: Any = str | integer | number | bool | None
    plain: Any = leaf
    for _ in range(levels):
        plain = leaf | dict[str, plain] | list[plain]
    return plain


_Plain: Any = msgspec.defstruct("_Plain", [("value", _plain_json(_PLAIN_DEPTH))])  # a class: its type is built once
msgspec.convert({"value": None}, _Plain)  # and here: threads that build one at the same time crash (msgspec 0.22)
_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder().decode


def encode(
    value: object, path: str = "", *, max_bytes: int = VALUE_MAX_BYTES, max_depth: int = VALUE_MAX_DEPTH
) -> bytes:
    """Return the JSON text of `value`, the value under the state's key `path`.

    Raises `StateValueError`, its message beginning with the path of the part (`scene.entities[3].bbox[0]: …`), for
    what has no JSON form, is nested in more than `max_depth` containers, or gives more than `max_bytes` of text.
    """
    text = _encode_plain(value) if max_depth >= _PLAIN_DEPTH else None
    if text is None:
        text = _encode_any(value, path, max_depth)
    if len(text) > max_bytes:
        raise StateValueError(f"{path or 'value'}: {len(text)} bytes of JSON text; at most {max_bytes} are stored")
    return text


def decode(text: bytes) -> object:
    """Return the value of a JSON text, integers exact; raises `ProtocolError` for bytes that are none."""
    try:
        return _from_json(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a value's text is no JSON: {error}") from error


def check_key(key: object) -> str:
    """Return `key` as a plain str if it may be a key of the state, else raise `StateValueError`."""
    try:
        name = _key(key)
    except _Unfit as unfit:
        raise StateValueError(f"state: {unfit.why}") from None
    if not name:
        raise StateValueError("state: a key is empty")
    if len(name.encode()) > KEY_MAX_BYTES:
        raise StateValueError(f"{name[:64]}…: the key has more than {KEY_MAX_BYTES} bytes")
    if name == RESERVED_KEY:
        raise StateValueError(f"{name}: the key is reserved")
    return name


def _encode_plain(value: object) -> bytes | None:
    """Return the text of a value of plain JSON types; None where `_encode_any` has to look."""
    try:
        text = _to_json(value)
        if type(value) in _SAFE:
            return text
        same = msgspec.convert({"value": value}, _Plain).value
        # Unequal: tuples, as good as lists; or sets, whose order differs from run to run; or a class's own equality.
        if same != value and not _has_plain_types(value):
            return None
    except (TypeError, ValueError, AttributeError, RecursionError):
        return None
    if (b"." in text and b"0.0000" in text) or (b"-" in text and _SHORT_EXPONENT.search(text)):
        return _respell(text)
    return text


def _has_plain_types(value: Any) -> bool:
    """Return whether `value`, known to be free of cycles, holds the very types of JSON and tuples, nothing else."""
    level = [value]
    while level:
        if not _CONTAINERS.issuperset(map(type, level)):
            return False
        parts = chain.from_iterable(part.values() if type(part) is dict else part for part in level)
        level = [part for part in parts if type(part) not in _LEAVES]
    return True


def _respell(text: bytes) -> bytes:
    """Return `text` with floats spelled as by repr: `1e-07`, `1e+16`, `1e-05` for `1e-7`, `1e16`, `0.00001`."""
    pieces = _STRINGS.split(text)
    bare = b'"'.join(pieces[::2])  # what stands outside strings
    bare = _EXPONENT.sub(lambda found: b"e" + (found[1] or b"+") + found[2].zfill(2), bare)
    bare = _SMALL.sub(lambda found: repr(float(found[0])).encode(), bare)
    pieces[::2] = bare.split(b'"')
    return b"".join(pieces)


def _encode_any(value: object, path: str, max_depth: int) -> bytes:
    """Return the text of a value of any type, or raise the `StateValueError` that names the part at fault."""
    walk = _Walk(max_depth)
    try:
        text = _to_json(walk.plain(value, 0))
    except _Unfit as unfit:
        where = path + "".join(reversed(unfit.steps))
        where = where if path else where.removeprefix(".")
        raise StateValueError(f"{where or 'value'}: {unfit.why}") from unfit.__cause__
    except RecursionError as error:
        raise StateValueError(f"{path or 'value'}: nested deeper than the stack allows here") from error
    return _respell(text) if walk.odd_floats else text


class _Unfit(Exception):
    """A part has no JSON form; `steps` leads to it, innermost first."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.steps: list[str] = []


class _Walk:
    """One look at every part of a value, for its JSON form or the first part that has none."""

    __slots__ = ("_max_depth", "_open", "odd_floats")

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self._open: set[int] = set()  # ids of what surrounds the present part
        self.odd_floats = False  # msgspec spells one otherwise than repr

    def plain(self, value: Any, depth: int) -> object:
        """Return the JSON form of `value`, which stands inside `depth` containers, in plain JSON types."""
        kind = type(value)
        if (kind is str and value.isascii()) or kind is bool or value is None:
            return value
        if isinstance(value, str):
            return _text(value)
        if isinstance(value, int):
            return _integer(value)
        if isinstance(value, float):
            return self._float(value)
        if id(value) in self._open:
            raise _Unfit(f"the {_name(value)} contains itself")
        if depth >= self._max_depth and isinstance(value, (dict, list, tuple, set, frozenset)):
            raise _Unfit(f"nested in more than {self._max_depth} containers")
        self._open.add(id(value))
        try:
            if isinstance(value, dict):
                return self._dict(value, depth + 1)
            if isinstance(value, (list, tuple)):
                return self._list(value, depth + 1)
            if isinstance(value, (set, frozenset)):
                return _sorted(self._list(value, depth + 1))
            return self.plain(_opened(value), depth)
        finally:
            self._open.discard(id(value))

    def _list(self, parts: Iterable[object], depth: int) -> list[object]:
        form: list[object] = []
        try:
            for part in parts:
                form.append(self.plain(part, depth))
        except _Unfit as unfit:
            unfit.steps.append(f"[{len(form)}]")
            raise
        return form

    def _dict(self, parts: dict[object, object], depth: int) -> dict[str, object]:
        form: dict[str, object] = {}
        for key, part in parts.items():
            name = key if type(key) is str and key.isascii() else _key(key)
            if name in form:
                raise _Unfit(f"two of its keys read {name[:64]!a}")
            try:
                form[name] = self.plain(part, depth)
            except _Unfit as unfit:
                unfit.steps.append(f".{name}" if _PLAIN_STEP.fullmatch(name) else f"[{name[:64]!a}]")
                raise
        return form

    def _float(self, value: float) -> float:
        number = float.__float__(value)
        if not math.isfinite(number):
            name = "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
            raise _Unfit(f"{name} has no JSON form")
        if number and not 1e-4 <= abs(number) < 1e16:
            self.odd_floats = True
        return number


def _key(key: object) -> str:
    """Return the text of a dict's key."""
    if not isinstance(key, str):
        shown = f" {key!r}" if key is None or (isinstance(key, (int, float)) and abs(key) < 1e15) else ""
        raise _Unfit(f"the key{shown} is of type {_name(key)}; keys are strings")
    try:
        return _text(key)
    except _Unfit as unfit:
        raise _Unfit(f"the key {str.__str__(key)[:64]!a} {unfit.why}") from None


def _text(value: str) -> str:
    text = str.__str__(value)  # a subclass's characters, whatever its own __str__ says
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Unfit("holds a lone surrogate, half a character, which UTF-8 cannot carry") from None
    return text


def _integer(value: int) -> int:
    number = int.__int__(value)
    try:
        if number.bit_length() <= _SHORT_BITS or len(str(number)) <= _INTEGER_MAX_CHARS:
            return number
    except ValueError:  # sys.set_int_max_str_digits
        pass
    raise _Unfit("the integer has more digits than can be read back")


def _opened(value: Any) -> object:
    """Return what stands for a value of another type than JSON's: its text, its number, or its members."""
    kind: Any = type(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (PurePath, UUID, Decimal)):
        return str(value)
    if isinstance(value, (date, time)):
        return value.isoformat()  # not msgspec's text, which cuts the seconds off an offset
    if isinstance(value, timedelta):
        return msgspec.to_builtins(value)
    bases = {base.__name__ for base in kind.__mro__ if base.__module__ == "numpy"}
    if isinstance(value, (bytes, bytearray, memoryview)) or "ndarray" in bases:
        raise _Unfit(f"arrays and bytes are not stored yet ({_name(value)}); keep a file and store its path")
    if "generic" in bases:
        return _numpy_scalar(value)
    try:
        if hasattr(kind, "model_dump"):
            return value.model_dump(mode="python")
        names = _field_names(kind)
        if names is not None:
            return {name: getattr(value, name) for name in names}
    except Exception as error:  # from the class's own code
        raise _Unfit(f"the {_name(value)} cannot be read ({type(error).__name__})") from error
    raise _Unfit(f"{_name(value)} has no JSON form")


def _numpy_scalar(value: Any) -> object:
    """Return the number or ISO text of a numpy scalar, through its own repr: float32(0.1) is 0.1."""
    kind = value.dtype.kind
    if kind in "biu":
        return value.item()
    if kind == "f" and value.dtype.itemsize <= 8:
        number = float(str(value))
        return number if type(value)(number) == value else float(value)  # numpy's legacy print mode shortens
    if kind == "M" and str(value) != "NaT":
        return str(value)
    raise _Unfit(f"{_name(value)} has no JSON form")


@lru_cache(maxsize=128)
def _field_names(kind: Any) -> tuple[str, ...] | None:
    """Return the fields of a dataclass, Struct or attrs class, None for another class."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    if hasattr(kind, "__attrs_attrs__"):
        return tuple(field.name for field in kind.__attrs_attrs__)
    return getattr(kind, "__struct_fields__", None)


def _sorted(items: list[Any]) -> list[object]:
    """Return the members of a set in one order for all processes."""
    try:
        return sorted(items)
    except TypeError:
        return sorted(items, key=_to_json)


def _name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
