"""The command as people and scripts meet it: a process of its own, with a daemon, without one, with one that hangs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import commands
import pytest
from harness import Home, eventually

BIG = "123456789012345678901234567890"
PRECISE = "0.1000000000000000000000000000001"
ESCAPE = "\x1b"

PUBLISH = """
import os, signal
from edi_checkpoint import connect

with connect() as client:
    with client.session("session_12345") as session:
        session.transition("upload", image_path="/home/me/roof.jpg", naive_prompt="a redder \\x1b[31m sky 空")
        session.checkpoint("first", label="before the sky")
        session["big"] = 123456789012345678901234567890
        session["scene"] = {"entities": [{"id": f"sky_{n}", "bbox": [0, 1, 2.5, 3]} for n in range(60)]}
        session.transition("refinement", validation={"score": 0.625})
        session.checkpoint("second", pin=True)
        session.flush()
    with client.session("session_1") as session:
        session.update(current_stage="done", status="completed")
    with client.session("0f9a52c7-7f2e-4a44-9f67-1b7c46d1c8a5", parent="session_12345") as session:
        session.transition("intent")
    session = client.session("killed")
    for n in range(50):
        session["n"] = n
    session.flush()
    print("published", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""

COMMANDS = [
    ("sessions",),
    ("sessions", "--limit", "2"),
    ("sessions", "--tree"),
    ("sessions", "--condition", "interrupted"),
    ("sessions", "--condition", "live"),
    ("log", "session_12345"),
    ("log", "0f9a"),
    ("history", "session_12345"),
    ("history", "killed", "--since", "40"),
    ("history", "killed", "--since", "1000"),
    ("show", "session_12345"),
    ("show", "session_12345", "before the sky"),
    ("show", "session_12345", "@1"),
    ("show", "session_12345", "--sequence", "1"),
    ("show", "killed", "--at", "0s"),
    ("show", "killed", "--sequence", "7"),
    ("show", "nobody"),
    ("show", "session"),
    ("show", "session_12345", "@9"),
    ("show", "session_12345", "--sequence", "4711"),
    ("show", "session_12345", "--at", "2026-01-01T12:00+01:00"),
]


def run(
    home: Home, *arguments: str, stdin: int | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "edi_checkpointd.cli", *arguments],
        env={**home.environment, **environment}, capture_output=True, timeout=60, check=False, stdin=stdin,
    )  # fmt: skip


def document(home: Home, *arguments: str) -> dict:
    done = commands.run([*arguments, "--json"], home.environment)
    found = json.loads(done.stdout)
    assert found["format"] == 1
    return {**found, "exit": done.returncode}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def publish(home: Home) -> None:
    """Start a daemon and leave four sessions in the home, one of them interrupted."""
    home.daemon()
    publisher = home.python(PUBLISH)
    publisher.wait_line("published")
    publisher.wait()
    eventually(lambda: home.checkpoints("killed"))


