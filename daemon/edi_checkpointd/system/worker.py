"""Worker threads, and the mailbox through which other threads reach the loop.

Other threads post calls to the mailbox, and the loop makes these calls between two batches. A worker is a thread with a
queue: it does one piece of work after the other.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.link.wakeup import Wakeup

T = TypeVar("T")


class Mailbox:
    """Calls that wait for the loop. `fd` is readable from a post until `clear`; the loop polls it with its socket."""

    def __init__(self) -> None:
        """Open the descriptor. Raises OSError if none is left."""
        self._wakeup = Wakeup()
        self._calls: deque[Callable[[], None]] = deque()
        self._failure: Exception | None = None
        self.fd = self._wakeup.fd

    def post(self, call: Callable[[], None]) -> None:
        """Make `call` in the loop's thread later. Any thread may post."""
        self._calls.append(call)
        self._wakeup.set()

    def fail(self, error: Exception) -> None:
        """Raise `error` in the loop's thread. Any thread may report one."""
        self._failure = error
        self._wakeup.set()

    def wake(self) -> None:
        """End the loop's wait for messages; safe in a signal handler."""
        self._wakeup.set()

    @property
    def waiting(self) -> bool:
        """Whether calls wait."""
        return bool(self._calls)

    def clear(self) -> None:
        """Make `fd` unreadable until the next post."""
        self._wakeup.clear()

    def run(self) -> None:
        """Make the waiting calls, in the loop's thread. A call that is posted meanwhile waits for the next run.

        Raises the error that `fail` reported.
        """
        for _ in range(len(self._calls)):
            self._calls.popleft()()
        if self._failure is not None:
            raise self._failure

    def close(self, ignored: type[Exception]) -> None:
        """Make the calls that still wait, then close the descriptor. Errors of the type `ignored` are dropped."""
        while self._calls:
            with contextlib.suppress(ignored):
                self._calls.popleft()()
        self._wakeup.close()


class Worker:
    """One thread with a queue. Any thread may give it work."""

    def __init__(self, name: str, mailbox: Mailbox) -> None:
        """Prepare the thread; the first piece of work starts it. Its name is `name` with a number."""
        self._mailbox = mailbox
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        """Queue `work`. After `close` it is dropped: the daemon's next start does the same work."""
        with contextlib.suppress(RuntimeError):
            self._pool.submit(work, *arguments)

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Queue `work` and return the future of its result."""
        return self._pool.submit(work)

    def ask(self, work: Callable[[], T], then: Callable[[T | EdiCheckpointError], None]) -> None:
        """Queue `work`, then call `then` in the loop's thread with its result or its error."""

        def do() -> None:
            outcome = _outcome(work)
            self.report(lambda: then(outcome))

        self.submit(do)

    def report(self, call: Callable[[], None]) -> None:
        """Make `call` in the loop's thread."""
        self._mailbox.post(call)

    def close(self, within_s: float | None = None) -> None:
        """Finish the queued work, for at most `within_s` (None: without a limit), then end the thread."""
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
