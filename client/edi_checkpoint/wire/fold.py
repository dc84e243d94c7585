"""The fold: how an entry changes the values of a session. This is the one definition, for client and daemon.

A client without a daemon folds the JSON texts of the entries. The daemon folds fragments: the same texts, laid out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from edi_checkpoint.wire.entries import Base, Entry, JsonText, Rollback, Update

V = TypeVar("V")


def texts_of(entry: Entry) -> Mapping[str, JsonText]:
    """Return the JSON texts that `entry` sets, by key; marks and pins set none."""
    match entry:
        case Update():
            return entry.changed
        case Base() | Rollback():
            return entry.state
    return {}


def apply(values: dict[str, V], entry: Entry, new: Mapping[str, V]) -> bool:
    """Change `values` as `entry` says; return False for marks and pins, which change nothing.

    `new` holds the values of `texts_of(entry)`, as they are or in another form. Keys that stay keep their place; only
    a rollback sets the order of all keys.
    """
    match entry:
        case Update():  # the first, since it is by far the most frequent
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
