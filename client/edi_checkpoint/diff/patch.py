"""Writes the difference of two states as a JSON Patch (RFC 6902) on `state_info`. No clock, no disk.

The patch turns the state before into the state after, with every digit of its numbers. It changes a container part by
part unless replacing the container takes less text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Literal

import msgspec

from edi_checkpoint.diff.delta import Delta, List, Object, Replaced, compare

_OPERATION_BYTES = len(b'{"op":"replace","path":"","value":},')


class Operation(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One operation of the patch; msgspec encodes it with the members of RFC 6902."""

    op: Literal["add", "remove", "replace", "move"]
    source: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="from")
    path: str
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def patch(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[Operation]:
    """Return the operations that turn one state (key to valid JSON text) into another; none if they are equal."""
    writer = _Writer()
    writer.members("", compare(before, after))
    return writer.operations


class _Writer:
    """Collects operations and counts the bytes of their text."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._bytes = 0

    def members(self, path: str, delta: Object) -> None:
        for key in delta.removed:
            self._remove(_below(path, key))
        for key, value in delta.added.items():
            self._set("add", _below(path, key), value)
        for key, changed in delta.changed.items():
            self._value(_below(path, key), changed)

    def _value(self, path: str, delta: Delta) -> None:
        count, size = len(self.operations), self._bytes
        match delta:
            case Replaced():
                self._set("replace", path, delta.after)
                return
            case Object():
                self.members(path, delta)
            case List():
                self._elements(path, delta)
        if self._bytes - size > _OPERATION_BYTES + len(path) + len(delta.text):
            del self.operations[count:]
            self._bytes = size
            self._set("replace", path, delta.text)

    def _elements(self, path: str, delta: List) -> None:
        """Remove from the back, then add and move elements from the front, then change them in place."""
        pairs, moved, removed = delta.alignment
        for at in reversed(removed):
            self._remove(f"{path}/{at}")
        stable = [(was, at) for at, was in pairs.items() if at not in moved]
        waiting = sorted(pairs[at] for at in moved)  # the positions before of the elements that must still move
        passed, last = 0, -1  # the number of stable elements passed, and the position before of the last of them
        for at, value in enumerate(delta.after):
            was = pairs.get(at)
            # Before this place are the `at` elements that are done, and the waiting elements among them.
            if was is None:
                self._set("add", f"{path}/{at + bisect_left(waiting, last)}", value)
            elif at not in moved:
                passed, last = passed + 1, was
            else:
                ahead = bisect_left(stable, (was, 0))  # the number of stable elements before it
                done = stable[ahead][1] if ahead < passed else at + ahead - passed
                place = bisect_left(waiting, was)
                del waiting[place]
                self._move(f"{path}/{done + place}", f"{path}/{at + bisect_left(waiting, last)}")
        for at, changed in delta.changed.items():
            self._value(f"{path}/{at}", changed)

    def _set(self, op: Literal["add", "replace"], path: str, value: bytes) -> None:
        self._put(Operation(op=op, path=path, value=msgspec.Raw(value)), len(path) + len(value))

    def _remove(self, path: str) -> None:
        self._put(Operation(op="remove", path=path), len(path))

    def _move(self, source: str, path: str) -> None:
        if source != path:
            self._put(Operation(op="move", source=source, path=path), len(source) + len(path))

    def _put(self, operation: Operation, size: int) -> None:
        self.operations.append(operation)
        self._bytes += _OPERATION_BYTES + size


def _below(path: str, key: str) -> str:
    return f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
