"""Encodes a Python value of the state as compact JSON text, and decodes it.

The text equals the output of `json.dumps(form, ensure_ascii=False, separators=(",", ":"))` for the value's JSON form
(the table in `docs/format.md`), byte for byte, and shares no memory with the caller's objects. References stand in it
for arrays and bytes (`wire.references`); their content is returned beside it. If a part has no JSON form, the call
fails and names its path: no part silently becomes null, base64 or an abbreviation.

msgspec writes the text, 14 times as fast as json. It would silently turn NaN into null, the key 1 into "1" and bytes
into base64. So msgspec's validator must accept the value as plain JSON as well. That costs half as much as a check of
each part in Python, and little for long texts and embeddings. `normalise` walks the values that it does not accept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from typing import Annotated, Any, Final

import msgspec

from edi_checkpoint.errors import ProtocolError, StateValueError
from edi_checkpoint.system.settings import Limits
from edi_checkpoint.values.cache import Recent
from edi_checkpoint.values.normalise import Encoder, Unfit, Walk, key_text
from edi_checkpoint.wire.references import KEY, MARK, Attachment, Reference, replaced

VALUE_MAX_BYTES: Final = Limits().value_max_bytes
VALUE_MAX_DEPTH: Final = Limits().value_max_depth
KEY_MAX_BYTES: Final = 1024
RESERVED_KEY: Final = "_edi_checkpoint"

_PLAIN_DEPTH = 6  # of the type below; msgspec copies it for every branch, so each level doubles it (6: 1.4 ms, once)
_PIECE = 100  # elements of a list that are checked together; copying this many starts no garbage collection
_SAFE = frozenset({str, bool, type(None)})  # msgspec reads back what it writes of these
_LEAVES = _SAFE | {int, float}
_CONTAINERS = frozenset({dict, list, tuple})
_STRINGS = re.compile(rb'("(?:[^"\\]++|\\.)*+")')
_SHORT_EXPONENT = re.compile(rb"-(?<=\de-)\d(?:[,\]}]|\Z)")  # begins with its rarest byte, so that re skips ahead
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


_Plain: Any = msgspec.defstruct("_Plain", [("value", _plain_json(_PLAIN_DEPTH))])  # a class caches its decoder
msgspec.convert({"value": None}, _Plain)  # builds it here: two threads that build it at once crash (msgspec 0.22)
_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder().decode


def encode(
    value: object,
    path: str = "",
    carried: dict[str, Attachment] | None = None,
    recent: Recent | None = None,
    encoder: Encoder | None = None,
    *,
    max_bytes: int = VALUE_MAX_BYTES,
    max_depth: int = VALUE_MAX_DEPTH,
) -> bytes:
    """Return the JSON text of `value`, which stands under the state's key `path`; add its attachments to `carried`.

    `recent` remembers arrays that were encoded before. `encoder` converts a value of a type that the table lacks to one
    that it has, or raises TypeError.

    Raises `StateValueError` for a part without a JSON form or inside more than `max_depth` containers, and for more
    than `max_bytes` of text. The message begins with the path of the part: `scene.entities[3].bbox[0]: …`.
    """
    text = _encode_plain(value) if max_depth > _PLAIN_DEPTH else None
    if text is None:
        text = _encode_any(value, path, Walk(max_depth, {} if carried is None else carried, recent, encoder))
    if len(text) > max_bytes:
        raise StateValueError(f"{path or 'value'}: {len(text)} bytes of JSON text; at most {max_bytes} can be stored")
    return text


def decode(text: bytes, path: str = "", restore: Callable[[Reference, str], object] | None = None) -> object:
    """Return the value of a JSON text, integers exact. Raises `ProtocolError` if `text` is not JSON.

    `restore` returns the array or bytes for a reference at a path below `path`, and may raise. Without it the
    references stay in the value.
    """
    try:
        form = _from_json(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the text of a value is not JSON: {error}") from error
    return form if restore is None or MARK not in text else replaced(form, restore, path)


def check_key(key: object) -> str:
    """Return `key` as a plain str. Raises `StateValueError` if it cannot be a key of the state."""
    try:
        name = key_text(key)
    except Unfit as unfit:
        raise StateValueError(f"state: {unfit.why}") from None
    if not name:
        raise StateValueError("state: a key is empty")
    if len(name.encode()) > KEY_MAX_BYTES:
        raise StateValueError(f"{name[:64]}…: the key has more than {KEY_MAX_BYTES} bytes")
    if name in (RESERVED_KEY, KEY):
        raise StateValueError(f"{name}: the key is reserved")
    return name


def _encode_plain(value: object) -> bytes | None:
    """Return the text of a value of plain JSON types; None if only `_encode_any` can decide."""
    try:
        text = _to_json(value)
        if type(value) in _SAFE:
            return text
        if not _is_plain(value):
            return None
    except (TypeError, ValueError, AttributeError, RecursionError):
        return None
    if b"$" in text and MARK in text:
        return None
    if (b"." in text and b"0.0000" in text) or (b"-" in text and _SHORT_EXPONENT.search(text)):
        return _respell(text)
    return text


def _is_plain(value: Any) -> bool:
    """Return whether all of `value` is plain JSON; long lists are checked piece by piece.

    The validator makes a copy. Copying 1 MB of records at once starts 20 garbage collections and takes 1.5 times as
    long. A piece reuses the memory of the piece before.
    """
    if type(value) is list and len(value) > _PIECE:
        return all(_is_valid(value[at : at + _PIECE]) for at in range(0, len(value), _PIECE))
    if type(value) is dict:
        long = [key for key, part in value.items() if type(part) is list and len(part) > _PIECE]
        if long:
            return all(_is_plain(value[key]) for key in long) and _is_valid({**value, **dict.fromkeys(long)})
    return _is_valid(value)


def _is_valid(value: object) -> bool:
    """Return whether msgspec's validator accepts `value` as plain JSON and changes nothing. Raises as it does."""
    copy = msgspec.convert({"value": value}, _Plain).value
    # Unequal: tuples, as good as lists; or sets, whose order differs from run to run; or a class's own equality.
    return copy == value or _has_plain_types(value)


