"""Reading a journal: what is committed, by session, in order."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec

from edi_checkpointd.journal.schema import (
    Frame,
    GapRow,
    JournalDamaged,
    SessionRow,
    check_format,
    check_head,
    check_shape,
    is_new,
    named_damage,
)
from edi_checkpointd.state import Snapshot

_ID = re.compile("[0-9a-f]{32}")
_decode_snapshot = msgspec.msgpack.Decoder(Snapshot).decode  # built here: see `edi_checkpoint.values.codec._Plain`


def begun(path: Path) -> bool:
    """Return whether there is a journal: one whose making was cut short is none yet.

    Raises `JournalDamaged`, and `VersionMismatch` for one of another format.
    """
    if not path.exists():
        return False
    with named_damage(path):
        check_head(path)
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return not is_new(db)
        finally:
            db.close()


class Reader:
    """Reads a journal: of the intake thread on its own connection, of others on one that is read-only."""

    def __init__(self, db: apsw.Connection) -> None:
        """Read by the connection `db`."""
        self._db = db

    @classmethod
    def open(cls, path: Path) -> Reader:
        """Open an existing journal for reading. Raises `JournalDamaged`, `VersionMismatch` for another format."""
        with named_damage(path):
            db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                db.set_busy_timeout(2000)
                check_format(db, path)
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
        with named_damage(Path(self._db.filename)):
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("COMMIT")

    @property
    def id(self) -> str:
        """The id this journal got when it was made, 32 hex digits. Raises `JournalDamaged` where it is none."""
        found = self._db.execute("SELECT value FROM meta WHERE key = 'id'").get
        if not isinstance(found, str) or not _ID.fullmatch(found):
            raise JournalDamaged(f"{self._db.filename}: no id of a journal")
        return found

    def remembered(self, key: str) -> int | None:
        """Return the number that was remembered under `key`, None when there is none."""
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).get
        return None if found is None else int(found)

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

    def fenced_at(self, stream: str) -> int | None:
        """Return the sequence at which the writer of `stream` was taken over from, None if it was not."""
        found = self._db.execute("SELECT fenced_at FROM streams WHERE stream = ?", (stream,)).get
        return None if found is None else int(found)

    def numbers(self) -> dict[str, int]:
        """Return the highest committed number of every stream."""
        return dict(self._db.execute("SELECT stream, number FROM streams"))

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

    def newest_row(self) -> int:
        """Return the id of the newest row of all, 0 when there is none; the witness counts by it."""
        return int(self._db.execute("SELECT ifnull(max(id), 0) FROM frames").get or 0)

    def faults(self, most: int = 10) -> list[str]:
        """Return what SQLite's own quick check says is wrong with the file. Raises `JournalDamaged` if it cannot go on.

        It holds up WAL checkpoints for as long as the file is read: a second for the 256 MiB that are kept.
        """
        path = Path(self._db.filename)
        with named_damage(path):
            check_shape(self._db, path)
            said = [str(line) for (line,) in self._db.execute(f"PRAGMA quick_check({most})")]
        return [] if said == ["ok"] else said

    def row_bytes(self) -> dict[str, int]:
        """Return, by session, how many bytes its rows and snapshots have."""
        found: dict[str, int] = {}
        for table, column in (("frames", "records"), ("snapshots", "body")):
            rows = self._db.execute(
                f"SELECT session_id, sum(length({column})) FROM {table} JOIN sessions ON key = session GROUP BY key"
            )
            for session_id, count in rows:
                found[session_id] = found.get(session_id, 0) + count
        return found

    def trimmable_us(self, key: int) -> int | None:
        """Return when the newest of a session's rows came that could be trimmed; None when there is none.

        The newest row of all is never trimmed: the witness counts by it.
        """
        found = self._db.execute(
            "SELECT received_us FROM frames WHERE session = ? AND id < (SELECT max(id) FROM frames)"
            " ORDER BY first DESC LIMIT 1",
            (key,),
        ).get
        return None if found is None else int(found)

    def last_received_us(self) -> int | None:
        """Return when the newest row of all came, None when there is none."""
        found = self._db.execute("SELECT received_us FROM frames ORDER BY id DESC LIMIT 1").get
        return None if found is None else int(found)

    def snapshot(self, key: int, *, upto: int) -> tuple[int, Snapshot] | None:
        """Return the newest snapshot of a session that is not after sequence `upto`, with its sequence."""
        row = self._db.execute(
            "SELECT sequence, body FROM snapshots WHERE session = ? AND sequence <= ? ORDER BY sequence DESC LIMIT 1",
            (key, upto),
        ).fetchone()
        return None if row is None else _snapshot(*row)

    def settled_snapshot(self, key: int, *, after: int) -> tuple[int, Snapshot] | None:
        """Return the newest settled snapshot of a session that is after sequence `after`, with its sequence."""
        rows = self._db.execute(
            "SELECT sequence, body FROM snapshots WHERE session = ? AND sequence > ? ORDER BY sequence DESC",
            (key, after),
        )
        return next((found for found in (_snapshot(*row) for row in rows) if found[1].settled), None)

    def snapshots(self, key: int) -> Iterator[tuple[int, Snapshot]]:
        """Yield all snapshots of a session with their sequences, oldest first. Raises `JournalDamaged`."""
        rows = self._db.execute("SELECT sequence, body FROM snapshots WHERE session = ? ORDER BY sequence", (key,))
        return (_snapshot(*row) for row in rows)

    def frames(self, key: int, *, after: int) -> Iterator[Frame]:
        """Yield the rows of a session that hold sequences after `after`, in order."""
        rows = self._db.execute(
            "SELECT session, first, last, stream, received_us, records FROM frames"
            " WHERE session = ? AND first > ifnull("
            "  (SELECT max(first) FROM frames WHERE session = ? AND first <= ? AND last <= ?), 0) ORDER BY first",
            (key, key, after, after),
        )
        return (Frame(*row) for row in rows)

    def weight(self, key: int) -> tuple[int, int]:
        """Return how many entries of a session are held, and how many bytes they and its snapshots have."""
        entries, size = self._db.execute(
            "SELECT ifnull(sum(last - first + 1), 0), ifnull(sum(length(records)), 0) FROM frames WHERE session = ?",
            (key,),
        ).get
        snapshots = self._db.execute("SELECT ifnull(sum(length(body)), 0) FROM snapshots WHERE session = ?", (key,)).get
        return int(entries), int(size) + int(snapshots)

    def streams_of(self, key: int) -> set[str]:
        """Return all streams that rows of a session are of."""
        rows = self._db.execute(
            "SELECT stream FROM streams WHERE session = ?1 UNION SELECT stream FROM frames WHERE session = ?1", (key,)
        )
        return {str(stream) for (stream,) in rows}

    def gaps(self, key: int) -> list[GapRow]:
        """Return the gaps noted in a session, in order."""
        return [
            GapRow(*row) for row in self._db.execute("SELECT * FROM gaps WHERE session = ? ORDER BY sequence", (key,))
        ]

    def gone(self) -> dict[int, int]:
        """Return, by the sessions' keys, since when those have no file that their users have deleted."""
        rows = self._db.execute("SELECT key, value FROM meta WHERE key LIKE 'gone:%'")
        return {int(key.removeprefix("gone:")): since_us for key, since_us in rows}

    def blobs(self) -> list[tuple[str, str, int]]:
        """Return digest, type and size of the attachments whose files are not noted to be there."""
        rows = self._db.execute("SELECT digest, type, length(data) FROM blobs ORDER BY rowid")
        return [(digest, kind, size) for digest, kind, size in rows]

    def blob(self, digest: str) -> bytes | None:
        """Return the content of an attachment, None when the journal does not hold it."""
        found = self._db.execute("SELECT data FROM blobs WHERE digest = ?", (digest,)).get
        return None if found is None else bytes(found)

    def has_blob(self, digest: str) -> bool:
        """Return whether the journal holds the content of an attachment."""
        return self._db.execute("SELECT 1 FROM blobs WHERE digest = ?", (digest,)).get is not None

    def holding(self, mark: bytes, *, rows: int) -> Iterator[list[bytes]]:
        """Yield all records and snapshots that hold `mark`, looking at `rows` rows at a time; for slices of upkeep.

        Raises `JournalDamaged`.
        """
        with named_damage(Path(self._db.filename)):
            for table, column in (("frames", "records"), ("snapshots", "body")):
                last: int = self._db.execute(f"SELECT ifnull(max(rowid), 0) FROM {table}").get or 0
                for first in range(0, last, rows):
                    found = self._db.execute(
                        f"SELECT {column} FROM {table} WHERE rowid > ? AND rowid <= ? AND instr({column}, ?)",
                        (first, first + rows, mark),
                    )
                    yield [bytes(text) for (text,) in found]


def _snapshot(sequence: int, body: bytes) -> tuple[int, Snapshot]:
    try:
        return sequence, _decode_snapshot(body)
    except msgspec.MsgspecError as error:
        raise JournalDamaged(f"journal: snapshot at sequence {sequence} of a session: {error}") from error
