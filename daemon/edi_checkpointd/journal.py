"""The journal: every accepted entry, in order, durable before it is acknowledged.

Owns the SQLite database (WAL, synchronous=FULL) and the one connection that writes it; used by the intake thread alone,
once opened. Sequences rise by one within a session and are never reused. Rows hold records as they came over the wire:
one row for each frame. Never interprets an entry.

SQLite's own words are said with "SQLite" or "WAL": a *checkpoint* is EDI's file, here as everywhere.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import apsw
import msgspec

from edi_checkpoint.errors import EdiCheckpointError, VersionMismatch
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.state import Snapshot

FORMAT = 1  # PRAGMA user_version
_APPLICATION_ID = 0x45444943  # "EDIC"
_WAL_PASSIVE_PAGES = 256  # 1 MiB: carried into the database when no frame waits
_WAL_FORCED_PAGES = 8192  # 32 MiB: carried over even under load, so that the WAL is bounded

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
CREATE TABLE sessions (
    key INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE,
    parent_session TEXT,
    epoch INTEGER NOT NULL,          -- rises with every writer that attaches
    started_us INTEGER NOT NULL,
    saved INTEGER NOT NULL,          -- the newest sequence in the auto-save
    checkpointed INTEGER NOT NULL,   -- the newest sequence in a checkpoint
    left_as TEXT NOT NULL            -- how the last writer left: live, clean, interrupted
) STRICT;
CREATE TABLE streams (
    stream TEXT PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES sessions (key),
    epoch INTEGER NOT NULL,
    number INTEGER NOT NULL          -- the highest committed; written in the transaction of its entries
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


class Gap(NamedTuple):
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


class Notes(NamedTuple):
    """What has come into files of a session: the sequences of its auto-save and of its newest checkpoint."""

    saved: int
    checkpointed: int


@dataclass(slots=True)
class Transaction:
    """What the next commit holds; all of it becomes durable together or not at all."""

    frames: list[Frame] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.numbers)


class Reader:
    """Reads a journal: of the intake thread on its own connection, of others on one that is read-only."""

    def __init__(self, db: apsw.Connection) -> None:
        """Read by the connection `db`."""
        self._db = db

    @classmethod
    def open(cls, path: Path) -> Reader:
        """Open an existing journal for reading. Raises `JournalDamaged`, `VersionMismatch`."""
        with _named_damage(path):
            db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                db.set_busy_timeout(2000)
                _check_format(db, path)
            except BaseException:
                db.close()
                raise
        return cls(db)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    @contextlib.contextmanager
    def one_view(self) -> Iterator[None]:
        """Read one state of the journal throughout; short, since it holds up WAL checkpoints.

        Raises `JournalDamaged`, also for damage that is met within.
        """
        with _named_damage(Path(self._db.filename)):
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("COMMIT")

    @property
    def id(self) -> str:
        """The id this journal got when it was made."""
        return str(self._db.execute("SELECT value FROM meta WHERE key = 'id'").get)

    def sessions(self) -> list[SessionRow]:
        """Return all sessions."""
        return [SessionRow(*row) for row in self._db.execute("SELECT * FROM sessions ORDER BY key")]

    def session(self, session_id: str) -> SessionRow | None:
        """Return one session, None when the journal does not know it."""
        row = self._db.execute("SELECT * FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
        return SessionRow(*row) if row else None

    def streams(self, key: int) -> dict[str, tuple[int, int]]:
        """Return epoch and highest committed number of each stream of a session."""
        rows = self._db.execute("SELECT stream, epoch, number FROM streams WHERE session = ?", (key,))
        return {stream: (epoch, number) for stream, epoch, number in rows}

    def session_of(self, stream: str) -> str | None:
        """Return the id of the session that `stream` belongs to."""
        found = self._db.execute(
            "SELECT session_id FROM sessions JOIN streams ON session = key WHERE stream = ?", (stream,)
        ).get
        return None if found is None else str(found)

    def span(self, key: int) -> tuple[int, int]:
        """Return the first and the last sequence of which a row is held, (1, 0) when there is none."""
        first = self._db.execute("SELECT first FROM frames WHERE session = ? ORDER BY first LIMIT 1", (key,)).get
        last = self._db.execute("SELECT last FROM frames WHERE session = ? ORDER BY first DESC LIMIT 1", (key,)).get
        return (1, 0) if first is None else (int(first), int(last))

    def last_sequence(self, key: int) -> int:
        """Return the newest sequence of a session, 0 when it has none."""
        snapshot = self._db.execute("SELECT max(sequence) FROM snapshots WHERE session = ?", (key,)).get
        return max(self.span(key)[1], snapshot or 0)

    def last_received_us(self, key: int) -> int | None:
        """Return when the newest row of a session came."""
        found = self._db.execute(
            "SELECT received_us FROM frames WHERE session = ? ORDER BY first DESC LIMIT 1", (key,)
        ).get
        return None if found is None else int(found)

    def snapshot(self, key: int, *, upto: int) -> tuple[int, Snapshot] | None:
        """Return the newest snapshot of a session that is not after sequence `upto`, with its sequence."""
        row = self._db.execute(
            "SELECT sequence, body FROM snapshots WHERE session = ? AND sequence <= ? ORDER BY sequence DESC LIMIT 1",
            (key, upto),
        ).fetchone()
        return (row[0], msgspec.msgpack.decode(row[1], type=Snapshot)) if row else None

    def frames(self, key: int, *, after: int) -> Iterator[Frame]:
        """Yield the rows of a session that hold sequences after `after`, in order."""
        rows = self._db.execute(
            "SELECT session, first, last, stream, received_us, records FROM frames"
            " WHERE session = ? AND first > ifnull("
            "  (SELECT max(first) FROM frames WHERE session = ? AND first <= ? AND last <= ?), 0) ORDER BY first",
            (key, key, after, after),
        )
        return (Frame(*row) for row in rows)

    def gaps(self, key: int) -> list[Gap]:
        """Return the gaps noted in a session, in order."""
        return [Gap(*row) for row in self._db.execute("SELECT * FROM gaps WHERE session = ? ORDER BY sequence", (key,))]


class Journal:
    """The journal, open for writing. `read` reads what is committed and what is being written."""

    def __init__(self, path: Path) -> None:
        """Open the journal at `path`, or make one.

        Raises `JournalDamaged` when it is no database or misses acknowledged entries, `VersionMismatch` when a newer
        version wrote it, or when SQLite itself is of a version that can lose commits.
        """
        check_sqlite(apsw.sqlite_lib_version())
        self._path = path
        with _named_damage(path):
            _check_is_sqlite(path)
            self._db = apsw.Connection(str(path))
            try:
                self._prepare(path)
                self.read = Reader(self._db)
                self.id = self.read.id
            except BaseException:
                self._db.close()
                raise
        status = path.stat()
        self._inode = (status.st_ino, status.st_dev)
        self._wal_pages = 0
        self._db.set_wal_hook(self._note_wal)
        self._witness = _Witness(path.with_name(path.name + "-witness"), self.id)
        self._rows = self._db.execute("SELECT ifnull(max(id), 0) FROM frames").get or 0
        if self._rows < self._witness.rows:
            lost, self._witness.rows = self._witness.rows - self._rows, self._rows
            self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # the WAL stays for whoever looks into it
            self._db.close()
            self._witness.close()
            raise JournalDamaged(f"{path}: {lost} acknowledged rows are missing at its end")

    def _prepare(self, path: Path) -> None:
        """Set the connection up; a file that is no journal of ours, or a newer one, is refused as it is."""
        self._db.set_busy_timeout(5000)
        new = self._db.pragma("user_version") == 0 and not self._db.execute("SELECT 1 FROM sqlite_schema").get
        if not new:
            _check_format(self._db, path)
        path.chmod(0o600)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=0", "fullfsync=ON"):
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        if new:
            self._make()
            # From now on the database knows its id without its WAL: losing that is told, not taken for a new journal.
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def _make(self) -> None:
        with self._transaction():
            self._db.execute(_SCHEMA)
            self._db.execute("INSERT INTO meta VALUES ('id', ?)", (uuid4().hex,))
            self._db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version={FORMAT}")

    def _note_wal(self, _db: object, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            reached(CrashPoint.COMMIT_BEGUN)
            self._db.execute("COMMIT")
        except apsw.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, apsw.CorruptError | apsw.NotADBError):
                raise JournalDamaged(f"{self._path}: {error}") from error
            raise JournalRefused(f"write to {self._path}: {error}") from error
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def commit(self, transaction: Transaction) -> None:
        """Make `transaction` durable.

        An acknowledged entry survives a power cut: this returns after the fsync of SQLite's COMMIT (WAL with
        synchronous=FULL; NORMAL would not sync here), so no acknowledgement may go out before it. Raises
        `JournalRefused`, and then nothing of it is there, and `JournalDamaged` when the file was unlinked or replaced:
        SQLite would go on writing into nowhere.
        """
        if self.replaced():
            raise JournalDamaged(f"{self._path} was removed or replaced while it was open")
        with self._transaction():
            self._db.executemany(
                "INSERT INTO frames (session, first, last, stream, received_us, records) VALUES (?, ?, ?, ?, ?, ?)",
                transaction.frames,
            )
            self._db.executemany(
                "UPDATE streams SET number = ? WHERE stream = ?",
                [(number, stream) for stream, number in transaction.numbers.items()],
            )
            if transaction.gaps:
                self._db.executemany("INSERT INTO gaps VALUES (?, ?, ?, ?, ?, ?)", transaction.gaps)
        self._rows += len(transaction.frames)
        self._witness.note(self._rows)
        if self._wal_pages >= _WAL_FORCED_PAGES:
            self.carry_over()

    # -- sessions and streams ----------------------------------------------------------------------------------------

    def begin_session(self, session_id: str, parent_session: str | None, started_us: int) -> SessionRow:
        """Add a session without entries and return its row."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO sessions (session_id, parent_session, epoch, started_us, saved, checkpointed, left_as)"
                " VALUES (?, ?, 0, ?, 0, 0, 'clean')",
                (session_id, parent_session, started_us),
            )
        row = self.read.session(session_id)
        assert row is not None
        return row

    def adopt(self, key: int, sequence: int, snapshot: Snapshot, taken_us: int, notes: Notes) -> None:
        """Take the state of a file as the session's newest: it is ahead of, or all that is left of, the journal."""
        with self._transaction():
            self._insert_snapshot(key, sequence, snapshot, taken_us)
            self._db.executemany(
                "INSERT INTO streams VALUES (?1, ?2, 0, ?3)"
                " ON CONFLICT (stream) DO UPDATE SET number = max(number, ?3)",
                [(stream, key, number) for stream, number in snapshot.streams.items()],
            )
            self._note(key, notes)

    def attach(self, key: int, stream: str, epoch: int, number: int) -> None:
        """Raise the session's epoch for a new writer and begin (or continue) its stream at `number`."""
        with self._transaction():
            self._db.execute("UPDATE sessions SET epoch = ?, left_as = 'live' WHERE key = ?", (epoch, key))
            self._db.execute(
                "INSERT INTO streams VALUES (?1, ?2, ?3, ?4) ON CONFLICT (stream) DO UPDATE SET epoch = ?3",
                (stream, key, epoch, number),
            )

    def leave(self, key: int, left_as: str) -> None:
        """Note how the session's last writer left: `clean` or `interrupted`."""
        with self._transaction():
            self._db.execute("UPDATE sessions SET left_as = ? WHERE key = ?", (left_as, key))

    def forget_stream(self, stream: str) -> None:
        """Remove the row of a stream whose outbox is gone."""
        with self._transaction():
            self._db.execute("DELETE FROM streams WHERE stream = ?", (stream,))

    def note(self, notes: Mapping[int, Notes]) -> None:
        """Note, by session, which sequences have come into files."""
        with self._transaction():
            for key, noted in notes.items():
                self._note(key, noted)

    def _note(self, key: int, notes: Notes) -> None:
        self._db.execute(
            "UPDATE sessions SET saved = max(saved, ?), checkpointed = max(checkpointed, ?) WHERE key = ?",
            (notes.saved, notes.checkpointed, key),
        )

    # -- keeping it small --------------------------------------------------------------------------------------------

    def add_snapshot(self, key: int, sequence: int, snapshot: Snapshot, taken_us: int) -> None:
        """Add a snapshot, so that neither start nor a look back replays everything."""
        with self._transaction():
            self._insert_snapshot(key, sequence, snapshot, taken_us)

    def _insert_snapshot(self, key: int, sequence: int, snapshot: Snapshot, taken_us: int) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)",
            (key, sequence, taken_us, msgspec.msgpack.encode(snapshot)),
        )

    def trim(self, key: int, *, before_us: int, limit: int) -> int:
        """Delete at most `limit` rows that no look back within the window needs; return how many.

        The window begins at `before_us`; the newest snapshot at or before its start stays, and what follows it.
        """
        base = self._db.execute(
            "SELECT max(sequence) FROM snapshots WHERE session = ? AND taken_us <= ?", (key, before_us)
        ).get
        if base is None:
            return 0
        with self._transaction():
            self._db.execute(
                "DELETE FROM frames WHERE id IN (SELECT id FROM frames WHERE session = ? AND last <= ?"
                " AND id < (SELECT max(id) FROM frames) ORDER BY first LIMIT ?)",
                (key, base, limit),
            )  # the newest row of all stays: the witness counts by it
            deleted = self._db.changes()
            self._db.execute("DELETE FROM snapshots WHERE session = ? AND sequence < ?", (key, base))
        return deleted

    @property
    def bytes(self) -> int:
        """The size of the database without free pages, and without its WAL."""
        pages = self._db.pragma("page_count") - self._db.pragma("freelist_count")
        return int(pages * self._db.pragma("page_size"))

    @property
    def wants_carry_over(self) -> bool:
        """Whether the WAL has grown enough to be carried into the database when no frame waits."""
        return self._wal_pages >= _WAL_PASSIVE_PAGES

    def carry_over(self) -> None:
        """Carry the WAL into the database, as far as no reader is in the way."""
        with contextlib.suppress(apsw.Error):  # it is tried again after the next commit
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self._wal_pages = 0

    def replaced(self) -> bool:
        """Whether the path no longer leads to the file that is open: writes would go nowhere."""
        try:
            at_path = os.stat(self._path)  # noqa: PTH116 - before every commit: a third of the time of Path.stat
        except FileNotFoundError:
            return True
        return (at_path.st_ino, at_path.st_dev) != self._inode

    def close(self) -> None:
        """Carry the whole WAL over and close."""
        with contextlib.suppress(apsw.Error):
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._db.close()
        self._witness.close()


