"""The listener: the ROUTER socket, and who is at its other ends by the kernel's word. It knows nothing of sessions.

Used by the intake thread alone.
"""

from __future__ import annotations

import os
import select
import selectors
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq

from edi_checkpoint.errors import EdiCheckpointError, ProtocolError
from edi_checkpoint.wire import codec, messages
from edi_checkpoint.wire.states import (
    CONNECTION,
    STREAM,
    ConnectionEvent,
    ConnectionState,
    StreamEvent,
    StreamState,
    advance,
)
from edi_checkpointd.system.pulse import Pulse

PEERS_MAX = 4096  # connections remembered; idle ones beyond are forgotten and learnt anew when they speak
_FAREWELL_MS = 200
_EVENTS, _READABLE, _NOBLOCK = (
    int(zmq.EVENTS),
    int(zmq.POLLIN),
    int(zmq.NOBLOCK),
)  # zmq's enums cost a microsecond a use


@dataclass(slots=True)
class Peer:
    """One connection: its process (None where the kernel cannot tell), its state, how many of its questions wait."""

    pid: int | None
    state: ConnectionState = ConnectionState.NEW
    asked: int = 0

    def advance(self, event: ConnectionEvent) -> None:
        """Note a message of the connection. Raises `ProtocolError` where that has no place."""
        self.state = advance(CONNECTION, self.state, event)


