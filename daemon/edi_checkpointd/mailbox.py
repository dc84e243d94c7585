"""The mailbox of the loop's thread: other threads post calls, and the loop makes them between two batches."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable

from edi_checkpoint.wakeup import Wakeup


class Mailbox:
    """Calls that wait for the loop. `fd` is readable from a post until `clear`; the loop polls it beside its socket."""

    def __init__(self) -> None:
        """Open the descriptor. Raises OSError when none are left."""
        self._wakeup = Wakeup()
        self._calls: deque[Callable[[], None]] = deque()
        self._failure: Exception | None = None
        self.fd = self._wakeup.fd

    def post(self, call: Callable[[], None]) -> None:
        """Have `call` made in the loop's thread. Any thread may post."""
        self._calls.append(call)
        self._wakeup.set()

    def fail(self, error: Exception) -> None:
        """Have the loop raise `error`. Any thread may report one."""
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
        """Make `fd` unreadable until something is posted again."""
        self._wakeup.clear()

    def run(self) -> None:
        """Make the calls that wait, in the loop's thread; one that is posted meanwhile waits for the next run.

        Raises what `fail` reported.
        """
        self._make_calls()
        if self._failure is not None:
            raise self._failure

    def close(self, ignored: type[Exception]) -> None:
        """Make the calls that still wait, then close the descriptor. An `ignored` error of a call is dropped."""
        while self._calls:
            with contextlib.suppress(ignored):
                self._calls.popleft()()
        self._wakeup.close()

    def _make_calls(self) -> None:
        for _ in range(len(self._calls)):
            self._calls.popleft()()
