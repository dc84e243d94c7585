"""The feed: what happens in the daemon, for those who watch; nothing is kept while nobody does.

Who watches asks for what follows the last number it has had, and is answered when there is something. So one answer at
most is under way to each, whoever is slow is waited for by nobody, and what it missed is a difference of two numbers.
Used by the intake thread alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from uuid import uuid4

from edi_checkpoint.documents.fragments import stage_of
from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.model import CheckpointInfo, Event
from edi_checkpoint.wire.entries import Base, Entry, Rollback, Update
from edi_checkpoint.wire.messages import Events, Subscribe
from edi_checkpointd.sessions.session import OpenSession
from edi_checkpointd.state import ValidEntry
from edi_checkpointd.system.clock import Clock

HELD_EVENTS = 512  # for who is slow; older ones are missed
ANSWER_EVENTS = 128
SUBSCRIBERS_MAX = 64
LAPSE_S = 60.0  # nobody asked for so long: nobody watches
DETAIL_MAX = 200  # characters
KEYS_TOLD = 5  # of an update


class SubscribersFull(EdiCheckpointError):
    """So many watch already that no other may."""

    code = "subscribers_full"
    default_hint = "end one of the `edi-checkpoint watch` that run"


class Feed:
    """The newest events, numbered, and who waits for the next."""

    def __init__(self, clock: Clock) -> None:
        """Nobody watches yet."""
        self._clock = clock
        self._id = ""
        self._held: deque[Event] = deque(maxlen=HELD_EVENTS)
        self._number = 0  # of the newest event
        self._waiting: dict[bytes, Subscribe] = {}
        self._lapse_at_s = 0.0

    # -- what happens ------------------------------------------------------------------------------------------------

    def entries(self, committed: Iterable[tuple[OpenSession, Sequence[ValidEntry]]]) -> None:
        """Tell of the entries that one commit made durable: of each session its changes together, and going back."""
        if not self._id:
            return
        taken: dict[str, tuple[OpenSession, list[Entry]]] = {}
        for session, prepared in committed:
            taken.setdefault(session.session_id, (session, []))[1].extend(entry for _, entry, _ in prepared)
        for session, entries in taken.values():
            changes = [entry for entry in entries if isinstance(entry, Update | Base)]
            if changes:
                self._session(session, "update", detail=_named(changes), entries=len(changes))
            for entry in entries:
                if isinstance(entry, Rollback):
                    self._session(session, "rollback", detail=entry.reason)

    def condition(self, session: OpenSession, condition: str) -> None:
        """Tell that a writer has come or left."""
        self._session(session, "condition", name=condition)

    def checkpoint(self, info: CheckpointInfo, *, amended: bool) -> None:
        """Tell of a checkpoint that is written, or amended."""
        detail = "amended" if amended else f"{info.kind}: {info.reason}"
        self._tell("checkpoint", info.session_id, info.sequence, info.name, info.stage, detail)

    def fault(self, code: str, message: str, session_id: str | None = None) -> None:
        """Tell of something that was refused or failed."""
        self._tell("fault", session_id, None, code, None, message)

    def _session(
        self, session: OpenSession, event: str, *, name: str | None = None, detail: str = "", entries: int | None = None
    ) -> None:
        state = session.state
        self._tell(event, session.session_id, state.sequence, name, stage_of(state.fragments), detail, entries)

    def _tell(
        self,
        event: str,
        session_id: str | None,
        sequence: int | None,
        name: str | None,
        stage: str | None,
        detail: str,
        entries: int | None = None,
    ) -> None:
        if self._id:
            now, told = self._clock.now(), detail[:DETAIL_MAX] or None
            self._number += 1
            self._held.append(Event(event, session_id, sequence, now, name, stage, told, entries))

    # -- who watches -------------------------------------------------------------------------------------------------

    def subscribe(self, subscriber: bytes, message: Subscribe) -> None:
        """Take a wish for the events after a number; it replaces an earlier one. Raises `SubscribersFull`."""
        if len(self._waiting) >= SUBSCRIBERS_MAX and subscriber not in self._waiting:
            raise SubscribersFull(f"{SUBSCRIBERS_MAX} watch already")
        if not self._id:
            self._id = uuid4().hex
        self._waiting[subscriber] = message

    def answers(self) -> Iterator[tuple[bytes, Events]]:
        """Yield what is to be sent now; whoever is told has to ask again."""
        if not self._id:
            return
        answered = False
        for subscriber, wish in list(self._waiting.items()):
            if wish.feed == self._id and wish.after >= self._number:
                continue
            del self._waiting[subscriber]
            answered = True
            yield subscriber, self._answer(wish)
        now_s = self._clock.monotonic_s()
        if self._waiting or answered:
            self._lapse_at_s = now_s + LAPSE_S
        elif now_s >= self._lapse_at_s:
            self._id, self._number = "", 0
            self._held.clear()

    def _answer(self, wish: Subscribe) -> Events:
        if wish.feed != self._id:  # a new watcher, or one of another daemon: from now on
            return Events(wish.request, self._id, self._number)
        oldest = self._number - len(self._held)
        after = max(wish.after, oldest)
        start = after - oldest
        events = [self._held[at] for at in range(start, min(start + ANSWER_EVENTS, len(self._held)))]
        return Events(wish.request, self._id, after + len(events), events, after - wish.after)


def _named(changes: Iterable[Update | Base]) -> str:
    """Return the keys of changes, the first few by name."""
    keys = list(dict.fromkeys(key for entry in changes for key in _keys(entry)))
    more = f" and {len(keys) - KEYS_TOLD} more" if len(keys) > KEYS_TOLD else ""
    return ", ".join(keys[:KEYS_TOLD]) + more


def _keys(entry: Update | Base) -> Sequence[str]:
    return tuple(entry.state) if isinstance(entry, Base) else (*entry.changed, *entry.removed)
