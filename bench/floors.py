"""The floors: the same bytes written to the same disk, with the fewest calls."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import msgspec
import zmq

KEPT = 10  # checkpoints in a folder, as in the daemon, so that both give the disk the same work


class BarePublish:
    """The floor of publishing: encode a value, one `write` to a file, one send on a DEALER socket."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self._fd = os.open(folder / f"bare-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.connect(endpoint)
        self._encode = msgspec.json.Encoder().encode

    def publish(self, value: object) -> None:
        data = self._encode(value)
        os.write(self._fd, data)
        self._socket.send(data, zmq.NOBLOCK)


class BareWrite:
    """The floor of a large value: encode it, and one `write` to a file."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder / f"written-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._encode = msgspec.json.Encoder().encode

    def publish(self, value: object) -> None:
        os.write(self._fd, self._encode(value))


def group_commit(path: Path, record: bytes, outstanding: int, seconds: float) -> float:
    """Return the updates a second of a perfect group commit, whose append + fdatasync takes all outstanding updates."""
    batch = record * outstanding
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        commits = 0
        start_s = time.perf_counter()
        while (now_s := time.perf_counter()) < start_s + seconds:
            os.write(fd, batch)
            os.fdatasync(fd)
            commits += 1
        return commits * outstanding / (now_s - start_s)
    finally:
        os.close(fd)


class Files:
    """A folder into which documents are written durably; beyond `KEPT` the oldest is unlinked (untimed)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._names = itertools.count()
        self._held: list[Path] = []

    def write(self, data: bytes) -> float:
        """Write, fsync, rename, fsync of the folder; return the milliseconds."""
        path = self._folder / f"{next(self._names):06d}.json"
        temporary = path.with_suffix(".tmp")
        start_s = time.perf_counter()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
        os.close(fd)
        temporary.rename(path)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)
        took_ms = (time.perf_counter() - start_s) * 1000
        self._held.append(path)
        if len(self._held) > KEPT:
            self._held.pop(0).unlink()
        return took_ms
