"""Talks to the service manager (sd_notify(3)): one datagram a message, and silence where there is no manager.

Sixty lines here instead of a package: those there are lack a part or wheels.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import time
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

_PATIENCE_S = 10  # with a manager that does not read, for what it has to hear


class Notifier:
    """The manager of this process, if it has one."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Find the manager by `environ`, and remove its variables: they are not for what this process starts."""
        address = environ.pop("NOTIFY_SOCKET", "")
        period_us, wanted_of = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        self.watchdog_s: float | None = None
        """Within so many seconds the manager wants a heartbeat; None: never."""
        if period_us.isdigit() and int(period_us) and wanted_of in ("", str(os.getpid())):
            self.watchdog_s = int(period_us) / 1e6
        self._socket: socket.socket | None = None
        if address:
            self._connect("\0" + address[1:] if address.startswith("@") else address)

    def _connect(self, address: str) -> None:
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # Not Python's timeout, which would make a send wait that is not to wait.
        manager.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _PATIENCE_S, 0))
        try:
            manager.connect(address)
        except OSError as error:
            log.warning("the service manager cannot be told anything: %s", error)
            manager.close()
        else:
            self._socket = manager

    def ready(self, status: str) -> None:
        """Say that the daemon serves; ends a reload too."""
        self._tell(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """Say in a line what the daemon is at."""
        self._tell(f"STATUS={status}")

    def stopping(self, status: str) -> None:
        """Say that the daemon is leaving."""
        self._tell(f"STOPPING=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Say that settings are read anew; `ready` ends it."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def heartbeat(self) -> None:
        """Say that all is well; dropped while the manager does not read, which nobody may wait for."""
        self._tell("WATCHDOG=1", socket.MSG_DONTWAIT)

    def _tell(self, message: str, flags: int = 0) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(message.encode(), flags)
        except OSError as error:
            if not flags:
                log.warning("the service manager was not told %s: %s", message.partition("\n")[0], error)

    def close(self) -> None:
        """Close the socket; nothing is told any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
