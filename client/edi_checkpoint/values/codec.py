"""Values of the state: a Python value to its compact JSON text, and back.

The text is byte for byte what `json.dumps(form, ensure_ascii=False, separators=(",", ":"))` writes for the value's
JSON form (the table in `docs/format.md`), and shares nothing with the caller's objects. Arrays and bytes stand in it as
references (`wire/references.py`), with their content beside it. A part that has no such form fails the call by its
path; nothing becomes null, base64 or an abbreviation silently.

msgspec writes the text, 14 times as fast as json. It would quietly turn NaN into null, the key 1 into "1" and bytes
into base64, so its own validator must take the value for plain JSON too, which costs half of a look at each part from
Python and next to nothing for long texts and embeddings. What it does not take is walked, part by part.
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
_PIECE = 100  # elements of a list that are looked at together, so few that no garbage collection is due for their copy
_SAFE = frozenset({str, bool, type(None)})  # what msgspec writes it reads back
_LEAVES = _SAFE | {int, float}
_CONTAINERS = frozenset({dict, list, tuple})
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
    value: object,
    path: str = "",
    carried: dict[str, Attachment] | None = None,
    recent: Recent | None = None,
    encoder: Encoder | None = None,
    *,
    max_bytes: int = VALUE_MAX_BYTES,
    max_depth: int = VALUE_MAX_DEPTH,
) -> bytes:
    """Return the JSON text of `value`, the value under the state's key `path`; its arrays and bytes go into `carried`.

    `recent` is where arrays that were encoded before are looked for. `encoder` is asked about a type that the table
    does not know: it returns something that the table knows, or raises TypeError.

    Raises `StateValueError`, its message beginning with the path of the part (`scene.entities[3].bbox[0]: …`), for
    what has no JSON form, is nested in more than `max_depth` containers, or gives more than `max_bytes` of text.
    """
    text = _encode_plain(value) if max_depth > _PLAIN_DEPTH else None
    if text is None:
        text = _encode_any(value, path, Walk(max_depth, {} if carried is None else carried, recent, encoder))
    if len(text) > max_bytes:
        raise StateValueError(f"{path or 'value'}: {len(text)} bytes of JSON text; at most {max_bytes} are stored")
    return text


def decode(text: bytes, path: str = "", restore: Callable[[Reference, str], object] | None = None) -> object:
    """Return the value of a JSON text, integers exact; raises `ProtocolError` for bytes that are none.

    `restore` gives the array or bytes that a reference in the value under `path` stands for; without it references
    stay as they are. What it raises, this raises.
    """
    try:
        form = _from_json(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a value's text is no JSON: {error}") from error
    return form if restore is None or MARK not in text else replaced(form, restore, path)


def check_key(key: object) -> str:
    """Return `key` as a plain str if it may be a key of the state, else raise `StateValueError`."""
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
    """Return the text of a value of plain JSON types; None where `_encode_any` has to look."""
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
    """Return whether `_is_taken` takes all of `value`, long lists piece by piece.

    The validator makes a copy. Of 1 MB of records as a whole, that wakes the garbage collector twenty times and takes
    half as long again; the memory of a piece is free again, and warm, for the next.
    """
    if type(value) is list and len(value) > _PIECE:
        return all(_is_taken(value[at : at + _PIECE]) for at in range(0, len(value), _PIECE))
    if type(value) is dict:
        long = [key for key, part in value.items() if type(part) is list and len(part) > _PIECE]
        if long:
            return all(_is_plain(value[key]) for key in long) and _is_taken({**value, **dict.fromkeys(long)})
    return _is_taken(value)


def _is_taken(value: object) -> bool:
    """Return whether msgspec's validator takes `value` for plain JSON as it is; raises what it raises."""
    same = msgspec.convert({"value": value}, _Plain).value
    # Unequal: tuples, as good as lists; or sets, whose order differs from run to run; or a class's own equality.
    return same == value or _has_plain_types(value)


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


def _encode_any(value: object, path: str, walk: Walk) -> bytes:
    """Return the text of a value of any type, or raise the `StateValueError` that names the part at fault."""
    try:
        text = _to_json(walk.plain(value, 0))
    except Unfit as unfit:
        where = path + "".join(reversed(unfit.steps))
        where = where if path else where.removeprefix(".")
        raise StateValueError(f"{where or 'value'}: {unfit.why}") from unfit.__cause__
    except RecursionError as error:
        raise StateValueError(f"{path or 'value'}: nested deeper than the stack allows here") from error
    return _respell(text) if walk.odd_floats else text
