"""A ledger on a journal, without daemon, socket and files, and a coordinator whose wishes tests read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edi_checkpointd.attachments.store import AttachmentStore
from edi_checkpointd.checkpoints.coordinator import Coordinator
from edi_checkpointd.checkpoints.policy import Amendment, Wish
from edi_checkpointd.config import Config, LiveConfig
from edi_checkpointd.journal import Journal
from edi_checkpointd.sessions.feed import Feed
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.sessions.loading import SessionLoader
from edi_checkpointd.sessions.session import Files, OpenSession, WriterStream
from edi_checkpointd.system.clock import Clock


class ToldFiles:
    """The documents of a session, given by a test."""

    def __init__(self, files: Files | None = None) -> None:
        self._files = files or Files()

    def prepare(self, session_id: str) -> None:
        pass

    def tell(self, session_id: str, sequence: int) -> Files:
        return self._files


def ledger_on(journal: Journal, attachments: AttachmentStore, clock: Clock, files: Files | None = None) -> Ledger:
    config = LiveConfig(Config())
    return Ledger(journal, attachments, SessionLoader(journal, ToldFiles(files), clock, config), clock, config)


class NoTimers:
    """Timers that never fire."""

    pending: frozenset[str] = frozenset()

    def after(self, delay_s: float, name: str, call: Callable[[], None]) -> None:
        pass


class NoUpkeep:
    """Upkeep that does nothing."""

    def grew(self, session: OpenSession) -> None:
        pass


class Orders:
    """A checkpoint writer that writes no files; it only records the wishes."""

    def __init__(self) -> None:
        self.wishes: list[Wish | Amendment] = []

    def checkpoint(self, subject: object, wish: Wish | Amendment, tell: object) -> bool:
        self.wishes.append(wish)
        return True

    def taken(self) -> list[Wish | Amendment]:
        wishes, self.wishes = self.wishes, []
        return wishes


class Decided:
    """A ledger and its coordinator: committed entries lead to wishes."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.journal = ledger.journal
        self._orders = Orders()
        parts: tuple[Any, ...] = (ledger, NoTimers(), self._orders, NoUpkeep(), None, Feed(ledger.clock), ledger.clock)
        self._coordinator = Coordinator(*parts, lambda *_: None)

    def session(self, session_id: str = "s") -> tuple[OpenSession, list[Wish | Amendment]]:
        if session_id in self.ledger.sessions:
            return self.ledger.sessions[session_id], []
        opened = self.ledger.open(session_id)
        self._coordinator.opened(opened)
        return opened.session, self._orders.taken()

    def stream(self, stream_id: str, session_id: str = "s") -> WriterStream:
        return self.ledger.attach(self.session(session_id)[0], stream_id)

    def take(self, stream: WriterStream, data: bytes) -> list[Wish | Amendment]:
        self.ledger.accept(stream, data)
        for change in self.ledger.commit().changes:
            self._coordinator.committed(change.session, change.moments)
        return self._orders.taken()

    def has_point(self, session: OpenSession) -> bool:
        return self._coordinator.has_point(session)
