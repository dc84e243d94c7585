"""The daemon's lock: one daemon per sessions folder, held by flock, never by a file's mere existence."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.system.daemon_lock import Holder, read_holder, running

_PATIENCE_S = 0.1  # with a daemon that is leaving
_LOOKERS_S = 10.0  # with those who only look: hundreds of clients may, on a machine that is busy with their starts


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
        if os.fstat(fd).st_nlink > 1:
            path.unlink()  # a second name of another file, which is not ours to write into
        elif path.exists() and os.fstat(fd).st_ino == path.stat().st_ino:
            break
        os.close(fd)
    holder = Holder(os.getpid(), socket, version, datetime.now(UTC).isoformat(timespec="seconds"))
    line = msgspec.json.encode(holder) + b"\n"
    try:
        os.pwrite(fd, line, 0)  # before it is cut: on a full disk the block that it has is all there is
        os.ftruncate(fd, len(line))
    except OSError:
        os.close(fd)  # else it holds the lock against our next try
        raise
    return fd


class FolderLock:
    """The lock of a daemon that serves the folder, from its making until `release`. Raises as `acquire` does."""

    def __init__(self, path: Path, socket: str, version: str) -> None:
        """Take it."""
        self._path = path
        self._socket = socket
        self._version = version
        self._fd = acquire(path, socket, version)

    def renew(self) -> None:
        """Take it anew if its file was removed, with its folder or alone. Raises `DaemonRuns`: another was faster."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(self._path.stat(), os.fstat(self._fd)):
                return
        fd = acquire(self._path, self._socket, self._version)
        os.close(self._fd)
        self._fd = fd

    def release(self) -> None:
        """Give it up."""
        os.close(self._fd)


def _lock(fd: int) -> bool:
    """Take the lock, unless a daemon holds it: whoever only looks whether one does shares the lock for a moment."""
    begun_s = time.monotonic()
    while not _flock(fd, fcntl.LOCK_EX):
        shared = _flock(fd, fcntl.LOCK_SH)
        if shared:
            fcntl.flock(fd, fcntl.LOCK_UN)
        if time.monotonic() - begun_s >= (_LOOKERS_S if shared else _PATIENCE_S):
            return False
        time.sleep(random.uniform(0.005, 0.015))  # another that starts must not meet our own look each time
    return True


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def end(path: Path, holder: Holder, timeout_s: float) -> bool:
    """Tell the daemon that holds the lock to leave, and wait until its process is gone; return whether it is.

    The lock alone would not do: it is given up a moment before the end.
    """
    try:
        process = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        return True
    try:
        if running(path) != holder:  # it has left, and the number may be another process's by now
            return True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGTERM)
        return bool(select.select([process], [], [], timeout_s)[0])
    finally:
        os.close(process)
