"""Send requests to the daemon: check the kind of its answer, and start a daemon for a command that needs one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from edi_checkpoint.errors import DaemonUnavailable, ProtocolError
from edi_checkpoint.wire import messages
from edi_checkpointd.cli.exits import PROGRAM

if TYPE_CHECKING:
    from edi_checkpoint.client import Client

ORDER_TIMEOUT_S = 120.0  # a first clean-up may move hundreds of sessions

Answered = TypeVar("Answered", bound=messages.Answer)


def expect(kind: type[Answered], answer: messages.Answer) -> Answered:
    """Return `answer`, which must be of `kind`. Raises `ProtocolError`."""
    if not isinstance(answer, kind):
        raise ProtocolError(f"answered by {type(answer).__name__}, not by {kind.__name__}")
    return answer


@contextlib.contextmanager
def daemon_client(timeout_s: float = 2.0) -> Iterator[Client]:
    """Give a client that is connected to the daemon; start a daemon if none runs. Raises `DaemonUnavailable`."""
    from edi_checkpoint.client import connect

    with connect(app=PROGRAM, timeout_s=timeout_s) as client:
        if not client.connected:
            raise DaemonUnavailable("this command needs a daemon, and none answers")
        yield client


def order(kind: type[Answered], question: Callable[[int], messages.Order]) -> Answered:
    """Send an order to the daemon and return its answer; start a daemon if none runs.

    Raises `DaemonUnavailable`, and the error that the daemon answers with.
    """
    with daemon_client() as client:
        return expect(kind, client.ask(question, ORDER_TIMEOUT_S))
