"""Pairs the elements of two lists that belong together. JSON texts in, positions out; no clock, no disk.

The key of an element is its `id` or `entity_id` if it is an object with one, else its text. Equal elements are also
numbered, so the first is paired with the first, and so on. As keys are unique, the longest run that kept its order is
found in n log n for any lists. Rejected: a longest common subsequence of texts. It is quadratic, and saves an operation
only where texts repeat.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

_NOTHING: Final = msgspec.Raw()
_ID_BEGINS: Final = b'"-0123456789'  # the first byte of an id: a string or a number

Key = tuple[bytes, bytes, int]  # the id or nothing, the text without an id, and the number among equals


class Alignment(NamedTuple):
    """The pairs of a list's elements before and after, by position.

    `pairs` gives for a position after the position before, in the order of the keys; an element after without a pair
    was added. `moved` has the positions after whose element left the order of the others, `removed` the positions
    before without a pair.
    """

    pairs: Mapping[int, int]
    moved: frozenset[int]
    removed: tuple[int, ...]


def align(before: Sequence[bytes], after: Sequence[bytes]) -> Alignment:
    """Return the pairs of elements. Elements without an id in the same gap between pairs are paired in their order."""
    old, new = _keys(before), _keys(after)
    at = {key: position for position, key in enumerate(old)}
    found = {position: at[key] for position, key in enumerate(new) if key in at}
    stable = _longest_rising(found)
    pairs = {**found, **dict(_in_gaps(stable, found, old, new))}
    removed = set(range(len(old))).difference(pairs.values())
    return Alignment(dict(sorted(pairs.items())), frozenset(found.keys() - stable.keys()), tuple(sorted(removed)))


def identity(element: bytes) -> bytes:
    """Return the JSON text of an object's `id` or `entity_id`, nothing without a string or number there."""
    if not element.startswith(b"{") or b'id"' not in element:
        return b""
    named = _NAMED.decode(element)
    text = bytes(named.id) or bytes(named.entity_id)
    return text if text[:1] and text[0] in _ID_BEGINS else b""


class _Named(msgspec.Struct):
    id: msgspec.Raw = _NOTHING
    entity_id: msgspec.Raw = _NOTHING


_NAMED: Final = msgspec.json.Decoder(_Named)


def _keys(elements: Iterable[bytes]) -> list[Key]:
    counts: Counter[tuple[bytes, bytes]] = Counter()
    keys = []
    for element in elements:
        own = identity(element)
        key = (own, b"" if own else element)
        keys.append((*key, counts[key]))
        counts[key] += 1
    return keys


def _longest_rising(found: Mapping[int, int]) -> dict[int, int]:
    """Return the longest part of `found` (by rising key) whose values rise as well."""
    ends: list[int] = []  # by length of a rising run, the lowest value that ends one
    keys: list[int] = []  # the keys of these values
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
    """Yield pairs of elements without an id, unpaired between the same two stable pairs: each was changed in place."""
    paired = set(found.values())
    borders = [(-1, -1), *stable.items(), (len(new), len(old))]
    for (new_from, old_from), (new_to, old_to) in pairwise(borders):
        if new_to - new_from == 1 or old_to - old_from == 1:
            continue
        removed = (at for at in range(old_from + 1, old_to) if at not in paired and not old[at][0])
        added = (at for at in range(new_from + 1, new_to) if at not in found and not new[at][0])
        yield from zip(added, removed, strict=False)
