"""A queue for the main thread, in which a signal is handled at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from types import TracebackType
from typing import Generic, Self, TypeVar

_T = TypeVar("_T")


class SignalQueue(Generic[_T]):
    """What other threads and signal handlers put, for the main thread to get.

    Python runs a handler when the main thread takes its next step. A signal that comes just before the thread waits in
    a `SimpleQueue`, or that another thread takes, does not end that wait. Here the thread waits for a pipe, and Python
    writes a byte into it for each signal.
    """

    def __init__(self) -> None:
        """Open the pipe. Raises OSError when no descriptors are left."""
        self._items: deque[_T] = deque()
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)
        self._before = -1

    def __enter__(self) -> Self:
        """Have signals end the wait; for the main thread alone."""
        self._before = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the pipe; what is put from now on is never got."""
        signal.set_wakeup_fd(self._before)
        for fd in (self._read_fd, self._write_fd):
            os.close(fd)
        self._read_fd = self._write_fd = -1

    def put(self, item: _T) -> None:
        """Add `item`; from any thread, also in a signal handler."""
        self._items.append(item)
        with contextlib.suppress(OSError):  # full: the thread is woken already; closed: nobody waits any more
            os.write(self._write_fd, b"\0")

    def get(self) -> _T:
        """Return the oldest item; wait until there is one."""
        while not self._items:
            os.read(self._read_fd, 4096)
        return self._items.popleft()
