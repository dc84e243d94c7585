"""The link: the thread that sends a client's records to the daemon and receives the acknowledgements.

The steps of a connection: the socket's monitor reports it -> `Hello` -> `Welcome` -> `Attach` for every stream ->
entries. After a restart of the daemon the link repeats them all. It sends unacknowledged records again from the
outbox, and the daemon drops those that it has.

A publishing call never waits for this thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from math import inf
from typing import NamedTuple, TypeAlias

from edi_checkpoint import errors
from edi_checkpoint.documents.names import branch_id
from edi_checkpoint.link.connection import Connection, MonitorEvent
from edi_checkpoint.link.sending import acknowledged, keep_small, push
from edi_checkpoint.link.stream import Stream, settle
from edi_checkpoint.link.wakeup import Wakeup
from edi_checkpoint.link.window import FRAMES_IN_FLIGHT
from edi_checkpoint.model import CheckpointInfo
from edi_checkpoint.outbox.outbox import COMPACT_BYTES, Outbox
from edi_checkpoint.outbox.segments import list_streams
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.wire import codec, messages
from edi_checkpoint.wire.states import CONNECTION, ConnectionEvent, ConnectionState, StreamEvent, StreamState, advance

log = logging.getLogger(__name__)

_ATTACH_AGAIN_S = 2.0  # the daemon's disk may refuse writes, or its answer may be lost
_STOPPED_S = 0.2  # how often `detach` checks that the link thread is alive
_RESTART_S = 0.5  # a daemon that restarts is back within this time
_RETRY_REFUSED_S = 5.0  # the daemon may be replaced by one that serves our folder or speaks our version
_BACKLOG_RETRY_S = 0.5
_TO_ATTACH = (StreamState.DETACHED, StreamState.ATTACHING)
_FOR_EVER = errors.Fenced | errors.SessionBusy | errors.SessionPurged  # asking again does not change these refusals
_Request: TypeAlias = messages.Attach | messages.Question


class _Source(NamedTuple):
    """A stream, its outbox, and a function that publishes the whole state as one entry."""

    stream: Stream
    outbox: Outbox
    publish_base: Callable[[], int] | None = None  # None until its session is open


class Link:
    """Connects the streams of one process to the daemon that serves `paths`."""

    def __init__(
        self,
        paths: Paths,
        *,
        app: str,
        version: str,
        outbox_max_bytes: int = COMPACT_BYTES,
        absent: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the thread, also without a daemon. The thread calls `absent` each time it finds no daemon."""
        self.paths = paths
        self._app = app
        self._outbox_max_bytes = outbox_max_bytes
        self._hello = messages.Hello(app=app, version=version, sessions_dir=str(paths.sessions))
        self._absent = absent
        self._outboxes: dict[str, Outbox] = {}  # the open ones, by stream
        self._sources: dict[str, _Source] = {}  # by stream; only the link thread uses it
        self._calls: deque[Callable[[], None]] = deque()
        self._wakeup = Wakeup()
        self._asleep = False
        self._woken = False  # entries or calls came since the last turn
        self._requests = count(1)
        self._pending: dict[int, tuple[_Request, Future[messages.Answer]]] = {}  # by request number
        self._state = ConnectionState.NEW
        self._journal: str | None = None  # of the last daemon that sent `Welcome`
        self._retry_at_s: float | None = None
        self._closing = False
        self._changed = threading.Condition()  # notified when a connection is made or lost
        self._connection = Connection(paths, self._wakeup.fd, queue_frames=2 * FRAMES_IN_FLIGHT)
        self._thread = threading.Thread(target=self._run, name="edi-checkpoint-link", daemon=True)
        self._thread.start()

    # -- for other threads -------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether a daemon has welcomed this client and is connected."""
        return self._state is ConnectionState.OPEN

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until a daemon has welcomed this client, at most `timeout_s`; return whether one has."""
        with self._changed:
            return self._changed.wait_for(lambda: self.connected, timeout_s)

    def wake(self) -> None:
        """Have the link send what was published. Sets a flag, and writes to a descriptor if the link sleeps."""
        self._woken = True
        if self._asleep:
            self._wakeup.set()

    def ask(self, question: Callable[[int], messages.Question], timeout_s: float) -> messages.Answer:
        """Send a question and return its answer, after at most `timeout_s`.

        Raises the daemon's error, or `DaemonUnavailable`: without a connection after half a second, because a daemon
        that restarts is back by then.
        """
        if not self.wait_connected(min(timeout_s, _RESTART_S)):
            raise errors.DaemonUnavailable("no daemon is connected")
        request = next(self._requests)
        return self._await(request, question(request), timeout_s)

    def put(self, question: Callable[[int], messages.Question]) -> Future[messages.Answer]:
        """Send a question, and again to each later daemon, until one answers; return the future of the answer."""
        request = next(self._requests)
        return self._put(request, question(request))

    def open(self, session_id: str, parent_session: str | None, *, seen: bool, takeover: bool) -> Stream:
        """Lock the session and return a new stream. Raises the errors of `Outbox`."""
        outbox = Outbox(
            self.paths.outbox, session_id, app=self._app, parent_session=parent_session, seen=seen, takeover=takeover,
            max_bytes=self._outbox_max_bytes,
        )  # fmt: skip
        self._outboxes[outbox.stream] = outbox
        return Stream(session_id, parent_session, outbox)

    def attach(self, stream: Stream, *, timeout_s: float) -> messages.Attached | None:
        """Attach the stream of `open`; return the daemon's answer, after at most `timeout_s`.

        None if no daemon answers or the connection is lost: the link attaches the stream to the next daemon. Raises
        the daemon's refusal.
        """
        request = next(self._requests)
        message = messages.Attach(request, stream.session_id, stream.id, stream.parent_session, want_state=True)

        def add() -> None:
            if outbox := self._outboxes.get(stream.id):  # without one, the stream was shut out meanwhile
                self._sources.setdefault(stream.id, _Source(stream, outbox))

        self._call(add)
        try:
            answer = self._await(request, message, timeout_s)
        except errors.DaemonUnavailable:
            self._call(lambda: self._reattach(stream.id))
            return None
        return answer if isinstance(answer, messages.Attached) else None

    def serve(self, stream: Stream, publish_base: Callable[[], int]) -> None:
        """Have `publish_base` called when the daemon lacks entries of `stream` (`docs/protocol.md`, Gaps)."""

        def replace() -> None:
            if source := self._sources.get(stream.id):
                self._sources[stream.id] = source._replace(publish_base=publish_base)

        self._call(replace)

    def detach(self, stream: Stream, *, unused: bool = False) -> None:
        """Remove a stream, close its outbox and notify the daemon, which drains and unlinks the outbox.

        `unused`: the daemon refused the stream and nothing was published, so its files are removed. The link thread
        closes the outbox, because it may be reading the files.
        """
        closed = threading.Event()

        def remove() -> None:
            self._release(stream, unused=unused)
            closed.set()

        self._call(remove)
        while not closed.wait(_STOPPED_S):
            if not self._thread.is_alive():
                if outbox := self._outboxes.pop(stream.id, None):
                    outbox.close()
                return

    def _release(self, stream: Stream, *, unused: bool = False) -> None:
        """Close a stream's outbox, which frees its lock for the daemon or another writer; in the link thread."""
        self._sources.pop(stream.id, None)
        if outbox := self._outboxes.pop(stream.id, None):  # without one, the stream was shut out and closed before
            if unused:
                outbox.abandon()
            elif not outbox.spool():
                log.error("session %s: the disk refuses its last entries; they are lost", stream.session_id)
            with outbox.lock:  # no append is under way
                outbox.close()
        stream.advance(StreamEvent.CLOSE)
        if self.connected:
            self._send(messages.Close(stream=stream.id))

    def close(self) -> None:
        """End the thread, after all streams were detached."""

        def stop() -> None:
            self._closing = True

        self._call(stop)
        self._thread.join()
        self._wakeup.close()

    def _call(self, function: Callable[[], None]) -> None:
        self._calls.append(function)
        self.wake()

    def _await(self, request: int, message: _Request, timeout_s: float) -> messages.Answer:
        try:
            return self._put(request, message).result(timeout_s)
        except TimeoutError:
            raise errors.DaemonUnavailable(f"no answer within {timeout_s:g} s on the socket") from None
        finally:
            self._call(lambda: self._pending.pop(request, None) and None)

    def _put(self, request: int, message: _Request) -> Future[messages.Answer]:
        future: Future[messages.Answer] = Future()
        try:
            codec.encode(message)
        except (OverflowError, ValueError) as error:  # found here, in the caller's thread, not in the link's
            raise errors.UsageError(f"cannot send this question: {error}") from error

        def send() -> None:
            self._pending[request] = (message, future)
            if self.connected:
                self._send(message)

        if self._closing:
            raise errors.SessionClosed("this client is closed")
        self._call(send)
        return future

    # -- the link thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            try:
                self._connection.connect()
                while not self._closing:
                    self._turn()
            finally:  # otherwise the next garbage collection, in any thread, waits for the sockets
                self._connection.close(farewell=self.connected and self._closing)
        except errors.FolderError as error:
            log.error("cannot reach a daemon; entries stay in the outbox: %s; %s", error, error.hint)  # noqa: TRY400
        except Exception:
            log.exception("the link stopped; entries stay in the outbox until the process restarts")
        finally:
            self._on_lost()

    def _turn(self) -> None:
        """Wait for calls, messages or due streams, then handle them."""
        self._asleep = True
        timeout_ms = 0 if self._woken or self._calls else self._timeout_ms()
        signalled, changes, received = self._connection.poll(timeout_ms)
        self._asleep = False
        self._woken = False
        if signalled:
            self._wakeup.clear()
        while self._calls:
            self._calls.popleft()()
        for change in changes:
            match change:
                case MonitorEvent.UP:
                    self._advance(ConnectionEvent.HELLO)
                    self._connection.send(self._hello)
                case MonitorEvent.DOWN:
                    self._on_lost()
                case MonitorEvent.ABSENT:
                    self._find_fences()
                    self._absent()
        for message in received:
            self._receive(message)
        if self._retry_at_s is not None and time.monotonic() >= self._retry_at_s:
            self._retry_at_s = None
            self._connection.connect()
        for source in list(self._sources.values()):
            self._send_entries(source)

    def _send_entries(self, source: _Source) -> None:
        """Send the unsent entries of a stream, or ask again for its attachment when that is due."""
        stream, outbox, _ = source
        if outbox.grown:
            keep_small(stream, outbox)
        if not self.connected or self._connection.blocked:
            return
        if stream.state is StreamState.ATTACHED:
            try:
                push(stream, outbox, self._connection)
            except OSError as error:
                log.warning("session %s: cannot read its outbox: %s", stream.session_id, error)
        elif stream.attach_due_s <= time.monotonic():
            self._reattach(stream.id)

    def _timeout_ms(self) -> int | None:
        due_s = inf if self._retry_at_s is None else self._retry_at_s
        for source in self._sources.values():
            if self.connected:
                due_s = min(due_s, source.stream.due_s)
            if source.outbox.backlog:
                due_s = min(due_s, time.monotonic() + _BACKLOG_RETRY_S)
        return None if due_s == inf else max(0, int((due_s - time.monotonic()) * 1000) + 1)

    def _on_lost(self) -> None:
        self._advance(ConnectionEvent.LOST)
        for source in self._sources.values():
            source.stream.lose()
        for number, (request, future) in list(self._pending.items()):
            if isinstance(request, messages.Attach):  # its caller looks for another daemon
                del self._pending[number]
                settle(future, errors.DaemonUnavailable("the daemon left"))
        with self._changed:
            self._changed.notify_all()

    def _advance(self, event: ConnectionEvent) -> None:
        self._state = advance(CONNECTION, self._state, event)

    def _send(self, message: _Request | messages.AskMark | messages.Close) -> None:
        self._advance(ConnectionEvent.REQUEST)
        if isinstance(message, messages.Attach) and (source := self._sources.get(message.stream)):
            source.stream.advance(StreamEvent.ATTACH)
        self._connection.send(message)

    def _receive(self, message: messages.DaemonMessage) -> None:
        try:
            self._advance(_event_of(message))
            self._handle(message)
        except errors.ProtocolError as error:  # the daemon sent it on a connection that is lost
            log.warning("message from the daemon refused: %s", error)

    def _handle(self, message: messages.DaemonMessage) -> None:
        match message:
            case messages.Ack():
                if source := self._sources.get(message.stream):
                    acknowledged(source.stream, message)
            case messages.MarkDone():
                self._settle(message.stream, message.number, message.checkpoint)
            case messages.MarkFailed():
                failure = errors.CheckpointFailed(message.message, hint=message.hint)
                self._settle(message.stream, message.number, failure)
            case messages.Welcome():
                self._on_welcome(message)
            case messages.Error():
                self._on_error(message)
            case messages.Attached():
                self._on_attached(message)
                self._answer(message.request, message)
            case _:
                self._answer(message.request, message)

    def _on_welcome(self, message: messages.Welcome) -> None:
        self._journal = message.journal
        attaching = {request.stream for request, _ in self._pending.values() if isinstance(request, messages.Attach)}
        for request, _ in self._pending.values():
            self._send(request)
        for stream_id in self._sources:
            if stream_id not in attaching:
                self._reattach(stream_id)
        with self._changed:
            self._changed.notify_all()

    def _reattach(self, stream_id: str) -> None:
        """Ask the daemon to attach a stream, unless it has; ask again later if it does not answer."""
        source = self._sources.get(stream_id)
        if source is None or not self.connected or source.stream.state not in _TO_ATTACH:
            return
        stream, outbox, _ = source
        stream.ask_again_at(time.monotonic() + _ATTACH_AGAIN_S)
        self._send(
            messages.Attach(
                0, stream.session_id, stream.id, stream.parent_session, stream.journal, outbox.first, outbox.published
            )
        )

    def _on_attached(self, message: messages.Attached) -> None:
        source = self._sources.get(message.stream)
        if source is None:
            return
        stream, after = source.stream, message.number
        stream.check(StreamEvent.ATTACHED)  # raises for a late answer, before a base is published
        if message.base_wanted or stream.journal not in (None, self._journal):
            log.warning("session %s: the daemon lacks entries; publishing the whole state", stream.session_id)
            base = self._publish_base(source)
            if base is None:
                stream.ask_again_at(time.monotonic() + _ATTACH_AGAIN_S)
                return
            if source.outbox.first > after + 1:
                after = base - 1
        stream.attach(message, self._journal, after=after)
        for number in list(stream.marks):
            if number <= message.number:
                self._send(messages.AskMark(stream=stream.id, number=number))

    def _publish_base(self, source: _Source) -> int | None:
        """Publish the whole state of a stream; return the entry's number, None if that fails now."""
        if source.publish_base is None:
            return source.outbox.published
        try:
            return source.publish_base()
        except (errors.EdiCheckpointError, OSError) as error:
            log.warning("session %s: %s; asking the daemon again", source.stream.session_id, error)
            return None

    def _settle(self, stream_id: str, number: int, outcome: CheckpointInfo | errors.CheckpointFailed) -> None:
        if source := self._sources.get(stream_id):
            source.stream.advance(StreamEvent.NEWS)
            source.stream.settle_mark(number, outcome)

    def _answer(self, request: int, outcome: messages.Answer | errors.EdiCheckpointError) -> None:
        if pending := self._pending.pop(request, None):
            settle(pending[1], outcome)

    def _on_error(self, message: messages.Error) -> None:
        error = errors.from_wire(
            message.code, message.message, message.hint,
            pid=message.pid, since=message.since, number=message.number, branch=message.branch,
        )  # fmt: skip
        self._answer(message.request, error)
        if source := self._sources.get(message.stream):
            stream = source.stream
            gone = isinstance(error, errors.NotFound) and not message.request and source.outbox.gone
            if gone or isinstance(error, errors.SessionPurged):
                error = _purged(stream)
            for_ever = isinstance(error, _FOR_EVER)
            if stream.state is not StreamState.ATTACHED and not message.request and not for_ever:
                log.warning("session %s: %s; asking the daemon again", stream.session_id, error)
                return  # no publishing call raises it: the daemon's disk may refuse for a while
            self._refuse(stream, error, is_answer=bool(message.request))
        elif not message.request and not message.stream:  # otherwise it concerns a stream that is detached
            log.warning("the daemon on %s refused this client: %s (%s)", self._connection.endpoint, error, error.hint)
            self._disconnect()

    def _refuse(self, stream: Stream, error: errors.EdiCheckpointError, *, is_answer: bool) -> None:
        """Have the publisher's next call raise `error`; close the outbox if the stream is shut out.

        `is_answer`: the publisher waits for the answer to its first `Attach`, and closes the outbox itself.
        """
        with stream.outbox.lock:  # a concurrent publishing call is counted, or raises
            if isinstance(error, errors.Fenced) and stream.outbox.published <= error.number:  # there is no branch
                error = errors.Fenced(error.message, number=error.number, hint=error.hint)
            stream.refuse(error, for_ever=isinstance(error, _FOR_EVER))
        if isinstance(error, errors.Fenced | errors.SessionPurged) and not is_answer:
            log.warning("session %s: %s", stream.session_id, error)
            self._release(stream)

    def _find_fences(self) -> None:
        """Shut out the streams that were fenced or purged while no daemon runs; lock files alone show it then."""
        for stream, outbox, _ in list(self._sources.values()):
            if outbox.gone:
                self._refuse(stream, _purged(stream), is_answer=False)
                continue
            for other in list_streams(outbox.folder):
                if (number := other.owner.fenced.get(stream.id)) is not None:
                    session_id = stream.session_id
                    fence = f"session {session_id}: process {other.owner.pid} has taken it over"
                    error = errors.Fenced(fence, number=number, branch=branch_id(session_id, stream.id))
                    self._refuse(stream, error, is_answer=False)
                    break

    def _disconnect(self) -> None:
        """Disconnect from a daemon that serves another folder or speaks another version, and retry later."""
        self._on_lost()
        self._connection.disconnect()
        self._retry_at_s = time.monotonic() + _RETRY_REFUSED_S


def _event_of(message: messages.DaemonMessage) -> ConnectionEvent:
    """Return the event of the connection that a message of the daemon is."""
    if isinstance(message, messages.Welcome):
        return ConnectionEvent.WELCOME
    concerns_connection = isinstance(message, messages.Error) and not message.request and not message.stream
    return ConnectionEvent.ERROR if concerns_connection else ConnectionEvent.NEWS


def _purged(stream: Stream) -> errors.SessionPurged:
    return errors.SessionPurged(f"session {stream.session_id} was purged, or its outbox deleted: no more is saved")
