"""Which elements of two lists belong together. JSON texts in, positions out; no clock, no disk.

An element is known again by its `id` or `entity_id` if it is an object that has one, else by its text; of equal ones
the first belongs to the first, the second to the second. That makes every element unique, so the longest run of them
that kept its order is found in n log n, whatever the lists hold. The road not taken, a longest common subsequence of
texts: it is shorter by an operation now and then where texts repeat, and quadratic.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

_NOTHING: Final = msgspec.Raw()
_IDENTIFIES: Final = b'"-0123456789'  # how an id may begin: a string or a number, no null

Key = tuple[bytes, bytes, int]  # the id or nothing, else the text, and which of its equals


class Alignment(NamedTuple):
    """How the elements of a list before and after belong together, by position.

    `pairs` gives for each position after, in rising order, the one before it; what is in none was added. `moved` are
    those positions after whose element left the order of the others, `removed` the positions before that have no pair.
    """

    pairs: Mapping[int, int]
    moved: frozenset[int]
    removed: tuple[int, ...]


def align(before: Sequence[bytes], after: Sequence[bytes]) -> Alignment:
    """Return which elements belong together. Those without an id that stand in the same gap are paired as they come."""
    old, new = _keys(before), _keys(after)
    at = {key: position for position, key in enumerate(old)}
    found = {position: at[key] for position, key in enumerate(new) if key in at}
    stable = _longest_rising(found)
    pairs = {**found, **dict(_in_gaps(stable, found, old, new))}
    removed = set(range(len(old))).difference(pairs.values())
    return Alignment(dict(sorted(pairs.items())), frozenset(found.keys() - stable.keys()), tuple(sorted(removed)))


def identity(element: bytes) -> bytes:
    """Return the JSON text of an object's `id`, or else of its `entity_id`; nothing if it has none that identifies."""
    if not element.startswith(b"{") or b'id"' not in element:
        return b""
    named = _NAMED.decode(element)
    text = bytes(named.id) or bytes(named.entity_id)
    return text if text[:1] and text[0] in _IDENTIFIES else b""


class _Named(msgspec.Struct):
    id: msgspec.Raw = _NOTHING
    entity_id: msgspec.Raw = _NOTHING


_NAMED: Final = msgspec.json.Decoder(_Named)


def _keys(elements: Iterable[bytes]) -> list[Key]:
    met: Counter[tuple[bytes, bytes]] = Counter()
    keys = []
    for element in elements:
        own = identity(element)
        key = (own, b"" if own else element)
        keys.append((*key, met[key]))
        met[key] += 1
    return keys


def _longest_rising(found: Mapping[int, int]) -> dict[int, int]:
    """Return the longest part of `found` (by rising key) whose values rise, too."""
    ends: list[int] = []  # the lowest value that a rising run of each length ends with
    keys: list[int] = []  # and its key
    before: dict[int, int | None] = {}
    for key, value in found.items():
        length = bisect_left(ends, value)
        before[key] = keys[length - 1] if length else None
        ends[length:length + 1], keys[length:length + 1] = [value], [key]  # fmt: skip
    rising = []
    key_before = keys[-1] if keys else None
    while key_before is not None:
        rising.append(key_before)
        key_before = before[key_before]
    return {key: found[key] for key in reversed(rising)}


def _in_gaps(
    stable: Mapping[int, int], found: Mapping[int, int], old: Sequence[Key], new: Sequence[Key]
) -> Iterator[tuple[int, int]]:
    """Yield pairs of unknown elements that stand between the same two stable ones: each was changed in its place."""
    taken = set(found.values())
    borders = [(-1, -1), *stable.items(), (len(new), len(old))]
    for (new_from, old_from), (new_to, old_to) in pairwise(borders):
        if new_to - new_from == 1 or old_to - old_from == 1:
            continue
        gone = (at for at in range(old_from + 1, old_to) if at not in taken and not old[at][0])
        come = (at for at in range(new_from + 1, new_to) if at not in found and not new[at][0])
        yield from zip(come, gone, strict=False)
