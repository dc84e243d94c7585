"""The daemon process: take the folder's lock, recover, serve until a signal, save everything, and exit."""

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

FINISH_S = 1.0  # to write files at SIGTERM, of the 2 s; the journal has the rest, and the next start writes it
SWITCH_INTERVAL_S = 0.0005  # the loop waits at most so long for the GIL after an fdatasync


def run(paths: Paths, config: Config, load: Callable[[], Config], *, idle_exit: bool = False) -> None:
    """Serve `paths` until SIGTERM or SIGINT; at SIGHUP use the settings that `load` returns.

    Prints one line on stderr when the daemon accepts entries, and notifies a service manager. Raises `DaemonRuns`,
    `FolderError`, `VersionMismatch`, `JournalDamaged`, `ActivationError` before it serves anything.
    """
    os.umask(0o077)
    faulthandler.enable()  # a service manager ends a hung daemon by SIGABRT: this prints where it hung
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
        _serve(paths, config, load, version, notifier, lock, socket, listening_fd, idle_exit=idle_exit)
        if listening_fd is None:  # a daemon that failed leaves the path: clients take this for a crash, and restart it
            with contextlib.suppress(OSError):
                paths.socket.unlink()
        start_freely(paths)
    finally:
        lock.release()
        notifier.close()


def settle(paths: Paths, config: Config) -> None:
    """Recover and write all files without serving anybody, so that files hold the outboxes of dead writers.

    The caller holds the lock. Raises as `run` does.
    """
    _serve(paths, config, lambda: config, installed_version(), Notifier({}))


class Chore(Enum):
    """What other threads and signals ask the main thread to do."""

    RESCAN = auto()  # check the sessions folder: files or the folder itself may be gone
    RELOAD = auto()  # SIGHUP: read the configuration again, and notify the service manager
    CONFIG_CHANGED = auto()
    END = auto()  # the loop has ended


def _serve(
    paths: Paths, config: Config, load: Callable[[], Config], version: str, notifier: Notifier,
    lock: FolderLock | None = None, socket: str = "", listening_fd: int | None = None, *, idle_exit: bool = False,
) -> None:  # fmt: skip
    """Recover, then serve on `socket` until the loop ends; without `lock`, only write files."""
    with SignalQueue[Chore]() as chores:
        rescan, end = partial(chores.put, Chore.RESCAN), partial(chores.put, Chore.END)
        daemon, recovered = _recover(paths, partial(Daemon, paths, config, version, rescan, idle_exit=idle_exit))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: daemon.loop.stop())
        signal.signal(signal.SIGHUP, lambda *_: chores.put(Chore.RELOAD))
        serving = f"serving {paths.sessions}; sessions recovered at the start: {recovered}"
        if lock:
            daemon.janitor.soon()
            daemon.bind(socket, listening_fd)
            notifier.ready(serving)
            print(f"ready pid={os.getpid()} socket={socket} recovered={recovered}", file=sys.stderr, flush=True)  # noqa: T201
        heartbeat = Heartbeat(notifier, daemon.pulse, serving)
        failures: list[BaseException] = []
        work = daemon.loop.run if lock else daemon.settle
        thread = threading.Thread(target=_run_guarded, args=(paths, work, failures, end), name="loop")
        thread.start()
        watch = _watch(paths, daemon, chores) if lock else None
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
        notifier.stopping("saving all changes to files")
        in_place = daemon.close(FINISH_S if lock and not failures else None)
    if failures:
        if isinstance(failures[0], JournalDamaged) and in_place:
            set_journal_aside(paths, str(failures[0]))
        raise failures[0]


def _recover(paths: Paths, make: Callable[..., Daemon]) -> tuple[Daemon, int]:
    """Return a recovered daemon and the number of sessions that it recovered; replace a damaged journal once."""
    fault: str | None = None
    while True:
        daemon = make(fault=fault)
        try:
            with named_damage(paths.journal):
                return daemon, daemon.recover()
        except JournalDamaged as error:
            daemon.abandon()
            set_journal_aside(paths, str(error))
            if fault is not None:
                raise
            fault = str(error)


def _rescan(paths: Paths, daemon: Daemon, lock: FolderLock | None, failures: list[BaseException]) -> None:
    """Create the sessions folder if it is gone, check that the lock is ours, and check all files."""
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
    """Start to watch the folder and the configuration. The library is loaded here, after the start, to start faster."""
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
    """Run the loop. An error ends the daemon in order: it still saves the states in memory to files."""
    try:
        with named_damage(paths.journal):
            work()
    except Exception as error:
        log.exception("the loop failed; the daemon exits, and the next one starts from the journal and the outboxes")
        failures.append(error)
    finally:
        ended()
