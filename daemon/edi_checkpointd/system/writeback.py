"""Sends a large file to the disk part by part while it is being written.

So the fsync at its end is short. And an fsync of the journal in the meantime waits for at most `PARTS_MAX` parts, since
the disk works in order. Nothing here makes data durable.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Final

PART_BYTES: Final = 512 << 10
PARTS_MAX: Final = 3  # on their way to the disk
_PAGE_BYTES = 4096  # parts end at a page's end: a partial page would be written twice

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4  # SYNC_FILE_RANGE_*
_UNAVAILABLE = (errno.ENOSYS, errno.EINVAL, errno.EPERM)  # another kernel, a sandbox: then only the fsync writes


class Writeback:
    """The writeback of one file, which is written from its beginning to its end."""

    def __init__(self, fd: int) -> None:
        """`fd` is open for writing."""
        self._fd = fd
        self._started = 0
        self._parts: deque[tuple[int, int]] = deque()  # parts that the disk may still be writing

    def advance(self, size: int) -> None:
        """Start writing the next part if the file, now of `size` bytes, has one; wait if `PARTS_MAX` are being written.

        Raises OSError if the disk refused a part: the kernel reports it only once, and not again to the fsync.
        """
        if size - self._started < PART_BYTES:
            return
        part = self._started, size // _PAGE_BYTES * _PAGE_BYTES
        _sync(self._fd, *part, _WRITE)
        self._parts.append(part)
        self._started = part[1]
        if len(self._parts) == PARTS_MAX:
            _sync(self._fd, *self._parts.popleft(), _WAIT_BEFORE | _WRITE | _WAIT_AFTER)


def _sync(fd: int, start: int, end: int, how: int) -> None:
    call = _sync_file_range()
    if call is not None and call(fd, start, end - start, how) != 0:
        number = ctypes.get_errno()
        if number not in _UNAVAILABLE:
            raise OSError(number, os.strerror(number))


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Return Linux's function, which Python's `os` lacks; None on other systems."""
    try:
        call = ctypes.CDLL(None, use_errno=True).sync_file_range
    except AttributeError:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    found: Callable[[int, int, int, int], int] = call
    return found
