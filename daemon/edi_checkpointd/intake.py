"""The intake: the loop of the one thread that owns journal and states.

A turn of the loop is the way of an entry: drain the socket without blocking, accept, commit (one fsync for all that was
drained), acknowledge, and only then whatever else was asked. Nothing is acknowledged before `Ledger.commit` returned.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable
from itertools import count

from edi_checkpoint import codec, protocol
from edi_checkpoint.errors import AttachmentsFull, EdiCheckpointError, ProtocolError
from edi_checkpoint.paths import Paths, ensure_private
from edi_checkpoint.records import scan, whole
from edi_checkpoint.wakeup import Wakeup
from edi_checkpointd.admission import Admission
from edi_checkpointd.answering import Answering
from edi_checkpointd.attendance import Attendance
from edi_checkpointd.clock import Clock
from edi_checkpointd.conversation import Conversation
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.feed import Feed
from edi_checkpointd.forgetting import Forgetting, purged_error
from edi_checkpointd.fs import write_atomic
from edi_checkpointd.health import Health
from edi_checkpointd.journal import JournalDamaged, JournalRefused
from edi_checkpointd.keeping import Keeping
from edi_checkpointd.ledger import Ledger
from edi_checkpointd.listener import Listener
from edi_checkpointd.liveness import PROBE_S, Liveness
from edi_checkpointd.pulse import Pulse
from edi_checkpointd.saving import Saving
from edi_checkpointd.scheduler import Scheduler
from edi_checkpointd.sessions import Stream, fenced_error

log = logging.getLogger(__name__)

DRAIN_BYTES = 1 << 20  # taken from the socket into one commit, at most: who sends little waits for it
DRAIN_S = 0.02  # ... and not for longer: many small entries cost more time than bytes, and the first of them waits
GATHER_SHARE = 0.3  # of the time of the last commit: so long a drain waits for those who sent at the last two
GATHER_MAX_S = 0.005
RESCAN_S = 60.0  # how late is seen, at most, what was missed of others' doings in the sessions folder, while it matters
REFUSED_KEPT = 100  # refused frames kept in damaged/
REFUSED_APART = 8  # refused entries of one frame that are told apart; each costs an fsync
_GUARD_S = 1.0  # how late a step of the wall clock may be noticed while timers run
_REFUSED_PAUSE_S = 1.0
_UPKEEP_EVERY_S = 0.1  # also while frames always wait: else no row is trimmed and no outbox unlinked for so long


class Intake:
    """Serves one socket. Parts that must run in its thread are made by it; others reach it through `post`."""

    def __init__(
        self, paths: Paths, clock: Clock, scheduler: Scheduler, health: Health, pulse: Pulse, feed: Feed, *,
        idle_exit_s: float | None = None,
    ) -> None:  # fmt: skip
        """Open the socket, unbound; `serve` gives it the parts, `bind` and `run` begin.

        `idle_exit_s` lets `run` return after so long without a writer and without work; None: never.
        """
        self._paths = paths
        self._clock = clock
        self._scheduler = scheduler
        self._health = health
        self._pulse = pulse
        self._feed = feed
        self.listener = Listener()
        self._wakeup = Wakeup()
        self.listener.watch(self._wakeup.fd)
        self._calls: deque[Callable[[], None]] = deque()
        self.answering = Answering(self.listener, self.post, self.end_by)
        self._served: tuple[set[bytes], set[bytes]] = (set(), set())  # whose messages the last two drains took
        self._gather_s = 0.0
        self._refused_until_s = 0.0
        self._refusals = count(1)
        self._stopping = False
        self._more_upkeep = True  # a start leaves some
        self.idle_exit_s = idle_exit_s
        self._busy_at_s = clock.monotonic_s()
        self._upkeep_at_s = 0.0
        self.upkeep: Callable[[], bool] = lambda: False  # a slice of it; whether there is more
        self.rescan: Callable[[], None] = lambda: None  # called now and then while something is published
        self.liveness = Liveness(paths.outbox, watch_fd=self.listener.watch, forget_fd=self.listener.forget)

    def attend(self, ledger: Ledger, saving: Saving) -> Attendance:
        """Take the states and their files; return who sees to the writers."""
        self._ledger = ledger
        self._saving = saving
        admission = Admission(
            ledger, self.liveness, saving, commit=self.commit, take=self.take,
            fenced=lambda stream: self.listener.shut_out(stream.id, fenced_error(stream)),
        )  # fmt: skip
        self._attendance = Attendance(
            ledger, self.liveness, saving, admission, self._feed,
            commit=self.commit, take=self.take, damaged=self._paths.damaged,
        )  # fmt: skip
        return self._attendance

    def serve(self, conversation: Conversation, keeping: Keeping, forgetting: Forgetting) -> None:
        """Take who answers the other messages, and what is done between them."""
        self._conversation = conversation
        self._keeping = keeping
        self._forgetting = forgetting
        self._attendance.left = keeping.soon
        self._saving.grew = keeping.grew

    def bind(self, socket_path: str, listening_fd: int | None = None) -> None:
        """Begin to listen; the folder's lock is ours. `listening_fd` listens on that path already."""
        ensure_private(self._paths.runtime)
        self.listener.bind(socket_path, listening_fd)

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
        while not self._stopping and not self._attendance.settled:
            self._turn()
            if self._refused_until_s or self._saving.failing:
                raise JournalRefused("what dead writers left cannot be taken in: the disk refuses")

    def _turn(self) -> None:
        """Take one batch from the socket to disk and tell its senders; then do what else is due."""
        timeout_s = self._timeout_s()
        self._pulse.rest()
        readable = self.listener.poll(timeout_s)
        self._pulse.work()
        later = self._drain() if self.listener.waiting else []
        try:
            self.commit()
        except JournalRefused as error:
            self.disk_refuses(error)
        for routing_id, message in later:
            self._conversation.hear(routing_id, message)
        self._make_calls(readable)
        self._see_out(readable)
        self._forget()
        frames_wait = bool(later) or self.listener.waiting
        if not frames_wait or self._clock.monotonic_s() >= self._upkeep_at_s:
            self._keep_up()
        else:
            self._more_upkeep = True  # there may be: the next turn is not to wait for a message before it looks
        for routing_id, events in self._feed.answers():
            self.listener.send(routing_id, events)
        timers = bool(self._ledger.sessions) and not self._scheduler.idle  # those of sessions let go of do nothing
        self._leave_when_idle(
            busy=bool(
                later
                or self.listener.routes
                or self._attendance.pending
                or self._keeping.pending
                or self._forgetting.pending
                or timers
            )
        )

    def _timeout_s(self) -> float | None:
        if self._calls or self._more_upkeep:
            return 0
        refused_s = self._refused_until_s - self._clock.monotonic_s()
        if self._attendance.pending:
            return max(0, refused_s)
        if (due_s := self._forgetting.wait_s()) is not None:
            return max(due_s, refused_s)
        if self.liveness.probes:
            return PROBE_S
        if not self._scheduler.idle:
            return _GUARD_S
        return self.idle_exit_s

    def _drain(self) -> list[tuple[bytes, protocol.ClientMessage]]:
        """Accept the entries that wait, within bounds; return the other messages, for after the commit.

        Of several who send each has its turn, no more: what one floods us with costs the others one frame.
        """
        later: list[tuple[bytes, protocol.ClientMessage]] = []
        size = 0
        served: set[bytes] = set()
        all_served = False  # several send, and one has come twice: libzmq takes from each in turn
        now_s = self._clock.monotonic_s()
        until_s, gather_until_s = now_s + DRAIN_S, now_s + self._gather_s
        while size < DRAIN_BYTES and not all_served and self._clock.monotonic_s() < until_s:
            received = self.listener.receive()
            if received is None:
                gather_s = gather_until_s - self._clock.monotonic_s()
                if later or gather_s <= 0 or served >= self._served[0] | self._served[1]:
                    break
                self.listener.wait(gather_s)  # those who sent at the last two turns are likely to send at this one
                continue
            routing_id, data = received
            all_served = routing_id in served and len(served) > 1
            served.add(routing_id)
            try:
                if isinstance(data, ProtocolError):
                    raise data
                size += len(data)
                message = codec.decode_from_client(data)
            except ProtocolError as error:
                request = 0 if isinstance(data, ProtocolError) else codec.request_of(data)
                self._conversation.refuse(routing_id, error, request=request)
                continue
            if isinstance(message, protocol.Entries):
                self._accept(routing_id, message)
            else:
                later.append((routing_id, message))
        self._served = (self._served[1], served)
        return later

    # -- entries -----------------------------------------------------------------------------------------------------

    def _accept(self, routing_id: bytes, message: protocol.Entries) -> None:
        stream = self._ledger.streams.get(message.stream)
        if stream is not None and stream.fenced:
            self._conversation.refuse(routing_id, fenced_error(stream), message)
            return
        if self._forgetting.has_shut_out(message.stream):
            self._conversation.refuse(routing_id, purged_error(), message)
            return
        if stream is None or self.listener.routes.get(message.stream) != routing_id:
            self._conversation.refuse(
                routing_id, ProtocolError(f"stream {message.stream} is not attached on this connection")
            )
            return
        if self._clock.monotonic_s() < self._refused_until_s:
            stream.dropped = True
            return  # the disk refuses: the client asks again after a silence, and sends it from its outbox
        if stream.dropped and self._ledger.skips(stream, message.records):
            return  # not acknowledged either: the client asks, and begins with what was dropped
        if not self.take(stream, message.records):
            self.listener.send(routing_id, self._ledger.acknowledgement(stream))

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
        log.warning("entries refused session=%s upto=%d: %s", stream.session.session_id, last, error)
        with contextlib.suppress(OSError):
            ensure_private(self._paths.damaged)
            name = f"frame-{next(self._refusals) % REFUSED_KEPT:03d}-{stream.session.session_id}.bin"
            write_atomic(self._paths.damaged / name, [bytes(records)])
            reached(CrashPoint.REFUSED_KEPT)
        if stream.expected < last <= stream.expected + len(records):
            self._ledger.pass_over(stream, last)
        self._conversation.fault(error, stream.session.session_id)
        self.listener.notify(
            stream.id,
            protocol.Error(error.code, f"entries up to {last}: {error}", error.hint, stream=stream.id, number=last),
        )

    def commit(self) -> None:
        """Commit what is accepted and acknowledge it; then see to the checkpoints it leads to.

        Raises `JournalRefused` when the disk refuses: then nothing is acknowledged, and the entries come again from
        their senders' outboxes.
        """
        start_s = self._clock.monotonic_s()
        committed = self._ledger.commit()
        if committed.streams:
            self._gather_s = min(GATHER_SHARE * (self._clock.monotonic_s() - start_s), GATHER_MAX_S)
            self._disk_took()
            if "rescan" not in self._scheduler.pending:
                self._scheduler.after(RESCAN_S, "rescan", self.rescan)
        for stream in committed.streams:
            self.listener.notify(stream.id, self._ledger.acknowledgement(stream))
        for session, wish in committed.wishes:
            self._saving.wish(session, wish)
        for stream in committed.streams:
            self._saving.changed(stream.session)
        self._feed.entries(committed.entries)

    def disk_refuses(self, error: OSError) -> None:
        """Take nothing for a moment: the journal cannot be written."""
        if self._health.disk_refused(error):
            self._feed.fault(getattr(error, "code", "disk"), str(error))
            log.error("nothing is acknowledged while the disk refuses: %s", error)
        self._refused_until_s = self._clock.monotonic_s() + _REFUSED_PAUSE_S
        self._saving.make_room()

    def _disk_took(self) -> None:
        if self._health.disk_took():
            log.info("the disk takes the journal again")

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
                self.listener.routes.pop(files.owner.stream, None)
                self._attendance.gone(files)
        if self.liveness.probes:
            for files in self.liveness.silent():
                self._attendance.gone(files)
        if self._attendance.pending and self._clock.monotonic_s() >= self._refused_until_s:
            try:
                self._attendance.step()
            except OSError as error:
                self.disk_refuses(error)

    def _forget(self) -> None:
        if self._clock.monotonic_s() >= self._refused_until_s:
            try:
                self._forgetting.step()
            except OSError as error:
                self.disk_refuses(error)

    def _keep_up(self) -> None:
        """Do a slice of upkeep: in a pause, or because there was none for long."""
        self._upkeep_at_s = self._clock.monotonic_s() + _UPKEEP_EVERY_S
        if self._clock.monotonic_s() < self._refused_until_s:
            self._more_upkeep = False
            return
        try:
            with self._pulse.disk():  # slices of nothing else
                self._attendance.unlink_covered()
                self._more_upkeep = self._saving.tidy() or (
                    not self._forgetting.pending and (self._keeping.step() or self.upkeep())
                )
            if self._more_upkeep:
                self._disk_took()
        except OSError as error:
            self._more_upkeep = False
            self.disk_refuses(error)

    def _leave_when_idle(self, *, busy: bool) -> None:
        now_s = self._clock.monotonic_s()
        if busy:
            self._busy_at_s = now_s
        elif self.idle_exit_s is not None and now_s - self._busy_at_s >= self.idle_exit_s:
            log.info("leaving: nobody wrote for seconds=%.0f", self.idle_exit_s)
            self._stopping = True

    def close(self) -> None:
        """Close socket and descriptors, after `run` has returned."""
        self.answering.close()
        for _ in range(len(self._calls)):
            with contextlib.suppress(JournalDamaged):  # told of by `end_by` in vain: it has ended
                self._calls.popleft()()
        self.liveness.close()
        self.listener.close()
        self._wakeup.close()


def _middle(data: bytes | memoryview) -> int:
    """Return where the second half of the records begins that `data` is made of; 0 where it is one, or no records."""
    records = scan(data)
    apart = len(records) > 1 and records[-1].end == len(data)
    return records[len(records) // 2 - 1].end if apart else 0
