"""The journal's tables: their rows, their format, and the checks that a file is a journal that can be used."""

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
_HEAD_BYTES = 100  # of an SQLite file

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
    seen INTEGER NOT NULL DEFAULT 0,         -- the newest sequence that a writer was shown when it attached
    keep INTEGER,                            -- the session's own number of checkpoints kept; NULL: the setting's
    resumed_us INTEGER NOT NULL DEFAULT 0,   -- when the last writer was shown the state; 0: it was not
    resumed_at INTEGER NOT NULL DEFAULT 0,   -- the sequence shown to the first of those that died soon
    short_lives INTEGER NOT NULL DEFAULT 0,  -- how many writers in a row died soon after they were shown it
    drained INTEGER NOT NULL DEFAULT 0       -- entries from outboxes of the dead since a writer was shown the state
) STRICT;
CREATE TABLE streams (
    stream TEXT PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES sessions (key),
    epoch INTEGER NOT NULL,
    number INTEGER NOT NULL,         -- the highest committed; written in the transaction of its entries
    fenced_at INTEGER                -- the session's sequence when a living writer was taken over from
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
    sequence INTEGER NOT NULL,       -- of the entry behind the gap
    stream TEXT NOT NULL,
    first INTEGER NOT NULL,          -- numbers of the stream that never came
    last INTEGER NOT NULL,
    noticed_us INTEGER NOT NULL
) STRICT;
"""
BLOBS = """
CREATE TABLE blobs (
    digest TEXT PRIMARY KEY,         -- sha256 of data
    type TEXT NOT NULL,
    data BLOB NOT NULL               -- an attachment whose file is not noted to be there
) STRICT;
"""


class JournalDamaged(EdiCheckpointError):
    """The journal's file is no usable database, or misses entries that were acknowledged."""

    code = "journal_damaged"
    default_hint = "the daemon sets it aside and continues from checkpoints and outboxes"


class JournalRefused(EdiCheckpointError, OSError):
    """The disk took no more: nothing of the transaction is there, nothing of it may be acknowledged."""

    code = "disk_refused"
    default_hint = "free some space; the daemon resumes by itself"


class Frame(NamedTuple):
    """One row: records of one stream under consecutive sequences of one session."""

    session: int
    first: int
    last: int
    stream: str
    received_us: int
    records: bytes

    def scanned(self) -> list[Record]:
        """Return its records. Raises `JournalDamaged`: a flipped bit in a row is nothing that SQLite notices."""
        with self._named():
            return scan_all(self.records)

    def entries(self) -> tuple[list[bytes], int]:
        """Return its records' entries and the last one's number, sooner. Raises as `scanned` does."""
        with self._named():
            return entries(self.records)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except ProtocolError as error:
            raise JournalDamaged(f"journal: sequences {self.first} to {self.last} of a session: {error}") from error


class GapRow(NamedTuple):
    """Numbers of a stream that never came; `sequence` is that of the entry behind them."""

    session: int
    sequence: int
    stream: str
    first: int
    last: int
    noticed_us: int


class SessionRow(NamedTuple):
    """What the journal notes of a session."""

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
    """What a session's row says of a writer that was shown its state: see the columns of the same names.

    The defaults are those of one which was not.
    """

    seen: int = 0
    resumed_us: int = 0
    resumed_at: int = 0
    drained: int = 0


NOT_SHOWN = Shown()


class Fence(NamedTuple):
    """The moment at which living writers, by their `streams`, were taken over from, with the state as it was then."""

    sequence: int
    snapshot: Snapshot
    taken_us: int
    streams: tuple[str, ...]


class Notes(NamedTuple):
    """What has come into files of a session: the sequences of its auto-save and of its newest checkpoint."""

    saved: int
    checkpointed: int


def check_sqlite(version: str) -> None:
    """Refuse a SQLite that can lose commits when two connections meet (the WAL-reset bug).

    Fixed in 3.51.3, and in 3.50.7 and 3.44.6 of their lines. Raises `VersionMismatch`.
    """
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    fixed = (
        (major, minor, patch) >= (3, 51, 3)
        or ((minor, patch) >= (50, 7) and minor == 50)
        or (minor == 44 and patch >= 6)
    )
    if not fixed:
        raise VersionMismatch(
            f"SQLite {version} can lose commits (its WAL-reset bug)", hint="install apsw 3.51.3 or newer"
        )


def check_head(path: Path) -> None:
    """Refuse a file that SQLite must not open, by its first 100 bytes; the file is only read.

    Raises `JournalDamaged` for a link, which SQLite would follow, and for bytes of something else: SQLite may take them
    for an empty database and overwrite them. Raises `VersionMismatch` for a journal of another format: SQLite would
    carry its WAL into it.
    """
    if path.is_symlink():
        raise JournalDamaged(f"{path}: a link, which is not followed")
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        return
    if not head:
        return
    if head[:16] != b"SQLite format 3\0":
        raise JournalDamaged(f"{path}: no SQLite database")
    version, application = (int.from_bytes(head[at : at + 4]) for at in (60, 68))
    if application == APPLICATION_ID and version != FORMAT:
        raise _other_format(path, version)


def _other_format(path: Path, version: int) -> VersionMismatch:
    # With the WAL: SQLite deletes the one that it finds beside a new database.
    move = f"move {path.name} and {path.name}-* to another folder: states come back from checkpoint files and outboxes"
    return VersionMismatch(
        f"{path}: the journal is of format {version}; this version reads format {FORMAT}",
        hint=move if version < FORMAT else f"install the version that wrote it, or {move}",
    )


def is_new(db: apsw.Connection) -> bool:
    """Return whether nothing was ever committed to a database."""
    return db.pragma("user_version") == 0 and not db.execute("SELECT 1 FROM sqlite_schema").get


def check_format(db: apsw.Connection, path: Path) -> None:
    """Refuse a database that is not a journal of this format.

    Raises `JournalDamaged` for a database that is no journal, `VersionMismatch` for a journal of another format.
    """
    if db.pragma("application_id") != APPLICATION_ID:
        raise JournalDamaged(f"{path}: a database, but no journal of edi-checkpoint")
    version = int(db.pragma("user_version"))
    if version != FORMAT:
        raise _other_format(path, version)


def check_shape(db: apsw.Connection, path: Path) -> None:
    """Refuse a journal whose tables are not those of a new one: SQLite takes a damaged schema for another.

    Raises `JournalDamaged`.
    """
    new = apsw.Connection(":memory:")
    new.execute(SCHEMA + BLOBS)
    for (table,) in new.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        columns = "SELECT name, type FROM pragma_table_info(?) ORDER BY cid"
        if db.execute(columns, (table,)).fetchall() != new.execute(columns, (table,)).fetchall():
            raise JournalDamaged(f"{path}: the table {table} is not as it was made")


@contextlib.contextmanager
def named_damage(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours: `JournalDamaged` says that the file is bad, `JournalRefused` that it is not."""
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError) as error:
        raise JournalDamaged(f"{path}: {error}") from error
    except apsw.Error as error:  # the disk, a lock, no descriptors: no reason to set anything aside
        raise JournalRefused(f"{path}: {error}") from error
