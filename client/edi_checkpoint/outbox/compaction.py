"""Compaction: a long row of unsent entries made short without changing what they lead to.

Runs of updates between two transitions or marks become one update, which says how many numbers it stands for
(`covers`). Every state at a transition or mark is as it was, and so is the last; what is lost is the history between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edi_checkpoint.wire.entries import Base, JsonText, Mark, Pin, Rollback, Update, decode_entry, encode_entry
from edi_checkpoint.wire.records import ENTRY_MAX_BYTES, Record, pack
from edi_checkpoint.wire.references import Attachment, digests_in

TRANSITION_KEYS = frozenset({"current_stage", "status", "current_iteration", "attempt"})


def compact(records: Iterable[Record]) -> Iterator[bytes]:
    """Yield the records that stand for `records` of one stream (in order, each number once)."""
    run = _Run()
    for number, data, _ in records:
        entry = decode_entry(data)
        if isinstance(entry, Mark | Rollback | Pin):
            yield from run.end()
            yield pack(number, data)
            continue
        if run.bytes + len(data) > ENTRY_MAX_BYTES:
            yield from run.end()
        if isinstance(entry, Update) and not TRANSITION_KEYS.isdisjoint(entry.changed):
            yield from run.end()  # what stood before this transition is photographed just before it
            run.add(number, entry, len(data))
            yield from run.end()
            continue
        run.add(number, entry, len(data))
    yield from run.end()


class _Run:
    """Updates and bases taken together, until `end` gives the one entry that stands for them."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._changed: dict[str, JsonText] = {}
        self._removed: dict[str, None] = {}
        self._is_base = False
        self._attachments: dict[str, Attachment] = {}
        self.bytes = 0  # of the entries within: what stands for them has no more
        self._first = self._number = self._time_us = 0
        self._reason: str | None = None

    def add(self, number: int, entry: Update | Base, size: int) -> None:
        if isinstance(entry, Base):
            self._changed, self._removed, self._is_base = dict(entry.state), {}, True
        else:
            for key in entry.removed:
                self._changed.pop(key, None)
                self._removed[key] = None
            for key, text in entry.changed.items():
                self._changed[key] = text
            self._reason = entry.reason
        if entry.attachments:  # those of values that have been replaced go at once: many pictures do not fit here
            self._attachments |= entry.attachments
            self._attachments = self._named()
        self.bytes += size
        self._first = self._first or number - entry.covers
        self._number, self._time_us = number, entry.time_us

    def _named(self) -> dict[str, Attachment]:
        """Return what was carried and the values still name."""
        named = set[str]().union(*map(digests_in, self._changed.values())) if self._attachments else set()
        return {digest: self._attachments[digest] for digest in self._attachments.keys() & named}

    def end(self) -> Iterator[bytes]:
        if not self._number:
            return
        covers = self._number - self._first
        entry: Update | Base
        if self._is_base:
            entry = Base(self._time_us, self._changed, covers, self._named())
        else:
            removed = tuple(key for key in self._removed if key not in self._changed)
            entry = Update(self._time_us, self._changed, removed, self._reason, covers, self._named())
        yield pack(self._number, encode_entry(entry))
        self._clear()
