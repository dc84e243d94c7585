"""Opening a file that somebody else may have put in its place: never waited for, never a device, a pipe or a folder."""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO
from pathlib import Path

_BAD = frozenset({errno.EINVAL, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM, errno.EIO, errno.EUCLEAN})


class NotRegular(OSError):
    """What stands under the name is no regular file."""


def open_regular(path: str | Path, *, follow: bool = False) -> FileIO:
    """Open a regular file for reading, a link only with `follow`. Raises OSError, `NotRegular` for all that is none.

    What was opened is what is looked at: the name may lead elsewhere by then.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a pipe would wait for its writer
    fd = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NotRegular(errno.EINVAL, "no regular file", str(path))
        return FileIO(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def read_regular(path: str | Path) -> bytes:
    """Return what a regular file holds. Raises as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def is_bad(error: OSError) -> bool:
    """Whether the file itself is at fault (a pipe, a link, forbidden, a bad block), and not what we are short of."""
    return error.errno in _BAD
