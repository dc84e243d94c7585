"""The service: a process that holds the lock, recovers, serves until a signal, and leaves in order."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from edi_checkpoint.autostart import start_freely
from edi_checkpoint.paths import Paths, ensure_private, socket_path
from edi_checkpoint.version import installed_version
from edi_checkpointd import activation, descriptors
from edi_checkpointd.assembly import Daemon
from edi_checkpointd.config import Config
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.heartbeat import Heartbeat
from edi_checkpointd.journal import JournalDamaged, named_damage
from edi_checkpointd.lock import DaemonRuns, FolderLock
from edi_checkpointd.notify import Notifier
from edi_checkpointd.reconfiguration import Reconfiguration
from edi_checkpointd.recovery import set_journal_aside

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
    version = installed_version()
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
        start_freely(paths)
    finally:
        lock.release()
        notifier.close()


def settle(paths: Paths, config: Config) -> None:
    """Do what a start does and what it leads to, and serve nobody; what dead writers left is then in files.

    The caller holds the lock. Raises as `run` does.
    """
    _begin(
        partial(_serve, paths, config, lambda: config, installed_version(), "", None, None, Notifier({}), listen=False)
    )


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
    daemon = Daemon(paths, config, version, idle_exit=idle_exit, fault=fault)
    intake = daemon.intake
    try:
        with named_damage(paths.journal):
            recovered = daemon.recover()
    except JournalDamaged as error:
        daemon.abandon()
        set_journal_aside(paths, str(error))
        raise _BeginAnew(str(error)) from error
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: intake.stop())
    reconfiguration = Reconfiguration(load, daemon)
    serving = f"serves {paths.sessions}; sessions recovered at the start: {recovered}"

    def reload() -> None:
        notifier.reloading()
        reconfiguration.reload()
        notifier.ready(serving)

    calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()  # for this thread, which else only waits
    failures: list[BaseException] = []

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
            daemon.look_at(None)

    intake.rescan = lambda: calls.put(look_around)
    signal.signal(signal.SIGHUP, lambda *_: calls.put(reload))
    if listen:
        daemon.keeping.soon()
        intake.bind(socket, listening_fd)
        notifier.ready(serving)
        print(f"ready pid={os.getpid()} socket={socket} recovered={recovered}", file=sys.stderr, flush=True)  # noqa: T201
    heartbeat = Heartbeat(notifier, daemon.pulse, serving)
    work = intake.run if listen else intake.settle
    thread = threading.Thread(target=_run_guarded, args=(paths, work, failures, lambda: calls.put(None)), name="intake")
    thread.start()
    watch = None
    if listen:
        watch = _watch(
            paths,
            touched=daemon.look_at,
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
    in_place = daemon.close(FINISH_S if listen and not failures else None)
    if failures:
        if isinstance(failures[0], JournalDamaged) and in_place:
            set_journal_aside(paths, str(failures[0]))
        raise failures[0]


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
