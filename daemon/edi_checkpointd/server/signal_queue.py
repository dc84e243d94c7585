"""A queue that the main thread waits for; a signal ends the wait at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from typing import Generic, Self, TypeVar

_T = TypeVar("_T")


class SignalQueue(Generic[_T]):
    """Items that other threads and signal handlers put, and the main thread gets.

    Python runs a signal handler when the main thread executes its next instruction. If a signal comes just before the
    thread waits in a `SimpleQueue`, or another thread receives it, the wait does not end. Here the thread waits for a
    pipe, and Python writes a byte into it for each signal.
    """

    def __init__(self) -> None:
        """Open the pipe. Raises OSError when no descriptors are left."""
        self._items: deque[_T] = deque()
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)
        self._before = -1

    def __enter__(self) -> Self:
        """Let signals end the wait; only the main thread may do this."""
        self._before = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pipe; items that are put from now on are ignored."""
        signal.set_wakeup_fd(self._before)
        for fd in (self._read_fd, self._write_fd):
            os.close(fd)
        self._read_fd = self._write_fd = -1

    def put(self, item: _T) -> None:
        """Add `item`; safe in any thread and in a signal handler."""
        self._items.append(item)
        with contextlib.suppress(OSError):  # full: the thread wakes up anyway; closed: it waits no longer
            os.write(self._write_fd, b"\0")

    def get(self) -> _T:
        """Return the oldest item; wait until there is one."""
        while not self._items:
            os.read(self._read_fd, 4096)
        return self._items.popleft()
