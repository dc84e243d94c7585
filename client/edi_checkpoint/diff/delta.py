"""How two states differ, as a tree of JSON texts. No clock, no disk.

Values stay the text they are and are compared as that, so numbers of any size and precision are told apart as JSON does
(1, 1.0 and true differ), and only what differs is looked into. Equal fragments cost one comparison of bytes.

What bounds the work: values are looked into as far as `COMPARED_MAX_BYTES` reach, lists up to `LIST_MAX` elements; the
others count as replaced whole. Below that all is n log n; values nest at most `fragments.DEPTH_MAX` deep, as whoever
laid them out made sure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from edi_checkpoint.diff.alignment import Alignment, align
from edi_checkpoint.wire.references import MARK

COMPARED_MAX_BYTES: Final = 4 << 20  # of both states; what was made to be hard takes a hundred times that, and 5 s
LIST_MAX: Final = 50_000
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ELEMENTS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_REFERENCE: Final = b"{" + MARK  # an attachment is another one or the same: nobody changes its digest alone

Text: TypeAlias = bytes | msgspec.Raw


class Replaced(msgspec.Struct, frozen=True):
    """A value that became another one."""

    before: bytes
    after: bytes


class Object(msgspec.Struct, frozen=True):
    """Members that went, came and changed, by key; `text` is all of it after."""

    removed: Mapping[str, bytes]
    added: Mapping[str, bytes]
    changed: Mapping[str, Delta]
    text: bytes


class List(msgspec.Struct, frozen=True):
    """Elements before and after and how they belong together; `changed` by position after, `text` all of it after."""

    before: Sequence[bytes]
    after: Sequence[bytes]
    alignment: Alignment
    changed: Mapping[int, Delta]
    text: bytes


Delta: TypeAlias = Replaced | Object | List


def compare(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Object:
    """Return how two states (key to valid JSON text) differ, in compact texts; the whole has no text of its own."""
    equal = {key for key, text in after.items() if before.get(key) == text}
    olds, news = ({key: _compact(state[key]) for key in state if key not in equal} for state in (before, after))
    left = COMPARED_MAX_BYTES
    changed: dict[str, Delta] = {}
    for key in (key for key in news if key in olds):
        delta: Delta | None = Replaced(olds[key], news[key])
        if (size := len(olds[key]) + len(news[key])) <= left:
            left -= size
            delta = _value(olds[key], news[key])
        if delta is not None:
            changed[key] = delta
    return Object(_without(olds, news), _without(news, olds), changed, b"")


def is_reference(text: bytes) -> bool:
    """Return whether a compact text stands for an attachment."""
    return text.startswith(_REFERENCE)


def _compact(text: bytes) -> bytes:
    return msgspec.json.format(text, indent=-1)


def _value(before: bytes, after: bytes) -> Delta | None:
    """Return how two values differ; None if they are equal."""
    if before == after:
        return None
    opening = before[:1]
    if opening != after[:1]:
        return Replaced(before, after)
    if opening == b"{" and not (is_reference(before) or is_reference(after)):
        found = _members(_MEMBERS.decode(before), _MEMBERS.decode(after), after)
        return found if found.removed or found.added or found.changed else None  # the order of members says nothing
    if opening == b"[":
        return _elements(before, after)
    if opening == b'"' and b"\\" in before + after and msgspec.json.decode(before) == msgspec.json.decode(after):
        return None  # one character, written in two ways
    return Replaced(before, after)


def _members(before: Mapping[str, Text], after: Mapping[str, Text], text: bytes) -> Object:
    changed = {}
    for key, value in after.items():
        if key in before and before[key] != value:
            delta = _value(bytes(before[key]), bytes(value))
            if delta is not None:
                changed[key] = delta
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
    differing = {at: _value(olds[was], news[at]) for at, was in alignment.pairs.items() if olds[was] != news[at]}
    changed = {at: delta for at, delta in differing.items() if delta is not None}
    found = List(olds, news, alignment, changed, after)
    moved_or_not_as_many = alignment.moved or alignment.removed or len(alignment.pairs) < len(news)
    return found if found.changed or moved_or_not_as_many else None
