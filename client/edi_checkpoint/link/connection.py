"""The connection: a DEALER socket, the monitor that reports its connections, and one poll over both.

Only the link thread uses it. This module finds the socket's path and encodes messages; it does not know streams.
"""

from __future__ import annotations

import contextlib
import logging
import select
import sys
from collections.abc import Iterator
from enum import Enum

import zmq

from edi_checkpoint.errors import ProtocolError
from edi_checkpoint.system.daemon_lock import read_holder
from edi_checkpoint.system.paths import Paths, socket_path
from edi_checkpoint.wire import codec, messages

log = logging.getLogger(__name__)

_RECEIVE_AT_ONCE = 256
# Each use of an enum of zmq costs a microsecond.
_EVENTS, _READABLE, _WRITABLE, _NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.POLLOUT), int(zmq.NOBLOCK)
_FAREWELL_MS = 200  # for sending the last `Close`; a daemon that misses it finds the lock free


class MonitorEvent(Enum):
    """A change that the monitor reports."""

    UP = "a daemon is connected"
    DOWN = "the connection is lost"
    ABSENT = "no daemon answered; libzmq tries again"


class Connection:
    """Connects to the daemon that serves `paths`, reconnects to it, and polls together with `wakeup_fd`."""

    def __init__(self, paths: Paths, wakeup_fd: int, *, queue_frames: int) -> None:
        """Open the socket for `connect`; it queues at most `queue_frames` messages.

        It uses no heartbeats, which would wake idle clients, and no ROUTING_ID, which a dead peer may still hold.
        """
        self._paths = paths
        self._wakeup_fd = wakeup_fd
        self.endpoint = ""
        self.blocked = False  # whether the socket's queue is full
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.IMMEDIATE, 1),
            (zmq.LINGER, 0),  # the outbox keeps unsent entries
            (zmq.RECONNECT_IVL, 20),
            (zmq.RECONNECT_IVL_MAX, 1000),
            (zmq.SNDHWM, queue_frames),
        ):
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED
        )
        # `zmq.Poller` asks both sockets before and after each wait, which adds six calls to a turn of the link.
        # libzmq's descriptor reports only what follows a check of its socket, so the monitor is checked here.
        self._monitor.getsockopt(_EVENTS)
        self._poller = select.poll()
        self._fd, self._monitor_fd = self._socket.fileno(), self._monitor.fileno()
        for fd in (self._fd, self._monitor_fd, wakeup_fd):
            self._poller.register(fd, select.POLLIN)

    def connect(self) -> None:
        """Connect to the default socket, or without one to that in the daemon's lock file. Raises `FolderError`."""
        endpoint = f"ipc://{self._find_socket()}"
        if endpoint != self.endpoint:
            self.disconnect()
            self.endpoint = endpoint
            self._socket.connect(endpoint)

    def _find_socket(self) -> str:
        if not self._paths.socket.exists():
            holder = read_holder(self._paths.lock)
            if holder and holder.socket:
                return holder.socket
        return socket_path(self._paths)

    def disconnect(self) -> None:
        """Disconnect from the daemon until the next `connect`."""
        if self.endpoint:
            with contextlib.suppress(zmq.ZMQError):
                self._socket.disconnect(self.endpoint)
        self.endpoint = ""

    def poll(self, timeout_ms: int | None) -> tuple[bool, list[MonitorEvent], list[messages.DaemonMessage]]:
        """Wait for an event; return whether `wakeup_fd` was set, the monitor's events, and the received messages.

        libzmq's descriptor reports an event once, and any call on the socket may consume the report. So this asks the
        socket before each wait (zmq_getsockopt, ZMQ_FD).
        """
        events = int(self._socket.getsockopt(_EVENTS))
        pending = events & (_READABLE | _WRITABLE if self.blocked else _READABLE)
        ready = {fd for fd, _ in self._poller.poll(0 if pending else timeout_ms)}
        received = list(self._receive()) if self._fd in ready or events & _READABLE else []
        if self.blocked:
            self.blocked = not int(self._socket.getsockopt(_EVENTS)) & _WRITABLE
        changes = list(self._changes()) if self._monitor_fd in ready else []
        return self._wakeup_fd in ready, changes, received

    def _changes(self) -> Iterator[MonitorEvent]:
        while True:
            try:
                event, *_ = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            match int.from_bytes(event[:2], sys.byteorder):
                case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    yield MonitorEvent.UP
                case zmq.EVENT_DISCONNECTED:
                    yield MonitorEvent.DOWN
                    self.connect()
                case zmq.EVENT_CONNECT_RETRIED:
                    yield MonitorEvent.ABSENT
                    self.connect()

    def _receive(self) -> Iterator[messages.DaemonMessage]:
        for _ in range(_RECEIVE_AT_ONCE):
            try:
                data = self._socket.recv(_NOBLOCK)
            except zmq.Again:
                return
            try:
                yield codec.decode_from_daemon(data)
            except ProtocolError as error:
                log.warning("message from the daemon refused: %s", error)

    def send(self, message: messages.ClientMessage) -> bool:
        """Send without waiting; return False when the socket's queue is full."""
        try:
            self._socket.send(codec.encode(message), _NOBLOCK)
        except zmq.Again:
            self.blocked = True
            return False
        return True

    def close(self, *, farewell: bool) -> None:
        """Close the sockets; with `farewell`, wait briefly until the last message is sent."""
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=_FAREWELL_MS if farewell else 0)
        self._context.term()