def _has_plain_types(value: Any) -> bool:
    """Return whether `value`, which has no cycles, consists of JSON's types and tuples only, without subclasses."""
    level = [value]
    while level:
        if not _CONTAINERS.issuperset(map(type, level)):
            return False
        parts = chain.from_iterable(part.values() if type(part) is dict else part for part in level)
        level = [part for part in parts if type(part) not in _LEAVES]
    return True


def _respell(text: bytes) -> bytes:
    """Return `text` with floats as repr writes them: `1e-07`, `1e+16`, `1e-05` for `1e-7`, `1e16`, `0.00001`."""
    pieces = _STRINGS.split(text)
    bare = b'"'.join(pieces[::2])  # the text outside strings
    bare = _EXPONENT.sub(lambda found: b"e" + (found[1] or b"+") + found[2].zfill(2), bare)
    bare = _SMALL.sub(lambda found: repr(float(found[0])).encode(), bare)
    pieces[::2] = bare.split(b'"')
    return b"".join(pieces)


def _encode_any(value: object, path: str, walk: Walk) -> bytes:
    """Return the text of a value of any type. Raises `StateValueError` with the path of a part without a JSON form."""
    try:
        text = _to_json(walk.plain(value, 0))
    except Unfit as unfit:
        where = path + "".join(reversed(unfit.steps))
        where = where if path else where.removeprefix(".")
        raise StateValueError(f"{where or 'value'}: {unfit.why}") from unfit.__cause__
    except RecursionError as error:
        raise StateValueError(f"{path or 'value'}: nested deeper than the stack of this thread allows") from error
    return _respell(text) if walk.odd_floats else text
