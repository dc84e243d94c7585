"""Open a file safely, although another program may have replaced it by a pipe, a device, a folder or a link."""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO
from pathlib import Path

_BAD = frozenset({errno.EINVAL, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM, errno.EIO, errno.EUCLEAN})


class NotRegular(OSError):
    """The name leads to something that is not a regular file."""


def open_regular(path: str | Path, *, follow: bool = False) -> FileIO:
    """Open a regular file for reading; follow a symbolic link only with `follow`. Raises OSError and `NotRegular`.

    The check uses the opened file, because the name may lead to another file by then.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # without O_NONBLOCK, opening a pipe waits
    fd = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NotRegular(errno.EINVAL, "no regular file", str(path))
        return FileIO(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def read_regular(path: str | Path) -> bytes:
    """Return the bytes of a regular file. Raises as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def is_bad(error: OSError) -> bool:
    """Return whether the file itself is at fault (a pipe, a link, forbidden, a bad block), not a lack of resources."""
    return error.errno in _BAD
