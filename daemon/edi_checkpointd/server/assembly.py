"""The assembly: it makes every part of one daemon and hands finished parts to those that need them.

What the parts do is in their own modules. How a process lives by them, its lock, signals and end, is `run`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.system.paths import Paths, ensure_private
from edi_checkpointd.attachments.garbage import GarbageCollector
from edi_checkpointd.attachments.store import AttachmentStore
from edi_checkpointd.checkpoints.coordinator import Coordinator
from edi_checkpointd.checkpoints.damaged import DamagedDocuments
from edi_checkpointd.checkpoints.writer import CheckpointWriter
from edi_checkpointd.config import Config, LiveConfig
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.health import Health
from edi_checkpointd.intake.listener import Listener
from edi_checkpointd.intake.pipeline import Pipeline
from edi_checkpointd.intake.refusals import Refusals
from edi_checkpointd.journal import JournalDamaged, JournalRefused
from edi_checkpointd.purge.purge import Purger
from edi_checkpointd.recovery.missing_files import MissingFiles
from edi_checkpointd.recovery.session_files import SessionDocuments
from edi_checkpointd.recovery.startup import Startup, open_journal
from edi_checkpointd.retention.deletion import Deletion, InUse
from edi_checkpointd.retention.inventory import Planner
from edi_checkpointd.retention.janitor import Janitor
from edi_checkpointd.retention.trash import Trash
from edi_checkpointd.server.dispatch import DaemonIdentity, Dispatcher
from edi_checkpointd.server.handlers import Account, PurgeHandler, QueryHandler, RetentionHandler, WriterHandler
from edi_checkpointd.server.loop import Background, Idleness, Loop
from edi_checkpointd.server.reader_thread import ReaderThread
from edi_checkpointd.sessions.feed import Feed
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.sessions.loading import SessionLoader
from edi_checkpointd.sessions.upkeep import Upkeep
from edi_checkpointd.system.clock import Jumps, SystemClock
from edi_checkpointd.system.fs import Reserve, sweep_temporaries
from edi_checkpointd.system.pulse import Pulse
from edi_checkpointd.system.timers import Scheduler
from edi_checkpointd.system.worker import Mailbox, Worker
from edi_checkpointd.transfer.staging import Importer
from edi_checkpointd.writers.access import WriterAccess
from edi_checkpointd.writers.drains import OutboxDrains
from edi_checkpointd.writers.liveness import Liveness
from edi_checkpointd.writers.removal import OutboxRemoval

log = logging.getLogger(__name__)


class Daemon:
    """The parts. The caller holds the folder's lock."""

    def __init__(
        self,
        paths: Paths,
        config: Config,
        version: str,
        rescan: Callable[[], None],
        *,
        idle_exit: bool = False,
        fault: str | None = None,
    ) -> None:
        """Open the journal, list the folder, and make all that works on them; nothing is served yet.

        `rescan` is called, in the loop's thread, when the sessions folder is to be looked at. `fault` says why the
        journal was set aside just now, if it was. Raises `JournalDamaged` where setting it aside does not help,
        `VersionMismatch`, OSError.
        """
        clock = SystemClock()
        self.config = LiveConfig(config)
        self.pulse = Pulse()
        self.mailbox = Mailbox()
        self._paths = paths

        # What lies on disk.
        sweep_temporaries(paths.sessions)
        reserve = Reserve(paths.reserve)
        reserve.lend()
        self._journal, gone = open_journal(paths, self.pulse)
        self.health = Health(clock, version, journal_fault=fault or gone)
        self._catalog = catalog = Catalog(paths.sessions)
        catalog.load()
        self.attachments = AttachmentStore(paths.attachments, paths.journal, config.attachments_max_bytes, clock)

        # Threads beside the loop's.
        self._timers = timers = Scheduler(clock, self.mailbox.post)
        self._files = files = Worker("files", self.mailbox)
        self._reader = Worker("requests", self.mailbox)

        # Sessions.
        jumps, in_use, feed = Jumps(clock), InUse(clock), Feed(clock)
        damaged = DamagedDocuments(paths, catalog, files)
        collector = GarbageCollector(paths, self.attachments, files, clock, self.config)
        trash = Trash(paths, catalog, self._journal, clock)
        documents = SessionDocuments(paths.sessions, catalog, trash, damaged)
        loader = SessionLoader(self._journal, documents, clock, self.config)
        ledger = Ledger(self._journal, self.attachments, loader, clock, self.config)
        self._upkeep = upkeep = Upkeep(ledger, timers, collector, reserve, clock, self.config)
        importer = Importer(paths, catalog, self.attachments, ledger)

        # Retention.
        deletion = Deletion(paths.sessions, catalog, in_use, files, self.config)
        planner = Planner(paths, catalog, in_use, jumps, clock, self.config)
        self.janitor = janitor = Janitor(ledger, loader, trash, deletion, planner, self._reader, timers)

        # Checkpoints.
        writer = CheckpointWriter(paths, catalog, self.attachments, collector, damaged, files, clock, self.config)
        self._listener = listener = Listener(self.pulse)
        self._coordinator = coordinator = Coordinator(
            ledger, timers, writer, upkeep, janitor, feed, clock, listener.notify
        )

        # The way of an entry, and the writers.
        refusals = Refusals(listener, ledger, self.health, feed, paths.damaged)
        self._pipeline = pipeline = Pipeline(listener, ledger, coordinator, upkeep, refusals, feed, timers, rescan)
        self._liveness = liveness = Liveness(paths.outbox, listener, clock)
        access = WriterAccess(ledger, liveness, coordinator, pipeline, listener)
        removal = OutboxRemoval(ledger, liveness, coordinator, access, janitor, paths.damaged)
        self._drains = drains = OutboxDrains(ledger, liveness, coordinator, access, removal, pipeline, feed)
        purger = Purger(paths, catalog, ledger, coordinator, access, drains, collector, files)
        self._missing = missing = MissingFiles(paths, catalog, ledger, coordinator, access, purger, self.health, jumps)
        self._startup = Startup(
            paths, catalog, ledger, coordinator, access, drains, removal, (purger, janitor, importer, missing)
        )

        # The loop.
        listener.watch(self.mailbox.fd, self.mailbox.clear)
        reader = ReaderThread(paths, catalog, in_use, damaged, listener, self._reader, self.mailbox, clock)
        account = Account(listener, ledger, coordinator, removal, janitor, timers, self.health)
        dispatcher = Dispatcher(
            listener,
            pipeline,
            refusals,
            DaemonIdentity(paths.sessions, version, self._journal.id),
            WriterHandler(listener, ledger, coordinator, drains, purger, feed),
            QueryHandler(listener, ledger, drains, reader, planner, account, feed),
            RetentionHandler(listener, ledger, access, drains, purger, janitor, trash, importer),
            PurgeHandler(listener, purger),
        )
        background = Background((removal, upkeep), (janitor, missing), purger, pipeline, self.pulse, clock)
        idleness = Idleness(listener, timers, ledger, (drains, purger, janitor), on=idle_exit)
        self.loop = Loop(listener, self.mailbox, pipeline, dispatcher, (drains, purger), background, timers, idleness)

    def recover(self) -> int:
        """End what was cut short; return of how many sessions files were ordered. Raises `JournalDamaged`."""
        return self._startup.recover()

    def bind(self, socket_path: str, listening_fd: int | None = None) -> None:
        """Begin to listen; `listening_fd`, from systemd, listens on that path already."""
        ensure_private(self._paths.runtime)
        self._listener.bind(socket_path, listening_fd)

    def settle(self) -> None:
        """Take in what dead writers left, until a file covers it; nobody is served. Raises `JournalRefused`."""
        while not self.loop.stopping and not self._drains.settled:
            self.loop.turn()
            if self._pipeline.has_paused or self._coordinator.failing:
                raise JournalRefused("what dead writers left cannot be taken in: the disk refuses")

    def check_files(self, names: Collection[str] | None) -> None:
        """Look at these files of the sessions folder, None: at all of them; any thread may ask.

        What is gone is seen to in the loop's thread.
        """
        self._files.submit(self._refresh, names)

    def _refresh(self, names: Collection[str] | None) -> None:
        try:
            gone = self._catalog.refresh(names)
        except OSError as error:  # the folder itself is gone, which `rescan` sees to
            log.warning("sessions folder not looked at: %s", error)
            return
        if gone or names is None:  # own writes are seen too, and are to cost little
            self.mailbox.post(lambda: self._missing.check(gone))

    def abandon(self) -> None:
        """Close everything as it stands: the journal turned out damaged before anybody was served."""
        self._timers.close()
        self._files.close()
        self._close_socket()
        self._journal.close()

    def close(self, finish_s: float | None) -> bool:
        """Bring what is unsaved into files, for at most `finish_s` (None: however long), then close everything.

        The loop has ended. Returns whether the journal is still the one at its path.
        """
        self._timers.close()
        self._coordinator.finish(self._drains.drains)
        self._files.close(finish_s)
        self._close_socket()
        reached(CrashPoint.LEAVING)
        self._upkeep.note_at_end()
        in_place = self._journal.replaced() is None
        self._journal.close()
        return in_place

    def _close_socket(self) -> None:
        """Let the questions come to their end, and make the calls that the threads posted meanwhile."""
        self._reader.close()
        self.mailbox.close(ignored=JournalDamaged)
        self._liveness.close()
        self._listener.close()
