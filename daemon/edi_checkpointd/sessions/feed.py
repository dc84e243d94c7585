"""The feed: the events of the daemon, for the clients that watch. It keeps no event while no client watches.

A watcher asks for the events after the last number it has received, and gets an answer when there are some. So each
watcher has at most one answer in flight, and a slow watcher blocks nobody. A difference of two numbers is the number of
events that it missed. Only the loop's thread uses the feed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from uuid import uuid4

from edi_checkpoint.documents.fragments import stage_of
from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.model import CheckpointInfo, Event
from edi_checkpoint.wire.entries import Base, Entry, Rollback, Update
from edi_checkpoint.wire.messages import Events, Subscribe
from edi_checkpointd.sessions.session import OpenSession
from edi_checkpointd.state import ValidEntry
from edi_checkpointd.system.clock import Clock

HELD_EVENTS = 512  # a slow watcher misses older ones
ANSWER_EVENTS = 128
SUBSCRIBERS_MAX = 64
LAPSE_S = 60.0  # without a request for so long, no client counts as watching
DETAIL_MAX = 200  # characters
KEYS_NAMED = 5  # of an update


class SubscribersFull(EdiCheckpointError):
    """The limit of watchers is reached."""

    code = "subscribers_full"
    default_hint = "end a running `edi-checkpoint watch`"


class Feed:
    """The newest events, numbered, and the watchers that wait for the next."""

    def __init__(self, clock: Clock) -> None:
        """Start without a watcher and without events."""
        self._clock = clock
        self._id = ""
        self._events: deque[Event] = deque(maxlen=HELD_EVENTS)
        self._number = 0  # of the newest event
        self._waiting: dict[bytes, Subscribe] = {}
        self._lapse_at_s = 0.0

    # -- events ------------------------------------------------------------------------------------------------------

    def entries(self, committed: Iterable[tuple[OpenSession, Sequence[ValidEntry]]]) -> None:
        """Add the entries of one commit: for each session one event for all changes, and one for each rollback."""
        if not self._id:
            return
        by_session: dict[str, tuple[OpenSession, list[Entry]]] = {}
        for session, valid in committed:
            by_session.setdefault(session.session_id, (session, []))[1].extend(entry for _, entry, _ in valid)
        for session, entries in by_session.values():
            changes = [entry for entry in entries if isinstance(entry, Update | Base)]
            if changes:
                self._of_session(session, "update", detail=_key_names(changes), entries=len(changes))
            for entry in entries:
                if isinstance(entry, Rollback):
                    self._of_session(session, "rollback", detail=entry.reason)

    def condition(self, session: OpenSession, condition: str) -> None:
        """Add that a writer attached or left."""
        self._of_session(session, "condition", name=condition)

    def checkpoint(self, info: CheckpointInfo, *, amended: bool) -> None:
        """Add that a checkpoint was written, or amended."""
        detail = "amended" if amended else f"{info.kind}: {info.reason}"
        self._add("checkpoint", info.session_id, info.sequence, info.name, info.stage, detail)

    def fault(self, code: str, message: str, session_id: str | None = None) -> None:
        """Add that something was refused or failed."""
        self._add("fault", session_id, None, code, None, message)

    def _of_session(
        self, session: OpenSession, event: str, *, name: str | None = None, detail: str = "", entries: int | None = None
    ) -> None:
        state = session.state
        self._add(event, session.session_id, state.sequence, name, stage_of(state.fragments), detail, entries)

    def _add(
        self, event: str, session_id: str | None, sequence: int | None, name: str | None, stage: str | None,
        detail: str, entries: int | None = None,
    ) -> None:  # fmt: skip
        if self._id:
            now, detail_max = self._clock.now(), detail[:DETAIL_MAX] or None
            self._number += 1
            self._events.append(Event(event, session_id, sequence, now, name, stage, detail_max, entries))

    # -- watchers ----------------------------------------------------------------------------------------------------

    def subscribe(self, subscriber: bytes, message: Subscribe) -> None:
        """Add a watcher's request for the events after a number, in place of its last. Raises `SubscribersFull`."""
        if len(self._waiting) >= SUBSCRIBERS_MAX and subscriber not in self._waiting:
            raise SubscribersFull(f"{SUBSCRIBERS_MAX} clients watch already")
        if not self._id:
            self._id = uuid4().hex
        self._waiting[subscriber] = message

    def answers(self) -> Iterator[tuple[bytes, Events]]:
        """Yield the answers to send now; each watcher has to ask again for more."""
        if not self._id:
            return
        answered = False
        for subscriber, request in list(self._waiting.items()):
            if request.feed == self._id and request.after >= self._number:
                continue
            del self._waiting[subscriber]
            answered = True
            yield subscriber, self._answer(request)
        now_s = self._clock.monotonic_s()
        if self._waiting or answered:
            self._lapse_at_s = now_s + LAPSE_S
        elif now_s >= self._lapse_at_s:
            self._id, self._number = "", 0
            self._events.clear()

    def _answer(self, request: Subscribe) -> Events:
        if request.feed != self._id:  # a new watcher, or a watcher of an earlier daemon: it gets the events from now on
            return Events(request.request, self._id, self._number)
        oldest = self._number - len(self._events)
        after = max(request.after, oldest)
        events = list(islice(self._events, after - oldest, after - oldest + ANSWER_EVENTS))
        return Events(request.request, self._id, after + len(events), events, after - request.after)


def _key_names(changes: Iterable[Update | Base]) -> str:
    """Return the names of the first few changed keys, and the number of the others."""
    keys = list(dict.fromkeys(key for entry in changes for key in _keys(entry)))
    more = f" and {len(keys) - KEYS_NAMED} more" if len(keys) > KEYS_NAMED else ""
    return ", ".join(keys[:KEYS_NAMED]) + more


def _keys(entry: Update | Base) -> Sequence[str]:
    return tuple(entry.state) if isinstance(entry, Base) else (*entry.changed, *entry.removed)
