"""Journals of other formats: older ones are brought to this one with all they hold, newer ones are left alone."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
from harness import Home

from edi_checkpoint.paths import locate
from edi_checkpointd.journal import Journal, JournalRefused, Reader, migration
from edi_checkpointd.journal.tables import FORMAT
from edi_checkpointd.recovery import open_journal

DATA = Path(__file__).parents[1] / "data"
GOLDEN = sorted(DATA.glob("journal_v*.sqlite"))


def test_there_is_a_golden_journal_of_each_older_format() -> None:
    assert [path.name for path in GOLDEN] == [f"journal_v{number}.sqlite" for number in range(1, FORMAT)]


def rows(path: Path) -> list[object]:
    """What the software of that format had put into its journal."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as db:
        return [
            db.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3").fetchall()
            for table, columns in {
                "sessions": "key, session_id, parent_session, epoch, started_us, saved, checkpointed, left_as",
                "streams": "stream, session, epoch, number",
                "frames": "id, session, first, last, stream, received_us, records",
                "snapshots": "session, sequence, taken_us, body",
                "meta": "key, value, 0",
            }.items()
        ]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_a_journal_of_an_older_format_is_brought_to_this_one_with_all_its_rows(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    shutil.copy(golden, path)
    Journal(path).close()
    assert rows(path) == rows(golden)
    assert {found.name for found in tmp_path.iterdir()} == {"journal.sqlite", "journal.sqlite-witness"}
    Reader.open(path).close()


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_a_daemon_goes_on_from_a_journal_of_an_older_format_alone(golden: Path, home: Home) -> None:
    home.state.mkdir(parents=True)
    shutil.copy(golden, home.state / "journal.sqlite")
    home.daemon()
    publisher = home.publisher("first")
    state = publisher.do("dict(session)")
    assert (state["n"], state["number"], state["text"]) == (30, 10**30, "Grüße, 雪")
    assert "gone" not in state
    assert len(home.history("first")) == 35
    assert home.json("show", "first", "--sequence", "4")["state_info"]["gone"] is True
    publisher.do("session.update(n=31)")
    publisher.do("session.checkpoint('goes on')")
    conditions = {row["session_id"]: row["condition"] for row in home.json("sessions")["sessions"]}
    assert conditions == {"first": "live", "second": "unfinished", "killed": "interrupted"}
    assert home.json("show", "killed")["state_info"] == {"n": 5, "answer": "typed by hand"}


def test_a_daemon_that_meets_a_newer_journal_says_so_and_leaves_it_alone_and_clients_go_on(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("publish(20)")
    publisher.do("session.flush()")
    home.processes[0].kill()
    journal, wal = home.state / "journal.sqlite", home.state / "journal.sqlite-wal"
    data = bytearray(journal.read_bytes())
    data[60:64] = (FORMAT + 1).to_bytes(4)
    journal.write_bytes(data)
    before = journal.read_bytes(), wal.read_bytes()

    refused = subprocess.run(
        [sys.executable, "-m", "edi_checkpointd", "run"],
        env=home.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused.returncode == 1
    assert f"journal format {FORMAT + 1}; this software knows {FORMAT}" in refused.stderr
    assert (journal.read_bytes(), wal.read_bytes()) == before
    assert wal.read_bytes()  # SQLite would have carried it over
    publisher.do("publish(20)")
    assert home.publisher("s2").do("session.update(n=1)") is None

    data[60:64] = FORMAT.to_bytes(4)
    journal.write_bytes(data)
    home.daemon()
    publisher.do("session.flush(timeout_s=20)")
    assert [entry["values"]["n"] for entry in home.journaled("s1")["s1"]] == list(range(1, 41))


def test_a_journal_that_somebody_reads_is_not_brought_to_another_format_before_he_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "_READERS_MS", 50)
    path = tmp_path / "journal.sqlite"
    shutil.copy(GOLDEN[-1], path)
    writer, reader = apsw.Connection(str(path)), apsw.Connection(str(path))
    writer.execute("INSERT INTO gaps VALUES (1, 1, 's', 1, 1, 1)")
    reader.execute("BEGIN")
    assert len(list(reader.execute("SELECT * FROM gaps"))) == 1
    writer.execute("INSERT INTO gaps VALUES (2, 1, 's', 1, 1, 1)")
    writer.close()
    with pytest.raises(JournalRefused, match="somebody reads it"):
        Journal(path)
    assert not path.with_name("journal.sqlite-migrating").exists()
    assert len(list(reader.execute("SELECT * FROM gaps"))) == 1
    reader.close()
    journal = Journal(path)
    assert len(journal.read.gaps(1)) + len(journal.read.gaps(2)) == 2
    journal.close()


def test_a_new_journal_that_cannot_be_opened_gives_way_to_the_one_before(home: Home) -> None:
    home.state.mkdir(parents=True)
    shutil.copy(GOLDEN[-1], home.state / "journal.sqlite-old")
    (home.state / "journal.sqlite").write_bytes(b"SQLite format 3\0" + b"damaged" * 1000)
    home.daemon()
    assert len(home.history("first")) == 35
    assert (home.state / "damaged" / "journal.sqlite").exists()
    assert not (home.state / "journal.sqlite-old").exists()


def test_an_older_journal_that_was_damaged_before_is_set_aside_once_and_a_new_one_made(tmp_path: Path) -> None:
    paths = locate({"EDI_CHECKPOINT_HOME": str(tmp_path)})
    paths.state.mkdir(parents=True)
    shutil.copy(GOLDEN[-1], paths.journal)
    with contextlib.closing(apsw.Connection(str(paths.journal))) as db:
        db.execute("UPDATE meta SET value = 'no id of a journal' WHERE key = 'id'")  # SQLite finds nothing wrong
    journal, fault = open_journal(paths)
    assert fault is not None
    assert "no id of a journal" in fault
    assert journal.read.sessions() == []
    journal.close()
    assert not paths.journal.with_name("journal.sqlite-old").exists()
    assert {path.name.rstrip(".1") for path in paths.damaged.iterdir()} <= {"journal.sqlite", "journal.sqlite-witness"}


def test_nothing_that_an_older_format_had_deleted_is_left_in_free_pages(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    shutil.copy(GOLDEN[-1], path)
    db = apsw.Connection(str(path))
    db.execute("INSERT INTO gaps VALUES (9, 1, ?, 1, 1, 1)", ("deleted long ago" * 1000,))
    db.execute("DELETE FROM gaps WHERE session = 9")
    db.close()
    assert b"deleted long ago" in path.read_bytes()
    Journal(path).close()
    assert b"deleted long ago" not in path.read_bytes()