class _Witness:
    """The id of the newest acknowledged row, outside the database.

    A damaged WAL tail opens without an error and swallows what follows the damage; a number here that is
    higher than the journal's tells. It is not fsynced: an older number after a power cut only tells less.
    """

    _LAYOUT = struct.Struct("<16sQ")

    def __init__(self, path: Path, journal: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._journal = bytes.fromhex(journal)
        found = os.pread(self._fd, self._LAYOUT.size, 0)
        self.rows = 0
        if len(found) == self._LAYOUT.size:
            of, rows = self._LAYOUT.unpack(found)
            self.rows = rows if of == self._journal else 0

    def note(self, rows: int) -> None:
        self.rows = rows
        with contextlib.suppress(OSError):  # a full disk; the commit is durable all the same
            os.pwrite(self._fd, self._LAYOUT.pack(self._journal, rows), 0)

    def close(self) -> None:
        os.close(self._fd)


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


def _check_is_sqlite(path: Path) -> None:
    """Refuse what SQLite would take for an empty database, and write over: some bytes of something else."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        if (head := file.read(16)) and head != b"SQLite format 3\0":
            raise JournalDamaged(f"{path}: no SQLite database")


def _check_format(db: apsw.Connection, path: Path) -> None:
    if db.pragma("application_id") != _APPLICATION_ID:
        raise JournalDamaged(f"{path}: a database, but no journal of edi-checkpoint")
    version = db.pragma("user_version")
    if version != FORMAT:
        raise VersionMismatch(f"{path}: journal format {version}; this software knows {FORMAT}")


@contextlib.contextmanager
def _named_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError) as error:
        raise JournalDamaged(f"{path}: {error}") from error
    except apsw.Error as error:  # the disk, a lock, no descriptors: no reason to set anything aside
        raise JournalRefused(f"{path}: {error}") from error
