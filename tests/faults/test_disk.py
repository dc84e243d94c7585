"""A disk that is full, fails or turns read-only: nothing is acknowledged that is not on it, nothing is forgotten."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import SmallDisk, TurningDisk
from harness import Home, Process, Publisher, Refused, eventually

from edi_checkpoint.documents.reader import parse_autosave, parse_checkpoint

FLAGS = ("--transition-keys", "attempt", "--autosave-every-s", "0.1")
RUN = [sys.executable, "-m", "edi_checkpointd", "run", *FLAGS]
FULL = bool(os.environ.get("EDI_TEST_FULL"))
LOG_LINES_MAX = 6  # of one kind of fault, however long it lasts: what, in which session, and that it is over


def placed(home: Home, folder: Path) -> Home:
    """Have state and sessions lie on the disk at `folder`."""
    home.state, home.sessions = folder / "state", folder / "sessions"
    home.environment["EDI_CHECKPOINT_STATE_DIR"] = str(home.state)
    home.environment["EDI_CHECKPOINT_SESSIONS_DIR"] = str(home.sessions)
    return home


def documents(home: Home) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.checkpoints("s1")}


def fill_memory(publisher: Publisher) -> None:
    """Publish until a call is refused: then neither disk nor memory takes more."""
    with pytest.raises(Refused, match="OutboxFull"):
        publisher.do("[session.update(n=session['n'] + 1, padding='x' * 400_000) for _ in range(1000)]")


def codes(status: dict) -> list[str]:
    return [trouble["code"] for trouble in status["degraded"]]


def complaints(daemon: Process) -> list[str]:
    return [line for line in daemon.stderr if " WARNING " in line or " ERROR " in line]


def assert_all_is_there(home: Home, publisher: Publisher) -> None:
    """After the fault: all that was published, in order, with a daemon that never went away."""
    publisher.do("session.flush(timeout_s=20)", timeout_s=30)
    publisher.do("session.flush('checkpointed', timeout_s=20)", timeout_s=30)
    last = publisher.do("session['n']")
    assert home.counted("s1") == list(range(1, last + 1))
    found = home.json("status")
    assert (found["safe"], found["unacknowledged"], found["degraded"]) == (True, 0, [])
    saved = home.sessions / "s1.json"
    assert int(parse_autosave(saved.read_bytes(), saved.name).values["n"]) == last
    assert publisher.stderr == []


def test_a_disk_that_fills_to_its_last_block_costs_nothing_and_all_resumes_by_itself(
    home: Home, small_disk: Callable[[str], SmallDisk]
) -> None:
    disk = small_disk("size=30m")  # too little for what is held back
    daemon = placed(home, disk.folder).daemon(*FLAGS)
    publisher = home.publisher("s1")
    publisher.do("publish(20)")
    publisher.do("session.checkpoint('before', timeout_s=20)")
    before = documents(home)
    publisher.send("publish(3000)")
    disk.fill()
    publisher.answer()
    fill_memory(publisher)
    told = publisher.do("session.durable")
    assert told["journaled"] <= told["spooled"] < told["published"]
    with pytest.raises(Refused, match="FlushTimeout"):
        publisher.do("session.flush(timeout_s=0.3)")
    with pytest.raises(Refused, match=r"OutboxFull.*cannot begin the session outbox .*: No space left"):
        publisher.do("client.session('another')")
    found = home.json("status")
    assert (found["safe"], codes(found)[:2]) == (False, ["disk_full", "disk_refused"])
    assert documents(home) == before
    daemon.kill()  # who meets a full disk at the start serves on it as well
    acknowledged = publisher.do("session.durable")["journaled"]
    assert len(home.counted("s1")) >= acknowledged - 1  # one of them is the mark
    daemon = home.daemon(*FLAGS)
    daemon.wait_line(lambda line: "the disk refuses" in line)
    disk.empty()
    assert_all_is_there(home, publisher)
    assert [line for line in complaints(daemon) if "refuses" in line or "not written" in line]
    assert len(complaints(daemon)) <= LOG_LINES_MAX


def test_a_stopped_daemon_starts_on_a_disk_that_is_full_by_what_it_held_back(
    home: Home, small_disk: Callable[[str], SmallDisk]
) -> None:
    disk = small_disk("size=40m")
    daemon = placed(home, disk.folder).daemon(*FLAGS)
    publisher = home.publisher("s1")
    publisher.do("publish(20)")
    publisher.do("session.flush('checkpointed', timeout_s=20)")
    eventually((home.state / "reserve").exists)
    daemon.popen.terminate()
    assert daemon.wait() == 0
    disk.fill()
    daemon = home.daemon(*FLAGS)
    assert not (home.state / "reserve").exists()
    publisher.do("publish(20)")
    publisher.do("session.flush(timeout_s=20)", timeout_s=30)
    disk.empty()
    assert_all_is_there(home, publisher)
    assert daemon.popen.poll() is None


def test_a_disk_without_inodes_stops_new_files_and_nothing_else(
    home: Home, small_disk: Callable[[str], SmallDisk]
) -> None:
    disk = small_disk("size=32m,nr_inodes=60")
    daemon = placed(home, disk.folder).daemon(*FLAGS)
    publisher = home.publisher("s1")
    publisher.do("publish(20)")
    publisher.do("session.checkpoint('before', timeout_s=20)")
    before = documents(home)
    names = [disk.folder / f"{number}" for number in range(100)]
    with pytest.raises(OSError, match="No space left"):
        for name in names:
            name.touch()
    publisher.do("publish(20)")
    publisher.do("session.flush()")  # what is open is written on
    with pytest.raises(Refused, match="CheckpointFailed"):
        publisher.do("session.checkpoint('meanwhile', timeout_s=20)")
    with pytest.raises(Refused, match="No space left"):
        publisher.do("client.session('another')")
    found = home.json("status")
    assert {"disk_full", "checkpoints_failing"} <= set(codes(found))
    assert "has no room for more files" in found["degraded"][0]["message"]
    assert documents(home) == before
    for name in names:
        name.unlink(missing_ok=True)
    assert_all_is_there(home, publisher)
    assert len(complaints(daemon)) <= LOG_LINES_MAX


@pytest.mark.parametrize("number", [errno.EIO, *([errno.EDQUOT, errno.EROFS] if FULL else [])], ids=errno.errorcode.get)
def test_a_journal_that_cannot_be_written_acknowledges_nothing_until_it_can(
    home: Home, failing_disk: str, number: int
) -> None:
    fails = home.folder / "fails"
    shim = {"LD_PRELOAD": failing_disk, "FAIL_WHEN": str(fails), "FAIL_WHERE": "/journal.sqlite"}
    daemon = home.start(RUN, lines_from="stderr", **shim)
    daemon.wait_line("ready ")
    publisher = home.publisher("s1")
    publisher.do("publish(20)")
    publisher.do("session.flush(timeout_s=20)")
    fails.write_text(str(number))
    acknowledged = publisher.do("session.durable")["journaled"]
    publisher.do("publish(500, pause_s=0.001)")
    daemon.wait_line(lambda line: "nothing is acknowledged while the disk refuses" in line)
    with pytest.raises(Refused, match="FlushTimeout"):
        publisher.do("session.flush(timeout_s=1.5)")
    told = publisher.do("session.durable")
    assert (told["published"], told["spooled"], told["journaled"]) == (520, 520, acknowledged)
    found = home.json("status")
    assert (found["safe"], found["unacknowledged"]) == (False, 500)
    assert "disk_refused" in codes(found)
    fails.unlink()
    assert_all_is_there(home, publisher)
    assert daemon.popen.poll() is None
    assert len(complaints(daemon)) <= LOG_LINES_MAX


def test_an_outbox_that_cannot_be_written_waits_in_memory_and_reaches_the_daemon_all_the_same(
    home: Home, failing_disk: str
) -> None:
    daemon = home.daemon(*FLAGS)
    fails = home.folder / "fails"
    shim = {"LD_PRELOAD": failing_disk, "FAIL_WHEN": str(fails), "FAIL_WHERE": "/outbox/"}
    publisher = home.publisher("s1", **shim)
    publisher.do("publish(20)")
    fails.write_text(str(errno.EIO))
    publisher.do("publish(20)")
    publisher.do("session.flush(timeout_s=20)")
    told = publisher.do("session.durable")
    assert (told["published"], told["spooled"], told["journaled"]) == (40, 20, 40)
    daemon.kill(signal.SIGSTOP)
    fill_memory(publisher)
    assert publisher.do("session['n'] == session.durable.published")  # the refused call has changed nothing
    daemon.kill(signal.SIGCONT)
    fails.unlink()
    publisher.do("session.flush(timeout_s=20)", timeout_s=30)
    assert home.counted("s1") == list(range(1, publisher.do("session['n']") + 1))


@pytest.mark.parametrize("number", [errno.EROFS, *([errno.EIO] if FULL else [])], ids=errno.errorcode.get)
def test_a_checkpoint_that_cannot_be_written_is_told_and_the_files_before_stay(
    home: Home, failing_disk: str, number: int
) -> None:
    fails = home.folder / "fails"
    shim = {"LD_PRELOAD": failing_disk, "FAIL_WHEN": str(fails), "FAIL_WHERE": "/sessions"}
    daemon = home.start(RUN, lines_from="stderr", **shim)
    daemon.wait_line("ready ")
    publisher = home.publisher("s1")
    publisher.do("publish(20)")
    publisher.do("session.checkpoint('before', timeout_s=20)")
    before, saved = documents(home), (home.sessions / "s1.json")
    eventually(saved.exists)
    fails.write_text(str(number))
    publisher.do("publish(20)")
    publisher.do("session.flush(timeout_s=20)")
    with pytest.raises(Refused, match="CheckpointFailed"):
        publisher.do("session.checkpoint('meanwhile', timeout_s=20)")
    assert documents(home) == before
    assert parse_autosave(saved.read_bytes(), saved.name).values["n"] == b"20"
    found = home.json("status")
    assert (found["safe"], found["unacknowledged"], codes(found)) == (True, 0, ["checkpoints_failing"])
    fails.unlink()
    name = publisher.do("session.checkpoint('after', timeout_s=20)")["name"]
    assert parse_checkpoint((home.sessions / name).read_bytes(), name).values["n"] == b"40"
    assert_all_is_there(home, publisher)
    assert len(complaints(daemon)) <= LOG_LINES_MAX


def test_a_disk_that_turns_read_only_under_all_who_write_loses_nothing_that_was_acknowledged(
    home: Home, turning_disk: TurningDisk
) -> None:
    daemon = placed(home, turning_disk.folder).daemon(*FLAGS)
    publisher = home.publisher("s1")
    publisher.do("publish(200, pause_s=0.001)")
    publisher.do("session.checkpoint('before', timeout_s=20)")
    publisher.do("session.flush(timeout_s=20)")
    before = documents(home)
    turning_disk.turn()
    publisher.do("publish(200, pause_s=0.001)")
    daemon.wait_line(lambda line: "nothing is acknowledged while the disk refuses" in line)
    told = publisher.do("session.durable")
    assert (told["published"], told["spooled"], told["journaled"]) == (401, 201, 201)
    found = home.json("status")
    assert found["safe"] is False
    assert "disk_refused" in codes(found)
    publisher.kill()
    daemon.kill()
    second = home.start(RUN, lines_from="stderr")
    assert second.wait() == 1
    assert "Read-only file system" in second.stderr[0]
    turning_disk.mount_anew()
    daemon = home.daemon(*FLAGS)
    assert home.counted("s1") == list(range(1, 201))
    assert documents(home).items() >= before.items()


@pytest.mark.parametrize(
    "command", [RUN, [sys.executable, "-m", "edi_checkpointd.cli", "sessions"]], ids=["run", "cli"]
)
def test_another_user_is_told_in_a_sentence_whose_folders_these_are(home: Home, command: list[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    as_another = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if subprocess.run([*as_another, sys.executable, "-c", "import edi_checkpointd"], capture_output=True).returncode:
        pytest.skip("another user cannot reach this checkout")
    home.daemon(*FLAGS).kill()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    before = sorted(home.folder.rglob("*"))
    for folder in (home.folder, *home.folder.parents):
        if folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    process = home.start([*as_another, *command], lines_from="stderr")
    assert process.wait() == 1
    fault, remedy = process.stderr
    assert f"{home.sessions}" in fault
    assert "belongs to root" in fault
    assert remedy
    assert sorted(home.folder.rglob("*")) == before
