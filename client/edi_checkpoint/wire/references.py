"""References: what stands in a state's JSON text for an array or bytes, whose content is kept apart under its digest.

    {"$attachment": {"sha256": "…", "type": "png", "dtype": "bool", "shape": [1024, 1024], "bytes": 2210, "area": 9}}

The key is reserved: `values.codec.encode` refuses it in a user's own dict, so nothing else is ever mistaken for a
reference. Text in, values out; the content itself is never looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

KEY: Final = "$attachment"
MARK: Final = b'"$attachment":'  # in a JSON text it can be nothing but this key: inside a string its quotes are escaped
DEPTH: Final = 3  # containers of a reference: itself, what the key holds, the shape

_PLAIN_STEP = re.compile(r"[\w-]{1,64}")
_DIGEST = re.compile(rb'"([0-9a-f]{64})"')

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Type = Annotated[str, Meta(pattern=r"^[a-z0-9]{1,8}\Z")]  # of the file; also its name's ending
Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Reference(msgspec.Struct, frozen=True, omit_defaults=True):
    """One array or bytes: `sha256` is of the stored file, `type` its ending, `bytes` its size.

    `dtype` is None for bytes, whose `shape` is their length; `area` counts the ones of an array of 0 and 1.
    """

    sha256: Digest
    type: Type
    dtype: Annotated[str, Meta(max_length=1024)] | None
    shape: Annotated[tuple[Size, ...], Meta(max_length=64)]
    bytes: Size
    area: Size | None = None


class Attachment(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The content that a digest stands for: what the file holds, byte for byte, and its type."""

    type: Type
    data: bytes


class Encoded(NamedTuple):
    """What refers to an attachment, and the attachment."""

    reference: Reference
    attachment: Attachment


def step(key: str) -> str:
    """Return the step of a path that leads to `key` of a dict: `.key`, or `['a key']`."""
    return f".{key}" if _PLAIN_STEP.fullmatch(key) else f"[{key[:64]!a}]"


def form_of(reference: Reference) -> dict[str, object]:
    """Return the JSON form of a reference."""
    return {KEY: msgspec.to_builtins(reference)}


def reference_of(form: object) -> Reference | None:
    """Return the reference that a part of a decoded value is, None when it is something else."""
    if not isinstance(form, dict) or form.keys() != {KEY}:
        return None
    try:
        return msgspec.convert(form[KEY], Reference)
    except msgspec.ValidationError:
        return None


def replaced(form: object, put: Callable[[Reference, str], object], path: str = "") -> object:
    """Return a decoded value with each reference in it replaced by what `put` returns for it and its path.

    Paths are those of the errors of `values.codec.encode`: `scene.entities[3].mask`. Containers are changed in place.
    """
    if isinstance(form, list):
        for at, part in enumerate(form):
            if isinstance(part, list | dict):
                form[at] = replaced(part, put, f"{path}[{at}]")
    elif isinstance(form, dict):
        if (reference := reference_of(form)) is not None:
            return put(reference, path)
        for key, part in form.items():
            if isinstance(part, list | dict):
                form[key] = replaced(part, put, path + step(key))
    return form


def references(form: object, pointer: str = "") -> Iterator[tuple[str, Reference]]:
    """Yield the references of a decoded value, each with its JSON pointer (RFC 6901) below `pointer`."""
    if isinstance(form, list):
        for at, part in enumerate(form):
            if isinstance(part, list | dict):
                yield from references(part, f"{pointer}/{at}")
    elif (reference := reference_of(form)) is not None:
        yield pointer, reference
    elif isinstance(form, dict):
        for key, part in form.items():
            if isinstance(part, list | dict):
                yield from references(part, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}")


def digests_in(text: bytes, *, marked: bool = False) -> set[str]:
    """Return the digests that `text` may name: JSON in any layout, or anything that holds such texts.

    All 64 hex digits in quotes count, so none that is named is missed and some that are none may be among them: for
    whoever must not lose what is named. `marked`: the mark stands before this part of a longer text.
    """
    return {found.decode() for found in _DIGEST.findall(text)} if marked or MARK in text else set()
