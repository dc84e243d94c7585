"""The listener: the ROUTER socket, and the processes of its clients as the kernel reports them.

It knows nothing of sessions. Only the loop's thread uses it.
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
from edi_checkpoint.wire import codec, messages, states
from edi_checkpointd.system.pulse import Pulse

PEERS_MAX = 4096  # connections in memory; beyond it idle ones are dropped, and have to send a hello again
_FAREWELL_MS = 200
# Plain integers: each use of zmq's enums takes a microsecond.
_EVENTS, _READABLE, _NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)


@dataclass(slots=True)
class Peer:
    """One connection: its process (None: the kernel cannot tell), its state, and the number of its open questions."""

    pid: int | None
    state: states.ConnectionState = states.ConnectionState.NEW
    asked: int = 0

    def advance(self, event: states.ConnectionEvent) -> None:
        """Change the state by a message of the connection. Raises `ProtocolError` if the state does not allow it."""
        self.state = states.advance(states.CONNECTION, self.state, event)


class Listener:
    """Receives and sends without waiting. Only `poll` and `wait` wait, `poll` also for watched descriptors.

    `peers` has the known connections, `routes` the connection of each attached stream.
    """

    def __init__(self, pulse: Pulse) -> None:
        """Open the socket, unbound. `pulse` rests while `poll` waits.

        No ZMQ heartbeats: locks and pidfds report the death of a client.
        """
        self._pulse = pulse
        self.peers: dict[bytes, Peer] = {}
        self.routes: dict[str, bytes] = {}  # stream to connection; `PEERS_MAX` never drops these connections
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        set_option = self._socket.setsockopt
        set_option(zmq.ROUTER_MANDATORY, 1)
        set_option(zmq.LINGER, 0)
        set_option(zmq.BACKLOG, 512)
        set_option(zmq.RCVHWM, 64)  # frames of one peer in memory; a flood waits in its sender
        set_option(zmq.HANDSHAKE_IVL, 2000)
        set_option(zmq.MAXMSGSIZE, messages.MESSAGE_MAX_BYTES)
        set_option(zmq.IPC_FILTER_UID, os.geteuid())
        # Not zmq.Poller: at each poll it would pass all descriptors to the kernel, one for each attached client.
        self._fd = self._socket.fileno()
        self._poller = selectors.DefaultSelector()
        self._poller.register(self._fd, selectors.EVENT_READ)

    def bind(self, path: str, listening_fd: int | None = None) -> None:
        """Start to listen at `path`.

        The caller holds the folder's lock: a second bind would succeed, and clients would not reach the first daemon.
        `listening_fd` is a socket that already listens on that path. libzmq owns it from now on, and does not unlink
        its path.
        """
        if listening_fd is not None:
            self._socket.setsockopt(zmq.USE_FD, listening_fd)
        self._socket.bind(f"ipc://{path}")
        Path(path).chmod(0o600)

    def watch(self, fd: int, notice: Callable[[], None]) -> None:
        """Poll `fd` as well: when it is readable, `poll` returns `notice`."""
        self._poller.register(fd, selectors.EVENT_READ, notice)

    def unwatch(self, fd: int) -> None:
        """Stop polling `fd`."""
        self._poller.unregister(fd)

    def poll(self, timeout_s: float | None) -> list[Callable[[], None]]:
        """Wait for messages or watched descriptors; return the notices of the descriptors that are readable.

        libzmq's descriptor reports an event once, and any other call on the socket may consume the report. So this
        checks the socket before it waits (see zmq_getsockopt, ZMQ_FD).
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
        """Wait for messages only, after `receive` found none; unlike `poll`, exact to the microsecond."""
        select.select((self._fd,), (), (), timeout_s)

    def receive(self) -> tuple[bytes, bytes | memoryview | ProtocolError] | None:
        """Return the next message with the id of its connection; None if no message waits.

        For a message that has not exactly one part, or comes from another user, return the error to answer with.
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
            raise ProtocolError("the message is empty")
        frame: zmq.Frame | None = None
        data: bytes | memoryview
        if routing_id in self.peers:
            data = self._socket.recv()
        else:  # only a frame that is not copied names its sender, at twice the cost
            frame = self._socket.recv(copy=False)
            data = frame.buffer
        parts = 1
        while self._socket.getsockopt(zmq.RCVMORE):
            self._socket.recv()
            parts += 1
        if frame is not None:
            self._learn(routing_id, frame)
        if parts > 1:
            raise ProtocolError(f"the message has {parts} parts; it must have one")
        return data

    def _learn(self, routing_id: bytes, frame: zmq.Frame) -> None:
        """Record a new connection by its peer address: `host:uid:gid:pid` (SO_PEERCRED; a client cannot forge it)."""
        uid, _, pid = [*str(frame.get("Peer-Address")).split(":")[1:], "", "", ""][:3]
        if uid.isdigit() and int(uid) != os.geteuid():
            raise ProtocolError(f"uid {uid} is not {os.geteuid()}", hint="each user runs their own daemon")
        if len(self.peers) >= PEERS_MAX:
            attached = set(self.routes.values())
            for idle in [known for known in self.peers if known not in attached][: PEERS_MAX // 4]:
                del self.peers[idle]
        self.peers[routing_id] = Peer(int(pid) if pid.isdigit() and pid != "0" else None)

    def send(self, routing_id: bytes, message: messages.DaemonMessage) -> bool:
        """Send without waiting; return False if the peer is gone.

        If the peer does not read, the message is dropped. The client asks again when it reads again.
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
        """Raise `ProtocolError` unless the stream is attached on this connection."""
        attached = self.routes.get(stream_id) == routing_id
        state = states.StreamState.ATTACHED if attached else states.StreamState.DETACHED
        try:
            states.advance(states.STREAM, state, states.StreamEvent.ENTRIES)
        except ProtocolError as error:
            raise ProtocolError(f"stream {stream_id} is not attached on this connection: {error}") from None

    def notify(self, stream_id: str, message: messages.DaemonMessage) -> None:
        """Send a message to the client of a stream, if it is connected."""
        routing_id = self.routes.get(stream_id)
        if routing_id is not None and not self.send(routing_id, message):
            self.routes.pop(stream_id, None)

    def shut_out(self, stream_id: str, error: EdiCheckpointError) -> None:
        """Send the writer of a stream the reason why the daemon accepts nothing more from it."""
        self.notify(stream_id, refusal(error, stream=stream_id))
        self.routes.pop(stream_id, None)

    def close(self) -> None:
        """Close the socket, after up to 0.2 s in which libzmq sends the last messages."""
        self._poller.close()
        self._socket.close(linger=_FAREWELL_MS)
        self._context.term()


def refusal(error: EdiCheckpointError, request: int = 0, stream: str = "") -> messages.Error:
    """Return the message that reports an error to a client: about a question, about a stream, or about itself."""
    return messages.Error(
        error.code, str(error), error.hint, request=request, stream=stream,
        number=getattr(error, "number", 0), pid=getattr(error, "pid", 0), since=getattr(error, "since", ""),
        branch=getattr(error, "branch", None) or "",
    )  # fmt: skip
