"""A file descriptor with which one thread wakes another from its poll."""

from __future__ import annotations

import contextlib
import os


class Wakeup:
    """An eventfd (Linux), else a pipe: `fd` is readable from `set` until `clear`. Never blocks."""

    def __init__(self) -> None:
        """Open the descriptors. Raises OSError when the process has too many."""
        if hasattr(os, "eventfd"):
            self.fd = self._write_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:  # pragma: no cover - macOS
            self.fd, self._write_fd = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write_fd, False)

    def set(self) -> None:
        """Make `fd` readable. Any thread may call it, also after `close`."""
        try:  # noqa: SIM105 - contextlib.suppress costs as much as the write
            os.write(self._write_fd, b"\x01\0\0\0\0\0\0\0")
        except OSError:  # full, so it is readable already; or closed, so no thread polls it
            pass

    def clear(self) -> None:
        """Make `fd` unreadable until the next `set`."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def close(self) -> None:
        """Close the descriptors."""
        for fd in {self.fd, self._write_fd}:
            os.close(fd)
        self.fd = self._write_fd = -1
