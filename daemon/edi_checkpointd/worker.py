"""A thread that does what it is given, one piece after the other, and reports to the loop's thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpointd.mailbox import Mailbox

T = TypeVar("T")


class Worker:
    """One thread with a queue. Any thread may give it work."""

    def __init__(self, name: str, mailbox: Mailbox) -> None:
        """Start no thread yet; the first piece of work does. `name` stands in front of the thread's number."""
        self._mailbox = mailbox
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        """Queue `work`. After `close` it is dropped: the next start finds what is left undone, and does it."""
        with contextlib.suppress(RuntimeError):
            self._pool.submit(work, *arguments)

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Queue `work` and return the future of its result."""
        return self._pool.submit(work)

    def ask(self, work: Callable[[], T], then: Callable[[T | EdiCheckpointError], None]) -> None:
        """Queue `work`, and have `then` called in the loop's thread with its result or its error."""

        def do() -> None:
            outcome = _outcome(work)
            self.report(lambda: then(outcome))

        self.submit(do)

    def report(self, call: Callable[[], None]) -> None:
        """Have `call` made in the loop's thread."""
        self._mailbox.post(call)

    def close(self, within_s: float | None = None) -> None:
        """Finish what is queued, as far as `within_s` allows (None: all of it), then end the thread."""
        with contextlib.suppress(TimeoutError):
            self._pool.submit(lambda: None).result(within_s)
        self._pool.shutdown(wait=True, cancel_futures=True)


def _outcome(work: Callable[[], T]) -> T | EdiCheckpointError:
    try:
        return work()
    except EdiCheckpointError as error:
        return error
    except OSError as error:
        return EdiCheckpointError(str(error))
