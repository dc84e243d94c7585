"""Lists the changes between two states for people, in order, each with its path.

A list of numbers is one value (a box, a colour, an embedding). Other lists are compared by element, and an element with
an id is named by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from edi_checkpoint.diff.alignment import identity
from edi_checkpoint.diff.delta import Delta, List, Object, Replaced, compare
from edi_checkpoint.diff.numbers import is_number
from edi_checkpoint.documents.fragments import string
from edi_checkpoint.wire.references import step


class Element(NamedTuple):
    """A step of a path into a list: an element's id, else its position."""

    label: str


Path: TypeAlias = tuple[str | Element, ...]


class Change(NamedTuple):
    """A changed value: its path, and its compact JSON text before and after, None where it is missing."""

    path: Path
    before: bytes | None
    after: bytes | None


class Reordered(NamedTuple):
    """A list in which `moved` elements have another place among the others."""

    path: Path
    moved: int


def changes(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[Change | Reordered]:
    """Return the changes between two states (key to valid JSON text), in the order of the state after."""
    return list(_of_object((), compare(before, after)))


def spelled(path: Path) -> str:
    """Return a path as text, spelled as in the errors of publishing: `scene.entities[3].mask`."""
    return "".join(map(_spelled, path)).removeprefix(".")


def _of(path: Path, delta: Delta) -> Iterator[Change | Reordered]:
    match delta:
        case Replaced():
            yield Change(path, delta.before, delta.after)
        case Object():
            yield from _of_object(path, delta)
        case List():
            yield from _of_list(path, delta)


def _of_object(path: Path, delta: Object) -> Iterator[Change | Reordered]:
    for key, changed in delta.changed.items():
        yield from _of((*path, key), changed)
    for key, text in delta.added.items():
        yield Change((*path, key), None, text)
    for key, text in delta.removed.items():
        yield Change((*path, key), text, None)


def _of_list(path: Path, delta: List) -> Iterator[Change | Reordered]:
    if all(map(is_number, delta.before)) and all(map(is_number, delta.after)):
        yield Change(path, b"[" + b",".join(delta.before) + b"]", delta.text)
        return
    for at, text in enumerate(delta.after):
        if at in delta.changed:
            yield from _of((*path, _element(at, text)), delta.changed[at])
        elif at not in delta.alignment.pairs:
            yield Change((*path, _element(at, text)), None, text)
    for at in delta.alignment.removed:
        yield Change((*path, _element(at, delta.before[at])), delta.before[at], None)
    if delta.alignment.moved:
        yield Reordered(path, len(delta.alignment.moved))


def _element(at: int, text: bytes) -> Element:
    named = identity(text)
    return Element(string(named) or named.decode() or str(at))


def _spelled(part: str | Element) -> str:
    if isinstance(part, str):
        return step(part)
    return f"[{part.label}]" if step(part.label).startswith(".") else step(part.label)
