"""The assembly: it makes all parts of a daemon, and gives each part the finished parts that it needs.

`server.run` has the process around them: its lock, its signals and its end.
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
    """All parts of a daemon. The caller holds the folder's lock."""

    def __init__(
        self, paths: Paths, config: Config, version: str, rescan: Callable[[], None], *,
        idle_exit: bool, fault: str | None,
    ) -> None:  # fmt: skip
        """Open the journal, list the folder, and make the parts. The daemon serves nobody yet.

        The loop's thread calls `rescan` to have the sessions folder checked. `fault` says why the journal was just set
        aside, if it was. Raises `JournalDamaged` if setting it aside does not help, `VersionMismatch`, OSError.
        """
        clock = SystemClock()
        self.config = LiveConfig(config)
        self.pulse = Pulse()
        self.mailbox = Mailbox()
        self._paths = paths

        # Files.
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

        # Entries and writers.
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
        """Settle interrupted work and order missing files; return for how many sessions. Raises `JournalDamaged`."""
        return self._startup.recover()

    def bind(self, socket_path: str, listening_fd: int | None = None) -> None:
        """Start to listen at `socket_path`; `listening_fd`, from systemd, is a socket that already listens there."""
        ensure_private(self._paths.runtime)
        self._listener.bind(socket_path, listening_fd)

    def settle(self) -> None:
        """Drain the outboxes of dead writers until files cover them; serve nobody. Raises `JournalRefused`."""
        while not self.loop.stopping and not self._drains.settled:
            self.loop.turn()
            if self._pipeline.has_paused or self._coordinator.failing:
                raise JournalRefused("the outboxes of dead writers cannot be drained: the disk refuses")

    def check_files(self, names: Collection[str] | None) -> None:
        """Check these files of the sessions folder, or all of them (None). Any thread may call this.

        The loop's thread then handles sessions whose files are missing.
        """
        self._files.submit(self._refresh, names)

    def _refresh(self, names: Collection[str] | None) -> None:
        try:
            gone = self._catalog.refresh(names)
        except OSError as error:  # the folder itself is gone; `rescan` creates it again
            log.warning("sessions folder not checked: %s", error)
            return
        if gone or names is None:  # the daemon's own writes come here too, and must be cheap
            self.mailbox.post(lambda: self._missing.check(gone))

    def abandon(self) -> None:
        """Close everything without saving: the journal proved damaged before the daemon served anybody."""
        self._timers.close()
        self._files.close()
        self._close_socket()
        self._journal.close()

    def close(self, finish_s: float | None) -> bool:
        """Save all changes to files within `finish_s` (None: without a limit), then close everything.

        The caller has ended the loop. Returns whether the open journal is still the file at its path.
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
        """Answer the open questions, make the calls that threads have posted, and close the socket."""
        self._reader.close()
        self.mailbox.close(ignored=JournalDamaged)
        self._liveness.close()
        self._listener.close()
