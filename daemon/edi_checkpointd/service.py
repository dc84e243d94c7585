"""The service: puts the parts together, recovers, serves until a signal, and leaves in order."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from queue import SimpleQueue
from typing import TYPE_CHECKING

import msgspec

from edi_checkpoint import protocol
from edi_checkpoint.catalog import Catalog
from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.paths import Paths, ensure_private, socket_path
from edi_checkpoint.status import Told
from edi_checkpoint.trash import holds
from edi_checkpoint.troubles import met
from edi_checkpointd import activation, descriptors, inventory
from edi_checkpointd.absence import Absence
from edi_checkpointd.attachments import Attachments
from edi_checkpointd.attendance import Attendance
from edi_checkpointd.checkpointer import Checkpointer
from edi_checkpointd.clock import SystemClock
from edi_checkpointd.config import Config
from edi_checkpointd.conversation import Conversation
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.feed import Feed
from edi_checkpointd.forgetting import Forgetting
from edi_checkpointd.fs import Reserve, sweep_temporaries
from edi_checkpointd.heartbeat import Heartbeat, Pulse
from edi_checkpointd.importing import Importing
from edi_checkpointd.intake import Intake
from edi_checkpointd.inventory import Inventory
from edi_checkpointd.journal import Journal, JournalDamaged, Reader, named_damage
from edi_checkpointd.keeping import Keeping
from edi_checkpointd.ledger import Ledger
from edi_checkpointd.lock import DaemonRuns, FolderLock
from edi_checkpointd.notify import Notifier
from edi_checkpointd.reconfiguration import Reconfiguration
from edi_checkpointd.recovery import files_teller, open_journal, set_journal_aside
from edi_checkpointd.requests import Requests
from edi_checkpointd.saving import Saving
from edi_checkpointd.scheduler import Scheduler
from edi_checkpointd.stats import Stats
from edi_checkpointd.trash import Trash

if TYPE_CHECKING:
    from edi_checkpointd.watch import Watch

log = logging.getLogger(__name__)

FINISH_S = 1.5  # for files at SIGTERM; what is not in them by then is in the journal, and saved at the next start
SWITCH_INTERVAL_S = 0.0005  # an fdatasync's return waits for the GIL at most so long


def run(paths: Paths, config: Config, load: Callable[[], Config], *, idle_exit: bool = False) -> None:
    """Serve `paths` until SIGTERM or SIGINT; at SIGHUP go by the settings that `load` gives then.

    Prints one line on stderr when entries are taken, and tells a service manager what it wants to hear. Raises
    `DaemonRuns`, `FolderError`, `VersionMismatch`, `JournalDamaged`, `ActivationError` before anything is served.
    """
    os.umask(0o077)
    faulthandler.enable()  # a manager ends a hung daemon by SIGABRT: this says where it hung
    notifier = Notifier(os.environ)
    descriptors.raise_limit()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for folder in (paths.sessions, paths.state, paths.runtime):
        ensure_private(folder)
    version = _version()
    socket = socket_path(paths)
    listening_fd = activation.take(os.environ, socket)
    lock = FolderLock(paths.lock, socket, version)
    try:
        reached(CrashPoint.LOCKED)
        listening_fd = activation.still_reached(paths, listening_fd)
        _begin(partial(_serve, paths, config, load, version, socket, lock, listening_fd, notifier, idle_exit=idle_exit))
        if listening_fd is None:  # one that failed leaves it: clients take that for a death, and start another
            with contextlib.suppress(OSError):
                paths.socket.unlink()
    finally:
        lock.release()
        notifier.close()


def settle(paths: Paths, config: Config) -> None:
    """Do what a start does and what it leads to, and serve nobody; what dead writers left is then in files.

    The caller holds the lock. Raises as `run` does.
    """
    _begin(partial(_serve, paths, config, lambda: config, _version(), "", None, None, Notifier({}), listen=False))


def _begin(serve: Callable[..., None]) -> None:
    """Serve, anew where the journal had to be set aside before anybody was served."""
    try:
        serve()
    except _BeginAnew as again:
        serve(fault=str(again))


class _BeginAnew(Exception):
    """The journal was set aside before anything was served."""


def _serve(
    paths: Paths, config: Config, load: Callable[[], Config], version: str,
    socket: str, lock: FolderLock | None, listening_fd: int | None, notifier: Notifier, *,
    idle_exit: bool = False, listen: bool = True, fault: str | None = None,
) -> None:  # fmt: skip
    """Recover, then serve; `fault` says why the journal was set aside just now, if it was."""
    clock = SystemClock()
    pulse = Pulse()
    sweep_temporaries(paths.sessions)
    reserve = Reserve(paths.reserve)
    reserve.lend()
    journal, gone = open_journal(paths, pulse)
    stats = Stats(clock, version, journal_fault=fault or gone)
    catalog = Catalog(paths.sessions)
    catalog.load()
    scheduler = Scheduler(clock)
    feed = Feed(clock)
    idle_exit_s = (config.idle_exit_s or None) if idle_exit else None
    intake = Intake(paths, clock, scheduler, stats, pulse, feed, idle_exit_s=idle_exit_s)
    attachments = Attachments(paths.attachments, paths.journal, config.attachments_max_bytes, clock)
    trash = Trash(paths, catalog, clock)
    ledger = Ledger(journal, attachments, config, clock, files_teller(paths, catalog, trash))
    checkpointer = Checkpointer(
        paths, catalog, attachments, config, clock, lambda result: intake.post(lambda: saving.written(result))
    )
    saving = Saving(
        ledger, scheduler, checkpointer, reserve, config, clock, feed, post=intake.post, notify=intake.listener.notify
    )

    def answer(query: protocol.Query, drained: bool) -> protocol.Answer:
        if isinstance(query, protocol.GetState) and query.checkpoint is not None:
            checkpointer.in_use.note(query.checkpoint)
        with contextlib.closing(Reader.open(paths.journal)) as reader:
            requests = Requests(paths, catalog, reader, drained=drained, met_damaged=checkpointer.met_damaged)
            return requests.answer(query)

    def take_inventory(in_memory: frozenset[str], jumped: bool) -> Inventory:
        with contextlib.closing(Reader.open(paths.journal)) as reader:
            return inventory.take(
                paths, catalog, reader, ledger.config, clock.now(),
                in_memory=in_memory, doubted=jumped, exempt=checkpointer.in_use.names(),
            )  # fmt: skip

    def explain(query: protocol.Explained, in_memory: frozenset[str], jumped: bool) -> protocol.Answer:
        return inventory.explain(query, take_inventory(in_memory, jumped), catalog, ledger.config)

    def status(request: int, told: Told) -> protocol.Status:
        try:
            with contextlib.closing(Reader.open(paths.journal)) as reader:
                found = Requests(paths, catalog, reader).status(told, clock.now())
        except EdiCheckpointError as error:  # damaged, or no descriptor is left: the files tell all the same
            if isinstance(error, JournalDamaged):
                intake.end_by(error)
            told = told._replace(troubles=(*told.troubles, met(error)))
            found = Requests(paths, catalog, None).status(told, clock.now())
        return protocol.Status(request, msgspec.json.encode(found))

    attendance = intake.attend(ledger, saving)
    forgetting = Forgetting(
        paths, catalog, ledger, saving, checkpointer, attendance, clock,
        post=intake.post, shut_out=intake.listener.shut_out,
    )  # fmt: skip
    keeping = Keeping(
        ledger, trash, checkpointer, scheduler, clock,
        plan=lambda in_memory, jumped: take_inventory(in_memory, jumped).cleanup,
        aside=intake.answering.aside, post=intake.post, open_session=attendance.open,
    )  # fmt: skip
    importing = Importing(paths, catalog, attachments, ledger)
    conversation = Conversation(
        paths, version, intake.listener, intake.answering, stats, feed, ledger, saving, attendance,
        forgetting=forgetting, keeping=keeping, importing=importing, answer=answer, status=status, explain=explain,
        stepped=lambda: scheduler.stepped, disk_refuses=intake.disk_refuses,
    )  # fmt: skip
    intake.serve(conversation, keeping, forgetting)
    absence = Absence(
        paths, catalog, ledger, attendance, saving, stats, clock, forget=forgetting.forget, jumped=keeping.jumps.lately
    )
    intake.upkeep = absence.step
    try:
        with named_damage(paths.journal):
            forgetting.finish_cut_short()
            keeping.settle()
            importing.settle()
            absence.look()
            recovered = _recover(paths, journal, intake, attendance)
    except JournalDamaged as error:
        for part in (scheduler, checkpointer, intake, journal):
            part.close()
        set_journal_aside(paths, str(error))
        raise _BeginAnew(str(error)) from error
    reached(CrashPoint.RECOVERED)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: intake.stop())
    reconfiguration = Reconfiguration(load, stats, intake, ledger, saving, checkpointer, attachments, keeping)
    serving = f"serves {paths.sessions}; sessions recovered at the start: {recovered}"

    def reload() -> None:
        notifier.reloading()
        reconfiguration.reload()
        notifier.ready(serving)

    calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()  # for this thread, which else only waits
    failures: list[BaseException] = []

    def look_at(names: Collection[str] | None) -> None:
        checkpointer.look_at(names, lambda absent: intake.post(lambda: absence.look(absent)))

    def look_around() -> None:
        """See that the sessions folder is there, ours, and known."""
        try:
            ensure_private(paths.sessions)
            if lock is not None:
                lock.renew()
        except DaemonRuns as error:
            failures.append(error)
            intake.stop()
        except OSError as error:
            log.error("sessions folder cannot be used: %s", error)  # noqa: TRY400
        else:
            look_at(None)

    intake.rescan = lambda: calls.put(look_around)
    signal.signal(signal.SIGHUP, lambda *_: calls.put(reload))
    if listen:
        keeping.soon()
        intake.bind(socket, listening_fd)
        notifier.ready(serving)
        print(f"ready pid={os.getpid()} socket={socket} recovered={recovered}", file=sys.stderr, flush=True)  # noqa: T201
    heartbeat = Heartbeat(notifier, pulse, serving)
    work = intake.run if listen else intake.settle
    thread = threading.Thread(target=_run_guarded, args=(paths, work, failures, lambda: calls.put(None)), name="intake")
    thread.start()
    watch = None
    if listen:
        watch = _watch(
            paths,
            touched=look_at,
            misplaced=lambda: calls.put(look_around),
            configured=lambda: calls.put(reconfiguration.reload),
        )
    while (call := calls.get()) is not None:
        call()
    thread.join()
    if watch is not None:
        watch.close()
    heartbeat.close()
    notifier.stopping("brings what is unsaved into files")
    scheduler.close()
    saving.finish(attendance.drains)
    checkpointer.close(FINISH_S if listen and not failures else None)
    intake.close()
    reached(CrashPoint.LEAVING)
    saving.note_all()
    in_place = journal.replaced() is None
    journal.close()
    if failures:
        if isinstance(failures[0], JournalDamaged) and in_place:
            set_journal_aside(paths, str(failures[0]))
        raise failures[0]


def _recover(paths: Paths, journal: Journal, intake: Intake, attendance: Attendance) -> int:
    """Bring into files what the journal has and the files have not; return of how many sessions."""
    rows = [row for row in journal.read.sessions() if not holds(paths.trash, row.session_id)]
    behind = [row.session_id for row in rows if journal.read.last_sequence(row.key) > row.saved]
    intake.liveness.sweep()
    attendance.look_around()
    recovered = sum([attendance.recover(session_id) for session_id in behind])
    attendance.close_orphans([row.session_id for row in rows if row.left_as == "live"])
    return recovered


def _watch(paths: Paths, **calls: Callable[..., None]) -> Watch:
    """Begin to watch; who is served already need not have waited for the library."""
    from edi_checkpointd.watch import Watch

    return Watch(paths, **calls)


def _run_guarded(
    paths: Paths, work: Callable[[], None], failures: list[BaseException], ended: Callable[[], None]
) -> None:
    """Run the intake; what fails there ends the daemon in order: the states it holds still come into files."""
    try:
        with named_damage(paths.journal):
            work()
    except Exception as error:
        log.exception("intake failed; the daemon ends, and starts anew from what is durable")
        failures.append(error)
    finally:
        ended()


def _version() -> str:
    try:
        return installed_version("edi-checkpoint")
    except PackageNotFoundError:
        return "unknown"
