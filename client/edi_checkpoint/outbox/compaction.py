"""Compaction: fewer entries in place of many unsent ones, with the same state at each transition and mark.

A run of updates between two transitions or marks becomes one update. Its `covers` counts the entries that it merges.
The history within a run is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edi_checkpoint.wire.entries import Base, JsonText, Mark, Pin, Rollback, Update, decode_entry, encode_entry
from edi_checkpoint.wire.records import ENTRY_MAX_BYTES, Record, pack
from edi_checkpoint.wire.references import Attachment, digests_in

TRANSITION_KEYS = frozenset({"current_stage", "status", "current_iteration", "attempt"})


def compact(records: Iterable[Record]) -> Iterator[bytes]:
    """Yield the compacted records of one stream; `records` are in order and have each number once."""
    run = _Run()
    for number, data, _ in records:
        entry = decode_entry(data)
        if isinstance(entry, Mark | Rollback | Pin):
            yield from run.end()
            yield pack(number, data)
            continue
        is_transition = isinstance(entry, Update) and not TRANSITION_KEYS.isdisjoint(entry.changed)
        if is_transition or run.bytes + len(data) > ENTRY_MAX_BYTES:
            yield from run.end()  # the daemon may checkpoint the state before a transition
        run.add(number, entry, len(data))
        if is_transition:
            yield from run.end()
    yield from run.end()


class _Run:
    """Merges updates and bases, until `end` yields the record of the one entry that they become."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._changed: dict[str, JsonText] = {}
        self._removed: dict[str, None] = {}
        self._is_base = False
        self._attachments: dict[str, Attachment] = {}
        self.bytes = 0  # of the added entries; the merged entry is no larger
        self._first = self._number = self._time_us = 0
        self._reason: str | None = None

    def add(self, number: int, entry: Update | Base, size: int) -> None:
        if isinstance(entry, Base):
            self._changed, self._removed, self._is_base = dict(entry.state), {}, True
        else:
            for key in entry.removed:
                self._changed.pop(key, None)
                self._removed[key] = None
            self._changed |= entry.changed
            self._reason = entry.reason
        if entry.attachments:  # those of replaced values are dropped at once, because they are large
            self._attachments |= entry.attachments
            self._attachments = self._named()
        self.bytes += size
        self._first = self._first or number - entry.covers
        self._number, self._time_us = number, entry.time_us

    def _named(self) -> dict[str, Attachment]:
        """Return the attachments that the values still name."""
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
