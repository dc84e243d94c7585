"""Applies an entry to the values of a session. Client and daemon share this one definition.

A client without a daemon folds the entries' JSON texts. The daemon folds fragments: the same texts with the layout of
a document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from edi_checkpoint.wire.entries import Base, Entry, JsonText, Rollback, Update

V = TypeVar("V")


def texts_of(entry: Entry) -> Mapping[str, JsonText]:
    """Return the JSON texts that `entry` sets, by key; none for a mark or a pin."""
    match entry:
        case Update():
            return entry.changed
        case Base() | Rollback():
            return entry.state
    return {}


def apply(values: dict[str, V], entry: Entry, new: Mapping[str, V]) -> bool:
    """Apply `entry` to `values`; return False for a mark or a pin, which changes nothing.

    `new` holds the values of `texts_of(entry)`, as texts or in another form. Remaining keys keep their order; only a
    rollback sets the order of all keys.
    """
    match entry:
        case Update():  # first, because it is by far the most frequent
            for key in entry.removed:
                values.pop(key, None)
        case Base():
            for key in values.keys() - new.keys():
                del values[key]
        case Rollback():
            values.clear()
        case _:
            return False
    values.update(new)
    return True
