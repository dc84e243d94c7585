"""Inspect the journal row by row: whether it has all acknowledged entries, in order and readable.

Acknowledged entries count as lost only if this is proved. One proof: rows noted by the witness are missing, and neither
documents nor outboxes have their entries. The other: entries are missing in the middle, and no whole state follows.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from hashlib import sha256
from typing import NamedTuple

import msgspec

from edi_checkpoint.documents.trash import CONDEMNED
from edi_checkpoint.errors import ProtocolError, VersionMismatch
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.safe_open import open_regular
from edi_checkpoint.wire.entries import Base, Rollback, decode_entry
from edi_checkpoint.wire.records import scan_all
from edi_checkpointd.inspection.findings import Code, Finding, Severity
from edi_checkpointd.journal import (
    JournalDamaged,
    Reader,
    SessionRow,
    WitnessMark,
    journal_exists,
    read_witness,
    witness_path,
)

_SET_ASIDE = "a start or `edi-checkpointd check --repair` sets it aside and recovers from documents and outboxes"
_GONE = "they cannot be recovered; the state now is the newest one available"


class Reach(NamedTuple):
    """The newest entries outside the journal.

    `documents` maps each session to its newest sequence, `outboxes` each stream to its session and newest number.
    """

    documents: Mapping[str, int]
    outboxes: Mapping[str, tuple[str, int]]


def examine(paths: Paths, reach: Reach, checked: Counter[str], session_id: str | None = None) -> Iterator[Finding]:
    """Yield the faults of the journal, or of one session in it; count its entries. Raises `JournalRefused`."""
    seen = read_witness(paths.journal)  # read before the rows, so that it cannot note rows that we do not see
    try:
        if journal_exists(paths.journal):
            with contextlib.closing(Reader.open(paths.journal)) as reader:
                faults = reader.faults()
                for fault in faults:
                    yield _finding(paths, Code.JOURNAL_DAMAGED, fault)
                if faults:
                    return
                if session_id is None:
                    yield from _rows(paths, reader, seen, reach)
                    yield from _blobs(paths, reader)
                yield from _sessions(paths, reader, reach, checked, session_id)
        elif witness_path(paths.journal).exists():
            yield _finding(paths, Code.JOURNAL_GONE, "the journal is missing", Severity.REPAIRABLE, _SET_ASIDE)
    except VersionMismatch as error:
        yield _finding(paths, Code.JOURNAL_VERSION, error.message, Severity.NOTE, error.hint)
    except JournalDamaged as error:
        yield _finding(paths, Code.JOURNAL_DAMAGED, error.message.removeprefix(f"{paths.journal}: "))


def _finding(
    paths: Paths, code: Code, fault: str, severity: Severity = Severity.REPAIRABLE, remedy: str = _SET_ASIDE
) -> Finding:
    return Finding(severity, code, paths.journal.name, fault, remedy, paths.journal)


def _rows(paths: Paths, reader: Reader, seen: WitnessMark | None, reach: Reach) -> Iterator[Finding]:
    with reader.one_view():
        missing = seen.rows - reader.newest_row() if seen and seen.journal == reader.id else 0
        beyond = _beyond(reader, reach) if missing > 0 else 0
    if missing > 0:
        fault = f"{missing} acknowledged rows are missing at its end; {beyond} later ones are in documents and outboxes"
        severity = Severity.REPAIRABLE if beyond >= missing else Severity.LOST  # a row has at least one entry
        yield _finding(paths, Code.ROWS_MISSING, fault, severity)


def _beyond(reader: Reader, reach: Reach) -> int:
    """Return how many entries documents or outboxes have that the journal lacks."""
    rows, numbers = {row.session_id: row.key for row in reader.sessions()}, reader.numbers()
    ahead = Counter[str]()
    for stream, (session_id, number) in reach.outboxes.items():
        ahead[session_id] += max(0, number - numbers.get(stream, 0))
    for session_id, sequence in reach.documents.items():
        key = rows.get(session_id)
        ahead[session_id] = max(ahead[session_id], sequence - (reader.last_sequence(key) if key is not None else 0))
    return ahead.total()


def _sessions(
    paths: Paths, reader: Reader, reach: Reach, checked: Counter[str], session_id: str | None
) -> Iterator[Finding]:
    with reader.one_view():
        rows = [row for row in reader.sessions() if session_id in (None, row.session_id)]
    for row in rows:
        with reader.one_view():  # one per session, because SQLite's WAL checkpoints wait for it
            found = list(_session(paths, reader, row, reach.documents.get(row.session_id, 0), checked))
        if found and not _is_being_forgotten(paths, row.session_id):
            yield from (one._replace(what=f"{one.what}: session {row.session_id}") for one in found)


class _Forgetting(msgspec.Struct):
    """The sessions in `forgetting.json`, whose rows the daemon is deleting in slices."""

    sessions: tuple[str, ...] = ()


def _is_being_forgotten(paths: Paths, session_id: str) -> bool:
    """Return whether the daemon is deleting a session's rows, by a purge or with the trash."""
    if (paths.trash / session_id / CONDEMNED).exists():
        return True
    with contextlib.suppress(OSError, msgspec.MsgspecError), open_regular(paths.forgetting) as file:
        return session_id in msgspec.json.decode(file.readall(), type=_Forgetting).sessions
    return False


