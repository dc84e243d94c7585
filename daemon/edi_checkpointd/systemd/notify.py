"""Sends messages to systemd (sd_notify(3)), one datagram each; without systemd it sends nothing.

These few lines replace a package: the existing ones lack a message or have no wheels.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import time
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

_SEND_S = 10  # the longest wait for systemd to read a message, except heartbeats


class Notifier:
    """The connection to systemd, if systemd started this process."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Connect to the socket in `environ`, and remove systemd's variables, so that no child inherits them."""
        address = environ.pop("NOTIFY_SOCKET", "")
        period_us, watchdog_pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        watched = period_us.isdigit() and int(period_us) > 0 and watchdog_pid in ("", str(os.getpid()))
        self.watchdog_s = int(period_us) / 1e6 if watched else None
        """The period within which systemd wants a heartbeat; None: it wants none."""
        self._socket = _connected("\0" + address[1:] if address.startswith("@") else address) if address else None

    def ready(self, status: str) -> None:
        """Notify systemd that the daemon serves clients, or that a reload has ended."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """Set the unit's status, a line for people."""
        self._send(f"STATUS={status}")

    def stopping(self, status: str) -> None:
        """Notify systemd that the daemon is ending."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Notify systemd that the daemon reads its settings again; `ready` reports the end."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def heartbeat(self) -> None:
        """Notify systemd that the loop moves. If systemd does not read, the message is dropped without a wait."""
        self._send("WATCHDOG=1", socket.MSG_DONTWAIT)

    def _send(self, message: str, flags: int = 0) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(message.encode(), flags)
        except OSError as error:
            if not flags:
                log.warning("systemd did not get %s: %s", message.partition("\n")[0], error)

    def close(self) -> None:
        """Close the socket. Later messages are dropped."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _connected(address: str) -> socket.socket | None:
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    # Python's own timeout would make MSG_DONTWAIT wait, too.
    systemd.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _SEND_S, 0))
    try:
        systemd.connect(address)
    except OSError as error:
        log.warning("systemd cannot be notified: %s", error)
        systemd.close()
        return None
    return systemd
