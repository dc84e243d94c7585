"""The assembly: every part of one daemon, made and joined. What they do is in their own modules; how a process lives by
them, its lock, signals and end, is the service.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

import msgspec

from edi_checkpoint import protocol
from edi_checkpoint.catalog import Catalog
from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.paths import Paths
from edi_checkpoint.status import Told
from edi_checkpoint.trash import holds
from edi_checkpoint.troubles import met
from edi_checkpointd import inventory
from edi_checkpointd.absence import Absence
from edi_checkpointd.attachments import Attachments
from edi_checkpointd.checkpointer import Checkpointer
from edi_checkpointd.clock import SystemClock
from edi_checkpointd.config import Config
from edi_checkpointd.conversation import Conversation
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.feed import Feed
from edi_checkpointd.forgetting import Forgetting
from edi_checkpointd.fs import Reserve, sweep_temporaries
from edi_checkpointd.health import Health
from edi_checkpointd.importing import Importing
from edi_checkpointd.intake import Intake
from edi_checkpointd.inventory import Inventory
from edi_checkpointd.journal import JournalDamaged, Reader, named_damage
from edi_checkpointd.keeping import Keeping
from edi_checkpointd.ledger import Ledger
from edi_checkpointd.pulse import Pulse
from edi_checkpointd.recovery import files_teller, open_journal
from edi_checkpointd.requests import Requests
from edi_checkpointd.saving import Saving
from edi_checkpointd.scheduler import Scheduler
from edi_checkpointd.trash import Trash


class Daemon:
    """The parts. The caller holds the folder's lock."""

    def __init__(
        self, paths: Paths, config: Config, version: str, *, idle_exit: bool = False, fault: str | None = None
    ) -> None:
        """Open the journal, list the folder, and join all that works on them; nothing is served yet.

        `fault` says why the journal was set aside just now, if it was. Raises `JournalDamaged` where setting it aside
        does not help, `VersionMismatch`, OSError.
        """
        self._paths = paths
        self._clock = clock = SystemClock()
        self.pulse = Pulse()
        sweep_temporaries(paths.sessions)
        reserve = Reserve(paths.reserve)
        reserve.lend()
        self._journal, gone = open_journal(paths, self.pulse)
        self.health = Health(clock, version, journal_fault=fault or gone)
        self._catalog = Catalog(paths.sessions)
        self._catalog.load()
        self._scheduler = Scheduler(clock)
        feed = Feed(clock)
        idle_exit_s = (config.idle_exit_s or None) if idle_exit else None
        self.intake = Intake(paths, clock, self._scheduler, self.health, self.pulse, feed, idle_exit_s=idle_exit_s)
        self.attachments = Attachments(paths.attachments, paths.journal, config.attachments_max_bytes, clock)
        trash = Trash(paths, self._catalog, clock)
        self.ledger = Ledger(self._journal, self.attachments, config, clock, files_teller(paths, self._catalog, trash))
        self.checkpointer = Checkpointer(
            paths, self._catalog, self.attachments, config, clock,
            lambda result: self.intake.post(lambda: self.saving.written(result)),
        )  # fmt: skip
        self.saving = Saving(
            self.ledger, self._scheduler, self.checkpointer, reserve, config, clock, feed,
            post=self.intake.post, notify=self.intake.listener.notify,
        )  # fmt: skip
        self._attendance = self.intake.attend(self.ledger, self.saving)
        self._forgetting = Forgetting(
            paths, self._catalog, self.ledger, self.saving, self.checkpointer, self._attendance, clock,
            post=self.intake.post, shut_out=self.intake.listener.shut_out,
        )  # fmt: skip
        self.keeping = Keeping(
            self.ledger, trash, self.checkpointer, self._scheduler, clock,
            plan=lambda in_memory, jumped: self._take_inventory(in_memory, jumped).cleanup,
            aside=self.intake.answering.aside, post=self.intake.post, open_session=self._attendance.open,
        )  # fmt: skip
        self.ledger.before_open = self.keeping.opening
        self._importing = Importing(paths, self._catalog, self.attachments, self.ledger)
        conversation = Conversation(
            paths, version, self.intake.listener, self.intake.answering, self.health, feed,
            self.ledger, self.saving, self._attendance,
            forgetting=self._forgetting, keeping=self.keeping, importing=self._importing,
            answer=self._answer, status=self._status, explain=self._explain,
            stepped=lambda: self._scheduler.stepped, disk_refuses=self.intake.disk_refuses,
        )  # fmt: skip
        self.intake.serve(conversation, self.keeping, self._forgetting)
        self._absence = Absence(
            paths, self._catalog, self.ledger, self._attendance, self.saving, self.health, clock,
            forget=self._forgetting.forget, jumped=self.keeping.jumps.lately,
        )  # fmt: skip
        self.intake.upkeep = self._absence.step

    def recover(self) -> int:
        """End what was cut short, and bring into files what the journal has and the files have not; return of how many
        sessions. Raises `JournalDamaged`.
        """
        self.attachments.count()
        self._forgetting.finish_cut_short()
        self.keeping.settle()
        self._importing.settle()
        self._absence.look()
        rows = [
            row
            for row in self._journal.read.sessions()
            if self._catalog.has(row.session_id) or not holds(self._paths.trash, row.session_id)
        ]  # one that has come back may have left a document in the trash
        behind = [row.session_id for row in rows if self._journal.read.last_sequence(row.key) > row.saved]
        self.intake.liveness.sweep()
        self._attendance.look_around()
        recovered = sum([self._attendance.recover(session_id) for session_id in behind])
        self._attendance.close_orphans([row.session_id for row in rows if row.left_as == "live"])
        reached(CrashPoint.RECOVERED)
        return recovered

    def look_at(self, names: Collection[str] | None) -> None:
        """Look at these files of the sessions folder, None: at all, and see to those that are gone."""

        def see_to(absent: set[str]) -> None:
            if absent or names is None:  # own writes are seen too, and are to cost little
                self.intake.post(lambda: self._absence.look(absent))

        self.checkpointer.look_at(names, see_to)

    def abandon(self) -> None:
        """Let go of everything as it stands: the journal turned out damaged before anybody was served."""
        for part in (self._scheduler, self.checkpointer, self.intake, self._journal):
            part.close()

    def close(self, finish_s: float | None) -> bool:
        """Bring what is unsaved into files, for at most `finish_s` (None: however long), and let go of everything.

        The intake has ended. Returns whether the journal is still the one at its path.
        """
        self._scheduler.close()
        self.saving.finish(self._attendance.drains)
        self.checkpointer.close(finish_s)
        self.intake.close()
        reached(CrashPoint.LEAVING)
        self.saving.note_all()
        in_place = self._journal.replaced() is None
        self._journal.close()
        return in_place

    # -- in the thread that answers ----------------------------------------------------------------------------------

    def _answer(self, query: protocol.Query, drained: bool) -> protocol.Answer:
        if isinstance(query, protocol.GetState) and query.hold and query.checkpoint is not None:
            self.checkpointer.in_use.note(query.checkpoint)
        with contextlib.closing(Reader.open(self._paths.journal)) as reader:
            requests = Requests(
                self._paths, self._catalog, reader, drained=drained, met_damaged=self.checkpointer.met_damaged
            )
            return requests.answer(query)

    def _take_inventory(self, in_memory: frozenset[str], jumped: bool) -> Inventory:
        with named_damage(self._paths.journal), contextlib.closing(Reader.open(self._paths.journal)) as reader:
            return inventory.take(
                self._paths, self._catalog, reader, self.ledger.config, self._clock.now(),
                in_memory=in_memory, doubted=jumped, exempt=self.checkpointer.in_use.names(),
            )  # fmt: skip

    def _explain(self, query: protocol.Explained, in_memory: frozenset[str], jumped: bool) -> protocol.Answer:
        return inventory.explain(query, self._take_inventory(in_memory, jumped), self._catalog, self.ledger.config)

    def _status(self, request: int, told: Told) -> protocol.Status:
        try:
            with contextlib.closing(Reader.open(self._paths.journal)) as reader:
                found = Requests(self._paths, self._catalog, reader).status(told, self._clock.now())
        except EdiCheckpointError as error:  # damaged, or no descriptor is left: the files tell all the same
            if isinstance(error, JournalDamaged):
                self.intake.end_by(error)
            told = told._replace(troubles=(*told.troubles, met(error)))
            found = Requests(self._paths, self._catalog, None).status(told, self._clock.now())
        return protocol.Status(request, msgspec.json.encode(found))
