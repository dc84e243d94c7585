"""Reads sessions from their files alone: the newest valid document and, on top, the outboxes. No daemon, no journal.

The daemon trims an outbox only when an auto-save covers it, so document and outboxes are complete without the journal.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from edi_checkpoint.documents import names, reader, trash
from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.fragments import Fragment
from edi_checkpoint.documents.layout import Header
from edi_checkpoint.documents.named_files import FileFacts
from edi_checkpoint.documents.newest import newest_in
from edi_checkpoint.errors import EdiCheckpointError, ProtocolError
from edi_checkpoint.home.listing import header_of, newest_first, numbers_held, session_info
from edi_checkpoint.home.status import DaemonReport, Status, served, status_of
from edi_checkpoint.model import CheckpointInfo, SessionInfo
from edi_checkpoint.outbox.segments import list_streams, read_records
from edi_checkpoint.outbox.survey import WaitingStream, holds_changes, survey_all
from edi_checkpoint.system.daemon_lock import running
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.safe_open import open_regular
from edi_checkpoint.system.times import to_us
from edi_checkpoint.wire.entries import Entry, JsonText, decode_entry
from edi_checkpoint.wire.fold import apply, texts_of
from edi_checkpoint.wire.records import NUMBER_MAX, scan

log = logging.getLogger(__name__)

_HEAD_BYTES = 64 << 10  # of a checkpoint; the files in a longer header are left out


@dataclass(slots=True)
class FoundState:
    """A session's newest state as its files have it: key to JSON text, its sequence, and its source.

    `source` is `file`, or `outbox` if outboxes added entries: `from_outbox` counts them, `time_us` is the time of the
    newest. `header` and `name` (the file name) are those of the document.
    """

    state: dict[str, JsonText] = field(default_factory=dict)
    sequence: int = 0
    header: Header | None = None
    name: str | None = None
    source: str = "file"
    found: bool = False
    from_outbox: int = 0
    time_us: int = 0


def sessions(paths: Paths, condition: str | None = None) -> list[SessionInfo]:
    """Return all sessions, or those of one condition, newest first. Reads headers of documents, outboxes and locks."""
    return newest_first(_rows(paths, survey_all(paths.outbox), _catalog(paths)), condition)


def checkpoints(paths: Paths, session_id: str) -> list[CheckpointInfo]:
    """Return a session's checkpoints, oldest first."""
    return list(_catalog(paths).checkpoints(session_id))


def recorded_files(paths: Paths, name: str | None) -> Mapping[str, FileFacts]:
    """Return the facts that the checkpoint `name` recorded of named files; nothing if the checkpoint cannot be read."""
    if name is None or names.parse_checkpoint_name(name) is None:
        return {}
    try:
        with open_regular(paths.sessions / name) as file:
            header = reader.read_header(file.read(_HEAD_BYTES), name)
    except (OSError, EdiCheckpointError):
        return {}
    return header.files if header is not None else {}


def status(paths: Paths, acknowledged: Mapping[str, int]) -> Status:
    """Return the status of the home from its files.

    `acknowledged` has the acknowledged numbers of the calling process's own streams. Of other streams only documents
    tell, so entries that only the journal has count as not acknowledged.
    """
    now = datetime.now(UTC)
    outboxes = survey_all(paths.outbox)
    catalog = _catalog(paths)
    report = DaemonReport(served(running(paths.lock), now), answered=False)
    return status_of(paths, catalog, _rows(paths, outboxes, catalog), outboxes, acknowledged, None, report, now)


def _catalog(paths: Paths) -> Catalog:
    catalog = Catalog(paths.sessions)
    with suppress(FileNotFoundError):
        catalog.load()
    return catalog


def _rows(paths: Paths, outboxes: Mapping[str, Sequence[WaitingStream]], catalog: Catalog) -> list[SessionInfo]:
    def row(session_id: str) -> SessionInfo:
        streams = outboxes.get(session_id, ())

        def latest(header: Header | None) -> Header | None:
            if not holds_changes(streams, numbers_held(header, None)):
                return header
            try:
                found = load_state(paths, session_id)
            except ProtocolError as error:  # an entry of a newer version: the row shows the document's state
                log.warning("skipped the outbox of session %s: %s", session_id, error)
                return header
            fragments = {key: Fragment(text) for key, text in found.state.items()}
            written_us, parent = (to_us(header.timestamp), header.parent_session) if header else (0, None)
            return header_of(session_id, fragments, found.sequence, max(found.time_us, written_us), parent)

        return session_info(session_id, catalog, streams, None, latest)

    return [row(session_id) for session_id in sorted({*catalog.sessions(), *outboxes})]


def load_state(paths: Paths, session_id: str) -> FoundState:
    """Return the newest state of `session_id` that its files have; `found` is False when there is none."""
    state = _newest_document(paths, session_id)
    streams = state.header.streams if state.header else {}
    outboxes = list_streams(paths.outbox / session_id)
    fences: dict[str, int] = {}
    for files in reversed(outboxes):
        fences |= files.owner.fenced
    for files in outboxes:
        last = streams.get(files.owner.stream, 0)
        limit = fences.get(files.owner.stream, NUMBER_MAX)
        for data in read_records(files):
            for record in scan(data):
                if last < record.number <= limit:  # lower: in the document, or twice after an interrupted compaction
                    last = record.number
                    _add(state, decode_entry(record.entry))
    return state


def _newest_document(paths: Paths, session_id: str) -> FoundState:
    """Return the newest valid document of the session.

    A session in the trash is read there, since the daemon brings it back when a client opens it. A session that the
    daemon is deleting stays deleted: nothing is found.
    """
    found = newest_in(paths.sessions, session_id, _skip)
    if found is None and trash.find(paths.trash, session_id) is not None:
        found = newest_in(paths.trash / session_id, session_id, _skip)
    if found is None:
        return FoundState()
    header = found.document.header
    return FoundState(dict(found.document.values), header.sequence, header, found.name, found=True)


def _skip(name: str, error: OSError | EdiCheckpointError) -> None:
    if not isinstance(error, FileNotFoundError):
        log.warning("skipped %s: %s", name, error)


def _add(found: FoundState, entry: Entry) -> None:
    found.from_outbox += 1
    found.sequence += 1
    found.time_us = max(found.time_us, entry.time_us)
    if apply(found.state, entry, texts_of(entry)):  # a client that only reads publishes a mark, which is not a state
        found.source = "outbox"
        found.found = True
