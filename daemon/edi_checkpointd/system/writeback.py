"""Writeback: a large file goes to the disk part by part, while it is still being written.

The fsync at its end finds most of it done; and no more than `PARTS_MAX` stand before the fsync of somebody else, of the
journal above all, which waits for whatever the disk was given before it. Nothing here makes anything durable.
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
_PAGE_BYTES = 4096  # parts end with pages: one that is filled up later would be written twice

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4  # SYNC_FILE_RANGE_*
_UNAVAILABLE = (errno.ENOSYS, errno.EINVAL, errno.EPERM)  # another kernel, a sandbox: the fsync does it all then


class Writeback:
    """Of one file, which is written from its beginning on."""

    def __init__(self, fd: int) -> None:
        """`fd` is open for writing."""
        self._fd = fd
        self._begun = 0
        self._parts: deque[tuple[int, int]] = deque()  # those that may be on their way

    def go_on(self, size: int) -> None:
        """Begin with what there is by now, of `size` bytes, if it is a part; wait for the oldest of `PARTS_MAX`.

        Raises OSError for what the disk did not take: the fsync of this descriptor would not tell of it again.
        """
        if size - self._begun < PART_BYTES:
            return
        part = self._begun, size // _PAGE_BYTES * _PAGE_BYTES
        _sync(self._fd, *part, _WRITE)
        self._parts.append(part)
        self._begun = part[1]
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
    """Return Linux's call, which Python does not have; None elsewhere."""
    try:
        call = ctypes.CDLL(None, use_errno=True).sync_file_range
    except AttributeError:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    found: Callable[[int, int, int, int], int] = call
    return found
