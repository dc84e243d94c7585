"""Answers for reading commands: from the daemon if one runs, else from the journal and the files, by the same code.

Reading writes nothing except what SQLite needs to read its own journal. If a running daemon does not answer, `Source`
reports this and reads the files: everything that the daemon acknowledged is on disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import msgspec

from edi_checkpoint import errors
from edi_checkpoint.documents.names import check_session_id
from edi_checkpoint.documents.trash import holds, listed
from edi_checkpoint.errors import DaemonUnavailable, EdiCheckpointError, NotFound
from edi_checkpoint.model import CheckpointInfo, SessionInfo
from edi_checkpoint.system.daemon_lock import running
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.references import Reference
from edi_checkpointd.cli.daemon import Answered, expect
from edi_checkpointd.cli.exits import PROGRAM
from edi_checkpointd.system.clock import to_us

if TYPE_CHECKING:
    from edi_checkpoint.home.status import Status
    from edi_checkpoint.link.link import Link
    from edi_checkpointd.retention.explain import Why
    from edi_checkpointd.sessions.queries import Queries

ANSWER_TIMEOUT_S = 5.0
STATUS_TIMEOUT_S = 2.0  # the loop's thread answers at once, unless it hangs
PAGE_ENTRIES = 2000

T = TypeVar("T")


class Source:
    """Answers reading requests about the home at `paths`; calls `note` with sentences for the user."""

    def __init__(self, paths: Paths, note: Callable[[str], None]) -> None:
        """Check whether a daemon runs. Nothing is loaded or connected before the first query."""
        self.paths = paths
        self._note = note
        self._daemon = running(paths.lock)
        self._link: Link | None = None
        self._queries: Queries | None = None
        self._unusable: list[EdiCheckpointError] = []  # why the journal cannot be read

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        if self._link is not None:
            self._link.close()

    def _ask(self, kind: type[Answered], question: Callable[[int], messages.Query]) -> Answered:
        """Return the answer to a query of the protocol. Raises the error of the answering side, such as `NotFound`."""
        try:
            if self._daemon is not None:
                return self._ask_daemon(kind, question, ANSWER_TIMEOUT_S)
        except DaemonUnavailable as error:
            self._note(f"{error}; reading the journal and the files instead")
        return expect(kind, self._from_disk(lambda queries: self._answered(queries, question(0))))

    def _ask_daemon(
        self, kind: type[Answered], question: Callable[[int], messages.Query], timeout_s: float
    ) -> Answered:
        """Return the daemon's answer. After a time-out, the daemon is not asked again."""
        from edi_checkpoint.link.link import Link  # a whole Client, which writers need, loads longer than the answer

        assert self._daemon is not None
        self._link = self._link or Link(self.paths, app=PROGRAM, version="")
        try:
            self._link.wait_connected(timeout_s)
            return expect(kind, self._link.ask(question, timeout_s))
        except DaemonUnavailable:
            pid, self._daemon = self._daemon.pid, None
            raise DaemonUnavailable(f"the daemon (process {pid}) did not answer within {timeout_s:g} s") from None

    def sessions(self, condition: str | None = None, limit: int = messages.SESSIONS_MAX) -> list[SessionInfo]:
        """Return the newest sessions, newest first, of one condition or of all."""
        return self._ask(messages.Sessions, lambda n: messages.ListSessions(n, condition, limit)).sessions

    def session(self, session_id: str) -> SessionInfo:
        """Return a session's row. Raises `NotFound`."""
        for info in self.sessions():
            if info.session_id == session_id:
                return info
        raise NotFound(f"no session {session_id}")

    def status(self) -> Status:
        """Return whether all work is safe, and what is wrong. A daemon that does not answer is one of the faults."""
        from edi_checkpoint.home.status import Status

        if self._daemon is not None:
            with contextlib.suppress(DaemonUnavailable):
                answer = self._ask_daemon(messages.StatusReply, messages.GetStatus, STATUS_TIMEOUT_S)
                return msgspec.json.decode(answer.body, type=Status)
        return self._from_disk(self._status_from_disk)

    def settings(self) -> list[dict[str, object]]:
        """Return a row for each setting: the running daemon's, else those that a new daemon would use.

        Raises `ConfigError` if a new daemon could not start.
        """
        if self._daemon is not None:
            try:
                answer = self._ask_daemon(messages.Settings, messages.GetSettings, STATUS_TIMEOUT_S)
                return msgspec.json.decode(answer.body, type=list[dict[str, object]])
            except DaemonUnavailable as error:
                self._note(f"{error}; these are the settings that a new daemon would use")
        from edi_checkpointd import config

        found = config.load(self.paths, os.environ)
        for warning in found.warnings:
            self._note(warning)
        return config.explain(found)

    def trashed(self) -> list[SessionInfo]:
        """Return the sessions in the trash, newest first, with the condition `trashed`."""
        from edi_checkpoint.documents.catalog import Catalog
        from edi_checkpoint.home.listing import newest_first, session_info

        rows = []
        for trashed in listed(self.paths.trash):
            catalog = Catalog(self.paths.trash / trashed.session_id)
            catalog.load()
            row = session_info(trashed.session_id, catalog, (), None, lambda header: header)
            rows.append(msgspec.structs.replace(row, condition="trashed"))
        return newest_first(rows)

    def row_bytes(self) -> dict[str, int]:
        """Return the bytes of each session in the journal, read from the file even while a daemon runs."""
        return self._from_disk(lambda queries: queries.reader.row_bytes() if queries.reader else {})

    def pruning(self) -> messages.CleanupReply:
        """Return what the rules would keep and delete; `body` is the document of `prune`, without `format`."""
        return self._ask(messages.CleanupReply, messages.GetCleanup)

    def why(self, session_id: str, checkpoint: str) -> Why:
        """Return why a checkpoint exists. Raises `NotFound`."""
        from edi_checkpointd.retention.explain import Why

        found = self._ask(messages.WhyReply, lambda n: messages.GetWhy(n, session_id, checkpoint))
        return msgspec.json.decode(found.body, type=Why)

    def _answered(self, queries: Queries, query: messages.Query) -> messages.Answer:
        if not isinstance(query, messages.Explained):
            return queries.answer(query)
        from edi_checkpointd import config
        from edi_checkpointd.retention import inventory

        settings, catalog = config.load(self.paths, os.environ), queries.catalog
        found = inventory.build(self.paths, catalog, queries.reader, settings, datetime.now(UTC))
        return inventory.explain(query, found, catalog, settings)

    def _status_from_disk(self, queries: Queries) -> Status:
        from edi_checkpoint.home.problems import met
        from edi_checkpoint.home.status import DaemonReport, served
        from edi_checkpointd import config
        from edi_checkpointd.health import caps

        now = datetime.now(UTC)
        troubles, limits = [*map(met, self._unusable)], dict[str, int]()
        try:
            limits = caps(config.load(self.paths, os.environ))
        except errors.ConfigError as error:
            troubles.append(met(error))
        report = DaemonReport(served(running(self.paths.lock), now), answered=False, troubles=troubles, caps=limits)
        return queries.status(report, now)

    def checkpoints(self, session_id: str) -> list[CheckpointInfo]:
        """Return a session's checkpoints, oldest first."""
        return self._ask(messages.Checkpoints, lambda n: messages.ListCheckpoints(n, session_id)).checkpoints

    def knows(self, text: str) -> bool:
        """Return whether `text` is a session's whole id, without listing all sessions.

        Raises `NotFound` for a session in the trash.
        """
        try:
            self._ask(messages.History, lambda n: messages.GetHistory(n, check_session_id(text), limit=1))
        except errors.SessionIdError:
            return False
        except NotFound:
            if holds(self.paths.trash, text):
                raise  # the error says that the session is in the trash
            return False
        return True

    def state(
        self, session_id: str, *, checkpoint: str | None = None, sequence: int | None = None, at: datetime | None = None
    ) -> messages.StateAt:
        """Return a state: of a checkpoint by name, at a sequence, at a time, or the current one."""
        time_us = None if at is None else to_us(at)
        return self._ask(messages.StateAt, lambda n: messages.GetState(n, session_id, checkpoint, sequence, time_us))

    def attachment(self, session_id: str, reference: Reference) -> bytes:
        """Return the content of an attachment. Raises `AttachmentMissing`, `AttachmentDamaged`."""
        sha256, kind = reference.sha256, reference.type
        return self._ask(messages.AttachmentFound, lambda n: messages.GetAttachment(n, session_id, sha256, kind)).data

    def history(self, session_id: str, since: int) -> Iterator[messages.History]:
        """Yield pages of the journal's entries from sequence `since` to the newest at the time of the first page.

        The first page always comes; it may be empty.
        """
        page = first = self._page(session_id, since)
        yield page
        while page.entries and page.entries[-1].sequence < first.last:
            page = self._page(session_id, page.entries[-1].sequence + 1)
            yield page

    def _page(self, session_id: str, since: int) -> messages.History:
        return self._ask(messages.History, lambda n: messages.GetHistory(n, session_id, since, PAGE_ENTRIES))

    def _from_disk(self, read: Callable[[Queries], T]) -> T:
        from edi_checkpointd.journal import JournalDamaged

        if self._queries is None:
            self._queries = self._open(journal=True)
        try:
            return read(self._queries)
        except JournalDamaged as error:
            self._do_without_journal(error)
            self._queries = self._open(journal=False)
            return read(self._queries)

    def _open(self, *, journal: bool) -> Queries:
        from edi_checkpoint.documents.catalog import Catalog
        from edi_checkpointd.journal import JournalDamaged, Reader
        from edi_checkpointd.sessions.queries import Queries

        catalog = Catalog(self.paths.sessions)
        if self.paths.sessions.exists():
            catalog.load()
        reader = None
        if journal and self.paths.journal.exists():
            try:
                reader = Reader.open(self.paths.journal)
            except (JournalDamaged, errors.VersionMismatch) as error:
                self._do_without_journal(error)
        return Queries(self.paths, catalog, reader)

    def _do_without_journal(self, error: EdiCheckpointError) -> None:
        self._unusable.append(error)
        self._note(f"{error}; reading only the files instead")
