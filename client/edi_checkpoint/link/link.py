"""The link: the thread that moves a client's records to the daemon and acknowledgements back.

A connection goes through: handshake (told by the socket's monitor) -> `Hello` -> `Welcome` -> `Attach` for every
stream -> entries. All of it starts anew when the daemon was restarted: what is not acknowledged is sent again from the
outbox, and the daemon drops what it has.

Nothing here is ever waited for by a publishing call.
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
from typing import NamedTuple

from edi_checkpoint.documents.names import branch_id
from edi_checkpoint.errors import (
    CheckpointFailed,
    DaemonUnavailable,
    EdiCheckpointError,
    Fenced,
    FolderError,
    NotFound,
    ProtocolError,
    SessionBusy,
    SessionClosed,
    SessionPurged,
    UsageError,
    from_wire,
)
from edi_checkpoint.link.connection import Connection, MonitorEvent
from edi_checkpoint.link.sending import acknowledged, keep_small, push
from edi_checkpoint.link.stream import Stream
from edi_checkpoint.link.wakeup import Wakeup
from edi_checkpoint.link.window import FRAMES_IN_FLIGHT
from edi_checkpoint.model import CheckpointInfo
from edi_checkpoint.outbox.outbox import COMPACT_BYTES, Outbox
from edi_checkpoint.outbox.segments import list_streams
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.wire import codec
from edi_checkpoint.wire import messages as wire_messages
from edi_checkpoint.wire.states import (
    CONNECTION,
    STREAM,
    ConnectionEvent,
    ConnectionState,
    StreamEvent,
    StreamState,
    advance,
)

log = logging.getLogger(__name__)

_ATTACH_AGAIN_S = 2.0  # the daemon's disk may have refused, or its answer got lost
_STOPPED_S = 0.2  # how soon the end of the link's thread is noticed by who waits for it
_RESTART_S = 0.5
_RETRY_REFUSED_S = 5.0  # a daemon that serves another folder or version may be replaced
_BACKLOG_RETRY_S = 0.5
_TO_ATTACH = (StreamState.DETACHED, StreamState.ATTACHING)
_FOR_EVER = Fenced | SessionBusy | SessionPurged  # refusals that no asking again will change


class _Source(NamedTuple):
    """A stream, the outbox that its records are read from, and what publishes its whole state as one entry."""

    stream: Stream
    outbox: Outbox
    publish_base: Callable[[], int] | None = None  # None: its session is not open yet


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
        """Start the thread; the daemon need not be there. The thread calls `absent` each time it finds no daemon."""
        self.paths = paths
        self._app = app
        self._outbox_max_bytes = outbox_max_bytes
        self._hello = wire_messages.Hello(app=app, version=version, sessions_dir=str(paths.sessions))
        self._absent = absent
        self._outboxes: dict[str, Outbox] = {}  # that are open, by their streams
        self._sources: dict[str, _Source] = {}  # by stream; the link thread's own
        self._calls: deque[Callable[[], None]] = deque()
        self._wakeup = Wakeup()
        self._asleep = False
        self._wanted = False
        self._requests = count(1)
        self._asked: dict[int, tuple[wire_messages.Attach | wire_messages.Question, Future[wire_messages.Answer]]] = {}
        self._state = ConnectionState.NEW
        self._journal: str | None = None  # of the daemon that welcomed us last
        self._retry_at_s: float | None = None
        self._closing = False
        self.changed = threading.Condition()  # connected or lost
        self._connection = Connection(paths, self._wakeup.fd, queue_frames=2 * FRAMES_IN_FLIGHT)
        self._thread = threading.Thread(target=self._run, name="edi-checkpoint-link", daemon=True)
        self._thread.start()

    # -- for other threads -------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether a daemon has welcomed this client and is connected."""
        return self._state is ConnectionState.OPEN

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until a daemon has welcomed this client, at most `timeout_s`."""
        with self.changed:
            return self.changed.wait_for(lambda: self.connected, timeout_s)

    def wake(self) -> None:
        """Let the link look for what was published; costs a flag while it is busy, one write when it sleeps."""
        self._wanted = True
        if self._asleep:
            self._wakeup.set()

    def ask(self, question: Callable[[int], wire_messages.Question], timeout_s: float) -> wire_messages.Answer:
        """Send a query and wait for its answer, at most `timeout_s`.

        Raises the daemon's error, and `DaemonUnavailable`: without a connection after half a second, in which one that
        is being started anew is back.
        """
        if not self.wait_connected(min(timeout_s, _RESTART_S)):
            raise DaemonUnavailable("no daemon is connected")
        request = next(self._requests)
        return self._await(request, question(request), timeout_s)

    def put(self, question: Callable[[int], wire_messages.Question]) -> Future[wire_messages.Answer]:
        """Send a query, and anew to each daemon that follows, until the answer is there that is returned."""
        request = next(self._requests)
        return self._put(request, question(request))

    def open(self, session_id: str, parent_session: str | None, *, seen: bool, takeover: bool) -> Stream:
        """Take the session's lock and return a new stream; raises what `Outbox` raises."""
        outbox = Outbox(
            self.paths.outbox, session_id, app=self._app, parent_session=parent_session, seen=seen, takeover=takeover,
            max_bytes=self._outbox_max_bytes,
        )  # fmt: skip
        self._outboxes[outbox.stream] = outbox
        return Stream(session_id, parent_session, outbox)

    def attach(self, stream: Stream, *, timeout_s: float) -> wire_messages.Attached | None:
        """Take `stream`, which `open` returned, into the link and wait for the daemon's answer, at most `timeout_s`.

        None when no daemon answered, or it was lost: the stream stays and is attached when one comes. Raises the
        daemon's refusal.
        """
        request = next(self._requests)
        message = wire_messages.Attach(
            request=request,
            session_id=stream.session_id,
            stream=stream.id,
            parent_session=stream.parent_session,
            want_state=True,
        )

        def add() -> None:
            if outbox := self._outboxes.get(stream.id):  # else it was shut out meanwhile
                self._sources.setdefault(stream.id, _Source(stream, outbox))

        self._call(add)
        try:
            answer = self._await(request, message, timeout_s)
        except DaemonUnavailable:
            self._call(lambda: self._reattach(stream.id))
            return None
        return answer if isinstance(answer, wire_messages.Attached) else None

    def serve(self, stream: Stream, publish_base: Callable[[], int]) -> None:
        """Call `publish_base` whenever the daemon lacks entries of `stream` (`docs/protocol.md`, Gaps)."""

        def replace() -> None:
            if source := self._sources.get(stream.id):
                self._sources[stream.id] = source._replace(publish_base=publish_base)

        self._call(replace)

    def detach(self, stream: Stream, *, unused: bool = False) -> None:
        """Take a stream out of the link, close its outbox and tell the daemon, which drains and unlinks that.

        `unused`: it was not let in, nothing was published, and nothing of it stays. The link thread closes it: it may
        be reading the files just now.
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
        """Close a stream's outbox, in the link thread: the daemon or another writer finds its lock free."""
        self._sources.pop(stream.id, None)
        if outbox := self._outboxes.pop(stream.id, None):  # else it was shut out, and closed then
            if unused:
                outbox.abandon()
            elif not outbox.spool():
                log.error("session %s: the disk refuses its last entries; they are lost", stream.session_id)
            with outbox.lock:  # no append is under way
                outbox.close()
        stream.advance(StreamEvent.CLOSE)
        if self.connected:
            self._send(wire_messages.Close(stream=stream.id))

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

    def _await(
        self, request: int, message: wire_messages.Attach | wire_messages.Question, timeout_s: float
    ) -> wire_messages.Answer:
        try:
            return self._put(request, message).result(timeout_s)
        except TimeoutError:
            raise DaemonUnavailable(f"no answer within {timeout_s:g} s on the socket") from None
        finally:
            self._call(lambda: self._asked.pop(request, None) and None)

    def _put(
        self, request: int, message: wire_messages.Attach | wire_messages.Question
    ) -> Future[wire_messages.Answer]:
        future: Future[wire_messages.Answer] = Future()
        try:
            codec.encode(message)
        except (OverflowError, ValueError) as error:  # in the caller's thread: the link's is for all
            raise UsageError(f"a question that cannot be put: {error}") from error

        def send() -> None:
            self._asked[request] = (message, future)
            if self.connected:
                self._send(message)

        if self._closing:
            raise SessionClosed("this client is closed")
        self._call(send)
        return future

    # -- the link thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            try:
                self._connection.connect()
                while not self._closing:
                    self._turn()
            finally:  # or the next collection of garbage waits for the sockets, wherever that is
                self._connection.close(farewell=self.connected and self._closing)
        except FolderError as error:
            log.error("no daemon can be reached, entries stay in the outbox: %s; %s", error, error.hint)  # noqa: TRY400
        except Exception:
            log.exception("link stopped: entries stay in the outbox until the process is started anew")
        finally:
            self._lost()

    def _turn(self) -> None:
        """Wait for something to do, then do it."""
        self._asleep = True
        timeout_ms = 0 if self._wanted or self._calls else self._timeout_ms()
        woken, changes, messages = self._connection.poll(timeout_ms)
        self._asleep = False
        self._wanted = False
        if woken:
            self._wakeup.clear()
        while self._calls:
            self._calls.popleft()()
        for change in changes:
            match change:
                case MonitorEvent.UP:
                    self._advance(ConnectionEvent.HELLO)
                    self._connection.send(self._hello)
                case MonitorEvent.DOWN:
                    self._lost()
                case MonitorEvent.ABSENT:
                    self._look_for_fences()
                    self._absent()
        for message in messages:
            self._take(message)
        if self._retry_at_s is not None and time.monotonic() >= self._retry_at_s:
            self._retry_at_s = None
            self._connection.connect()
        for source in list(self._sources.values()):
            self._see_to(source)

    def _see_to(self, source: _Source) -> None:
        """Send what a stream has; one that is not let in yet asks again."""
        stream, outbox, _ = source
        if outbox.grown:
            keep_small(stream, outbox)
        if not self.connected or self._connection.blocked:
            return
        if stream.state is StreamState.ATTACHED:
            try:
                push(stream, outbox, self._connection)
            except OSError as error:
                log.warning("session %s: its outbox cannot be read: %s", stream.session_id, error)
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

    def _lost(self) -> None:
        self._advance(ConnectionEvent.LOST)
        for source in self._sources.values():
            source.stream.lose()
        for request, (asked, future) in list(self._asked.items()):
            if isinstance(asked, wire_messages.Attach):  # whoever waits for it looks for another daemon
                del self._asked[request]
                if not future.done():
                    future.set_exception(DaemonUnavailable("the daemon left"))
        with self.changed:
            self.changed.notify_all()

    def _advance(self, event: ConnectionEvent) -> None:
        self._state = advance(CONNECTION, self._state, event)

    def _send(
        self, message: wire_messages.Attach | wire_messages.AskMark | wire_messages.Close | wire_messages.Question
    ) -> None:
        self._advance(ConnectionEvent.REQUEST)
        if isinstance(message, wire_messages.Attach) and (source := self._sources.get(message.stream)):
            source.stream.advance(StreamEvent.ATTACH)
        self._connection.send(message)

    def _take(self, message: wire_messages.DaemonMessage) -> None:
        try:
            self._hear(message)
        except ProtocolError as error:  # it was sent on a connection that is lost
            log.warning("message from the daemon refused: %s", error)

    def _hear(self, message: wire_messages.DaemonMessage) -> None:
        self._advance(_event_of(message))
        match message:
            case wire_messages.Ack():
                self._acknowledged(message)
            case wire_messages.MarkDone():
                self._settle(message.stream, message.number, message.checkpoint)
            case wire_messages.MarkFailed():
                self._settle(message.stream, message.number, CheckpointFailed(message.message, hint=message.hint))
            case wire_messages.Welcome():
                self._welcomed(message)
            case wire_messages.Error():
                self._refused(message)
            case wire_messages.Attached():
                self._attached(message)
                self._answer(message)
            case _:
                self._answer(message)

    def _welcomed(self, message: wire_messages.Welcome) -> None:
        self._journal = message.journal
        attaching = {asked.stream for asked, _ in self._asked.values() if isinstance(asked, wire_messages.Attach)}
        for asked, _ in self._asked.values():
            self._send(asked)
        for stream_id in self._sources:
            if stream_id not in attaching:
                self._reattach(stream_id)
        with self.changed:
            self.changed.notify_all()

    def _reattach(self, stream_id: str) -> None:
        """Ask the daemon to let a stream in that it has not let in yet; ask again when it does not answer."""
        source = self._sources.get(stream_id)
        if source is None or not self.connected or source.stream.state not in _TO_ATTACH:
            return
        stream, outbox, _ = source
        stream.ask_again_at(time.monotonic() + _ATTACH_AGAIN_S)
        self._send(
            wire_messages.Attach(
                request=0,
                session_id=stream.session_id,
                stream=stream.id,
                parent_session=stream.parent_session,
                journal=stream.journal,
                first=outbox.first,
                last=outbox.published,
            )
        )

    def _attached(self, message: wire_messages.Attached) -> None:
        source = self._sources.get(message.stream)
        if source is None:
            return
        stream, after = source.stream, message.number
        advance(STREAM, stream.state, StreamEvent.ATTACHED)  # or nothing is published for a late answer
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
                self._send(wire_messages.AskMark(stream=stream.id, number=number))

    def _publish_base(self, source: _Source) -> int | None:
        """Publish the whole state of a stream; return its number, None when that is not possible now."""
        if source.publish_base is None:
            return source.outbox.published
        try:
            return source.publish_base()
        except (EdiCheckpointError, OSError) as error:
            log.warning("session %s: %s; the daemon is asked again", source.stream.session_id, error)
            return None

    def _acknowledged(self, message: wire_messages.Ack) -> None:
        if source := self._sources.get(message.stream):
            acknowledged(source.stream, message)

    def _settle(self, stream_id: str, number: int, outcome: CheckpointInfo | CheckpointFailed) -> None:
        if source := self._sources.get(stream_id):
            source.stream.advance(StreamEvent.NEWS)
            source.stream.settle_mark(number, outcome)

    def _answer(self, message: wire_messages.Answer) -> None:
        _, future = self._asked.pop(message.request, (None, None))
        if future is not None and not future.done():
            future.set_result(message)

    def _refused(self, message: wire_messages.Error) -> None:
        error = from_wire(
            message.code, message.message, message.hint,
            pid=message.pid, since=message.since, number=message.number, branch=message.branch,
        )  # fmt: skip
        if message.request:
            _, future = self._asked.pop(message.request, (None, None))
            if future is not None and not future.done():
                future.set_exception(error)
        if source := self._sources.get(message.stream):
            stream = source.stream
            gone = isinstance(error, NotFound) and not message.request and source.outbox.gone
            if gone or isinstance(error, SessionPurged):
                error = _purged(stream)
            for_ever = isinstance(error, _FOR_EVER)
            if stream.state is not StreamState.ATTACHED and not message.request and not for_ever:
                log.warning("session %s: %s; the daemon is asked again", stream.session_id, error)
                return  # its disk may refuse: no publishing call need know
            self._refuse(stream, error, asked=bool(message.request))
        elif not message.request and not message.stream:  # not late news of a stream that has left
            log.warning("the daemon on %s refused this client: %s (%s)", self._connection.endpoint, error, error.hint)
            self._give_up_for_now()

    def _refuse(self, stream: Stream, error: EdiCheckpointError, *, asked: bool) -> None:
        """Let a stream's publisher know; one that is shut out lets go of its outbox.

        `asked`: the publisher waits for the answer to its first attach, and sees to that itself.
        """
        with stream.outbox.lock:  # what another thread publishes meanwhile is counted, or refused
            if isinstance(error, Fenced) and stream.outbox.published <= error.number:  # then there is no branch
                error = Fenced(error.message, number=error.number, hint=error.hint)
            stream.refuse(error, for_ever=isinstance(error, _FOR_EVER))
        if isinstance(error, Fenced | SessionPurged) and not asked:
            log.warning("session %s: %s", stream.session_id, error)
            self._release(stream)

    def _look_for_fences(self) -> None:
        """Without a daemon, a writer that has taken over has said so in its own lock file alone; so has no purge."""
        for stream, outbox, _ in list(self._sources.values()):
            if outbox.gone:
                self._refuse(stream, _purged(stream), asked=False)
                continue
            for other in list_streams(outbox.folder):
                if (number := other.owner.fenced.get(stream.id)) is not None:
                    session_id = stream.session_id
                    told = f"session {session_id}: process {other.owner.pid} has taken it over"
                    error = Fenced(told, number=number, branch=branch_id(session_id, stream.id))
                    self._refuse(stream, error, asked=False)
                    break

    def _give_up_for_now(self) -> None:
        """Treat the daemon as absent: it serves another folder, or speaks another version."""
        self._lost()
        self._connection.disconnect()
        self._retry_at_s = time.monotonic() + _RETRY_REFUSED_S


def _event_of(message: wire_messages.DaemonMessage) -> ConnectionEvent:
    """Return what a message is to the connection; all but greetings is about a stream, or answers a question."""
    match message:
        case wire_messages.Welcome():
            return ConnectionEvent.WELCOME
        case wire_messages.Error(request=0, stream=""):
            return ConnectionEvent.ERROR
        case _:
            return ConnectionEvent.NEWS


def _purged(stream: Stream) -> SessionPurged:
    return SessionPurged(f"session {stream.session_id} was purged, or its outbox deleted: nothing more of it is kept")