@pytest.fixture
def published(home: Home) -> Home:
    """A home of its own, published."""
    publish(home)
    return home


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A published home, with its daemon running, for tests that only look."""
    home = Home(tmp_path_factory.mktemp("shared") / "h")
    try:
        publish(home)
        yield home
    finally:
        home.close()


def stop(home: Home) -> None:
    subprocess.run([sys.executable, "-m", "edi_checkpointd", "stop"], env=home.environment, check=True, timeout=60)


# -- with and without a daemon ---------------------------------------------------------------------------------------


def test_every_command_says_the_same_with_and_without_a_daemon(published: Home) -> None:
    with_daemon = [document(published, *command) for command in COMMANDS]
    stop(published)
    without = [document(published, *command) for command in COMMANDS]
    for command, one, other in zip(COMMANDS, with_daemon, without, strict=True):
        one.pop("source", None)
        other.pop("source", None)
        assert one == other, command
    assert [one["exit"] for one in with_daemon] == [0] * 16 + [3, 2, 3, 3, 3]


def test_show_names_its_source(published: Home) -> None:
    sources = [
        document(published, "show", "killed")["source"],
        document(published, "show", "killed", "@1")["source"],
        document(published, "show", "killed", "--sequence", "3")["source"],
    ]
    stop(published)
    sources.append(document(published, "show", "killed")["source"])
    assert sources == ["daemon", "file", "journal", "journal"]


def test_a_daemon_that_hangs_is_reported_and_the_files_answer(published: Home) -> None:
    expected = document(published, "history", "killed")
    os.kill(published.daemon_pid, signal.SIGSTOP)
    done = run(published, "history", "killed", "--json")
    os.kill(published.daemon_pid, signal.SIGCONT)
    assert {**json.loads(done.stdout), "exit": done.returncode} == expected
    assert f"process {published.daemon_pid}".encode() in done.stderr
    assert b"did not answer within 5 s" in done.stderr


def test_entries_that_no_daemon_has_taken_are_shown(home: Home) -> None:
    publisher = home.python(
        PUBLISH.replace("session.checkpoint", "(lambda *a, **k: None)").replace(".flush()", "['m'] = 1")
    )
    publisher.wait_line("published")
    publisher.wait()
    shown = document(home, "show", "killed")
    assert (shown["source"], shown["sequence"], shown["state_info"]["n"]) == ("outbox", 51, 49)
    assert {row["session_id"] for row in document(home, "sessions")["sessions"]} >= {"killed", "session_12345"}


def test_a_session_with_a_living_writer_is_live_with_and_without_a_daemon(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.flush()")
    assert [row["condition"] for row in document(home, "sessions")["sessions"]] == ["live"]
    daemon.kill()
    assert document(home, "show", "s1")["condition"] == "live"
    assert [row["session_id"] for row in document(home, "sessions", "--condition", "live")["sessions"]] == ["s1"]


@pytest.mark.leaves("journal_damaged")
def test_a_damaged_journal_is_reported_and_the_files_answer(published: Home) -> None:
    expected = document(published, "show", "session_12345")["state_info"]
    stop(published)
    journal = published.state / "journal.sqlite"
    data = bytearray(journal.read_bytes())
    data[8192:] = b"Z" * (len(data) - 8192)
    for damaged in (bytes(data), b"no database"):
        journal.write_bytes(damaged)
        done = run(published, "show", "session_12345", "--json")
        found = json.loads(done.stdout)
        assert (done.returncode, found["source"], found["state_info"]) == (0, "file", expected)
        assert b"journal.sqlite" in done.stderr
        assert b"reading only the files instead" in done.stderr
        assert journal.read_bytes() == damaged


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_sessions_are_listed_newest_first_with_their_condition(shared: Home) -> None:
    rows = {row["session_id"]: row for row in document(shared, "sessions")["sessions"]}
    assert {name: row["condition"] for name, row in rows.items()} == {
        "killed": "interrupted",
        "session_12345": "unfinished",
        "session_1": "ended",
        "0f9a52c7-7f2e-4a44-9f67-1b7c46d1c8a5": "unfinished",
    }
    row = rows["session_12345"]
    assert (row["stage"], row["image"], row["score"]) == ("refinement", "roof.jpg", 0.625)
    assert rows["0f9a52c7-7f2e-4a44-9f67-1b7c46d1c8a5"]["parent_session"] == "session_12345"
    updated = [row["updated"] for row in document(shared, "sessions")["sessions"]]
    assert updated == sorted(updated, reverse=True)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", time) for time in updated)


def test_log_lists_checkpoints_oldest_first(shared: Home) -> None:
    found = document(shared, "log", "session_12345")
    assert found["session_id"] == "session_12345"
    rows = found["checkpoints"]
    assert [row["sequence"] for row in rows] == sorted(row["sequence"] for row in rows)
    assert set(rows[0]) == {
        "name", "sequence", "timestamp", "kind", "reason", "stage", "label", "pinned", "size_bytes", "summary",
        "note", "rule", "score",
    }  # fmt: skip
    assert (shared.sessions / rows[0]["name"]).stat().st_size == rows[0]["size_bytes"]
    assert {"before the sky"} == {row["label"] for row in rows} - {None}
    assert [row["reason"] for row in rows if row["pinned"]] == ["second"]


def test_history_of_many_pages_is_whole(published: Home) -> None:
    publisher = published.python(
        "from edi_checkpoint import connect\n"
        "with connect() as client, client.session('long') as session:\n"
        "    for n in range(5000): session['n'] = n\n"
        "    session.flush(timeout_s=30)\n"
    )
    assert publisher.wait() == 0
    found = document(published, "history", "long")
    assert [entry["sequence"] for entry in found["entries"]] == list(range(1, found["last"] + 1))
    assert found["last"] >= 5000
    assert found["entries"][0]["keys"] == ["n"]
    assert len(document(published, "history", "long", "--since", "4990")["entries"]) == found["last"] - 4989
    stop(published)
    assert document(published, "history", "long") == found


def test_numbers_keep_their_text(published: Home) -> None:
    session = published.sessions / "numbers_checkpoint_20261123_061232.json"
    session.write_text(
        '{"session_id": "numbers", "timestamp": "2026-11-23T07:12:32.500000+01:00", "reason": "manual", "stage": "x",'
        f' "parent_session": null, "state_info": {{"big": {BIG}, "precise": {PRECISE}, "zeros": 1.50, "e": 1E400}}}}'
    )
    stop(published)
    shown = run(published, "show", "numbers", "@1", "--json").stdout.decode()
    for text in (f'"big": {BIG},', f'"precise": {PRECISE},', '"zeros": 1.50,', '"e": 1E400\n'):
        assert text in shown
    assert '"timestamp": "2026-11-23T06:12:32.5' in shown
    assert BIG in run(published, "show", "session_12345", "--json").stdout.decode()


def test_a_session_is_named_by_its_id_a_prefix_or_as_the_latest(shared: Home) -> None:
    assert document(shared, "show", "session_1")["session_id"] == "session_1"
    assert document(shared, "show", "session_12")["session_id"] == "session_12345"
    newest = document(shared, "sessions", "--limit", "1")["sessions"][0]["session_id"]
    assert document(shared, "show", "latest")["session_id"] == newest
    ambiguous = document(shared, "log", "session")
    assert (ambiguous["exit"], ambiguous["error"]["code"]) == (2, "ambiguous")
    assert "session_1," in ambiguous["error"]["message"] + ","
    assert "session_12345" in ambiguous["error"]["message"]


def test_show_goes_back_to_a_checkpoint_a_sequence_and_a_time(shared: Home) -> None:
    rows = document(shared, "log", "session_12345")["checkpoints"]
    first = next(row for row in rows if row["label"] == "before the sky")
    by_label = document(shared, "show", "session_12345", "before the sky")
    assert (by_label["checkpoint"], by_label["sequence"]) == (first["name"], first["sequence"])
    assert "big" not in by_label["state_info"]
    for selector in (first["name"], first["timestamp"], first["name"][-27:-5], f"@{len(rows) - rows.index(first)}"):
        assert document(shared, "show", "session_12345", selector) == by_label
    entries = document(shared, "history", "session_12345")["entries"]
    early = document(shared, "show", "session_12345", "--sequence", "3")
    assert (early["sequence"], early["stage"], early["checkpoint"]) == (3, "upload", None)
    assert str(early["state_info"]["big"]) == BIG
    assert "scene" not in early["state_info"]
    assert document(shared, "show", "session_12345", "--at", entries[2]["timestamp"]) == early


# -- for people ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("sessions",),
        ("sessions", "--tree"),
        ("status",),
        ("log", "session_12345"),
        ("history", "session_12345"),
        ("show", "session_12345"),
        ("diff", "session_12345", "before the sky"),
        ("diff", "0f9a"),
    ],
)
def test_people_get_colours_on_a_terminal_only_and_lines_that_fit(shared: Home, command: tuple[str, ...]) -> None:
    def timeless(text: str) -> str:
        return re.sub(r"up [0-9]+ s", "up 0 s", text)

    coloured = shared.on_a_terminal(*command)
    assert ESCAPE in coloured
    plain = timeless(shared.on_a_terminal(*command, NO_COLOR="1"))
    assert timeless(re.sub(r"\x1b\[[0-9;]*m", "", coloured)) == plain
    piped = timeless(run(shared, *command, FORCE_COLOR="1").stdout.decode())
    narrow = timeless(run(shared, *command, COLUMNS="80").stdout.decode())
    for text in (plain, piped, narrow):
        assert ESCAPE not in text
    assert narrow == plain
    assert max(len(line) for line in plain.splitlines()) <= 80
    assert max(len(line) for line in piped.splitlines()) >= max(len(line) for line in plain.splitlines())
    assert "..." not in piped


def test_in_a_narrow_terminal_a_session_is_still_known_by_id_condition_time_and_prompt(shared: Home) -> None:
    titles = {
        width: run(shared, "sessions", COLUMNS=str(width)).stdout.decode().splitlines()[0].split()
        for width in (200, 80, 50)
    }
    assert titles[200] == [
        "SESSION",
        "CONDITION",
        "STAGE",
        "STATUS",
        "SCORE",
        "UPDATED",
        "+00:00",
        "CP",
        "IMAGE",
        "PROMPT",
    ]
    assert {"SESSION", "CONDITION", "STAGE", "UPDATED", "IMAGE", "PROMPT"} <= set(titles[80])
    assert titles[50] == ["SESSION", "CONDITION", "UPDATED", "+00:00", "PROMPT"]


def test_a_session_stands_below_the_one_it_came_from(shared: Home) -> None:
    lines = run(shared, "sessions", "--tree").stdout.decode().splitlines()
    names = [line.partition("  ")[0] for line in lines[1:]]
    child = names.index("`- 0f9a52c7-7f2e-4a44-9f67-1b7c46d1c8a5")
    assert names[child - 1] == "session_12345"
    assert run(shared, "sessions", "--tree", "--json").stdout == run(shared, "sessions", "--json").stdout
    filtered = run(shared, "sessions", "--tree", "--condition", "interrupted").stdout.decode()
    assert [line.partition("  ")[0] for line in filtered.splitlines()[1:]] == ["killed"]


def test_people_see_local_times_with_their_offset(shared: Home) -> None:
    rows = document(shared, "log", "session_12345")["checkpoints"]
    text = run(shared, "log", "session_12345", TZ="XXX-05:30").stdout.decode()
    assert "+05:30" in text
    hour, minute = int(rows[0]["timestamp"][11:13]), int(rows[0]["timestamp"][14:16])
    local = (hour * 60 + minute + 330) % (24 * 60)
    assert f" {local // 60:02}:{local % 60:02}:" in text


def test_nothing_that_is_shown_steers_the_terminal(shared: Home) -> None:
    assert r"a redder \x1b[31m sky" in run(shared, "sessions").stdout.decode()
    missing = run(shared, "show", "\x1b[31mred")
    assert missing.returncode == 3
    assert ESCAPE.encode() not in missing.stderr


def test_what_the_locale_cannot_show_is_escaped(shared: Home) -> None:
    done = run(shared, "sessions", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert done.returncode == 0
    assert rb"\u7a7a" in done.stdout
    found = run(shared, "sessions", "--json", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert "空" in found.stdout.decode()


@pytest.mark.parametrize("command", ["status", "sessions", "log", "history", "show", "diff", "demo"])
def test_help_teaches_by_an_example(home: Home, command: str) -> None:
    done = run(home, command, "--help", FORCE_COLOR="1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert f"Example: edi-checkpoint {command}".encode() in done.stdout
    assert done.stdout.isascii()
    assert ESCAPE.encode() not in done.stdout
    assert f"  {command} ".encode() in run(home, "--help").stdout


def test_the_version_is_that_of_the_distribution(home: Home) -> None:
    from importlib.metadata import version

    assert run(home, "--version").stdout.decode() == f"edi-checkpoint {version('edi-checkpoint')}\n"


# -- faults ----------------------------------------------------------------------------------------------------------


def test_a_home_that_does_not_exist_is_empty_and_stays_away(home: Home) -> None:
    assert document(home, "sessions") == {"format": 1, "sessions": [], "exit": 0}
    people = run(home, "sessions")
    assert (people.returncode, people.stdout) == (0, b"")
    for arguments in (("log", "s1"), ("history", "latest"), ("show", "s1"), ("diff", "s1")):
        assert document(home, *arguments)["exit"] == 3
    assert not home.folder.exists()


def test_reading_writes_nothing_but_what_sqlite_needs(published: Home) -> None:
    stop(published)
    before = files(published.folder)
    for command in COMMANDS:
        run(published, *command)
    assert files(published.folder) - before <= {"state/journal.sqlite-wal", "state/journal.sqlite-shm"}
    assert before <= files(published.folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("sessions", "--nothing"),
        ("sessions", "--condition", "asleep"),
        ("sessions", "--limit", "0"),
        ("sessions", "--limit", "many"),
        ("log",),
        ("log", ""),
        ("history", "s1", "--since", "-1"),
        ("history", "s1", "--since", str(1 << 63)),
        ("show", "s1", "@1", "--sequence", "1"),
        ("show", "s1", "--sequence", "1", "--at", "10m"),
        ("show", "s1", "--at", "yesterday"),
        ("diff",),
        ("diff", "s1", "@1", "@2", "@3"),
    ],
)
def test_a_usage_error_exits_2_on_stderr_or_as_json(home: Home, arguments: tuple[str, ...]) -> None:
    done = run(home, *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    first, hint, *rest = done.stderr.decode().splitlines()
    assert first.startswith("edi-checkpoint: ")
    assert hint.startswith("  ")
    assert not rest
    for ordered in ((*arguments, "--json"), ("--json", *arguments)):
        as_json = run(home, *ordered)
        error = json.loads(as_json.stdout)["error"]
        assert (as_json.returncode, as_json.stderr, error["code"]) == (2, b"", "usage")
        assert first == f"edi-checkpoint: {error['message']}"
        assert hint == f"  {error['hint']}"


def test_a_relative_home_is_a_usage_error(home: Home) -> None:
    done = run(home, "sessions", "--json", EDI_CHECKPOINT_HOME="here")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, "config")


@pytest.mark.leaves("document_damaged")
def test_a_damaged_checkpoint_exits_6_and_is_no_more_once_a_daemon_has_set_it_aside(published: Home) -> None:
    name = document(published, "log", "session_12345")["checkpoints"][0]["name"]
    path = published.sessions / name
    path.write_bytes(path.read_bytes().replace(b"roof.jpg", b"ruin.jpg"))
    found = document(published, "show", "session_12345", name)
    assert (found["exit"], found["error"]["code"]) == (6, "document_damaged")
    assert name in found["error"]["message"]
    if published.daemon_pid:
        eventually(lambda: (published.sessions / "damaged" / name).exists())
    again = document(published, "show", "session_12345", name)
    assert (again["exit"], again["error"]["code"]) == (
        (3, "not_found") if published.daemon_pid else (6, "document_damaged")
    )


def test_a_reader_that_leaves_ends_the_command_quietly(shared: Home) -> None:
    command = f"{sys.executable} -m edi_checkpointd.cli history killed"
    for extra in ("", " --json"):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}{extra} | head -c 1"],
            env=shared.environment, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, len(done.stdout), done.stderr) == (0, 1, b"")


def test_a_full_disk_for_the_output_is_no_traceback(shared: Home) -> None:
    for extra in ((), ("--json",)):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                [sys.executable, "-m", "edi_checkpointd.cli", "sessions", *extra],
                env=shared.environment, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False,
            )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.startswith(b"edi-checkpoint: ")
        assert b"Traceback" not in done.stderr


# -- start-up --------------------------------------------------------------------------------------------------------


LATER = {"apscheduler", "asyncio", "numpy", "platformdirs", "rich.console", "watchdog", "zmq"}


def loaded(home: Home, *arguments: str) -> set[str]:
    code = "import sys; from edi_checkpointd.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=home.environment, capture_output=True, timeout=60, check=True
    )
    return set(done.stderr.decode().splitlines()[-1].split())


def test_a_command_loads_only_what_it_needs(published: Home) -> None:
    assert loaded(published, "sessions") & LATER == {"zmq"}
    stop(published)
    for arguments in (("sessions",), ("sessions", "--json"), ("history", "killed"), ("show", "session_1", "--json")):
        assert not loaded(published, *arguments) & LATER
