"""The facts that several checks look at; each is read once, when a check first needs it."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from edi_checkpoint.home.status import Status
from edi_checkpoint.link.connection import Connection, MonitorEvent
from edi_checkpoint.link.wakeup import Wakeup
from edi_checkpoint.outbox.segments import is_held
from edi_checkpoint.system.daemon_lock import Holder, read_holder
from edi_checkpoint.system.paths import Paths, socket_path
from edi_checkpoint.wire import messages as wire_messages

GREETING_S = 2.0
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Setup:
    """One user's installation: its places, and the daemon that serves them."""

    def __init__(self, paths: Paths, environ: Mapping[str, str], version: str) -> None:
        """Keep where to look. `version` is that of this command, and so of the client."""
        self.paths = paths
        self.environ = environ
        self.version = version

    @cached_property
    def held(self) -> bool:
        """Whether a daemon holds the lock of the sessions folder."""
        return self.paths.lock.is_file() and not self.paths.lock.is_symlink() and is_held(self.paths.lock)

    @cached_property
    def holder(self) -> Holder | None:
        """The daemon that the lock file names; it may have ended."""
        return read_holder(self.paths.lock)

    @cached_property
    def listener(self) -> int | None:
        """The process that listens on the socket, as the kernel reports it; 0 if unknown, None if there is none."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(GREETING_S)
            try:
                probe.connect(socket_path(self.paths))
                credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            except TimeoutError:
                return 0
            except OSError:
                return None
        return int(_CREDENTIALS.unpack(credentials)[0])

    @cached_property
    def greeting(self) -> wire_messages.Welcome | wire_messages.Error | None:
        """The answer to a greeting on the socket; None if none comes within 2 s."""
        wakeup = Wakeup()
        connection = Connection(self.paths, wakeup.fd, queue_frames=8)
        hello = wire_messages.Hello(app="edi-checkpoint", version=self.version, sessions_dir=str(self.paths.sessions))
        until_s = time.monotonic() + GREETING_S
        try:
            connection.connect()
            while (left_s := until_s - time.monotonic()) > 0:
                _, changes, messages = connection.poll(int(left_s * 1000) + 1)
                if MonitorEvent.UP in changes:
                    connection.send(hello)
                for message in messages:
                    if isinstance(message, wire_messages.Welcome | wire_messages.Error):
                        return message
        finally:
            connection.close(farewell=False)
            wakeup.close()
        return None

    @cached_property
    def status(self) -> Status:
        """The result of `edi-checkpoint status`."""
        from edi_checkpointd.cli.source import Source

        with Source(self.paths, lambda note: None) as source:
            return source.status()


def nearest(path: Path) -> Path:
    """Return `path`, or its nearest parent that exists."""
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            place.stat()
            return place
    return Path("/")
