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
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING

from edi_checkpoint.link.autostart import start_freely
from edi_checkpoint.system.paths import Paths, ensure_private, socket_path
from edi_checkpoint.system.version import installed_version
from edi_checkpointd.config import Config
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.journal import JournalDamaged, named_damage
from edi_checkpointd.recovery.startup import set_journal_aside
from edi_checkpointd.server.assembly import Daemon
from edi_checkpointd.server.reload import ConfigReloader
from edi_checkpointd.server.signal_queue import SignalQueue
from edi_checkpointd.system import rlimits
from edi_checkpointd.system.lock import DaemonRuns, FolderLock
from edi_checkpointd.systemd import activation
from edi_checkpointd.systemd.heartbeat import Heartbeat
from edi_checkpointd.systemd.notify import Notifier

if TYPE_CHECKING:
    from edi_checkpointd.server.watch import Watch

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
    rlimits.raise_limit()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for folder in (paths.sessions, paths.state, paths.runtime):
        ensure_private(folder)
    version = installed_version()
    socket = socket_path(paths)
    listening_fd = activation.inherited_socket(os.environ, socket)
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
    with SignalQueue[Chore]() as chores:
        try:
            serve(chores)
        except _BeginAnew as again:
            serve(chores, fault=str(again))


class Chore(Enum):
    """What the main thread does when it is asked; else it only waits."""

    RESCAN = auto()  # look at the sessions folder: files or the folder itself may be gone
    RELOAD = auto()  # SIGHUP: read the configuration again, and tell the service manager
    CONFIG_CHANGED = auto()
    END = auto()  # the loop has ended


class _BeginAnew(Exception):
    """The journal was set aside before anything was served."""


def _serve(
    paths: Paths, config: Config, load: Callable[[], Config], version: str,
    socket: str, lock: FolderLock | None, listening_fd: int | None, notifier: Notifier, chores: SignalQueue[Chore], *,
    idle_exit: bool = False, listen: bool = True, fault: str | None = None,
) -> None:  # fmt: skip
    """Recover, then serve; `chores` are for this thread, which else only waits.

    `fault` says why the journal was set aside just now, if it was.
    """
    daemon = Daemon(paths, config, version, lambda: chores.put(Chore.RESCAN), idle_exit=idle_exit, fault=fault)
    try:
        with named_damage(paths.journal):
            recovered = daemon.recover()
    except JournalDamaged as error:
        daemon.abandon()
        set_journal_aside(paths, str(error))
        raise _BeginAnew(str(error)) from error
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.loop.stop())
    signal.signal(signal.SIGHUP, lambda *_: chores.put(Chore.RELOAD))
    serving = f"serves {paths.sessions}; sessions recovered at the start: {recovered}"
    if listen:
        daemon.janitor.soon()
        daemon.bind(socket, listening_fd)
        notifier.ready(serving)
        print(f"ready pid={os.getpid()} socket={socket} recovered={recovered}", file=sys.stderr, flush=True)  # noqa: T201
    heartbeat = Heartbeat(notifier, daemon.pulse, serving)
    failures: list[BaseException] = []
    work = daemon.loop.run if listen else daemon.settle
    thread = threading.Thread(
        target=_run_guarded, args=(paths, work, failures, lambda: chores.put(Chore.END)), name="loop"
    )
    thread.start()
    watch = _watch(paths, daemon, chores) if listen else None
    reloader = ConfigReloader(load, daemon)
    while (chore := chores.get()) is not Chore.END:
        if chore is Chore.RESCAN:
            _rescan(paths, daemon, lock, failures)
        elif chore is Chore.CONFIG_CHANGED:
            reloader.reload()
        else:
            notifier.reloading()
            reloader.reload()
            notifier.ready(serving)
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


def _rescan(paths: Paths, daemon: Daemon, lock: FolderLock | None, failures: list[BaseException]) -> None:
    """See that the sessions folder is there and ours, and have all of it looked at."""
    try:
        ensure_private(paths.sessions)
        if lock is not None:
            lock.renew()
    except DaemonRuns as error:
        failures.append(error)
        daemon.loop.stop()
    except OSError as error:
        log.error("sessions folder cannot be used: %s", error)  # noqa: TRY400
    else:
        daemon.check_files(None)


def _watch(paths: Paths, daemon: Daemon, chores: SignalQueue[Chore]) -> Watch:
    """Begin to watch folder and configuration; the library is loaded now, so that nobody waits for it to be served."""
    from edi_checkpointd.server.watch import Watch

    return Watch(
        paths,
        touched=daemon.check_files,
        misplaced=lambda: chores.put(Chore.RESCAN),
        configured=lambda: chores.put(Chore.CONFIG_CHANGED),
    )


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
