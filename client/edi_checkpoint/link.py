"""The link: the one DEALER socket of a client and the thread that owns it.

It moves records from the outboxes to the daemon and acknowledgements back. A connection goes through: handshake (told
by the socket's monitor) -> `Hello` -> `Welcome` -> `Attach` for every stream -> entries. All of it starts anew when the
daemon was restarted: what is not acknowledged is sent again from the outbox, and the daemon drops what it has.

Nothing here is ever waited for by a publishing call.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count

import msgspec
import zmq

from edi_checkpoint import protocol
from edi_checkpoint.errors import (
    CheckpointFailed,
    DaemonUnavailable,
    ProtocolError,
    SessionClosed,
    from_wire,
)
from edi_checkpoint.model import CheckpointInfo
from edi_checkpoint.paths import Paths, socket_path
from edi_checkpoint.stream import Stream
from edi_checkpoint.wakeup import Wakeup

log = logging.getLogger(__name__)

_SILENCE_S = 0.25  # no acknowledgement for so long: ask
_SILENCE_MAX_S = 5.0
_ATTACH_AGAIN_S = 2.0  # the daemon's disk may have refused, or its answer got lost
_FAREWELL_MS = 200  # for the last `Close` to leave; a daemon that does not read it finds the lock free
_STOPPED_S = 0.2  # how soon the end of the link's thread is noticed by who waits for it
_RETRY_REFUSED_S = 5.0  # a daemon that serves another folder or version may be replaced
_FRAMES_IN_FLIGHT = 256  # small frames are bounded too: the socket's own queue must never fill
_RECEIVE_AT_ONCE = 256
_BACKLOG_RETRY_S = 0.5


class Link:
    """Connects the streams of one process to the daemon that serves `paths`."""

    def __init__(self, paths: Paths, *, app: str, version: str) -> None:
        """Start the thread; the daemon need not be there."""
        self._paths = paths
        self._hello = protocol.Hello(app=app, version=version, sessions_dir=str(paths.sessions))
        self._streams: dict[str, Stream] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self._wakeup = Wakeup()
        self._asleep = False
        self._wanted = False
        self._requests = count(1)
        self._asked: dict[int, tuple[protocol.Attach | protocol.Query, Future[protocol.Answer]]] = {}
        self._journal: str | None = None  # of the daemon now welcomed; None: not connected
        self._endpoint = ""
        self._retry_at_s: float | None = None
        self._blocked = False
        self._closing = False
        self.changed = threading.Condition()  # connected or lost
        self._thread = threading.Thread(target=self._run, name="edi-checkpoint-link", daemon=True)
        self._thread.start()

    # -- for other threads -------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether a daemon has welcomed this client and is connected."""
        return self._journal is not None

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until a daemon has welcomed this client, at most `timeout_s`."""
        with self.changed:
            return self.changed.wait_for(lambda: self.connected, timeout_s)

    def wake(self) -> None:
        """Let the link look for what was published; costs a flag while it is busy, one write when it sleeps."""
        self._wanted = True
        if self._asleep:
            self._wakeup.set()

    def ask(self, question: Callable[[int], protocol.Query], timeout_s: float) -> protocol.Answer:
        """Send a query and wait for its answer. Raises the daemon's error, or `DaemonUnavailable` in time."""
        request = next(self._requests)
        return self._await(request, question(request), timeout_s)

    def attach(self, stream: Stream, *, want_state: bool, timeout_s: float) -> protocol.Attached | None:
        """Take `stream` into the link and wait for the daemon's answer, at most `timeout_s`.

        None when no daemon answered: the stream stays and is attached when one comes. Raises the daemon's refusal.
        """
        request = next(self._requests)
        message = protocol.Attach(
            request=request,
            session_id=stream.session_id,
            stream=stream.id,
            parent_session=stream.parent_session,
            want_state=want_state,
        )

        def add() -> None:
            self._streams[stream.id] = stream

        self._call(add)
        try:
            answer = self._await(request, message, timeout_s)
        except DaemonUnavailable:
            self._call(self._reattach(stream))
            return None
        return answer if isinstance(answer, protocol.Attached) else None

    def detach(self, stream: Stream) -> None:
        """Take a stream out of the link, close its outbox and tell the daemon, which drains and unlinks that.

        The link thread closes it: it may be reading the files just now.
        """
        closed = threading.Event()

        def remove() -> None:
            self._streams.pop(stream.id, None)
            stream.outbox.close()
            closed.set()
            if self.connected:
                self._send(protocol.Close(stream=stream.id))

        self._call(remove)
        while not closed.wait(_STOPPED_S):
            if not self._thread.is_alive():
                stream.outbox.close()
                return

    def close(self) -> None:
        """End the thread; streams must be detached before."""

        def stop() -> None:
            self._closing = True

        self._call(stop)
        self._thread.join()
        self._wakeup.close()

    def _call(self, function: Callable[[], None]) -> None:
        self._calls.append(function)
        self.wake()

    def _await(self, request: int, message: protocol.Attach | protocol.Query, timeout_s: float) -> protocol.Answer:
        future: Future[protocol.Answer] = Future()

        def send() -> None:
            self._asked[request] = (message, future)
            if self.connected:
                self._send(message)

        if self._closing:
            raise SessionClosed("this client is closed")
        self._call(send)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            raise DaemonUnavailable(f"no answer within {timeout_s:g} s on {self._endpoint or 'the socket'}") from None
        finally:
            self._call(lambda: self._asked.pop(request, None) and None)

    # -- the link thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        context = zmq.Context()
        try:
            self._open(context)
            while not self._closing:
                self._turn()
        except Exception:
            log.exception("link stopped: entries stay in the outbox until the process is started anew")
        finally:
            with contextlib.suppress(zmq.ZMQError):
                self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close(linger=_FAREWELL_MS if self.connected else 0)
            context.term()

    def _open(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Make the socket: no heartbeats, which wake idle clients; no ROUTING_ID, which a dead peer may still hold."""
        self._socket = context.socket(zmq.DEALER)
        for option, value in (
            (zmq.IMMEDIATE, 1),
            (zmq.LINGER, 0),  # the outbox is the truth
            (zmq.RECONNECT_IVL, 20),
            (zmq.RECONNECT_IVL_MAX, 1000),
            (zmq.SNDHWM, 2 * _FRAMES_IN_FLIGHT),
        ):
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED
        )
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._poller.register(self._wakeup.fd, zmq.POLLIN)
        self._connect()

    def _connect(self) -> None:
        """Connect to our own guess of the socket, or to the one the daemon's lock file names."""
        endpoint = f"ipc://{self._find_socket()}"
        if endpoint != self._endpoint:
            if self._endpoint:
                with contextlib.suppress(zmq.ZMQError):
                    self._socket.disconnect(self._endpoint)
            self._endpoint = endpoint
            self._socket.connect(endpoint)

    def _find_socket(self) -> str:
        if not self._paths.socket.exists():
            with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
                named = msgspec.json.decode(self._paths.lock.read_bytes(), type=dict[str, object]).get("socket")
                if isinstance(named, str) and named:
                    return named
        return socket_path(self._paths)

    def _turn(self) -> None:
        """Wait for something to do, then do it."""
        self._asleep = True
        ready = dict(self._poller.poll(0 if self._wanted or self._calls else self._timeout_ms()))
        self._asleep = False
        self._wanted = False
        if self._wakeup.fd in ready:
            self._wakeup.clear()
        while self._calls:
            self._calls.popleft()()
        if self._monitor in ready:
            self._hear_of_connection()
        if self._socket in ready:
            self._set_blocked(False)
            self._receive()
        if self._retry_at_s is not None and time.monotonic() >= self._retry_at_s:
            self._retry_at_s = None
            self._connect()
        for stream in list(self._streams.values()):
            self._push(stream)

    def _timeout_ms(self) -> int | None:
        now_s = time.monotonic()
        due_s: list[float] = []
        if self.connected:
            streams = self._streams.values()
            due_s += [stream.probe_at_s for stream in streams if stream.in_flight]
            due_s += [stream.attach_again_s for stream in streams if stream.attach_again_s and stream.unattached]
        if any(stream.outbox.backlog for stream in self._streams.values()):
            due_s.append(now_s + _BACKLOG_RETRY_S)
        if self._retry_at_s is not None:
            due_s.append(self._retry_at_s)
        return max(0, int((min(due_s) - now_s) * 1000) + 1) if due_s else None

    def _hear_of_connection(self) -> None:
        while True:
            try:
                event, *_ = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            match int.from_bytes(event[:2], sys.byteorder):
                case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    self._send(self._hello)
                case zmq.EVENT_DISCONNECTED:
                    self._lost()
                    self._connect()
                case zmq.EVENT_CONNECT_RETRIED:
                    self._connect()

    def _lost(self) -> None:
        self._journal = None
        for stream in self._streams.values():
            stream.attached = None
            stream.rewind(stream.journaled)
        with self.changed:
            self.changed.notify_all()

    def _receive(self) -> None:
        for _ in range(_RECEIVE_AT_ONCE):
            try:
                data = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._take(protocol.decode_from_daemon(data))
            except ProtocolError as error:
                log.warning("message from the daemon refused: %s", error)
        self._wanted = True

    def _take(self, message: protocol.DaemonMessage) -> None:
        match message:
            case protocol.Ack():
                self._acknowledged(message)
            case protocol.MarkDone():
                self._settle(message.stream, message.number, message.checkpoint)
            case protocol.MarkFailed():
                self._settle(message.stream, message.number, CheckpointFailed(message.message, hint=message.hint))
            case protocol.Welcome():
                self._welcomed(message)
            case protocol.Error():
                self._refused(message)
            case protocol.Attached():
                self._attached(message)
                self._answer(message)
            case _:
                self._answer(message)

    def _welcomed(self, message: protocol.Welcome) -> None:
        self._journal = message.journal
        attaching = {asked.stream for asked, _ in self._asked.values() if isinstance(asked, protocol.Attach)}
        for asked, _ in self._asked.values():
            self._send(asked)
        for stream in self._streams.values():
            if stream.id not in attaching:
                self._reattach(stream)()
        with self.changed:
            self.changed.notify_all()

    def _reattach(self, stream: Stream) -> Callable[[], None]:
        def send() -> None:
            if self.connected and stream.attached is None and stream.id in self._streams:
                outbox = stream.outbox
                stream.attach_again_s = time.monotonic() + _ATTACH_AGAIN_S
                self._send(
                    protocol.Attach(
                        request=0,
                        session_id=stream.session_id,
                        stream=stream.id,
                        parent_session=stream.parent_session,
                        journal=stream.journal,
                        first=outbox.first,
                        last=outbox.published,
                    )
                )

        return send

    def _attached(self, message: protocol.Attached) -> None:
        stream = self._streams.get(message.stream)
        if stream is None:
            return
        another_journal = stream.journal is not None and stream.journal != self._journal
        if message.base_wanted or another_journal:
            log.warning("session %s: the daemon lacks entries; publishing the whole state", stream.session_id)
            base = stream.publish_base()
            stream.rewind(message.number if stream.outbox.first <= message.number + 1 else base - 1)
        else:
            stream.rewind(message.number)
        stream.journal = self._journal
        stream.save_sent = 0
        with stream.news:
            stream.attached = message
        stream.acknowledge(message.number, message.checkpointed)
        for number, outcome in list(stream.marks.items()):
            if outcome is None and number <= message.number:
                self._send(protocol.AskMark(stream=stream.id, number=number))

    def _acknowledged(self, message: protocol.Ack) -> None:
        stream = self._streams.get(message.stream)
        if stream is None:
            return
        lost_s = message.probe and message.probe == stream.probed and message.number < stream.probed
        stream.acknowledge(message.number, message.checkpointed, message.saved)
        stream.probe_pause_s = _SILENCE_S
        stream.probe_at_s = time.monotonic() + _SILENCE_S
        stream.probed = 0
        if lost_s:
            stream.rewind(message.number)

    def _settle(self, stream_id: str, number: int, outcome: CheckpointInfo | CheckpointFailed) -> None:
        if stream := self._streams.get(stream_id):
            stream.settle_mark(number, outcome)

    def _answer(self, message: protocol.Answer) -> None:
        _, future = self._asked.pop(message.request, (None, None))
        if future is not None and not future.done():
            future.set_result(message)

    def _refused(self, message: protocol.Error) -> None:
        error = from_wire(message.code, message.message, message.hint, pid=message.pid, since=message.since)
        if message.request:
            _, future = self._asked.pop(message.request, (None, None))
            if future is not None and not future.done():
                future.set_exception(error)
        if stream := self._streams.get(message.stream):
            stream.refuse(error, for_ever=message.code in ("fenced", "session_busy"))
        elif not message.request and not message.stream:  # not late news of a stream that has left
            log.warning("the daemon on %s refused this client: %s (%s)", self._endpoint, error, error.hint)
            self._give_up_for_now()

    def _give_up_for_now(self) -> None:
        """Treat the daemon as absent: it serves another folder, or speaks another version."""
        self._lost()
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disconnect(self._endpoint)
        self._endpoint = ""
        self._retry_at_s = time.monotonic() + _RETRY_REFUSED_S

    # -- sending -----------------------------------------------------------------------------------------------------

    def _push(self, stream: Stream) -> None:
        """Send what the window has room for, ask after a silence, and keep the outbox small."""
        try:
            stream.outbox.roll()
            stream.outbox.spool()
            if stream.outbox.compact(stream.journaled):
                log.warning("session %s: much waits for a daemon; its outbox is thinned", stream.session_id)
                stream.rewind(stream.journaled)
        except OSError as error:
            log.debug("outbox of session %s: %s", stream.session_id, error)
        if not self.connected or self._blocked:
            return
        if stream.attached is None:
            if stream.unattached and 0 < stream.attach_again_s <= time.monotonic():
                self._reattach(stream)()
            return
        while stream.in_flight_bytes < protocol.WINDOW_BYTES and len(stream.in_flight) < _FRAMES_IN_FLIGHT:
            frame = stream.unsent or stream.outbox.frame(stream.sent, protocol.FRAME_BYTES)
            if frame is None:
                break
            records, last = frame
            if not self._send(protocol.Entries(stream=stream.id, records=memoryview(records))):
                stream.unsent = frame
                return
            if not stream.in_flight:
                stream.probe_pause_s = _SILENCE_S
                stream.probe_at_s = time.monotonic() + _SILENCE_S
            stream.unsent = None
            stream.sent = last
            stream.in_flight.append((last, len(records)))
            stream.in_flight_bytes += len(records)
        if stream.save_sent < stream.save_wanted <= stream.journaled:
            stream.save_sent = stream.save_wanted
            self._send(protocol.Save(stream=stream.id))
        if stream.in_flight and time.monotonic() >= stream.probe_at_s:
            stream.probe_pause_s = min(2 * stream.probe_pause_s, _SILENCE_MAX_S)
            stream.probe_at_s = time.monotonic() + stream.probe_pause_s
            if not stream.probed and self._send(protocol.Probe(stream=stream.id, probe=stream.sent)):
                stream.probed = stream.sent

    def _send(self, message: protocol.ClientMessage) -> bool:
        try:
            self._socket.send(protocol.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            self._set_blocked(True)
            return False
        return True

    def _set_blocked(self, blocked: bool) -> None:
        if blocked != self._blocked:
            self._blocked = blocked
            self._poller.modify(self._socket, zmq.POLLIN | zmq.POLLOUT if blocked else zmq.POLLIN)
