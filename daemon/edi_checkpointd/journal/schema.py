"""The journal's tables and rows, and the checks that a file is a journal of this format."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import apsw

from edi_checkpoint.errors import EdiCheckpointError, ProtocolError, VersionMismatch
from edi_checkpoint.system.safe_open import open_regular
from edi_checkpoint.wire.records import Record, entries, scan_all
from edi_checkpointd.state import Snapshot

FORMAT = 3  # PRAGMA user_version
APPLICATION_ID = 0x45444943  # "EDIC"
_HEAD_BYTES = 100  # the header of an SQLite file
_FIXED_PATCHES = {(3, 44): 6, (3, 50): 7}  # SQLite's older lines: the first patch level without the WAL-reset bug

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
CREATE TABLE sessions (
    key INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE,
    parent_session TEXT,
    epoch INTEGER NOT NULL,          -- rises with every writer that attaches
    started_us INTEGER NOT NULL,
    saved INTEGER NOT NULL,          -- the newest sequence in the auto-save
    checkpointed INTEGER NOT NULL,   -- the newest sequence in a checkpoint
    left_as TEXT NOT NULL,           -- how the last writer left: live, clean, interrupted
    seen INTEGER NOT NULL DEFAULT 0,         -- the newest sequence that a writer got when it attached
    keep INTEGER,                            -- the session's own number of checkpoints to keep; NULL: the setting's
    resumed_us INTEGER NOT NULL DEFAULT 0,   -- when the last writer got the state; 0: it did not get it
    resumed_at INTEGER NOT NULL DEFAULT 0,   -- the sequence that the first of the short-lived writers got
    short_lives INTEGER NOT NULL DEFAULT 0,  -- how many writers in a row died soon after they got the state
    drained INTEGER NOT NULL DEFAULT 0       -- entries from dead writers' outboxes since a writer got the state
) STRICT;
CREATE TABLE streams (
    stream TEXT PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES sessions (key),
    epoch INTEGER NOT NULL,
    number INTEGER NOT NULL,         -- the highest committed; written in the transaction of its entries
    fenced_at INTEGER                -- the session's sequence when another writer fenced this stream
) STRICT, WITHOUT ROWID;
CREATE TABLE frames (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    first INTEGER NOT NULL,          -- the sequence of its first record
    last INTEGER NOT NULL,
    stream TEXT NOT NULL,
    received_us INTEGER NOT NULL,
    records BLOB NOT NULL
) STRICT;
CREATE INDEX frames_by_session ON frames (session, first);
CREATE TABLE snapshots (
    session INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    taken_us INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (session, sequence)
) STRICT;
CREATE TABLE gaps (
    session INTEGER NOT NULL,
    sequence INTEGER NOT NULL,       -- of the entry after the gap
    stream TEXT NOT NULL,
    first INTEGER NOT NULL,          -- the stream's first missing number
    last INTEGER NOT NULL,
    noticed_us INTEGER NOT NULL
) STRICT;
CREATE TABLE blobs (
    digest TEXT PRIMARY KEY,         -- sha256 of data
    type TEXT NOT NULL,
    data BLOB NOT NULL               -- an attachment until its file is stored
) STRICT;
"""


class JournalDamaged(EdiCheckpointError):
    """The journal's file is not a usable database, or acknowledged entries are missing in it."""

    code = "journal_damaged"
    default_hint = "the daemon sets it aside and continues from checkpoints and outboxes"


class JournalRefused(EdiCheckpointError, OSError):
    """The disk refused a write. Nothing of the transaction is stored, so nothing of it may be acknowledged."""

    code = "disk_refused"
    default_hint = "free some space; the daemon then resumes by itself"


class Frame(NamedTuple):
    """One row: records of one stream, with consecutive sequences of one session."""

    session: int
    first: int
    last: int
    stream: str
    received_us: int
    records: bytes

    def scanned(self) -> list[Record]:
        """Return its records. Raises `JournalDamaged`, since SQLite does not notice a flipped bit in a row."""
        with self._named_damage():
            return scan_all(self.records)

    def entries(self) -> tuple[list[bytes], int]:
        """Return its records' entries and the last number; faster than `scanned`, and raises the same error."""
        with self._named_damage():
            return entries(self.records)

    @contextlib.contextmanager
    def _named_damage(self) -> Iterator[None]:
        try:
            yield
        except ProtocolError as error:
            raise JournalDamaged(f"journal: sequences {self.first} to {self.last} of a session: {error}") from error


class GapRow(NamedTuple):
    """Numbers of a stream that never arrived; `sequence` belongs to the entry that arrived after them."""

    session: int
    sequence: int
    stream: str
    first: int
    last: int
    noticed_us: int


