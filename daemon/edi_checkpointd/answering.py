"""Answering: the one thread that reads for others, and how what it found comes back to the intake thread.

It reads files and, over a connection of its own, the journal; it changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from edi_checkpoint import protocol
from edi_checkpoint.errors import EdiCheckpointError, ProtocolError
from edi_checkpointd.journal import JournalDamaged
from edi_checkpointd.listener import Listener, Peer, refusal

T = TypeVar("T")

QUESTIONS_MAX = 256  # of one connection that wait for their answers


class Answering:
    """Does what is asked one after another; called in the intake thread."""

    def __init__(
        self, listener: Listener, post: Callable[[Callable[[], None]], None], damaged: Callable[[JournalDamaged], None]
    ) -> None:
        """`post` has a call made in the intake thread; `damaged` is told of a journal that was found to be so."""
        self._listener = listener
        self._post = post
        self._damaged = damaged
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="requests")

    def later(self, routing_id: bytes, request: int, ask: Callable[[], protocol.Answer]) -> None:
        """Have a question answered, or its error told. Raises `ProtocolError` when too many of one peer wait."""
        if (peer := self._listener.peers.get(routing_id)) is None:
            return
        if peer.asked >= QUESTIONS_MAX:
            raise ProtocolError(f"{QUESTIONS_MAX} questions wait for their answers", hint="ask again when one has come")
        peer.asked += 1
        self.aside(ask, lambda outcome: self._tell(peer, routing_id, request, outcome))

    def aside(self, work: Callable[[], T], then: Callable[[T | EdiCheckpointError], None]) -> None:
        """Have `work` done where questions are answered, and its outcome told in the intake thread."""

        def do() -> None:
            outcome = _outcome(work)
            self._post(lambda: then(outcome))

        with contextlib.suppress(RuntimeError):  # closed: what is left undone, the next start does
            self._thread.submit(do)

    def close(self) -> None:
        """Let what was asked come to its end."""
        self._thread.shutdown(wait=True)

    def _tell(
        self, peer: Peer, routing_id: bytes, request: int, outcome: protocol.DaemonMessage | EdiCheckpointError
    ) -> None:
        peer.asked -= 1
        if isinstance(outcome, JournalDamaged):
            self._damaged(outcome)
        self._listener.send(
            routing_id, refusal(outcome, request) if isinstance(outcome, EdiCheckpointError) else outcome
        )


def _outcome(work: Callable[[], T]) -> T | EdiCheckpointError:
    try:
        return work()
    except EdiCheckpointError as error:
        return error
    except OSError as error:
        return EdiCheckpointError(str(error))
