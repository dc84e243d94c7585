"""A descriptor that one thread sets to end another's poll."""

from __future__ import annotations

import contextlib
import os


class Wakeup:
    """An eventfd (Linux), else a pipe: `fd` is readable from `set` until `clear`. Never blocks."""

    def __init__(self) -> None:
        """Open the descriptors; raises OSError when there are none left."""
        if hasattr(os, "eventfd"):
            self.fd = self._write_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:  # pragma: no cover - macOS
            self.fd, self._write_fd = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write_fd, False)

    def set(self) -> None:
        """Make `fd` readable; from any thread, also after `close`."""
        try:  # noqa: SIM105 - contextlib.suppress costs as much as the write
            os.write(self._write_fd, b"\x01\0\0\0\0\0\0\0")
        except OSError:  # full: it is readable already; closed: nobody polls it any more
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