def _session(paths: Paths, reader: Reader, row: SessionRow, filed: int, checked: Counter[str]) -> Iterator[Finding]:
    """Yield the faults of one session's rows; `filed` is the newest sequence in its documents."""
    finding = partial(_finding, paths)
    snapshots = [sequence for sequence, _ in reader.snapshots(row.key)]
    numbers: dict[str, int] = {}
    holes: list[tuple[int, int]] = []
    before = 0
    for frame in reader.frames(row.key, after=0):
        try:
            records = scan_all(frame.records)  # their checksums prove: these are the bytes validated at intake
            if len(records) != frame.last - frame.first + 1 or frame.first <= before:
                raise ProtocolError("its row is out of order")
            if records[0].number <= numbers.get(frame.stream, 0):
                raise ProtocolError("a stream's number occurs twice")
        except ProtocolError as error:
            yield finding(Code.JOURNAL_DAMAGED, f"sequence {frame.first}: {error}")
            return
        if frame.first > before + 1:
            holes.append((before + 1, frame.first - 1))
        before, numbers[frame.stream] = frame.last, records[-1].number
        checked["entries"] += len(records)
    if any(numbers.get(stream, 0) > number for stream, (_, number) in reader.streams(row.key).items()):
        yield finding(Code.JOURNAL_DAMAGED, "it has entries beyond a stream's acknowledged number")
    for first, last in holes:  # trimmed, or skipped because a file was ahead: then a snapshot contains them
        if not any(sequence >= last for sequence in snapshots):
            made_good = filed >= last or _newest_base(reader, row) >= last
            severity = Severity.REPAIRABLE if made_good else Severity.LOST
            yield finding(Code.ENTRIES_MISSING, f"entries {first} to {last} are missing", severity)
    trimmed = max([0, *(last for _, last in holes), *(sequence for sequence in snapshots if sequence > before)])
    for gap in reader.gaps(row.key):
        # Else a later whole state contains them, or there is no proof.
        if gap.sequence > max(trimmed, _newest_base(reader, row)):
            fault = f"numbers {gap.first} to {gap.last} of a stream never arrived, before sequence {gap.sequence}"
            yield finding(Code.ENTRIES_NEVER_CAME, fault, Severity.LOST, _GONE)


def _newest_base(reader: Reader, row: SessionRow) -> int:
    """Return the sequence of the session's newest entry with a whole state, 0 if there is none."""
    whole = (
        sequence
        for frame in reader.frames(row.key, after=0)
        for sequence, record in enumerate(scan_all(frame.records), start=frame.first)
        if isinstance(decode_entry(record.entry), Base | Rollback)
    )
    return max(whole, default=0)


def _blobs(paths: Paths, reader: Reader) -> Iterator[Finding]:
    with reader.one_view():
        digests = [digest for digest, _, _ in reader.blobs()]
    for digest in digests:
        with reader.one_view():
            data = reader.blob(digest)
        if data is not None and sha256(data).hexdigest() != digest:  # None: moved into a file meanwhile
            yield _finding(paths, Code.JOURNAL_DAMAGED, f"attachment {digest}: digest differs")