class Listener:
    """Receives and sends without ever waiting; `poll` waits, for the socket and for descriptors beside it."""

    def __init__(self, pulse: Pulse) -> None:
        """Open the socket, unbound; `pulse` rests while `poll` waits. No heartbeats: locks and pidfds tell deaths."""
        self._pulse = pulse
        self.peers: dict[bytes, Peer] = {}
        self.routes: dict[str, bytes] = {}  # stream to connection; those of a stream are never forgotten
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.LINGER, 0),
            (zmq.BACKLOG, 512),
            (zmq.RCVHWM, 64),  # frames of one peer in memory; a flood waits in its sender
            (zmq.HANDSHAKE_IVL, 2000),
            (zmq.MAXMSGSIZE, messages.MESSAGE_MAX_BYTES),
            (zmq.IPC_FILTER_UID, os.geteuid()),
        ):
            self._socket.setsockopt(option, value)
        # Not zmq.Poller: it passes all descriptors to the kernel at each poll, one of each attached client.
        self._fd = self._socket.fileno()
        self._poller = selectors.DefaultSelector()
        self._poller.register(self._fd, selectors.EVENT_READ)

    def bind(self, path: str, listening_fd: int | None = None) -> None:
        """Begin to listen. The folder's lock must be ours: a second bind would succeed and orphan the first daemon.

        `listening_fd`, a socket that listens on that path already, is libzmq's from now on; its path stays when it is
        closed.
        """
        if listening_fd is not None:
            self._socket.setsockopt(zmq.USE_FD, listening_fd)
        self._socket.bind(f"ipc://{path}")
        Path(path).chmod(0o600)

    def watch(self, fd: int, notice: Callable[[], None]) -> None:
        """Let `fd` end a poll when it is readable; the poll returns `notice` then."""
        self._poller.register(fd, selectors.EVENT_READ, notice)

    def unwatch(self, fd: int) -> None:
        """Poll `fd` no more."""
        self._poller.unregister(fd)

    def poll(self, timeout_s: float | None) -> list[Callable[[], None]]:
        """Wait until something is there; return the notices of the watched descriptors that are readable.

        libzmq's descriptor tells of news once, and whatever is done to the socket may be what takes them in: so the
        socket is asked before the wait (zmq_getsockopt, ZMQ_FD).
        """
        self._pulse.rest()
        ready = self._poller.select(0 if self.waiting else timeout_s)
        self._pulse.work()
        return [key.data for key, _ in ready if key.data is not None]

    @property
    def waiting(self) -> bool:
        """Whether messages wait."""
        return bool(int(self._socket.getsockopt(_EVENTS)) & _READABLE)

    def wait(self, timeout_s: float) -> None:
        """Wait for messages alone, where `receive` has found none; to the microsecond, other than `poll`."""
        select.select((self._fd,), (), (), timeout_s)

    def receive(self) -> tuple[bytes, bytes | memoryview | ProtocolError] | None:
        """Return the next message with its connection's id, None when none waits.

        What is no message of one part, or comes from another user, is returned as the error to answer with.
        """
        try:
            routing_id = self._socket.recv(_NOBLOCK)
        except zmq.Again:
            return None
        try:
            return routing_id, self._body(routing_id)
        except ProtocolError as error:
            return routing_id, error

    def _body(self, routing_id: bytes) -> bytes | memoryview:
        if not self._socket.getsockopt(zmq.RCVMORE):
            raise ProtocolError("an empty message")
        frame: zmq.Frame | None = None
        data: bytes | memoryview
        if routing_id in self.peers:
            data = self._socket.recv()
        else:  # only a frame that is not copied tells who sent it, and costs twice as much
            frame = self._socket.recv(copy=False)
            data = frame.buffer
        parts = 1
        while self._socket.getsockopt(zmq.RCVMORE):
            self._socket.recv()
            parts += 1
        if frame is not None:
            self._learn(routing_id, frame)
        if parts > 1:
            raise ProtocolError(f"{parts} parts; a message is one")
        return data

    def _learn(self, routing_id: bytes, frame: zmq.Frame) -> None:
        """Note a new connection as the kernel tells it: `host:uid:gid:pid` (SO_PEERCRED; no message can forge it)."""
        uid, _, pid = [*str(frame.get("Peer-Address")).split(":")[1:], "", "", ""][:3]
        if uid.isdigit() and int(uid) != os.geteuid():
            raise ProtocolError(f"uid {uid} is not {os.geteuid()}", hint="each user runs a daemon of their own")
        if len(self.peers) >= PEERS_MAX:
            attached = set(self.routes.values())
            for idle in [known for known in self.peers if known not in attached][: PEERS_MAX // 4]:
                del self.peers[idle]
        self.peers[routing_id] = Peer(int(pid) if pid.isdigit() and pid != "0" else None)

    def send(self, routing_id: bytes, message: messages.DaemonMessage) -> bool:
        """Send without waiting; return False when the peer is gone.

        To one that reads nothing the message is dropped: it asks again when it is back.
        """
        try:
            self._socket.send_multipart([routing_id, codec.encode(message)], _NOBLOCK)
        except zmq.Again:
            return True
        except zmq.ZMQError:
            self.peers.pop(routing_id, None)
            return False
        return True

    def check_attached(self, stream_id: str, routing_id: bytes) -> None:
        """Raise `ProtocolError` if entries or questions of a stream have no place on the connection they came by."""
        state = StreamState.ATTACHED if self.routes.get(stream_id) == routing_id else StreamState.DETACHED
        try:
            advance(STREAM, state, StreamEvent.ENTRIES)
        except ProtocolError as error:
            raise ProtocolError(f"stream {stream_id} is not attached on this connection: {error}") from None

    def notify(self, stream_id: str, message: messages.DaemonMessage) -> None:
        """Send a message to the client of a stream, if one is connected."""
        routing_id = self.routes.get(stream_id)
        if routing_id is not None and not self.send(routing_id, message):
            self.routes.pop(stream_id, None)

    def shut_out(self, stream_id: str, error: EdiCheckpointError) -> None:
        """Tell a writer why nothing more is taken from it."""
        self.notify(stream_id, refusal(error, stream=stream_id))
        self.routes.pop(stream_id, None)

    def close(self) -> None:
        """Close the socket; what was sent last is given a moment to leave."""
        self._poller.close()
        self._socket.close(linger=_FAREWELL_MS)
        self._context.term()


def refusal(error: EdiCheckpointError, request: int = 0, stream: str = "") -> messages.Error:
    """Return the message that tells a client of an error: of a question, of a stream, or of itself."""
    return messages.Error(
        error.code, str(error), error.hint, request=request, stream=stream,
        number=getattr(error, "number", 0), pid=getattr(error, "pid", 0), since=getattr(error, "since", ""),
        branch=getattr(error, "branch", None) or "",
    )  # fmt: skip
