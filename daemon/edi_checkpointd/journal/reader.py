"""Reads a journal: its sessions, streams, rows and snapshots."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec

from edi_checkpointd.journal import schema
from edi_checkpointd.journal.schema import Frame, GapRow, JournalDamaged, SessionRow, named_damage
from edi_checkpointd.state import Snapshot

_ID = re.compile("[0-9a-f]{32}")
_decode_snapshot = msgspec.msgpack.Decoder(Snapshot).decode  # built here: see `edi_checkpoint.values.codec._Plain`


def journal_exists(path: Path) -> bool:
    """Return whether there is a journal. A file that a crash left without tables does not count.

    Raises `JournalDamaged`, and `VersionMismatch` for a journal of another format.
    """
    if not path.exists():
        return False
    with named_damage(path):
        schema.check_head(path)
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return not schema.is_new(db)
        finally:
            db.close()


class Reader:
    """Reads a journal. The loop's thread reads on the connection that writes, other threads on read-only ones."""

    def __init__(self, db: apsw.Connection) -> None:
        """Read on the connection `db`."""
        self._db = db

    @classmethod
    def open(cls, path: Path) -> Reader:
        """Open an existing journal for reading. Raises `JournalDamaged`, `VersionMismatch` for another format."""
        with named_damage(path):
            db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                db.set_busy_timeout(2000)
                schema.check_format(db, path)
            except BaseException:
                db.close()
                raise
        return cls(db)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    @contextlib.contextmanager
    def one_view(self) -> Iterator[None]:
        """Read one state of the journal in the whole block. Keep it short: WAL checkpoints wait for its end.

        Raises `JournalDamaged`, also for damage that a read in the block finds.
        """
        with named_damage(Path(self._db.filename)):
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("COMMIT")

    @property
    def id(self) -> str:
        """The id that this journal got when it was made, 32 hex digits. Raises `JournalDamaged` if it is missing."""
        found = self._db.execute("SELECT value FROM meta WHERE key = 'id'").get
        if not isinstance(found, str) or not _ID.fullmatch(found):
            raise JournalDamaged(f"{self._db.filename}: it has no valid id")
        return found

    def _number(self, query: str, *arguments: str | int) -> int | None:
        """Return the one number that `query` finds; None if it finds no row or NULL."""
        found = self._db.execute(query, arguments).get
        return None if found is None else int(found)

    def remembered(self, key: str) -> int | None:
        """Return the number that `Journal.remember` stored under `key`, None if there is none."""
        return self._number("SELECT value FROM meta WHERE key = ?", key)

    def sessions(self) -> list[SessionRow]:
        """Return all sessions."""
        return [SessionRow(*row) for row in self._db.execute("SELECT * FROM sessions ORDER BY key")]

    def session(self, session_id: str) -> SessionRow | None:
        """Return one session, None if the journal does not have it."""
        row = self._db.execute("SELECT * FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
        return SessionRow(*row) if row else None

    def streams(self, key: int) -> dict[str, tuple[int, int]]:
        """Return epoch and highest committed number of each stream of a session."""
        rows = self._db.execute("SELECT stream, epoch, number FROM streams WHERE session = ?", (key,))
        return {stream: (epoch, number) for stream, epoch, number in rows}

    def fenced_at(self, stream: str) -> int | None:
        """Return the sequence at which another writer fenced `stream`, None if none did."""
        return self._number("SELECT fenced_at FROM streams WHERE stream = ?", stream)

    def numbers(self) -> dict[str, int]:
        """Return the highest committed number of every stream."""
        return dict(self._db.execute("SELECT stream, number FROM streams"))

    def session_of(self, stream: str) -> str | None:
        """Return the id of the session that `stream` belongs to, None if the journal does not have the stream."""
        query = "SELECT session_id FROM sessions JOIN streams ON session = key WHERE stream = ?"
        found = self._db.execute(query, (stream,)).get
        return None if found is None else str(found)

    def span(self, key: int) -> tuple[int, int]:
        """Return the first and the last sequence in a session's rows, (1, 0) if it has no rows."""
        first = self._number("SELECT first FROM frames WHERE session = ? ORDER BY first LIMIT 1", key)
        last = self._number("SELECT last FROM frames WHERE session = ? ORDER BY first DESC LIMIT 1", key)
        return (1, 0) if first is None or last is None else (first, last)

    def last_sequence(self, key: int) -> int:
        """Return the newest sequence of a session, 0 if it has none."""
        snapshot = self._number("SELECT max(sequence) FROM snapshots WHERE session = ?", key)
        return max(self.span(key)[1], snapshot or 0)

    def newest_row(self) -> int:
        """Return the id of the newest row of all sessions, 0 if there are none; the witness holds it too."""
        return self._number("SELECT max(id) FROM frames") or 0

    def faults(self) -> list[str]:
        """Return at most ten faults that SQLite's quick check finds. Raises `JournalDamaged` if the check cannot run.

        WAL checkpoints wait for the check: a second for a journal of 256 MiB.
        """
        path = Path(self._db.filename)
        with named_damage(path):
            schema.check_shape(self._db, path)
            lines = [str(line) for (line,) in self._db.execute("PRAGMA quick_check(10)")]
        return [] if lines == ["ok"] else lines

    def row_bytes(self) -> dict[str, int]:
        """Return the bytes of each session's rows and snapshots, by session id."""
        sizes = Counter[str]()
        for table, column in (("frames", "records"), ("snapshots", "body")):
            query = f"SELECT session_id, sum(length({column})) FROM {table} JOIN sessions ON key = session GROUP BY key"
            sizes.update(dict(self._db.execute(query)))
        return sizes

    def trimmable_us(self, key: int) -> int | None:
        """Return when the newest row of a session that `trim` may delete arrived; None if there is none.

        The newest row of all sessions is never trimmed, since the witness holds its id.
        """
        query = "SELECT received_us FROM frames WHERE session = ? AND id < (SELECT max(id) FROM frames)"
        return self._number(f"{query} ORDER BY first DESC LIMIT 1", key)

    def last_received_us(self) -> int | None:
        """Return when the newest row of all sessions arrived, None if there are no rows."""
        return self._number("SELECT received_us FROM frames ORDER BY id DESC LIMIT 1")

    def snapshot(self, key: int, *, upto: int) -> tuple[int, Snapshot] | None:
        """Return a session's newest snapshot at or before sequence `upto`, with its sequence."""
        return next(self._snapshots("AND sequence <= ? ORDER BY sequence DESC LIMIT 1", key, upto), None)

    def settled_snapshot(self, key: int, *, after: int) -> tuple[int, Snapshot] | None:
        """Return a session's newest settled snapshot after sequence `after`, with its sequence."""
        newest_first = self._snapshots("AND sequence > ? ORDER BY sequence DESC", key, after)
        return next((found for found in newest_first if found[1].settled), None)

    def snapshots(self, key: int) -> Iterator[tuple[int, Snapshot]]:
        """Yield all snapshots of a session with their sequences, oldest first. Raises `JournalDamaged`."""
        return self._snapshots("ORDER BY sequence", key)

    def _snapshots(self, which: str, *arguments: int) -> Iterator[tuple[int, Snapshot]]:
        rows = self._db.execute(f"SELECT sequence, body FROM snapshots WHERE session = ? {which}", arguments)
        return (_snapshot(*row) for row in rows)

    def frames(self, key: int, *, after: int) -> Iterator[Frame]:
        """Yield a session's rows that have sequences after `after`, in order."""
        rows = self._db.execute(
            "SELECT session, first, last, stream, received_us, records FROM frames"
            " WHERE session = ? AND first > ifnull("
            "  (SELECT max(first) FROM frames WHERE session = ? AND first <= ? AND last <= ?), 0) ORDER BY first",
            (key, key, after, after),
        )
        return (Frame(*row) for row in rows)

    def weight(self, key: int) -> tuple[int, int]:
        """Return the number of a session's entries, and the bytes of these and of its snapshots."""
        entries = self._number("SELECT sum(last - first + 1) FROM frames WHERE session = ?", key)
        records = self._number("SELECT sum(length(records)) FROM frames WHERE session = ?", key)
        snapshots = self._number("SELECT sum(length(body)) FROM snapshots WHERE session = ?", key)
        return entries or 0, (records or 0) + (snapshots or 0)

    def streams_of(self, key: int) -> set[str]:
        """Return all streams of a session, also those of which only rows remain."""
        query = "SELECT stream FROM streams WHERE session = ?1 UNION SELECT stream FROM frames WHERE session = ?1"
        return {str(stream) for (stream,) in self._db.execute(query, (key,))}

    def gaps(self, key: int) -> list[GapRow]:
        """Return the gaps noted in a session, in order."""
        rows = self._db.execute("SELECT * FROM gaps WHERE session = ? ORDER BY sequence", (key,))
        return [GapRow(*row) for row in rows]

    def gone(self) -> dict[int, int]:
        """Return since when sessions have no files because the user deleted them, by the sessions' keys."""
        rows = self._db.execute("SELECT key, value FROM meta WHERE key LIKE 'gone:%'")
        return {int(key.removeprefix("gone:")): since_us for key, since_us in rows}

    def blobs(self) -> list[tuple[str, str, int]]:
        """Return digest, type and size of each blob."""
        rows = self._db.execute("SELECT digest, type, length(data) FROM blobs ORDER BY rowid")
        return [(digest, kind, size) for digest, kind, size in rows]

    def blob(self, digest: str) -> bytes | None:
        """Return the content of a blob, None if the journal does not have it."""
        found = self._db.execute("SELECT data FROM blobs WHERE digest = ?", (digest,)).get
        return None if found is None else bytes(found)

    def has_blob(self, digest: str) -> bool:
        """Return whether the journal has the content of an attachment."""
        return self._db.execute("SELECT 1 FROM blobs WHERE digest = ?", (digest,)).get is not None

    def holding(self, mark: bytes, *, rows: int) -> Iterator[list[bytes]]:
        """Yield all records and snapshots that contain `mark`, searching `rows` rows at a time.

        The caller can do other work between two steps. Raises `JournalDamaged`.
        """
        with named_damage(Path(self._db.filename)):
            for table, column in (("frames", "records"), ("snapshots", "body")):
                query = f"SELECT {column} FROM {table} WHERE rowid > ? AND rowid <= ? AND instr({column}, ?)"
                for first in range(0, self._number(f"SELECT max(rowid) FROM {table}") or 0, rows):
                    yield [bytes(text) for (text,) in self._db.execute(query, (first, first + rows, mark))]


def _snapshot(sequence: int, body: bytes) -> tuple[int, Snapshot]:
    try:
        return sequence, _decode_snapshot(body)
    except msgspec.MsgspecError as error:
        raise JournalDamaged(f"journal: snapshot at sequence {sequence} of a session: {error}") from error
