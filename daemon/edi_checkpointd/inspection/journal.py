"""The journal, row by row: whether it holds all that it acknowledged, in order, and whether all of it can be read.

Acknowledged entries count as lost only where that is proved: rows that the witness has seen and that nothing else
reaches beyond, or entries missing in the middle with no whole state behind them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import NamedTuple

import msgspec

from edi_checkpoint.entries import Base, Rollback, decode_entry
from edi_checkpoint.errors import ProtocolError, VersionMismatch
from edi_checkpoint.opening import open_regular
from edi_checkpoint.paths import Paths
from edi_checkpoint.records import scan_all
from edi_checkpoint.trash import CONDEMNED
from edi_checkpointd.inspection.findings import Code, Finding, Severity
from edi_checkpointd.journal import JournalDamaged, Noted, Reader, SessionRow, begun, noted, witness_path

_SET_ASIDE = (
    "the next start, or `edi-checkpointd check --repair`, sets it aside and goes on from documents and outboxes"
)
_GONE = "nothing brings them back; what is there now is the newest state that can be had"


class Reach(NamedTuple):
    """How far the other carriers go: by session the newest sequence in a document, by stream its session and number."""

    documents: Mapping[str, int]
    outboxes: Mapping[str, tuple[str, int]]


def examine(paths: Paths, reach: Reach, checked: Counter[str], session_id: str | None = None) -> Iterator[Finding]:
    """Yield what is wrong with the journal, or with one session in it; count its entries. Raises `JournalRefused`."""
    seen = noted(paths.journal)  # before the rows: what is committed from now on is none that it has seen
    try:
        if begun(paths.journal):
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
            yield _finding(paths, Code.JOURNAL_GONE, "the journal is gone", Severity.REPAIRABLE, _SET_ASIDE)
    except VersionMismatch as error:
        yield _finding(paths, Code.JOURNAL_VERSION, error.message, Severity.NOTE, error.hint)
    except JournalDamaged as error:
        yield _finding(paths, Code.JOURNAL_DAMAGED, error.message.removeprefix(f"{paths.journal}: "))


def _finding(
    paths: Paths, code: Code, fault: str, severity: Severity = Severity.REPAIRABLE, remedy: str = _SET_ASIDE
) -> Finding:
    return Finding(severity, code, paths.journal.name, fault, remedy, paths.journal)


def _rows(paths: Paths, reader: Reader, seen: Noted | None, reach: Reach) -> Iterator[Finding]:
    with reader.one_view():
        missing = seen.rows - reader.newest_row() if seen and seen.journal == reader.id else 0
        beyond = _beyond(reader, reach) if missing > 0 else 0
    if missing > 0:
        fault = (
            f"{missing} acknowledged rows are missing at its end; documents and outboxes hold {beyond} later entries"
        )
        severity = Severity.REPAIRABLE if beyond >= missing else Severity.LOST  # a row holds one entry at least
        yield _finding(paths, Code.ROWS_MISSING, fault, severity)


def _beyond(reader: Reader, reach: Reach) -> int:
    """Return how many entries documents or outboxes hold that the journal has not."""
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
        with reader.one_view():  # one for each session: WAL checkpoints wait for no longer
            found = list(_session(paths, reader, row, reach.documents.get(row.session_id, 0), checked))
        if found and not _is_being_forgotten(paths, row.session_id):
            yield from found


class _Forgetting(msgspec.Struct):
    """What `forgetting.json` says of sessions whose rows go, slice by slice."""

    sessions: tuple[str, ...] = ()


def _is_being_forgotten(paths: Paths, session_id: str) -> bool:
    """Whether the rows of a session are just being deleted, because of a purge or with the trash."""
    if (paths.trash / session_id / CONDEMNED).exists():
        return True
    with contextlib.suppress(OSError, msgspec.MsgspecError), open_regular(paths.forgetting) as file:
        return session_id in msgspec.json.decode(file.readall(), type=_Forgetting).sessions
    return False


def _session(paths: Paths, reader: Reader, row: SessionRow, filed: int, checked: Counter[str]) -> Iterator[Finding]:
    """Yield what is wrong with one session's rows; `filed` is the newest sequence in a document of it."""

    def finding(code: Code, fault: str, severity: Severity = Severity.REPAIRABLE, remedy: str = _SET_ASIDE) -> Finding:
        where = f"{paths.journal.name}: session {row.session_id}"
        return Finding(severity, code, where, fault, remedy, paths.journal)

    snapshots = [sequence for sequence, _ in reader.snapshots(row.key)]
    numbers: dict[str, int] = {}
    holes: list[tuple[int, int]] = []
    before = 0
    for frame in reader.frames(row.key, after=0):
        try:
            records = scan_all(frame.records)  # by their checksums these are the bytes that were validated at intake
        except ProtocolError as error:
            yield finding(Code.JOURNAL_DAMAGED, f"sequence {frame.first}: {error}")
            return
        if len(records) != frame.last - frame.first + 1 or frame.first <= before:
            yield finding(Code.JOURNAL_DAMAGED, f"sequence {frame.first}: its row is not in order")
            return
        if records[0].number <= numbers.get(frame.stream, 0):
            yield finding(Code.JOURNAL_DAMAGED, f"sequence {frame.first}: a stream's number was taken twice")
            return
        if frame.first > before + 1:
            holes.append((before + 1, frame.first - 1))
        before, numbers[frame.stream] = frame.last, records[-1].number
        checked["entries"] += len(records)
    if any(numbers.get(stream, 0) > number for stream, (_, number) in reader.streams(row.key).items()):
        yield finding(Code.JOURNAL_DAMAGED, "it holds entries beyond its own number of a stream")
    for first, last in holes:  # trimmed, or passed over when a file was ahead: then a snapshot has what they said
        if not any(sequence >= last for sequence in snapshots):
            made_good = filed >= last or _newest_base(reader, row) >= last
            severity = Severity.REPAIRABLE if made_good else Severity.LOST
            yield finding(Code.ENTRIES_MISSING, f"entries {first} to {last} are missing", severity)
    trimmed = max([0, *(last for _, last in holes), *(sequence for sequence in snapshots if sequence > before)])
    for gap in reader.gaps(row.key):
        if gap.sequence > max(trimmed, _newest_base(reader, row)):  # else a whole state came later, or nothing tells
            fault = f"numbers {gap.first} to {gap.last} of a stream never came, before sequence {gap.sequence}"
            yield finding(Code.ENTRIES_NEVER_CAME, fault, Severity.LOST, _GONE)


def _newest_base(reader: Reader, row: SessionRow) -> int:
    """Return the sequence of the session's newest entry that carries a whole state, 0 when none is held."""
    return max(
        (
            sequence
            for frame in reader.frames(row.key, after=0)
            for sequence, record in enumerate(scan_all(frame.records), start=frame.first)
            if isinstance(decode_entry(record.entry), Base | Rollback)
        ),
        default=0,
    )


def _blobs(paths: Paths, reader: Reader) -> Iterator[Finding]:
    with reader.one_view():
        digests = [digest for digest, _, _ in reader.blobs()]
    for digest in digests:
        with reader.one_view():
            data = reader.blob(digest)
        if data is not None and sha256(data).hexdigest() != digest:  # None: it is a file by now
            yield _finding(paths, Code.JOURNAL_DAMAGED, f"attachment {digest}: digest differs")
