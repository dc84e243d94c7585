"""Liveness: find out which writers live, by their locks, and find the outboxes of the dead ones.

`drains` does what follows a death.

A pidfd reports a death at once, but only the lock decides. If the daemon cannot watch a writer's process (another pid
namespace), it probes the lock every second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edi_checkpoint.outbox import segments
from edi_checkpoint.outbox.segments import StreamFiles, is_held, list_streams
from edi_checkpointd.intake.listener import Listener
from edi_checkpointd.system.clock import Clock

log = logging.getLogger(__name__)

PROBE_S = 1.0


@dataclass(slots=True)
class Drain:
    """The drain of a dead stream's outbox. The daemon holds the outbox's lock until `close`."""

    files: StreamFiles
    chunks: Iterator[bytes]
    lock_fd: int
    read_bytes: int = 0

    @property
    def unread_bytes(self) -> int:
        """The size of what the segments hold beside readable records; a segment that is no regular file counts 1."""
        return sum(_size(path) for path in self.files.segments) - self.read_bytes

    def close(self) -> None:
        """Release the lock."""
        os.close(self.lock_fd)


class Liveness:
    """Watches writers, and finds the outboxes of dead ones below `root`."""

    def __init__(self, root: Path, listener: Listener, clock: Clock) -> None:
        """Watch nobody yet. `listener` polls the pidfds beside its socket."""
        self._root = root
        self._listener = listener
        self._clock = clock
        self._probe_at_s = 0.0
        self._pidfds: dict[int, int] = {}  # descriptor to process
        self._watched: dict[str, StreamFiles] = {}  # living streams
        self._probed: set[str] = set()  # those without a pidfd

    def outboxes(self, session_id: str | None = None) -> list[StreamFiles]:
        """Return the outboxes of one session or of all, in the order of their streams."""
        if session_id is not None:
            return list_streams(self._root / session_id)
        return [files for folder in self._folders() for files in list_streams(folder)]

    def _folders(self) -> list[Path]:
        try:
            with os.scandir(self._root) as entries:
                return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def sweep(self) -> None:
        """Remove the folders that a crash left without a stream."""
        for folder in self._folders():
            if not list_streams(folder):
                segments.sweep_folder(folder)

    def remove(self, session_id: str) -> None:
        """Unlink the outboxes of a session, also a living writer's. Raises OSError."""
        segments.remove_folder(self._root / session_id)

    def watch(self, files: StreamFiles, peer_pid: int | None = None) -> None:
        """Watch the living writer of `files`; `peer_pid` is its process as the kernel reports it, if it is connected.

        The lock is checked after the pidfd is open. If it is held then, the pidfd is that of the writer's process and
        not of a later process with the same number.
        """
        stream, pid = files.owner.stream, files.owner.pid
        self._watched[stream] = files
        if pid in self._pidfds.values() and stream not in self._probed:
            return
        self._probed.add(stream)
        if peer_pid not in (None, pid):
            return
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(pid)
            if not is_held(files.lock):
                os.close(fd)
                return
            self._pidfds[fd] = pid
            self._listener.watch(fd, partial(self._died, fd))
            self._probed.discard(stream)

    def unwatch(self, stream: str) -> None:
        """Stop watching a closed stream."""
        files = self._watched.pop(stream, None)
        self._probed.discard(stream)
        if files and not any(other.owner.pid == files.owner.pid for other in self._watched.values()):
            for fd in [fd for fd, pid in self._pidfds.items() if pid == files.owner.pid]:
                self._close_pidfd(fd)

    def _died(self, fd: int) -> None:
        """Schedule an immediate probe of the streams of the process behind the pidfd `fd`."""
        pid = self._pidfds[fd]
        self._close_pidfd(fd)
        self._probed.update(stream for stream, files in self._watched.items() if files.owner.pid == pid)
        self._probe_at_s = 0.0

    def probe(self) -> list[StreamFiles]:
        """Return the watched outboxes without a pidfd whose lock is free: their writers are dead."""
        self._probe_at_s = self._clock.monotonic_s() + PROBE_S
        return [self._watched[stream] for stream in sorted(self._probed) if not is_held(self._watched[stream].lock)]

    def wait_s(self) -> float | None:
        """Return in how many seconds the next probe is due; None if each stream has a pidfd."""
        return max(0.0, self._probe_at_s - self._clock.monotonic_s()) if self._probed else None

    def begin_drain(self, files: StreamFiles) -> Drain | None:
        """Lock a dead stream's outbox and return its drain; None if its writer lives or the files are gone.

        The lock is shared: a living writer's exclusive lock excludes it, but another shared lock does not. So for the
        next writer, which probes with a shared lock, a stream that is being drained is free and not busy.
        """
        fd = segments.share_lock(files.lock)
        if fd is None:
            return None
        current = [found for found in list_streams(files.lock.parent) if found.owner.stream == files.owner.stream]
        if not current:
            os.close(fd)
            return None
        return Drain(current[0], segments.read_records(current[0]), fd)

    def _close_pidfd(self, fd: int) -> None:
        self._listener.unwatch(fd)
        del self._pidfds[fd]
        os.close(fd)

    def close(self) -> None:
        """Close all descriptors."""
        for fd in list(self._pidfds):
            self._close_pidfd(fd)


def _size(path: Path) -> int:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 1
