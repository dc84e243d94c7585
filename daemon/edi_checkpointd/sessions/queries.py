"""Answers reading requests from the journal and the files; changes nothing.

The daemon uses it in its reader thread, on a read-only connection, after the outboxes of dead writers are drained.
Without a daemon, the command uses it itself, and then adds the entries that wait in the outboxes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from edi_checkpoint.documents import attachments, trash
from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.fragments import parent_of, stage_of, string, summarise
from edi_checkpoint.documents.layout import Header
from edi_checkpoint.documents.names import check_session_id
from edi_checkpoint.documents.newest import newest_listed
from edi_checkpoint.documents.reader import Document, parse_checkpoint
from edi_checkpoint.errors import DocumentDamaged, EdiCheckpointError, NotFound
from edi_checkpoint.home.listing import Journaled, condition_of, header_of, newest_first, numbers_held, session_info
from edi_checkpoint.home.status import DaemonReport, Status, status_of
from edi_checkpoint.model import CheckpointInfo, HistoryEntry, SessionInfo
from edi_checkpoint.outbox.segments import list_streams, read_records
from edi_checkpoint.outbox.survey import WaitingStream, holds_changes, survey_all, survey_session
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.safe_open import read_regular
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.entries import Base, JsonText, Mark, Pin, Rollback, Update, decode_entry
from edi_checkpoint.wire.records import scan
from edi_checkpointd.journal import Reader, SessionRow
from edi_checkpointd.state import State, fold, read, state_at, state_of
from edi_checkpointd.system.clock import from_us, to_us


class Current(NamedTuple):
    """A session's newest state and its source: daemon, journal, file or outbox."""

    state: State
    source: str
    parent_session: str | None


