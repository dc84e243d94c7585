"""The intake: the loop of the one thread that owns journal and states.

A turn of the loop is the way of an entry: drain the socket without blocking, accept, commit (one fsync for all that was
drained), acknowledge, and only then whatever else was asked. Nothing is acknowledged before `Ledger.commit` returned.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import TypeVar

from msgspec.json import encode as encode_json

from edi_checkpoint import protocol
from edi_checkpoint.errors import AttachmentsFull, EdiCheckpointError, ProtocolError, WrongFolder
from edi_checkpoint.paths import Paths, ensure_private
from edi_checkpoint.records import scan, whole
from edi_checkpoint.status import Told
from edi_checkpoint.wakeup import Wakeup
from edi_checkpointd import descriptors
from edi_checkpointd.admission import Admission
from edi_checkpointd.attendance import Attendance
from edi_checkpointd.clock import Clock
from edi_checkpointd.config import explain
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.feed import Feed
from edi_checkpointd.forgetting import Forgetting, purged_error
from edi_checkpointd.fs import write_atomic
from edi_checkpointd.heartbeat import Pulse
from edi_checkpointd.importing import Importing
from edi_checkpointd.inventory import document
from edi_checkpointd.journal import JournalDamaged, JournalRefused
from edi_checkpointd.keeping import Keeping, Outcome
from edi_checkpointd.ledger import Ledger
from edi_checkpointd.listener import Listener, Peer
from edi_checkpointd.liveness import PROBE_S, Liveness
from edi_checkpointd.saving import Saving
from edi_checkpointd.scheduler import Scheduler
from edi_checkpointd.sessions import Stream, fenced_error
from edi_checkpointd.stats import Stats, caps

log = logging.getLogger(__name__)

T = TypeVar("T")

DRAIN_BYTES = 8 << 20  # taken from the socket into one commit, at most
DRAIN_S = 0.02  # ... and not for longer: many small entries cost more time than bytes, and the first of them waits
RESCAN_S = 60.0  # how late is seen, at most, what was missed of others' doings in the sessions folder, while it matters
REFUSED_KEPT = 100  # refused frames kept in damaged/
QUESTIONS_MAX = 256  # of one connection that wait for their answers
REFUSED_APART = 8  # refused entries of one frame that are told apart; each costs an fsync
_GUARD_S = 1.0  # how late a step of the wall clock may be noticed while timers run
_REFUSED_PAUSE_S = 1.0
_UPKEEP_EVERY_S = 0.1  # also while frames always wait: else no row is trimmed and no outbox unlinked for so long


class Intake:
    """Serves one socket. Parts that must run in its thread are made by it; others reach it through `post`."""

    def __init__(
        self, paths: Paths, version: str, clock: Clock, scheduler: Scheduler, stats: Stats, pulse: Pulse, feed: Feed, *,
        idle_exit_s: float | None = None,
    ) -> None:  # fmt: skip
        """Open the socket, unbound; `serve` gives it the parts, `bind` and `run` begin.

        `idle_exit_s` lets `run` return after so long without a writer and without work; None: never.
        """
        self._paths = paths
        self._version = version
        self._clock = clock
        self._scheduler = scheduler
        self._stats = stats
        self._pulse = pulse
        self._feed = feed
        self._listener = Listener()
        self._wakeup = Wakeup()
        self._listener.watch(self._wakeup.fd)
        self._calls: deque[Callable[[], None]] = deque()
        self._routes: dict[str, bytes] = {}  # stream to connection
        self._listener.attached = self._routes.values()
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="requests")
        self._refused_until_s = 0.0
        self._refusals = count(1)
        self._stopping = False
        self._more_upkeep = True  # a start leaves some
        self.idle_exit_s = idle_exit_s
        self._busy_at_s = clock.monotonic_s()
        self._upkeep_at_s = 0.0
        self.upkeep: Callable[[], bool] = lambda: False  # a slice of it; whether there is more
        self.rescan: Callable[[], None] = lambda: None  # called now and then while something is published
        self.liveness = Liveness(paths.outbox, watch_fd=self._listener.watch, forget_fd=self._listener.forget)

    def serve(
        self,
        ledger: Ledger,
        saving: Saving,
        answer: Callable[[protocol.Query, bool], protocol.Answer],
        status: Callable[[int, Told], protocol.Status],
    ) -> Attendance:
        """Take the parts that serve: states, files, and what answers reading requests, in a thread of their own.

        `answer` is given a query and whether the outboxes it is about are drained, `status` a request's number and what
        the daemon tells of itself.
        """
        self._ledger = ledger
        self._saving = saving
        self._answer = answer
        self._status = status
        admission = Admission(ledger, self.liveness, saving, commit=self.commit, take=self.take, fenced=self._fence)
        self.attendance = Attendance(
            ledger, self.liveness, saving, admission, self._feed,
            commit=self.commit, take=self.take, damaged=self._paths.damaged,
        )  # fmt: skip
        return self.attendance

    def keep(
        self, keeping: Keeping, explain: Callable[[protocol.Explained, frozenset[str], bool], protocol.Answer]
    ) -> None:
        """Take the part that cleans up, and what says of a clean-up what it would do, and why.

        `explain` is given a query, the sessions in memory and whether the clock jumped; it is called in the thread
        that answers reading requests.
        """
        self._keeping = keeping
        self._explain = explain
        self.attendance.left = keeping.soon
        self._saving.grew = keeping.grew

    def take_imports(self, importing: Importing) -> None:
        """Take what brings imported sessions in."""
        self._importing = importing

    def forget_by(self, forgetting: Forgetting) -> None:
        """Take what forgets sessions."""
        self._forgetting = forgetting

    def bind(self, socket_path: str, listening_fd: int | None = None) -> None:
        """Begin to listen; the folder's lock is ours. `listening_fd` listens on that path already."""
        ensure_private(self._paths.runtime)
        self._listener.bind(socket_path, listening_fd)

    # -- for other threads -------------------------------------------------------------------------------------------

    def post(self, call: Callable[[], None]) -> None:
        """Have `call` made in the intake thread, between two turns."""
        self._calls.append(call)
        self._wakeup.set()

    def end_by(self, error: JournalDamaged) -> None:
        """Let `run` raise `error`, which was met while reading for somebody."""

        def end() -> None:
            raise error

        self.post(end)

    def stop(self) -> None:
        """Let `run` return after what is drained is committed; safe in a signal handler."""
        self._stopping = True
        self._wakeup.set()

    # -- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `stop`. Raises `JournalDamaged`, after which only another start helps."""
        while not self._stopping:
            self._turn()

    def settle(self) -> None:
        """Take in what dead writers left, until a file covers it; nobody is served. Raises `JournalRefused`."""
        while not self._stopping and not self.attendance.settled:
            self._turn()
            if self._refused_until_s or self._saving.failing:
                raise JournalRefused("what dead writers left cannot be taken in: the disk refuses")

    def _turn(self) -> None:
        """Take one batch from the socket to disk and tell its senders; then do what else is due."""
        timeout_ms = self._timeout_ms()
        self._pulse.rest()
        waiting, readable = self._listener.poll(timeout_ms)
        self._pulse.work()
        later = self._drain() if waiting else []
        try:
            self.commit()
        except JournalRefused as error:
            self._disk_refuses(error)
        for routing_id, message in later:
            self._dispatch(routing_id, message)
        self._make_calls(readable)
        self._see_out(readable)
        self._forget()
        frames_wait = bool(later) or self._listener.waiting
        if not frames_wait or self._clock.monotonic_s() >= self._upkeep_at_s:
            self._keep_up()
        for routing_id, events in self._feed.answers():
            self._send(routing_id, events)
        timers = bool(self._ledger.sessions) and not self._scheduler.idle  # those of sessions let go of do nothing
        self._leave_when_idle(
            busy=bool(
                later
                or self._routes
                or self.attendance.pending
                or self._keeping.pending
                or self._forgetting.pending
                or timers
            )
        )

    def _timeout_ms(self) -> int | None:
        if self._calls or self._more_upkeep:
            return 0
        if self.attendance.pending:
            wait_s = self._refused_until_s - self._clock.monotonic_s()
            return max(0, int(wait_s * 1000))
        if (due_s := self._forgetting.wait_s()) is not None:
            return int(max(due_s, self._refused_until_s - self._clock.monotonic_s()) * 1000)
        if self.liveness.probes:
            return int(PROBE_S * 1000)
        if not self._scheduler.idle:
            return int(_GUARD_S * 1000)
        return None if self.idle_exit_s is None else int(self.idle_exit_s * 1000) + 1

    def _drain(self) -> list[tuple[bytes, protocol.ClientMessage]]:
        """Accept the entries that wait, within bounds; return the other messages, for after the commit.

        Of several who send each has its turn, no more: what one floods us with costs the others one frame.
        """
        later: list[tuple[bytes, protocol.ClientMessage]] = []
        size = 0
        served: set[bytes] = set()
        all_served = False  # several send, and one has come twice: libzmq takes from each in turn
        until_s = self._clock.monotonic_s() + DRAIN_S
        while size < DRAIN_BYTES and not all_served and self._clock.monotonic_s() < until_s:
            received = self._listener.receive()
            if received is None:
                break
            routing_id, data = received
            all_served = routing_id in served and len(served) > 1
            served.add(routing_id)
            try:
                if isinstance(data, ProtocolError):
                    raise data
                size += len(data)
                message = protocol.decode_from_client(data)
            except ProtocolError as error:
                request = 0 if isinstance(data, ProtocolError) else protocol.request_of(data)
                self._refuse(routing_id, error, request=request)
                continue
            if isinstance(message, protocol.Entries):
                self._accept(routing_id, message)
            else:
                later.append((routing_id, message))
        return later

    # -- entries -----------------------------------------------------------------------------------------------------

    def _accept(self, routing_id: bytes, message: protocol.Entries) -> None:
        stream = self._ledger.streams.get(message.stream)
        if stream is not None and stream.fenced:
            self._refuse(routing_id, fenced_error(stream), message)
            return
        if self._forgetting.has_shut_out(message.stream):
            self._refuse(routing_id, purged_error(), message)
            return
        if stream is None or self._routes.get(message.stream) != routing_id:
            self._refuse(routing_id, ProtocolError(f"stream {message.stream} is not attached on this connection"))
            return
        if self._clock.monotonic_s() < self._refused_until_s:
            stream.dropped = True
            return  # the disk refuses: the client asks again after a silence, and sends it from its outbox
        if stream.dropped and self._ledger.skips(stream, message.records):
            return  # not acknowledged either: the client asks, and begins with what was dropped
        if not self.take(stream, message.records):
            self._send(routing_id, self._ledger.acknowledgement(stream))

    def take(self, stream: Stream, data: bytes | memoryview) -> bool:
        """Accept records, or refuse them; return False when all of them are known already.

        Of those that come together, the ones at fault alone are refused: they are found by halving, `REFUSED_APART` of
        them, and what is left then is refused as a whole.
        """
        parts, taken, refused = [data], False, 0
        while parts:
            part = parts.pop()
            try:
                taken = self._ledger.accept(stream, part) or taken
            except (ProtocolError, AttachmentsFull) as error:
                at = _middle(part) if refused < REFUSED_APART else 0
                if at:
                    parts += [part[at:], part[:at]]
                else:
                    self._refuse_entries(stream, part, error)
                    taken, refused = True, refused + 1
        return taken

    def _refuse_entries(self, stream: Stream, records: bytes | memoryview, error: EdiCheckpointError) -> None:
        """Keep the bytes of refused records, use up their numbers, and say so; what came with them goes on."""
        _, last = whole(records)
        if count := self._stats.worth_a_line("entries"):
            session_id = stream.session.session_id
            log.warning("entries refused session=%s upto=%d count=%d: %s", session_id, last, count, error)
        with contextlib.suppress(OSError):
            ensure_private(self._paths.damaged)
            name = f"frame-{next(self._refusals) % REFUSED_KEPT:03d}-{stream.session.session_id}.bin"
            write_atomic(self._paths.damaged / name, [bytes(records)])
            reached(CrashPoint.REFUSED_KEPT)
        if stream.expected < last <= stream.expected + len(records):
            self._ledger.pass_over(stream, last)
        self._fault(error, stream.session.session_id)
        self.notify(
            stream.id,
            protocol.Error(error.code, f"entries up to {last}: {error}", error.hint, stream=stream.id, number=last),
        )

    def commit(self) -> None:
        """Commit what is accepted and acknowledge it; then see to the checkpoints it leads to.

        Raises `JournalRefused` when the disk refuses: then nothing is acknowledged, and the entries come again from
        their senders' outboxes.
        """
        committed = self._ledger.commit()
        if committed.streams:
            self._disk_took()
            if "rescan" not in self._scheduler.pending:
                self._scheduler.after(RESCAN_S, "rescan", self.rescan)
        for stream in committed.streams:
            self.notify(stream.id, self._ledger.acknowledgement(stream))
        for session, wish in committed.wishes:
            self._saving.wish(session, wish)
        for stream in committed.streams:
            self._saving.changed(stream.session)
        self._feed.entries(committed.entries)

    def _disk_refuses(self, error: OSError) -> None:
        if self._stats.disk_refused(error):
            self._feed.fault(getattr(error, "code", "disk"), str(error))
            log.error("nothing is acknowledged while the disk refuses: %s", error)
        self._refused_until_s = self._clock.monotonic_s() + _REFUSED_PAUSE_S
        self._saving.make_room()

    def _disk_took(self) -> None:
        if self._stats.disk_took():
            log.info("the disk takes the journal again")

    # -- all other messages ------------------------------------------------------------------------------------------

    def _dispatch(self, routing_id: bytes, message: protocol.ClientMessage) -> None:
        peer = self._listener.peers.get(routing_id)
        if peer is None:  # it died while this waited, as an answer sent to it has shown
            if isinstance(message, protocol.Close):
                self._stream_left(message.stream)
            return
        try:
            match message:
                case protocol.Hello():
                    self._welcome(routing_id, message)
                # Before the next case: an answer that could not be sent any more has had the welcome forgotten.
                case protocol.Close(stream_id) if self._routes.get(stream_id) in (routing_id, None):
                    self._stream_left(stream_id)
                case _ if not peer.welcomed:
                    raise ProtocolError("the first message of a connection is Hello")
                case protocol.Attach():
                    self._forgetting.check(message.session_id, message.stream)
                    attached = self.attendance.attach(message, peer.pid)
                    self._routes[message.stream] = routing_id
                    self._send(routing_id, attached)
                    self._feed.condition(self._attached(message.stream).session, "live")
                case protocol.Probe(stream_id, probe):
                    self._send(routing_id, self._ledger.acknowledgement(self._attached(stream_id), probe))
                case protocol.Save(stream_id):
                    self._saving.save_now(self._attached(stream_id))
                case protocol.AskMark(stream_id, number):
                    self._tell_mark(self._attached(stream_id), number)
                case protocol.GetStatus(request):
                    told = self._told()
                    self._answer_later(routing_id, request, lambda: self._status(request, told))
                case protocol.Subscribe():
                    self._feed.subscribe(routing_id, message)
                case protocol.GetSettings(request):
                    self._send(routing_id, protocol.Settings(request, encode_json(explain(self._ledger.config))))
                case protocol.Prune(request):
                    self._finish_drains(None)
                    self._keeping.prune(lambda outcome: self._send(routing_id, _pruned(outcome, request)))
                case protocol.Restore(request, session_id):
                    self._keeping.restore(session_id)
                    self._send(routing_id, protocol.Restored(request, session_id))
                case protocol.Import(request, session_id, pid):
                    self._importing.take(session_id, pid)
                    self._send(routing_id, protocol.Imported(request, session_id))
                case protocol.GetCleanup(request) | protocol.GetWhy(request):
                    in_memory, jumped = frozenset(self._ledger.sessions), self._keeping.jumps.lately()
                    self._finish_drains(None)
                    self._answer_later(routing_id, request, lambda: self._explain(message, in_memory, jumped))
                case protocol.Purge():
                    self._purge(routing_id, message)
                case protocol.Entries() | protocol.Close():
                    pass  # accepted while draining; the stream of another connection
                case _:
                    self._ask(routing_id, message)
        except EdiCheckpointError as error:
            if isinstance(error, JournalDamaged):
                raise
            if isinstance(error, JournalRefused):
                self._disk_refuses(error)
            self._refuse(routing_id, error, message)
        except OSError as error:  # of what this one is about: the disk takes what the others publish
            self._refuse(routing_id, EdiCheckpointError(str(error)), message)

    def _fence(self, stream: Stream) -> None:
        """Tell a writer that another has taken over; nothing more is taken from it."""
        self.notify(stream.id, _error(fenced_error(stream), stream=stream.id))
        self._routes.pop(stream.id, None)

    def shut_out(self, stream_id: str) -> None:
        """Tell a writer that its session is purged; nothing more is taken from it."""
        self.notify(stream_id, _error(purged_error(), stream=stream_id))
        self._routes.pop(stream_id, None)

    def _purge(self, routing_id: bytes, message: protocol.Purge) -> None:
        def tell(kept: Collection[str]) -> None:
            self._send(routing_id, protocol.Purged(message.request, tuple(kept)))

        self._forgetting.purge(message.sessions, tell, everything=message.everything, takeover=message.takeover)

    def _stream_left(self, stream_id: str) -> None:
        self._routes.pop(stream_id, None)
        if stream := self._ledger.streams.get(stream_id):
            self.attendance.look_around(stream.session.session_id)

    def _welcome(self, routing_id: bytes, message: protocol.Hello) -> None:
        if Path(message.sessions_dir) != self._paths.sessions:
            raise WrongFolder(f"this daemon serves {self._paths.sessions}, not {message.sessions_dir}")
        self._listener.peers[routing_id].welcomed = True
        if (shortage := descriptors.short()) and self._stats.worth_a_line("descriptors_short"):
            log.warning("%s: without any left the daemon ends, and is started anew", shortage)
        self._send(routing_id, protocol.Welcome(self._version, os.getpid(), self._ledger.journal.id))

    def _attached(self, stream_id: str) -> Stream:
        stream = self._ledger.streams.get(stream_id)
        if stream is None or stream_id not in self._routes:
            raise ProtocolError(f"stream {stream_id} is not attached")
        return stream

    def _tell_mark(self, stream: Stream, number: int) -> None:
        """Tell what became of a mark whose answer got lost with a daemon; one under way is told of when written."""
        sequence = self._ledger.sequence_of(stream, number)
        info = self._saving.checkpoint_at(stream.session, sequence) if sequence else None
        if info is not None:
            self._send(self._routes[stream.id], protocol.MarkDone(stream.id, number, info))

    def _ask(self, routing_id: bytes, query: protocol.Query) -> None:
        """Have a reading request answered, after what dead writers left is taken in."""
        drained = self._finish_drains(getattr(query, "session_id", None))
        self._answer_later(routing_id, query.request, lambda: self._answer(query, drained))

    def _finish_drains(self, session_id: str | None) -> bool:
        """Drain outboxes of the dead; return False while the disk refuses: then they are read where they lie."""
        try:
            self.attendance.finish_drains(session_id)
        except OSError as error:
            self._disk_refuses(error)
            return False
        return True

    def _answer_later(self, routing_id: bytes, request: int, ask: Callable[[], protocol.Answer]) -> None:
        if (peer := self._listener.peers.get(routing_id)) is None:
            return
        if peer.asked >= QUESTIONS_MAX:
            raise ProtocolError(f"{QUESTIONS_MAX} questions wait for their answers", hint="ask again when one has come")
        peer.asked += 1

        def work() -> None:
            try:
                answer: protocol.DaemonMessage = ask()
            except EdiCheckpointError as error:
                answer = _error(error, request)
                if isinstance(error, JournalDamaged):
                    self.end_by(error)
            except OSError as error:
                answer = _error(EdiCheckpointError(str(error)), request)
            self.post(lambda: self._answered(peer, routing_id, answer))

        self._readers.submit(work)

    def _answered(self, peer: Peer, routing_id: bytes, answer: protocol.DaemonMessage) -> None:
        peer.asked -= 1
        self._send(routing_id, answer)

    def aside(self, work: Callable[[], T], then: Callable[[T | EdiCheckpointError], None]) -> None:
        """Have `work` done where questions are answered, and its outcome told here."""

        def do() -> None:
            try:
                outcome: T | EdiCheckpointError = work()
            except EdiCheckpointError as error:
                outcome = error
            except OSError as error:
                outcome = EdiCheckpointError(str(error))
            self.post(lambda: then(outcome))

        with contextlib.suppress(RuntimeError):  # closed: what is left undone, the next start does
            self._readers.submit(do)

    def _told(self) -> Told:
        told = self._stats.told(
            connections=len(set(self._routes.values())),
            failing=self._saving.failing,
            refused_streams=self.attendance.refused,
            stepped=self._scheduler.stepped,
        )
        troubles = (*told.troubles, *self._keeping.troubles)
        return told._replace(troubles=troubles, caps=caps(self._ledger.config))

    def _refuse(
        self,
        routing_id: bytes,
        error: EdiCheckpointError,
        message: protocol.ClientMessage | None = None,
        *,
        request: int = 0,
    ) -> None:
        """Say what was refused: a message, or the question of one that could not be read otherwise."""
        if count := self._stats.worth_a_line(error.code):
            log.warning("refused code=%s count=%d: %s", error.code, count, error)
        self._fault(error, getattr(message, "session_id", None))
        request = getattr(message, "request", request)
        self._send(routing_id, _error(error, request, getattr(message, "stream", "")))

    def _fault(self, error: EdiCheckpointError, session_id: str | None) -> None:
        """Count what somebody was told, and tell who watches."""
        self._stats.count(error.code)
        self._feed.fault(error.code, str(error), session_id)

    # -- between two turns -------------------------------------------------------------------------------------------

    def _make_calls(self, readable: list[int]) -> None:
        if self._wakeup.fd in readable:
            self._wakeup.clear()
        for _ in range(len(self._calls)):
            self._calls.popleft()()
        self._scheduler.follow_clock()

    def _see_out(self, readable: list[int]) -> None:
        """See to writers that died, and drain one slice of what they left."""
        for fd in readable:
            for files in self.liveness.died(fd):
                self._routes.pop(files.owner.stream, None)
                self.attendance.gone(files)
        if self.liveness.probes:
            for files in self.liveness.silent():
                self.attendance.gone(files)
        if self.attendance.pending and self._clock.monotonic_s() >= self._refused_until_s:
            try:
                self.attendance.step()
            except OSError as error:
                self._disk_refuses(error)

    def _forget(self) -> None:
        if self._clock.monotonic_s() >= self._refused_until_s:
            try:
                self._forgetting.step()
            except OSError as error:
                self._disk_refuses(error)

    def _keep_up(self) -> None:
        """Do a slice of upkeep: in a pause, or because there was none for long."""
        self._upkeep_at_s = self._clock.monotonic_s() + _UPKEEP_EVERY_S
        if self._clock.monotonic_s() < self._refused_until_s:
            self._more_upkeep = False
            return
        try:
            with self._pulse.disk():  # slices of nothing else
                self.attendance.unlink_covered()
                self._more_upkeep = self._saving.tidy() or (
                    not self._forgetting.pending and (self._keeping.step() or self.upkeep())
                )
            if self._more_upkeep:
                self._disk_took()
        except OSError as error:
            self._more_upkeep = False
            self._disk_refuses(error)

    def _leave_when_idle(self, *, busy: bool) -> None:
        now_s = self._clock.monotonic_s()
        if busy:
            self._busy_at_s = now_s
        elif self.idle_exit_s is not None and now_s - self._busy_at_s >= self.idle_exit_s:
            log.info("leaving: nobody wrote for seconds=%.0f", self.idle_exit_s)
            self._stopping = True

    # -- sending -----------------------------------------------------------------------------------------------------

    def notify(self, stream_id: str, message: protocol.DaemonMessage) -> None:
        """Send a message to the client of a stream, if one is connected."""
        routing_id = self._routes.get(stream_id)
        if routing_id is not None and not self._listener.send(routing_id, message):
            self._routes.pop(stream_id, None)

    def _send(self, routing_id: bytes, message: protocol.DaemonMessage) -> None:
        self._listener.send(routing_id, message)

    def close(self) -> None:
        """Close socket and descriptors, after `run` has returned."""
        self._readers.shutdown(wait=True)
        for _ in range(len(self._calls)):
            with contextlib.suppress(JournalDamaged):  # told of by `end_by` in vain: it has ended
                self._calls.popleft()()
        self.liveness.close()
        self._listener.close()
        self._wakeup.close()


def _middle(data: bytes | memoryview) -> int:
    """Return where the second half of the records begins that `data` is made of; 0 where it is one, or no records."""
    records = scan(data)
    apart = len(records) > 1 and records[-1].end == len(data)
    return records[len(records) // 2 - 1].end if apart else 0


def _pruned(outcome: Outcome, request: int) -> protocol.DaemonMessage:
    if isinstance(outcome, EdiCheckpointError):
        return _error(outcome, request)
    return protocol.Cleanup(request, document(outcome, applied=True))


def _error(error: EdiCheckpointError, request: int = 0, stream: str = "") -> protocol.Error:
    return protocol.Error(
        error.code, str(error), error.hint, request=request, stream=stream,
        number=getattr(error, "number", 0), pid=getattr(error, "pid", 0), since=getattr(error, "since", ""),
        branch=getattr(error, "branch", None) or "",
    )  # fmt: skip
