"""Converts a value of any type to its JSON form, part by part, or finds the part that has none.

`docs/format.md` has the table of types. Arrays and bytes become references; their content is returned beside the form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec

from edi_checkpoint.values import arrays
from edi_checkpoint.values.cache import Recent
from edi_checkpoint.wire.references import DEPTH, KEY, Attachment, form_of, step

Encoder = Callable[[Any], object]  # the app's own: converts a value of an unknown type to a known one, or TypeError

_INTEGER_MAX_CHARS = 4300  # msgspec writes longer integers but does not read them
_SHORT_BITS = 2048  # fewer digits than `_INTEGER_MAX_CHARS`, and than the lowest limit that Python accepts for str(int)
_to_json = msgspec.json.Encoder().encode


class Unfit(Exception):
    """A part has no JSON form; `steps` is the path to it, innermost first."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.steps: list[str] = []


@dataclass(slots=True, eq=False)
class Walk:
    """One pass over every part of a value, to its JSON form or to the first part that has none.

    Arrays and bytes go into `_carried`, by digest; `values.codec.encode` explains the other parameters.
    """

    _max_depth: int
    _carried: dict[str, Attachment]
    _recent: Recent | None
    _encoder: Encoder | None
    _open: set[int] = field(default_factory=set, init=False)  # ids of the containers around the present part
    odd_floats: bool = field(default=False, init=False)  # msgspec spells one in another way than repr

    def plain(self, value: Any, depth: int) -> object:
        """Return the JSON form of `value`, which is inside `depth` containers. Raises `Unfit`."""
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
            raise Unfit(f"the {_name(value)} contains itself")
        if depth >= self._max_depth and isinstance(value, (dict, list, tuple, set, frozenset)):
            raise Unfit(f"nested in more than {self._max_depth} containers")
        self._open.add(id(value))
        try:
            if isinstance(value, dict):
                return self._dict(value, depth + 1)
            if isinstance(value, (list, tuple)):
                return self._list(value, depth + 1)
            if isinstance(value, (set, frozenset)):
                return _sorted(self._list(value, depth + 1))
            if isinstance(value, (bytes, bytearray, memoryview)) or arrays.is_array(value):
                return self._attached(value, depth)
            return self.plain(self._converted(value), depth)
        finally:
            self._open.discard(id(value))

    def _list(self, parts: Iterable[object], depth: int) -> list[object]:
        form: list[object] = []
        try:
            for part in parts:
                form.append(self.plain(part, depth))
        except Unfit as unfit:
            unfit.steps.append(f"[{len(form)}]")
            raise
        return form

    def _dict(self, parts: dict[object, object], depth: int) -> dict[str, object]:
        form: dict[str, object] = {}
        for key, part in parts.items():
            name = key if type(key) is str and key.isascii() else key_text(key)
            if name == KEY:
                raise Unfit(f"the key {KEY!r} is reserved")
            if name in form:
                raise Unfit(f"two of its keys have the text {name[:64]!a}")
            try:
                form[name] = self.plain(part, depth)
            except Unfit as unfit:
                unfit.steps.append(step(name))
                raise
        return form

    def _attached(self, value: Any, depth: int) -> object:
        if depth + DEPTH > self._max_depth:
            raise Unfit(f"arrays and bytes must be nested in at most {self._max_depth - DEPTH} containers")
        try:
            reference, attachment = arrays.encode(value, self._recent)
        except ValueError as error:
            raise Unfit(f"{_name(value)}: {error}") from error
        self._carried[reference.sha256] = attachment
        return form_of(reference)

    def _converted(self, value: Any) -> object:
        """Return the text, number or members of a value whose type JSON lacks."""
        kind: Any = type(value)
        if isinstance(value, Enum):
            return value.value
        if isinstance(value, (PurePath, UUID, Decimal)):
            return str(value)
        if isinstance(value, (date, time)):
            return value.isoformat()  # not msgspec's text, which drops the seconds of an offset
        if isinstance(value, timedelta):
            return msgspec.to_builtins(value)
        if any(base.__module__ == "numpy" and base.__name__ == "generic" for base in kind.__mro__):
            return _numpy_scalar(value)
        try:
            if hasattr(kind, "model_dump"):
                return value.model_dump(mode="python")
            names = _field_names(kind)
            if names is not None:
                return {name: getattr(value, name) for name in names}
            if self._encoder is not None:
                return self._encoder(value)
        except Exception as error:  # from the class's own code, or the app's encoder
            if isinstance(error, TypeError) and self._encoder is not None:
                raise Unfit(f"{_name(value)} has no JSON form, and the encoder rejects it: {error}") from error
            raise Unfit(f"the {_name(value)} cannot be read ({type(error).__name__})") from error
        raise Unfit(f"{_name(value)} has no JSON form")

    def _float(self, value: float) -> float:
        number = float.__float__(value)
        if not math.isfinite(number):
            name = "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
            raise Unfit(f"{name} has no JSON form")
        if number and not 1e-4 <= abs(number) < 1e16:
            self.odd_floats = True
        return number


def key_text(key: object) -> str:
    """Return the text of a dict's key. Raises `Unfit`."""
    if not isinstance(key, str):
        shown = f" {key!r}" if key is None or (isinstance(key, (int, float)) and abs(key) < 1e15) else ""
        raise Unfit(f"the key{shown} is of type {_name(key)}; keys are strings")
    try:
        return _text(key)
    except Unfit as unfit:
        raise Unfit(f"the key {str.__str__(key)[:64]!a} {unfit.why}") from None


def _text(value: str) -> str:
    text = str.__str__(value)  # the characters of a subclass, not the result of its own __str__
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Unfit("holds a lone surrogate, half of a character, which UTF-8 cannot encode") from None
    return text


def _integer(value: int) -> int:
    number = int.__int__(value)
    try:
        if number.bit_length() <= _SHORT_BITS or len(str(number)) <= _INTEGER_MAX_CHARS:
            return number
    except ValueError:  # sys.set_int_max_str_digits
        pass
    raise Unfit("the integer has too many digits to be read back")


def _numpy_scalar(value: Any) -> object:
    """Return the number or ISO text of a numpy scalar, by its own repr: float32(0.1) becomes 0.1."""
    kind = value.dtype.kind
    if kind in "biu":
        return value.item()
    if kind == "f" and value.dtype.itemsize <= 8:
        number = float(str(value))
        return number if type(value)(number) == value else float(value)  # numpy's legacy print mode shortens
    if kind == "M" and str(value) != "NaT":
        return str(value)
    raise Unfit(f"{_name(value)} has no JSON form")


@lru_cache(maxsize=128)
def _field_names(kind: Any) -> tuple[str, ...] | None:
    """Return the names of the fields of a dataclass, Struct or attrs class, None for another class."""
    if is_dataclass(kind):
        return tuple(own.name for own in fields(kind))
    if hasattr(kind, "__attrs_attrs__"):
        return tuple(own.name for own in kind.__attrs_attrs__)
    return getattr(kind, "__struct_fields__", None)


def _sorted(items: list[Any]) -> list[object]:
    """Return the members of a set in an order that is the same in all processes."""
    try:
        return sorted(items)
    except TypeError:
        return sorted(items, key=_to_json)


def _name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
