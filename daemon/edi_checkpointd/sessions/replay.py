"""Replay: computes the state after a session's rows, the same as live traffic did, four times as fast.

This is an optimisation of `state.fold` for a start. Most entries only set values: for these, `Replay` keeps the last
text of each key and lays it out once, when a state is needed. Every entry that removes a key, or that may lead to a
checkpoint, goes through `read` and `fold`. Property tests compare both ways, state and moments, on any entries.
"""

from __future__ import annotations

from collections.abc import Collection

from edi_checkpoint.documents.fragments import fragment
from edi_checkpoint.wire.entries import JsonText, Update, decode_entries
from edi_checkpointd.journal import Frame
from edi_checkpointd.state import Moment, State, fold, read


class Replay:
    """A state, and the rows that follow it, added in order and without a gap."""

    def __init__(self, state: State, transition_keys: Collection[str]) -> None:
        self._state = state
        self._transition_keys = transition_keys  # in their order: the first that changed is the rule
        self._no_transition = frozenset(transition_keys).isdisjoint
        self.sequence = state.sequence
        self._latest: dict[str, JsonText] = {}  # set since `_state`
        self._time_us = state.time_us
        self._streams = dict(state.streams)

    @property
    def state(self) -> State:
        """The state after all rows added. Raises `ProtocolError` for an invalid value."""
        if self.sequence > self._state.sequence:
            new = {key: fragment(text) for key, text in self._latest.items()}
            self._latest, fragments = {}, {**self._state.fragments, **new}
            self._state = State(self.sequence, self.sequence, self._time_us, fragments, dict(self._streams))
        return self._state

    def add(self, frame: Frame) -> list[Moment]:
        """Add the entries of a row that the state lacks, and return their moments, as `fold` does.

        Raises `JournalDamaged`, `ProtocolError`.
        """
        entries, number = frame.entries()
        known = max(0, self.sequence + 1 - frame.first)
        updates = self._plain_updates(entries[known:])
        if updates is None:
            new = read(frame.scanned()[known:])
            self._state, moments = fold(self.state, frame.stream, new, self._transition_keys)
            self.sequence, self._time_us = self._state.sequence, self._state.time_us
            self._streams = dict(self._state.streams)
            return moments
        for update in updates:
            self._latest.update(update.changed)
        self.sequence += len(updates)
        self._time_us = max(self._time_us, *(update.time_us for update in updates))
        self._streams[frame.stream] = number
        return []

    def _plain_updates(self, entries: list[bytes]) -> list[Update] | None:
        """Return the entries if each only sets keys that are no transition keys, else None."""
        updates: list[Update] = []
        no_transition = self._no_transition
        for entry in decode_entries(entries):
            if not isinstance(entry, Update) or entry.removed or not no_transition(entry.changed):
                return None
            updates.append(entry)
        return updates
