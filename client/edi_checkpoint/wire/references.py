"""References: the JSON form of an array or bytes, whose content is stored apart under its digest.

    {"$attachment": {"sha256": "…", "type": "png", "dtype": "bool", "shape": [1024, 1024], "bytes": 2210, "area": 9}}

The key is reserved: `values.codec.encode` refuses it in a user's own dict, so no other value can look like a reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

KEY: Final = "$attachment"
MARK: Final = b'"$attachment":'  # in a JSON text this can only be the key: inside a string its quotes are escaped
DEPTH: Final = 3  # nested containers of a reference: itself, the value of the key, the shape

_PLAIN_STEP = re.compile(r"[\w-]{1,64}")
_DIGEST = re.compile(rb'"([0-9a-f]{64})"')

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Type = Annotated[str, Meta(pattern=r"^[a-z0-9]{1,8}\Z")]  # of the stored file; also the ending of its name
Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Reference(msgspec.Struct, frozen=True, omit_defaults=True):
    """Refers to one array or bytes by the digest, type and size of the stored file.

    `dtype` is None for bytes, and their `shape` is the length. `area` counts the ones of an array of 0 and 1.
    """

    sha256: Digest
    type: Type
    dtype: Annotated[str, Meta(max_length=1024)] | None
    shape: Annotated[tuple[Size, ...], Meta(max_length=64)]
    bytes: Size
    area: Size | None = None


class Attachment(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The bytes of a stored file, and its type."""

    type: Type
    data: bytes


class Encoded(NamedTuple):
    """An attachment, and the reference to it."""

    reference: Reference
    attachment: Attachment


def step(key: str) -> str:
    """Return the part of a path that names `key` of a dict: `.key`, or `['a key']`."""
    return f".{key}" if _PLAIN_STEP.fullmatch(key) else f"[{key[:64]!a}]"


def form_of(reference: Reference) -> dict[str, object]:
    """Return the JSON form of a reference."""
    return {KEY: msgspec.to_builtins(reference)}


def reference_of(form: object) -> Reference | None:
    """Return the reference whose JSON form is `form`, None for any other value."""
    if not isinstance(form, dict) or form.keys() != {KEY}:
        return None
    try:
        return msgspec.convert(form[KEY], Reference)
    except msgspec.ValidationError:
        return None


def replaced(form: object, put: Callable[[Reference, str], object], path: str = "") -> object:
    """Return a decoded value with each reference replaced by what `put` returns for it and its path.

    Paths look like those in the errors of `values.codec.encode`: `scene.entities[3].mask`. Containers change in place.
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
    """Yield the references in a decoded value, each with its JSON pointer (RFC 6901) below `pointer`."""
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
    """Return the digests that `text` may name; it is JSON in any layout, or other bytes that contain such texts.

    Every 64 hex digits in quotes count. The result holds all named digests and perhaps others, which is safe for
    callers that must not lose an attachment. `marked`: the mark stands before this part of a longer text.
    """
    return {found.decode() for found in _DIGEST.findall(text)} if marked or MARK in text else set()
