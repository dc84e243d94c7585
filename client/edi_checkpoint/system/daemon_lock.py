"""Which daemon serves a sessions folder: the one that holds the folder's lock, never one whose file merely exists."""

from __future__ import annotations

import fcntl
from pathlib import Path

import msgspec

from edi_checkpoint.system.safe_open import open_regular, read_regular


class Holder(msgspec.Struct, frozen=True):
    """What the lock file says of the daemon that holds it: process, socket, version, start (ISO 8601, UTC)."""

    pid: int
    socket: str
    version: str
    started: str


_decode_holder = msgspec.json.Decoder(Holder).decode  # built here: see `values.codec._Plain`


def read_holder(path: Path) -> Holder | None:
    """Return what the lock file says, whether or not its daemon still lives; None without a readable one."""
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
