"""Find the daemon that serves a sessions folder: it holds the folder's lock. A lock file alone proves no daemon."""

from __future__ import annotations

import fcntl
from pathlib import Path

import msgspec

from edi_checkpoint.system.safe_open import open_regular, read_regular


class Holder(msgspec.Struct, frozen=True):
    """The content of the lock file: the daemon's process, socket, version and start (ISO 8601, UTC)."""

    pid: int
    socket: str
    version: str
    started: str


_decode_holder = msgspec.json.Decoder(Holder).decode  # at import: threads that build one together crash


def read_holder(path: Path) -> Holder | None:
    """Return the content of the lock file, even of a dead daemon; None if the file is missing or unreadable."""
    try:
        return _decode_holder(read_regular(path))
    except (OSError, msgspec.MsgspecError):
        return None


def running(path: Path) -> Holder | None:
    """Return the daemon that holds the lock now, or None."""
    try:
        with open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_holder(path)
    except OSError:
        return None
    return None
