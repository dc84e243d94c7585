"""A session's state as a value, and how entries change it. No clock, no disk, no lock.

Live traffic, a drained outbox and the journal's replay all go through `read` and `fold`, so replay equals live. What an
entry does to the values is defined in `edi_checkpoint.wire.fold`; `fold` here adds the position and the moments.
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
    """The state of a session after the entry `sequence`; never changed, so any thread may read it.

    `changed` is the sequence of the newest entry that changed a value (a mark does not), `streams` the highest number
    contained of each stream whose outbox may still lie there, `time_us` the newest entry's time.
    """

    sequence: int = 0
    changed: int = 0
    time_us: int = 0
    fragments: Mapping[str, Fragment] = field(default_factory=lambda: _EMPTY)
    streams: Mapping[str, int] = field(default_factory=dict)


class Snapshot(msgspec.Struct, frozen=True):
    """A whole state as the journal keeps it: fragments' texts by key, and what `State` says of them.

    `settled`: all checkpoints that were wished for up to here are written, so that a start need not go further back.
    """

    changed: int
    time_us: int
    fragments: dict[str, bytes]
    streams: dict[str, int]
    settled: bool = False


class ValidEntry(NamedTuple):
    """One entry, validated: its number in the stream and the fragments of the values it sets."""

    number: int
    entry: Entry
    fragments: dict[str, Fragment]


class MarkMoment(NamedTuple):
    """Somebody wished for a checkpoint of `state`, by the entry `number` of its stream."""

    state: State
    number: int
    mark: Mark


class RollbackMoment(NamedTuple):
    """Somebody went back, by the entry `number` of a stream: from the state `before` to the state `after`."""

    before: State
    after: State
    number: int
    reason: str


class PinMoment(NamedTuple):
    """Somebody pinned a checkpoint or noted something at it, by the entry `number` of a stream."""

    state: State
    number: int
    pin: Pin


class TransitionMoment(NamedTuple):
    """A key that matters changed; `before` is the state without that change."""

    before: State
    rule: str
    reason: str | None
    time_us: int


Moment = MarkMoment | RollbackMoment | PinMoment | TransitionMoment


def read(records: Sequence[Record]) -> list[ValidEntry]:
    """Validate the entries of `records` and lay out their values. Raises `ProtocolError` naming number and fault."""
    prepared: list[ValidEntry] = []
    known: set[str] = set()  # keys looked at already: a frame mostly sets the same few
    number = 0
    try:
        for number, data, _ in records:
            entry = decode_entry(data)
            prepared.append(ValidEntry(number, entry, _fragments(entry, known)))
    except ProtocolError as error:
        raise ProtocolError(f"entry {number}: {error}", hint=error.hint) from error
    return prepared


def _fragments(entry: Entry, known: set[str]) -> dict[str, Fragment]:
    texts = texts_of(entry)
    for key in texts:
        if key not in known:
            if not key or len(key.encode()) > KEY_MAX_BYTES or key == RESERVED:
                raise ProtocolError(f"key {key[:80]!r} cannot be one of a state")
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
        if isinstance(entry, Update):  # the first, since it is by far the most frequent
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
    """Return `state` as the journal keeps it."""
    texts = {key: value.text for key, value in state.fragments.items()}
    return Snapshot(state.changed, state.time_us, texts, dict(state.streams), settled)


def state_at(found: tuple[int, Snapshot] | None) -> State:
    """Return the state of a snapshot, given with its sequence; the empty one without."""
    if found is None:
        return State()
    sequence, snapshot = found
    fragments = {key: Fragment(text) for key, text in snapshot.fragments.items()}
    return State(sequence, snapshot.changed, snapshot.time_us, fragments, snapshot.streams)


def state_of(document: Document) -> State:
    """Return the state that a parsed document holds."""
    header = document.header
    fragments = {key: fragment(text) for key, text in document.values.items()}
    return State(header.sequence, header.sequence, to_us(header.timestamp), fragments, dict(header.streams))
