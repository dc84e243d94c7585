"""Compares two states and returns the difference as a tree of JSON texts. No clock, no disk.

Values are compared as texts, so numbers of any size and precision differ as in JSON (1, 1.0 and true differ). Only
differing values are parsed. Equal fragments cost one comparison of bytes.

The work is bounded: values beyond `COMPARED_MAX_BYTES`, and lists of more than `LIST_MAX` elements, count as replaced
whole. All else is n log n. Values nest at most `fragments.DEPTH_MAX` deep, because `fragments.fragment` refuses others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from edi_checkpoint.diff.alignment import Alignment, align
from edi_checkpoint.wire.references import MARK

COMPARED_MAX_BYTES: Final = 4 << 20  # of both states; the worst values take a hundred times that in memory, and 5 s
LIST_MAX: Final = 50_000
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ELEMENTS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_REFERENCE: Final = b"{" + MARK  # a reference changes as a whole: its digest never changes alone

Text: TypeAlias = bytes | msgspec.Raw


class Replaced(msgspec.Struct, frozen=True):
    """A value that another one replaced."""

    before: bytes
    after: bytes


class Object(msgspec.Struct, frozen=True):
    """The removed, added and changed members of an object, by key; `text` is the whole object after."""

    removed: Mapping[str, bytes]
    added: Mapping[str, bytes]
    changed: Mapping[str, Delta]
    text: bytes


class List(msgspec.Struct, frozen=True):
    """The elements of a list before and after and their pairs.

    `changed` is by position after; `text` is the whole list after.
    """

    before: Sequence[bytes]
    after: Sequence[bytes]
    alignment: Alignment
    changed: Mapping[int, Delta]
    text: bytes


Delta: TypeAlias = Replaced | Object | List


def compare(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Object:
    """Return the difference of two states (key to valid JSON text) in compact texts; the state has no `text`."""
    equal = {key for key, text in after.items() if before.get(key) == text}
    olds, news = (
        {key: msgspec.json.format(state[key], indent=-1) for key in state if key not in equal}
        for state in (before, after)
    )
    remaining = COMPARED_MAX_BYTES
    changed: dict[str, Delta] = {}
    for key in (key for key in news if key in olds):
        delta: Delta | None = Replaced(olds[key], news[key])
        if (size := len(olds[key]) + len(news[key])) <= remaining:
            remaining -= size
            delta = _value(olds[key], news[key])
        if delta is not None:
            changed[key] = delta
    return Object(_without(olds, news), _without(news, olds), changed, b"")


def is_reference(text: bytes) -> bool:
    """Return whether a compact text is the reference of an attachment."""
    return text.startswith(_REFERENCE)


def _value(before: bytes, after: bytes) -> Delta | None:
    """Return the difference of two values, None if they are equal."""
    if before == after:
        return None
    opening = before[:1]
    if opening != after[:1]:
        return Replaced(before, after)
    if opening == b"{" and not (is_reference(before) or is_reference(after)):
        found = _members(_MEMBERS.decode(before), _MEMBERS.decode(after), after)
        return found if found.removed or found.added or found.changed else None  # the order of members has no meaning
    if opening == b"[":
        return _elements(before, after)
    if opening == b'"' and b"\\" in before + after and msgspec.json.decode(before) == msgspec.json.decode(after):
        return None  # the same characters, escaped in two ways
    return Replaced(before, after)


def _members(before: Mapping[str, Text], after: Mapping[str, Text], text: bytes) -> Object:
    differing = (key for key, value in after.items() if key in before and before[key] != value)
    deltas = ((key, _value(bytes(before[key]), bytes(after[key]))) for key in differing)
    changed = {key: delta for key, delta in deltas if delta is not None}
    return Object(_without(before, after), _without(after, before), changed, text)


def _without(some: Mapping[str, Text], others: Mapping[str, Text]) -> dict[str, bytes]:
    if some.keys() <= others.keys():
        return {}
    return {key: bytes(value) for key, value in some.items() if key not in others}


def _elements(before: bytes, after: bytes) -> Delta | None:
    olds, news = ([bytes(element) for element in _ELEMENTS.decode(text)] for text in (before, after))
    if max(len(olds), len(news)) > LIST_MAX:
        return Replaced(before, after)
    alignment = align(olds, news)
    deltas = ((at, _value(olds[was], news[at])) for at, was in alignment.pairs.items() if olds[was] != news[at])
    changed = {at: delta for at, delta in deltas if delta is not None}
    if changed or alignment.moved or alignment.removed or len(alignment.pairs) < len(news):
        return List(olds, news, alignment, changed, after)
    return None
