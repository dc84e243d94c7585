"""Whether all work is safe, as told from outside: with a daemon, without one, with one that hangs, on a full disk."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from disks import SmallDisk
from harness import Home, Publisher, eventually
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from edi_checkpoint.documents.layout import Header, checkpoint_document
from edi_checkpoint.documents.names import checkpoint_name
from edi_checkpoint.model import Kind

SHAPE = {
    "format", "safe", "daemon", "last_durable", "unacknowledged", "waiting", "degraded", "sessions", "journal_bytes",
    "errors", "sizes",
}  # fmt: skip


SETPRIV = shutil.which("setpriv")


def codes(status: dict) -> list[str]:
    return [trouble["code"] for trouble in status["degraded"]]


def age_s(text: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()


def of_client(publisher: Publisher) -> dict:
    found = publisher.do("client.status()")
    assert isinstance(found, dict)
    return found


def first_line(home: Home) -> str:
    return home.command("status").splitlines()[0]


def test_a_home_without_anything_is_safe_and_stays_away(home: Home) -> None:
    found = home.json("status")
    assert set(found) == SHAPE
    assert (found["format"], found["safe"], found["last_durable"], found["degraded"]) == (1, True, None, [])
    unknown = dict.fromkeys(("pid", "version", "uptime_s", "connections", "sandbox", "descriptors"))
    assert found["daemon"] == {"running": False, **unknown}
    assert found["sessions"] == {"live": 0, "interrupted": 0, "unfinished": 0, "ended": 0}
    assert (found["unacknowledged"], found["journal_bytes"]) == (0, 0)
    assert first_line(home) == "all work is safe: nothing has been published yet"
    assert not home.folder.exists()


def test_who_remembers_nothing_is_told_so_in_the_same_shape(home: Home) -> None:
    found = of_client(home.publisher(EDI_CHECKPOINT_DISABLE="1"))
    assert set(found) > SHAPE
    assert (found["safe"], found["disabled"], codes(found)) == (False, True, ["disabled"])


def test_what_is_acknowledged_is_safe_and_says_since_when(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("publish(100)")
    publisher.do("session.flush()")
    found = home.json("status")
    assert (found["safe"], found["unacknowledged"], found["waiting"], found["degraded"]) == (True, 0, [], [])
    assert (found["daemon"]["running"], found["daemon"]["pid"]) == (True, home.daemon_pid)
    assert 0 < found["daemon"]["uptime_s"] < 60
    assert 0 <= age_s(found["last_durable"]) < 20
    assert found["sessions"]["live"] == 1
    assert found["journal_bytes"] > 0
    assert first_line(home).startswith("all work is safe: everything published is on disk since ")
    of_the_client = of_client(publisher)
    assert set(of_the_client) == SHAPE
    for grows in ("daemon", "journal_bytes", "sizes"):
        del of_the_client[grows], found[grows]
    assert of_the_client == found
    daemon.kill()
    without = home.json("status")
    assert (without["safe"], without["last_durable"]) == (True, found["last_durable"])
    assert without["daemon"]["running"] is False


def openmetrics(home: Home) -> dict[str, float]:
    """Return the samples of `status --openmetrics`, as a monitor reads them."""
    families = text_string_to_metric_families(home.command("status", "--openmetrics"))
    samples = [sample for family in families for sample in family.samples]
    return {
        sample.name.removeprefix("edi_checkpoint_")
        + "".join(f" {text}" for text in sample.labels.values()): sample.value
        for sample in samples
    }


def test_a_monitor_reads_the_status_as_openmetrics(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("publish(3)")
    publisher.do("session.flush()")
    found, told = openmetrics(home), home.json("status")
    assert found["daemon_info " + told["daemon"]["version"]] == 1
    assert (found["daemon_running"], found["safe"], found["lag_seconds"], found["connections"]) == (1, 1, 0, 1)
    assert {name: value for name, value in found.items() if name.startswith("sessions ")} == {
        "sessions live": 1,
        "sessions interrupted": 0,
        "sessions unfinished": 0,
        "sessions ended": 0,
    }
    last = datetime.fromisoformat(told["last_durable"]).timestamp()
    assert found["last_durable_timestamp_seconds"] == pytest.approx(last)
    assert 0 < found["size_bytes journal"] < found["size_cap_bytes journal"]
    assert set(told["sizes"]) == {name.split()[1] for name in found if name.startswith("size_bytes ")}
    assert 0 < found["open_files"] < found["open_files_limit"]
    daemon.kill()
    publisher.do("publish(2)")
    (home.sessions / "damaged").mkdir(mode=0o700)
    (home.sessions / "damaged" / "s1.json").touch()
    found = openmetrics(home)
    assert (found["daemon_running"], found["safe"], found["unacknowledged_entries"]) == (0, 0, 2)
    assert found["lag_seconds"] > 0
    assert (found["degraded no_daemon"], found["degraded documents_damaged"]) == (1, 1)
    assert "daemon_uptime_seconds" not in found


def test_what_was_refused_is_counted_by_code(home: Home) -> None:
    home.daemon()
    home.start_publisher(EDI_CHECKPOINT_SESSIONS_DIR=str(home.folder / "other"))
    refused = eventually(lambda: openmetrics(home).get("errors_total wrong_folder"))
    assert refused in (1, home.json("status")["errors"]["wrong_folder"])


def test_the_sandbox_that_is_told_is_the_one_that_the_kernel_enforces(home: Home) -> None:
    assert SETPRIV is not None
    plain = home.daemon()
    own = home.json("status")["daemon"]["sandbox"]
    plain.kill()
    confined = home.start(
        [SETPRIV, "--no-new-privs", sys.executable, "-m", "edi_checkpointd", "run"], lines_from="stderr"
    )
    confined.wait_line("ready ")
    found = home.json("status")["daemon"]["sandbox"]
    assert found == {**own, "no_new_privileges": True}
    assert openmetrics(home)["sandbox no_new_privileges"] == 1


def test_what_no_daemon_has_taken_is_counted_and_named_until_one_has(home: Home) -> None:
    first, second = home.publisher("s1"), home.publisher("s2")
    first.do("publish(300)")
    second.do("publish(2)")
    for found in (home.json("status"), of_client(first)):
        assert (found["safe"], found["unacknowledged"], codes(found)) == (False, 302, ["no_daemon"])
        assert {one["session_id"]: one["entries"] for one in found["waiting"]} == {"s1": 300, "s2": 2}
        assert all(0 <= age_s(one["since"]) < 60 for one in found["waiting"])
    assert first_line(home).startswith("not all work is safe: 302 changes of 2 sessions wait in outboxes, since ")
    first.kill()
    assert home.json("status")["sessions"] == {"live": 1, "interrupted": 1, "unfinished": 0, "ended": 0}
    home.daemon()
    found = eventually(lambda: (told := home.json("status"))["safe"] and told)
    assert isinstance(found, dict)
    assert (found["unacknowledged"], found["degraded"]) == (0, [])


def test_a_daemon_that_hangs_is_named_and_all_is_told_from_the_files(home: Home) -> None:
    daemon = home.daemon()
    publisher, other = home.publisher("s1"), home.publisher("s2")
    publisher.do("publish(5)")
    publisher.do("session.flush()")
    daemon.kill(signal.SIGSTOP)
    publisher.do("publish(3)")
    publisher.send("client.status()")
    other.send("client.sessions()")
    found = home.json("status")
    asked, listed = publisher.answer(), other.answer()
    assert isinstance(asked, dict)
    assert isinstance(listed, list)
    assert {row["session_id"]: row["condition"] for row in listed} == {"s1": "live", "s2": "live"}
    for told in (found, asked):
        assert (told["safe"], told["unacknowledged"], codes(told)) == (False, 3, ["daemon_hangs"])
        assert told["daemon"]["pid"] == home.daemon_pid
        assert f"process {home.daemon_pid}" in told["degraded"][0]["message"]
    assert found["last_durable"] is not None
    daemon.kill(signal.SIGCONT)
    eventually(lambda: home.json("status")["safe"])


def test_entries_that_the_journal_has_and_no_file_are_safe_without_a_daemon(home: Home) -> None:
    daemon = home.daemon("--autosave-every-s", "3600", "--transition-keys", "attempt")
    publisher = home.publisher("s1")
    publisher.do("publish(7)")
    publisher.do("session.flush()")
    daemon.kill()
    assert not home.checkpoints("s1")
    found = home.json("status")
    assert (found["safe"], found["unacknowledged"], codes(found)) == (True, 0, [])
    assert of_client(publisher)["unacknowledged"] == 0
    # Another process cannot read the journal: it does not call safe what it does not know to be.
    assert of_client(home.publisher())["unacknowledged"] == 7


@pytest.mark.leaves("document_damaged")
def test_what_was_damaged_is_told_with_what_came_of_it(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.checkpoint()")
    publisher.do("session.close()")
    eventually(lambda: not any((home.state / "outbox").iterdir()))
    daemon.kill()
    (home.sessions / "s1.json").write_bytes(b'{"session_id": "s1"')
    (home.state / "journal.sqlite").write_bytes(b"no database\n" * 1000)
    without = home.json("status")
    assert codes(without) == ["journal_damaged", "documents_damaged"]
    home.daemon()
    found = home.json("status")
    assert codes(found) == ["journal_begun_anew", "journal_set_aside", "documents_damaged"]
    assert "journal.sqlite, journal.sqlite-" in found["degraded"][1]["message"]
    assert found["degraded"][1]["message"].endswith(f" in {home.state / 'damaged'}")
    assert "s1.json" in found["degraded"][2]["message"]
    assert all(trouble["hint"] for trouble in found["degraded"])
    assert found["safe"] is True


def test_a_full_disk_is_told_while_it_lasts_and_sessions_are_listed_all_the_same(
    home: Home, small_disk: Callable[[str], SmallDisk]
) -> None:
    disk = small_disk("size=4m")
    home.environment["EDI_CHECKPOINT_STATE_DIR"] = str(disk.folder / "state")
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.flush()")
    disk.fill()
    publisher.do("session.update(n=2, text='x' * 100_000)")
    found = eventually(lambda: (told := home.json("status"))["errors"].get("disk_refused") and told)
    assert isinstance(found, dict)
    assert codes(found)[:2] == ["disk_full", "disk_refused"]
    assert found["safe"] is False
    assert first_line(home).startswith("not all work is safe: ")
    assert [row["session_id"] for row in home.json("sessions")["sessions"]] == ["s1"]
    disk.empty()
    publisher.do("session.flush(timeout_s=20)")
    found = home.json("status")
    assert (found["safe"], found["unacknowledged"], codes(found)) == (True, 0, [])


def test_checkpoints_that_cannot_be_written_are_told_and_the_entries_are_safe(home: Home) -> None:
    home.daemon("--autosave-every-s", "0.1")
    publisher = home.publisher("s1")
    in_the_way = home.sessions / ".s1.json.tmp"
    in_the_way.mkdir()
    publisher.do("session.update(n=1)")
    publisher.do("session.flush()")
    found = eventually(lambda: "checkpoints_failing" in codes(told := home.json("status")) and told)
    assert isinstance(found, dict)
    assert (found["safe"], found["unacknowledged"]) == (True, 0)
    in_the_way.rmdir()
    eventually(lambda: "checkpoints_failing" not in codes(home.json("status")))


@pytest.mark.leaves("mode")
def test_a_clock_that_stands_before_what_was_written_by_it_is_told(home: Home) -> None:
    home.sessions.mkdir(parents=True)
    later = datetime.now(UTC) + timedelta(hours=1)
    header = Header(session_id="s1", timestamp=later, kind=Kind.MANUAL, sequence=1)
    (home.sessions / checkpoint_name("s1", later)).write_bytes(b"".join(checkpoint_document(header, {})))
    found = home.json("status")
    assert (codes(found), found["safe"]) == (["clock_stepped"], True)
