"""A session's state as an immutable value, and how entries change it. It uses no clock, disk or lock.

Live frames, drained outboxes and the journal's replay all use `read` and `fold`, so a replay gives the same state.
`edi_checkpoint.wire.fold` defines what an entry does to the values; `fold` here adds the position and the moments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from edi_checkpoint.documents.fragments import Fragment, fragment
from edi_checkpoint.documents.layout import RESERVED
from edi_checkpoint.documents.reader import Document
from edi_checkpoint.errors import ProtocolError
from edi_checkpoint.wire.entries import Base, Entry, Mark, Pin, Rollback, Update, decode_entry
from edi_checkpoint.wire.fold import apply, texts_of
from edi_checkpoint.wire.records import Record
from edi_checkpointd.system.clock import to_us

_EMPTY: Mapping[str, Fragment] = MappingProxyType({})
KEY_MAX_BYTES = 1024


@dataclass(frozen=True, slots=True)
class State:
    """The state of a session after the entry `sequence`. It is never changed, so any thread may read it.

    `changed` is the sequence of the newest entry that changed a value (a mark does not). `time_us` is the newest
    entry's time. `streams` has the highest number that the state contains, for each stream whose outbox may exist.
    """

    sequence: int = 0
    changed: int = 0
    time_us: int = 0
    fragments: Mapping[str, Fragment] = field(default_factory=lambda: _EMPTY)
    streams: Mapping[str, int] = field(default_factory=dict)


class Snapshot(msgspec.Struct, frozen=True):
    """A whole state as the journal stores it: the fragments' texts by key, and the other fields of `State`.

    `settled`: all checkpoints for moments up to here are written, so that a start need not replay earlier rows.
    """

    changed: int
    time_us: int
    fragments: dict[str, bytes]
    streams: dict[str, int]
    settled: bool = False


class ValidEntry(NamedTuple):
    """A validated entry, its number in the stream, and the fragments of the values that it sets."""

    number: int
    entry: Entry
    fragments: dict[str, Fragment]


class MarkMoment(NamedTuple):
    """The entry `number` of a stream is a mark: it asks for a checkpoint of `state`."""

    state: State
    number: int
    mark: Mark


class RollbackMoment(NamedTuple):
    """The entry `number` of a stream is a rollback, from the state `before` to the state `after`."""

    before: State
    after: State
    number: int
    reason: str


class PinMoment(NamedTuple):
    """The entry `number` of a stream pins a checkpoint, or adds a note to it."""

    state: State
    number: int
    pin: Pin


class TransitionMoment(NamedTuple):
    """A transition: a key of the setting `transition_keys` changed. `before` is the state before the change."""

    before: State
    rule: str
    reason: str | None
    time_us: int


Moment = MarkMoment | RollbackMoment | PinMoment | TransitionMoment


def read(records: Sequence[Record]) -> list[ValidEntry]:
    """Return the entries of `records`, validated, with fragments. Raises `ProtocolError` with number and fault."""
    valid: list[ValidEntry] = []
    known: set[str] = set()  # keys that were checked already: most entries of a frame set the same few
    number = 0
    try:
        for number, data, _ in records:
            entry = decode_entry(data)
            valid.append(ValidEntry(number, entry, _fragments(entry, known)))
    except ProtocolError as error:
        raise ProtocolError(f"entry {number}: {error}", hint=error.hint) from error
    return valid


def _fragments(entry: Entry, known: set[str]) -> dict[str, Fragment]:
    texts = texts_of(entry)
    for key in texts:
        if key not in known:
            if not key or len(key.encode()) > KEY_MAX_BYTES or key == RESERVED:
                raise ProtocolError(f"the key {key[:80]!r} is not allowed")
            known.add(key)
    return {key: fragment(text) for key, text in texts.items()}


def fold(
    state: State, stream: str, entries: Sequence[ValidEntry], transition_keys: Collection[str]
) -> tuple[State, list[Moment]]:
    """Return the state after `entries` of `stream`, and the moments at which a checkpoint may be wanted, in order."""
    fragments = dict(state.fragments)
    sequence, changed, time_us, number = state.sequence, state.changed, state.time_us, state.streams.get(stream, 0)
    moments: list[Moment] = []

    def here() -> State:
        return State(sequence, changed, time_us, dict(fragments), {**state.streams, stream: number})

    for at, entry, new in entries:
        before, reason = None, None
        removed: Collection[str] = ()
        if isinstance(entry, Update):  # tested first, since most entries are updates
            removed, reason = entry.removed, entry.reason
        elif isinstance(entry, Base):
            removed = fragments.keys() - new.keys()
        elif isinstance(entry, Rollback):
            before = here()
        if before is None:
            for key in transition_keys:
                if (key in new and fragments.get(key) != new[key]) or (key in removed and key in fragments):
                    moments.append(TransitionMoment(here(), key, reason, entry.time_us))
                    break
        sequence, number = sequence + 1, at
        if entry.time_us > time_us:  # `max` takes three times as long
            time_us = entry.time_us
        if apply(fragments, entry, new):
            changed = sequence
            if before is not None and isinstance(entry, Rollback):
                moments.append(RollbackMoment(before, here(), at, entry.reason))
        elif isinstance(entry, Mark):
            moments.append(MarkMoment(here(), at, entry))
        elif isinstance(entry, Pin):
            moments.append(PinMoment(here(), at, entry))
    return here(), moments


def snapshot_of(state: State, *, settled: bool = False) -> Snapshot:
    """Return `state` as the journal stores it."""
    texts = {key: value.text for key, value in state.fragments.items()}
    return Snapshot(state.changed, state.time_us, texts, dict(state.streams), settled)


def state_at(found: tuple[int, Snapshot] | None) -> State:
    """Return the state of a snapshot and its sequence; the empty state if there is none."""
    if found is None:
        return State()
    sequence, snapshot = found
    fragments = {key: Fragment(text) for key, text in snapshot.fragments.items()}
    return State(sequence, snapshot.changed, snapshot.time_us, fragments, snapshot.streams)


def state_of(document: Document) -> State:
    """Return the state in a document."""
    header = document.header
    fragments = {key: fragment(text) for key, text in document.values.items()}
    return State(header.sequence, header.sequence, to_us(header.timestamp), fragments, dict(header.streams))
