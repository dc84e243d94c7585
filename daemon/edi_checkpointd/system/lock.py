"""The daemon's lock: one daemon per sessions folder. It is held by flock; the file alone means nothing."""

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

_EXCLUSIVE_S = 0.1  # the wait for a daemon that is ending
_SHARED_S = 10.0  # the wait for processes that test the lock: hundreds of clients may do so on a busy machine


class DaemonRuns(EdiCheckpointError):
    """Another daemon serves the folder; the message names its process."""

    code = "daemon_runs"
    default_hint = "use the running daemon, or end it with `edi-checkpointd stop`"


def acquire(path: Path, socket: str, version: str) -> int:
    """Take the lock, write this process's id, socket and version into its file, and return the open descriptor.

    Raises `DaemonRuns` if another daemon holds the lock. If the folder is removed and made again during the wait, the
    path names another file; the lock is then taken on that file.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not _lock(fd):
            os.close(fd)
            holder = read_holder(path)
            who = f"process {holder.pid} since {holder.started}" if holder else "another process"
            raise DaemonRuns(f"{path.parent} is served by {who}")
        if os.fstat(fd).st_nlink > 1:
            path.unlink()  # it is another file's second name, and writing would change that file
        elif path.exists() and os.fstat(fd).st_ino == path.stat().st_ino:
            break
        os.close(fd)
    holder = Holder(os.getpid(), socket, version, datetime.now(UTC).isoformat(timespec="seconds"))
    line = msgspec.json.encode(holder) + b"\n"
    try:
        os.pwrite(fd, line, 0)  # before the truncation: on a full disk, the file's present block cannot be replaced
        os.ftruncate(fd, len(line))
    except OSError:
        os.close(fd)  # an open descriptor would hold the lock, and the next attempt would fail
        raise
    return fd


class FolderLock:
    """The lock of a daemon that serves the folder, held until `release`. Raises as `acquire` does."""

    def __init__(self, path: Path, socket: str, version: str) -> None:
        """Take the lock."""
        self._path = path
        self._socket = socket
        self._version = version
        self._fd = acquire(path, socket, version)

    def renew(self) -> None:
        """Take the lock again if its file or folder was removed. Raises `DaemonRuns` if another daemon has it."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(self._path.stat(), os.fstat(self._fd)):
                return
        fd = acquire(self._path, self._socket, self._version)
        os.close(self._fd)
        self._fd = fd

    def release(self) -> None:
        """Release the lock."""
        os.close(self._fd)


def _lock(fd: int) -> bool:
    """Take the lock, and return whether this succeeded.

    A daemon holds it exclusively. A process that tests whether a daemon runs shares it for a moment.
    """
    begun_s = time.monotonic()
    while not _flock(fd, fcntl.LOCK_EX):
        shared = _flock(fd, fcntl.LOCK_SH)
        if shared:
            fcntl.flock(fd, fcntl.LOCK_UN)
        if time.monotonic() - begun_s >= (_SHARED_S if shared else _EXCLUSIVE_S):
            return False
        time.sleep(random.uniform(0.005, 0.015))  # two daemons that start together must not block each other each time
    return True


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def end(path: Path, holder: Holder, timeout_s: float) -> bool:
    """Send SIGTERM to the daemon that holds the lock, wait until its process has ended, and return whether it has.

    It waits for the process, since a daemon releases the lock a moment before its process ends.
    """
    try:
        process = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        return True
    try:
        if running(path) != holder:  # it has ended, and another process may have its number by now
            return True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGTERM)
        return bool(select.select([process], [], [], timeout_s)[0])
    finally:
        os.close(process)
