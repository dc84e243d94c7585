"""The journal's format: today's journals open, and the daemon refuses a journal of another format unchanged."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Home

from edi_checkpointd.journal import Journal, Reader
from edi_checkpointd.journal.schema import FORMAT

GOLDEN = Path(__file__).parents[1] / "data" / f"journal_v{FORMAT}.sqlite"
OTHER_FORMATS = (FORMAT - 1, FORMAT + 1)


def set_format(path: Path, version: int) -> None:
    """Write a format into a journal's head; SQLite, which would carry the WAL over, does not open it."""
    data = bytearray(path.read_bytes())
    data[60:64] = version.to_bytes(4)
    path.write_bytes(data)


def place_golden(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(GOLDEN, path)
    path.chmod(0o600)


def refused(home: Home) -> str:
    """Start a daemon that exits 1 at once, and return what it writes."""
    done = subprocess.run(
        [sys.executable, "-m", "edi_checkpointd", "run"],
        env=home.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    return done.stderr


def test_a_golden_journal_of_this_format_opens_with_all_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    place_golden(path)
    Journal(path).close()
    assert {found.name for found in tmp_path.iterdir()} == {"journal.sqlite", "journal.sqlite-witness"}
    reader = Reader.open(path)
    assert [(row.session_id, row.left_as) for row in reader.sessions()] == [
        ("first", "clean"), ("second", "clean"), ("killed", "interrupted"),
    ]  # fmt: skip
    assert [reader.last_sequence(row.key) for row in reader.sessions()] == [35, 2, 5]
    reader.close()


def test_a_daemon_loads_its_states_from_a_golden_journal_alone(home: Home) -> None:
    place_golden(home.state / "journal.sqlite")
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


@pytest.mark.parametrize("version", OTHER_FORMATS)
def test_a_daemon_refuses_a_journal_of_another_format_and_clients_publish_on(home: Home, version: int) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("publish(20)")
    publisher.do("session.flush()")
    home.processes[0].kill()
    journal, wal = home.state / "journal.sqlite", home.state / "journal.sqlite-wal"
    set_format(journal, version)
    before = journal.read_bytes(), wal.read_bytes()

    told = refused(home)
    assert f"the journal is of format {version}; this version reads format {FORMAT}" in told
    assert "move journal.sqlite and journal.sqlite-* to another folder" in told
    assert (journal.read_bytes(), wal.read_bytes()) == before
    assert wal.read_bytes()  # SQLite would have carried it over
    assert [one.code for one in home.check().findings] == ["journal_version"]
    publisher.do("publish(20)")
    assert home.publisher("s2").do("session.update(n=1)") is None

    set_format(journal, FORMAT)
    home.daemon()
    publisher.do("session.flush(timeout_s=20)")
    assert [entry["values"]["n"] for entry in home.journaled("s1")["s1"]] == list(range(1, 41))


def test_the_remedy_for_an_older_journal_brings_the_states_back(home: Home) -> None:
    daemon = home.daemon()
    saved, interrupted = home.publisher("saved"), home.publisher("interrupted")
    saved.do("publish(20)")
    saved.do("client.close()")
    interrupted.do("publish(10)")
    daemon.kill(signal.SIGTERM)
    interrupted.do("publish(10)")
    interrupted.kill()
    set_format(home.state / "journal.sqlite", FORMAT - 1)
    refused(home)

    moved = home.folder / "moved"
    moved.mkdir()
    for path in home.state.glob("journal.sqlite*"):
        path.rename(moved / path.name)
    home.daemon()
    for session_id in ("saved", "interrupted"):
        assert home.publisher(session_id).do("session['n']") == 20