class SessionRow(NamedTuple):
    """The journal's row of a session: see the table's columns."""

    key: int
    session_id: str
    parent_session: str | None
    epoch: int
    started_us: int
    saved: int
    checkpointed: int
    left_as: str
    seen: int
    keep: int | None
    resumed_us: int
    resumed_at: int
    short_lives: int
    drained: int


class Shown(NamedTuple):
    """The columns of a session's row that describe a writer which got the state. The defaults say that it did not."""

    seen: int = 0
    resumed_us: int = 0
    resumed_at: int = 0
    drained: int = 0


NOT_SHOWN = Shown()


class Fence(NamedTuple):
    """A takeover: the state at `sequence`, and the `streams` of living writers that are fenced there."""

    sequence: int
    snapshot: Snapshot
    taken_us: int
    streams: tuple[str, ...]


class Notes(NamedTuple):
    """The sequences in a session's files: of its auto-save, and of its newest checkpoint."""

    saved: int
    checkpointed: int


def check_sqlite(version: str) -> None:
    """Check that SQLite's `version` has no WAL-reset bug, by which two connections can lose commits.

    SQLite 3.51.3 fixed it, and 3.50.7 and 3.44.6 in their lines. Raises `VersionMismatch`.
    """
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    fixed_patch = _FIXED_PATCHES.get((major, minor))
    if (major, minor, patch) < (3, 51, 3) and (fixed_patch is None or patch < fixed_patch):
        hint = "install apsw 3.51.3 or newer"
        raise VersionMismatch(f"SQLite {version} can lose commits (its WAL-reset bug)", hint=hint)


def check_head(path: Path) -> None:
    """Check by its first 100 bytes that SQLite may open the file; a missing or empty file is accepted.

    Raises `JournalDamaged` for a symbolic link, which SQLite would follow, and for other content, which SQLite may
    overwrite as if the database were empty. Raises `VersionMismatch` for a journal of another format, since SQLite
    would write its WAL into it.
    """
    if path.is_symlink():
        raise JournalDamaged(f"{path}: it is a symbolic link")
    head = b""
    with contextlib.suppress(FileNotFoundError), open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
    if not any(head) and (not head or path.with_name(f"{path.name}-journal").exists()):
        return  # a power cut while the journal was made: SQLite rolls it back to an empty file
    if head[:16] != b"SQLite format 3\0":
        raise JournalDamaged(f"{path}: it is not an SQLite database")
    version, application = (int.from_bytes(head[at : at + 4]) for at in (60, 68))
    if application == APPLICATION_ID and version != FORMAT:
        raise _other_format(path, version)


def _other_format(path: Path, version: int) -> VersionMismatch:
    # Together with the WAL: SQLite deletes a WAL that it finds beside a new database.
    move = f"move {path.name} and {path.name}-* to another folder: states come back from checkpoint files and outboxes"
    return VersionMismatch(
        f"{path}: the journal is of format {version}; this version reads format {FORMAT}",
        hint=move if version < FORMAT else f"install the version that wrote it, or {move}",
    )


def is_new(db: apsw.Connection) -> bool:
    """Return whether nothing was ever committed to the database."""
    return db.pragma("user_version") == 0 and not db.execute("SELECT 1 FROM sqlite_schema").get


def check_format(db: apsw.Connection, path: Path) -> None:
    """Check that a database is a journal of this format.

    Raises `JournalDamaged` for another program's database, `VersionMismatch` for a journal of another format.
    """
    if db.pragma("application_id") != APPLICATION_ID:
        raise JournalDamaged(f"{path}: it is a database of another program")
    version = int(db.pragma("user_version"))
    if version != FORMAT:
        raise _other_format(path, version)


def check_shape(db: apsw.Connection, path: Path) -> None:
    """Check that a journal's tables are those of a new one, since SQLite accepts a damaged schema.

    Raises `JournalDamaged`.
    """
    new = apsw.Connection(":memory:")
    new.execute(SCHEMA)
    for (table,) in new.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        columns = "SELECT name, type FROM pragma_table_info(?) ORDER BY cid"
        if db.execute(columns, (table,)).fetchall() != new.execute(columns, (table,)).fetchall():
            raise JournalDamaged(f"{path}: the columns of table {table} are wrong")


@contextlib.contextmanager
def named_damage(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into `JournalDamaged` if the file is damaged, else into `JournalRefused`."""
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError) as error:
        raise JournalDamaged(f"{path}: {error}") from error
    except apsw.Error as error:  # the disk, a lock, no descriptors: the file stays in its place
        raise JournalRefused(f"{path}: {error}") from error
