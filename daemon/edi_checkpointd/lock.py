"""The daemon's lock: one daemon per sessions folder, held by flock, never by a file's mere existence."""

from __future__ import annotations

import fcntl
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edi_checkpoint.errors import EdiCheckpointError

_LOOK_S = 0.1


class Holder(msgspec.Struct, frozen=True):
    """What the lock file says of the daemon that holds it: process, socket, version, start (ISO 8601, UTC)."""

    pid: int
    socket: str
    version: str
    started: str


class DaemonRuns(EdiCheckpointError):
    """Another daemon serves the folder; the message names its process."""

    code = "daemon_runs"
    default_hint = "use that one, or end it with `edi-checkpointd stop`"


def acquire(path: Path, socket: str, version: str) -> int:
    """Take the lock and write who we are into it; return the descriptor that holds it for our life.

    Raises `DaemonRuns` when another daemon holds it. Another inode may get the name while we wait for the lock (the
    folder was removed and made again): then we try anew.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not _lock(fd):
            os.close(fd)
            holder = read_holder(path)
            who = f"process {holder.pid} since {holder.started}" if holder else "another process"
            raise DaemonRuns(f"{path.parent} is served by {who}")
        if path.exists() and os.fstat(fd).st_ino == path.stat().st_ino:
            break
        os.close(fd)
    holder = Holder(os.getpid(), socket, version, datetime.now(UTC).isoformat(timespec="seconds"))
    os.ftruncate(fd, 0)
    os.pwrite(fd, msgspec.json.encode(holder) + b"\n", 0)
    return fd


def _lock(fd: int) -> bool:
    """Try for a moment: somebody who only looks whether a daemon runs holds the lock for microseconds."""
    deadline_s = time.monotonic() + _LOOK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(0.01)
        else:
            return True


def read_holder(path: Path) -> Holder | None:
    """Return what the lock file says, whether or not its daemon still lives; None without a readable one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return None


def running(path: Path) -> Holder | None:
    """Return the daemon that holds the lock now, or None."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_holder(path)
    finally:
        os.close(fd)
    return None


def wait_released(path: Path, timeout_s: float) -> bool:
    """Wait until no daemon holds the lock, at most `timeout_s`; return whether that is so."""
    deadline_s = time.monotonic() + timeout_s
    while running(path) is not None:
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(0.01)  # flock has no wait with a deadline
    return True