class Queries:
    """Reads one home. `reader` is None when there is no usable journal.

    `drained`: a daemon answers, and has drained the outboxes in question; otherwise they are read too.
    """

    def __init__(
        self, paths: Paths, catalog: Catalog, reader: Reader | None, *, drained: bool = False,
        met_damaged: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """Answer from these parts; the catalog is loaded. `met_damaged` gets the names of damaged documents."""
        self._met_damaged = met_damaged
        self._paths = paths
        self.catalog = catalog
        self.reader = reader
        self._drained = drained

    def answer(self, query: messages.Query) -> messages.Answer:
        """Return the answer to any query but `GetStatus`. Raises `NotFound`, `SessionIdError`, `DocumentDamaged`."""
        with self._one_view():
            match query:
                case messages.ListSessions(request, condition, limit):
                    return messages.Sessions(request, self.sessions(condition)[:limit])
                case messages.ListCheckpoints(request, session_id):
                    return messages.Checkpoints(request, self.checkpoints(session_id))
                case messages.GetState():
                    return self.state(query)
                case messages.GetHistory():
                    return self.history(query)
                case messages.GetAttachment():
                    return self.attachment(query)
                case _:
                    raise NotFound(f"{type(query).__name__}: only a daemon answers that")

    def status(self, report: DaemonReport, now: datetime) -> Status:
        """Return the status of the home, including a daemon's `report`."""
        outboxes = survey_all(self._paths.outbox)
        with self._one_view():
            journaled = self.reader.numbers() if self.reader else {}
            received_us = self.reader.last_received_us() if self.reader else None
            last_received = None if received_us is None else from_us(received_us)
            rows = self._rows(outboxes)
            return status_of(self._paths, self.catalog, rows, outboxes, journaled, last_received, report, now)

    def _one_view(self) -> contextlib.AbstractContextManager[None]:
        return self.reader.one_view() if self.reader else contextlib.nullcontext()

    # -- sessions ----------------------------------------------------------------------------------------------------

    def sessions(self, condition: str | None = None) -> list[SessionInfo]:
        """Return all sessions, or those of one condition, newest first."""
        return newest_first(self._rows(survey_all(self._paths.outbox)), condition)

    def _rows(self, outboxes: Mapping[str, Sequence[WaitingStream]]) -> list[SessionInfo]:
        rows = {row.session_id: row for row in self.reader.sessions()} if self.reader else {}
        ids = {*self.catalog.sessions(), *outboxes}
        ids |= {session_id for session_id, row in rows.items() if session_id not in ids and not self._is_hidden(row)}
        return [self._session(one, rows.get(one), outboxes.get(one, ())) for one in sorted(ids)]

    def _is_hidden(self, row: SessionRow) -> bool:
        """Whether lists omit a session that has only rows: it is in the trash, or the user deleted its files."""
        deleted = row.saved > 0 and self._paths.marker.exists()  # no marker: the folder was removed
        return deleted or trash.holds(self._paths.trash, row.session_id)

    def _session(self, session_id: str, row: SessionRow | None, streams: Sequence[WaitingStream]) -> SessionInfo:
        journaled = self._journaled(row)

        def latest(header: Header | None) -> Header | None:
            waits = not self._drained and holds_changes(streams, numbers_held(header, journaled))
            if header and not waits and not self._journal_changes(row, header.sequence):
                return header
            state, _, parent = self._current(session_id)
            if not state.sequence and not state.fragments:
                return None  # nothing published yet, or no readable file
            return header_of(session_id, state.fragments, state.sequence, state.time_us, parent)

        return session_info(session_id, self.catalog, streams, journaled, latest)

    def _journaled(self, row: SessionRow | None) -> Journaled | None:
        if row is None or self.reader is None:
            return None
        return Journaled(from_us(row.started_us), row.left_as, row.epoch, self.reader.streams(row.key))

    def _journal_changes(self, row: SessionRow | None, sequence: int) -> bool:
        """Whether the journal holds a change of a session after `sequence`.

        Marks and pins do not count: most sessions end with a mark that no document needs to hold.
        """
        if row is None or self.reader is None:
            return False
        for frame in self.reader.frames(row.key, after=sequence):
            if frame.first > sequence + 1:
                break
            for record in frame.scanned()[sequence + 1 - frame.first :]:
                if not isinstance(decode_entry(record.entry), Mark | Pin):
                    return True
                sequence += 1
        return sequence < self.reader.last_sequence(row.key)  # rows are missing, and a snapshot holds their changes

    # -- checkpoints and states --------------------------------------------------------------------------------------

    def checkpoints(self, session_id: str) -> list[CheckpointInfo]:
        """Return a session's checkpoints, oldest first. Raises `NotFound` for an unknown session."""
        self._require(session_id)
        return list(self.catalog.checkpoints(session_id))

    def state(self, query: messages.GetState) -> messages.StateAt:
        """Return a session's state: of a checkpoint, at a sequence or a time, or the current one."""
        streams = survey_session(self._paths.outbox / check_session_id(query.session_id))
        row = self._require(query.session_id)
        parent = row.parent_session if row else None
        if query.checkpoint is not None:
            document = self._checkpoint(query.session_id, query.checkpoint)
            found = Current(state_of(document), "file", document.header.parent_session)
        elif query.sequence is not None:
            found = Current(self._state_at(row, query.session_id, query.sequence), "journal", parent)
        elif query.time_us is not None:
            sequence = self._sequence_at(row, query.session_id, query.time_us)
            found = Current(self._state_at(row, query.session_id, sequence), "journal", parent)
        else:
            found = self._current(query.session_id)
        past = query.checkpoint is not None or found.source == "journal"
        present = self._current(query.session_id) if past else found
        status = summarise(present.state.fragments).get("status")
        condition = condition_of(
            self.catalog.checkpoints(query.session_id), self.catalog.newest_header(query.session_id), streams,
            self._journaled(row), status if isinstance(status, str) else None,
        )  # fmt: skip
        return messages.StateAt(
            request=query.request, session_id=query.session_id, sequence=found.state.sequence,
            time_us=found.state.time_us, stage=stage_of(found.state.fragments), condition=condition,
            parent_session=found.parent_session or parent_of(found.state.fragments), checkpoint=query.checkpoint,
            source=found.source, state={key: value.text for key, value in found.state.fragments.items()},
        )  # fmt: skip

    def attachment(self, query: messages.GetAttachment) -> messages.AttachmentFound:
        """Return the content of an attachment. Raises `AttachmentMissing`, `AttachmentDamaged`."""
        session_id, reader = check_session_id(query.session_id), self.reader
        data = attachments.read(
            self._paths, session_id, query.sha256, query.kind, ask=lambda: reader.blob(query.sha256) if reader else None
        )
        return messages.AttachmentFound(query.request, data)

    def _require(self, session_id: str) -> SessionRow | None:
        """Return the journal's row of a session, None if only files know it. Raises `NotFound`."""
        check_session_id(session_id)
        row = self.reader.session(session_id) if self.reader else None
        there = session_id in self.catalog.sessions() or list_streams(self._paths.outbox / session_id)
        if not there and trash.holds(self._paths.trash, session_id):
            hint = f"`edi-checkpoint restore {session_id}` brings it back"
            raise NotFound(f"session {session_id} is in the trash", hint=hint)
        if not there and row is None:
            raise NotFound(f"no session {session_id}")
        return row

    def _checkpoint(self, session_id: str, name: str) -> Document:
        if name not in {info.name for info in self.catalog.checkpoints(session_id)}:
            raise NotFound(f"session {session_id} has no checkpoint {name}")
        try:
            return parse_checkpoint(read_regular(self._paths.sessions / name), name)
        except FileNotFoundError:
            raise NotFound(f"{name} does not exist any more") from None
        except DocumentDamaged:
            self._met_damaged(name)
            raise

    def _current(self, session_id: str) -> Current:
        row = self.reader.session(session_id) if self.reader else None
        found = Current(State(), "journal", None)
        if row is not None and self.reader is not None:
            last = self.reader.last_sequence(row.key)
            found = Current(self._replayed(self.reader, row, last), "journal", row.parent_session)
        above = found.state.sequence or -1  # without entries in the journal, files without a sequence count too
        files = newest_listed(self._paths.sessions, self.catalog, session_id, self._skip, above=above)
        if files is not None:
            found = Current(state_of(files.document), "file", files.document.header.parent_session)
        if self._drained:
            return found._replace(source="daemon") if row is not None else found
        return self._with_outboxes(session_id, found)

    def _skip(self, name: str, error: OSError | EdiCheckpointError) -> None:
        """Report a damaged document, and skip an unreadable one. Raises `VersionMismatch` for a newer version's."""
        if isinstance(error, DocumentDamaged):
            self._met_damaged(name)
        elif not isinstance(error, OSError):
            raise error

    def _with_outboxes(self, session_id: str, found: Current) -> Current:
        """Add the entries in the outboxes that the state lacks."""
        state = found.state
        for files in list_streams(self._paths.outbox / session_id):
            stream = files.owner.stream
            for data in read_records(files):
                new = [record for record in scan(data) if record.number > state.streams.get(stream, 0)]
                if new:
                    state, _ = fold(state, stream, read(new), ())
        return found if state is found.state else Current(state, "outbox", found.parent_session)

    # -- the journal's window ----------------------------------------------------------------------------------------

    def _replayed(self, reader: Reader, row: SessionRow, upto: int) -> State:
        """Return the state after sequence `upto`, from the newest snapshot up to it and the rows after that."""
        state = state_at(reader.snapshot(row.key, upto=upto))
        for frame in reader.frames(row.key, after=state.sequence):
            if frame.first > upto:
                break
            records = frame.scanned()[max(0, state.sequence + 1 - frame.first) : upto + 1 - frame.first]
            state, _ = fold(state, frame.stream, read(records), ())
        numbers = {stream: number for stream, (_, number) in reader.streams(row.key).items()}
        return replace(state, streams={**state.streams, **numbers})

    def _window(self, row: SessionRow | None, session_id: str) -> tuple[Reader, SessionRow, int, int]:
        """Return the reader, the row, and the first and the last sequence that the journal holds. Raises `NotFound`."""
        if row is None or self.reader is None:
            fault = f"session {session_id}: the journal holds no entries of it"
            raise NotFound(fault, hint="name a checkpoint instead")
        first, last = self.reader.span(row.key)
        return self.reader, row, first, last

    def _state_at(self, row: SessionRow | None, session_id: str, sequence: int) -> State:
        reader, row, first, last = self._window(row, session_id)
        snapshot = reader.snapshot(row.key, upto=sequence)
        reachable = first <= sequence <= last and (first == 1 or snapshot is not None)
        if reachable or (snapshot and snapshot[0] == sequence):
            found = self._replayed(reader, row, sequence)
            reachable = found.sequence == sequence  # not where a file was ahead of the journal
        if not reachable:
            fault = f"session {session_id}: sequence {sequence} is outside the journal's window {first}-{last}"
            hint = "`edi-checkpoint history` shows the window; checkpoints reach further back"
            raise NotFound(fault, hint=hint)
        return found

    def _sequence_at(self, row: SessionRow | None, session_id: str, time_us: int) -> int:
        newest = 0
        for entry in self._entries(row, session_id, 1):
            if to_us(entry.timestamp) > time_us:
                break
            newest = entry.sequence
        if not newest:
            time = from_us(time_us).isoformat()
            raise NotFound(f"session {session_id}: the journal holds no entry from before {time}")
        return newest

    def history(self, query: messages.GetHistory) -> messages.History:
        """Return the entries that the journal holds of a session, from sequence `since` on."""
        row = self._require(query.session_id)
        if row is None:
            return messages.History(query.request, 1, 0, [])
        _, _, first, last = self._window(row, query.session_id)
        found = islice(self._entries(row, query.session_id, query.since), query.limit)
        return messages.History(query.request, first, last, list(found))

    def _entries(self, row: SessionRow | None, session_id: str, since: int) -> Iterator[HistoryEntry]:
        reader, row, _, _ = self._window(row, session_id)
        for frame in reader.frames(row.key, after=since - 1):
            for sequence, record in enumerate(frame.scanned(), start=frame.first):
                if sequence >= since:
                    yield _history_entry(sequence, record.entry)


def _history_entry(sequence: int, data: bytes) -> HistoryEntry:
    entry = decode_entry(data)
    changed: dict[str, JsonText] = {}
    keys: tuple[str, ...] = ()
    match entry:
        case Update():
            op, changed, keys = "update", entry.changed, (*entry.changed, *entry.removed)
        case Base() | Rollback():
            op, changed, keys = "base" if isinstance(entry, Base) else "rollback", entry.state, tuple(entry.state)
        case Mark() | Pin():
            op = "mark" if isinstance(entry, Mark) else "pin"
    stage = string(changed["current_stage"]) if "current_stage" in changed else None
    return HistoryEntry(sequence, from_us(entry.time_us), op, keys, len(data), stage)
