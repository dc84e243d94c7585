"""`rollback`, `fork`, `pin` and their like, as a person or a script uses them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import jsonpatch
import pytest
from harness import Home, eventually

FLAGS = ("--transition-keys", "attempt")


@pytest.fixture
def worked(home: Home) -> Home:
    """A session of four checkpoints, n 1 to 4, whose writer was killed."""
    home.daemon(*FLAGS)
    publisher = home.publisher("s1")
    for number in range(1, 5):
        publisher.do(f"session.update(n={number}, prompt='a roof, {number} birds', current_stage='stage {number}')")
        publisher.do(f"session.checkpoint('step {number}')")
    publisher.do("session.update(status='failed')")
    publisher.do("session.checkpoint('broken')")
    publisher.kill()
    eventually(lambda: condition(home) == "interrupted")
    return home


def condition(home: Home, session_id: str = "s1") -> str:
    return home.json("show", session_id)["condition"]


def state(home: Home, session_id: str = "s1") -> dict:
    return home.json("show", session_id)["state_info"]


def document(home: Home, name: str) -> dict:
    return json.loads((home.sessions / name).read_bytes())


@pytest.mark.parametrize(
    ("where", "number"),
    [
        (("@3",), 3),
        (("--sequence", "3"), 2),
        (("--last-good",), 4),
        (("--at", "1h"), None),
        (("--sequence", "99"), None),
    ],
    ids=["a checkpoint", "a sequence", "the last good one", "before it began", "not there yet"],
)
def test_rollback_says_what_it_did_and_the_session_stays_as_it_was_left(
    worked: Home, where: tuple[str, ...], number: int | None
) -> None:
    before = state(worked)
    if number is None:
        assert worked.json("rollback", "s1", *where, "--yes", expect=3)["error"]["code"] == "not_found"
        assert state(worked) == before
        return
    told = worked.json("rollback", "s1", *where, "--yes")
    assert state(worked)["n"] == number
    assert jsonpatch.apply_patch(before, told["patch"]) == state(worked)
    assert document(worked, told["before"])["state_info"] == before
    assert document(worked, told["after"])["state_info"] == state(worked)
    assert (told["session_id"], told["to_sequence"] < told["from_sequence"]) == ("s1", True)
    assert condition(worked) == "interrupted"
    undone = worked.json("rollback", "s1", told["before"], "--yes")
    assert state(worked) == before
    assert [op["op"] for op in undone["patch"]]


def test_rollback_of_some_keys_leaves_the_others(worked: Home) -> None:
    worked.command("rollback", "s1", "@5", "--keys", "prompt, status", "--yes")
    assert state(worked) == {"n": 4, "current_stage": "stage 4", "prompt": "a roof, 1 birds"}


def test_rollback_asks_a_person_and_shows_what_will_change(worked: Home) -> None:
    before = state(worked)
    for answer, number in ((b"n\n", 4), (b"\n", 4), (b"y\n", 2)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "edi_checkpointd.cli", "rollback", "s1", "@4"],
            env=worked.environment, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        os.write(ours, answer)
        shown, asked = process.communicate(timeout=60)
        os.close(ours)
        os.close(theirs)
        assert process.returncode == 0
        assert b"[y/N]" in asked
        assert b"4" in shown
        assert b"birds" in shown
        assert state(worked)["n"] == number
        if number == 4:
            assert state(worked) == before


def test_nobody_to_ask_no_target_and_two_targets_are_faults_of_usage(worked: Home) -> None:
    before = worked.history("s1")
    for arguments in (("@2",), ("--yes",), ("@2", "--last-good", "--yes"), ("--sequence", "-1", "--yes")):
        assert worked.json("rollback", "s1", *arguments, expect=2)["error"]["code"] in ("usage", "ambiguous")
    assert worked.history("s1") == before


def test_what_changes_a_session_is_busy_while_it_is_written_to_and_takes_over_when_told_to(home: Home) -> None:
    home.daemon(*FLAGS)
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.checkpoint('first')")
    publisher.do("session.update(n=2)")
    for command in (
        ("rollback", "s1", "@1", "--yes"),
        ("pin", "s1", "@1"),
        ("label", "s1", "@1", "x"),
        ("dismiss", "s1"),
    ):
        told = home.json(*command, expect=5)["error"]
        assert told["code"] == "session_busy"
        assert str(publisher.pid) in told["message"]
    home.command("rollback", "s1", "@1", "--yes", "--takeover")
    assert state(home) == {"n": 1}
    assert publisher.sees("not session.usable")


def test_without_a_daemon_what_needs_one_says_so_and_changes_nothing(home: Home) -> None:
    daemon = home.daemon(*FLAGS)
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.checkpoint('first')")
    publisher.do("session.close()")
    daemon.kill()
    before = state(home)
    for command in (("rollback", "s1", "@1", "--yes"), ("pin", "s1", "@1"), ("note", "s1", "@1", "x")):
        assert home.json(*command, expect=4)["error"]["code"] == "daemon_unavailable"
    assert state(home) == before
    fork = home.json("fork", "s1", "--as", "variant")
    assert (fork["session_id"], state(home, "variant")) == ("variant", {"n": 1})
    home.daemon(*FLAGS)
    eventually(lambda: state(home, "variant") == {"n": 1})


def test_fork_prints_the_new_session_and_leaves_the_old_one_alone(home: Home) -> None:
    home.daemon(*FLAGS)
    publisher = home.publisher("s1")
    for number in (1, 2):
        publisher.do(f"session.update(n={number})")
        publisher.do("session.checkpoint()")
    told = home.json("fork", "s1", "@2", "--as", "variant")
    assert told == {"format": 1, "session_id": "variant", "parent_session": "s1", "sequence": 1}
    assert state(home, "variant") == {"n": 1}
    name = home.command("fork", "s1").strip()
    assert state(home, name) == {"n": 2}
    publisher.do("session.update(n=3)")
    publisher.do("session.flush()")
    assert state(home) == {"n": 3}
    assert home.json("fork", "s1", "--as", "variant", expect=2)["error"]["code"] == "session_id"
    assert home.json("fork", "nobody", expect=3)["error"]["code"] == "not_found"
    tree = home.command("sessions", "--tree")
    assert tree.index("s1") < tree.index("variant")


def test_pins_labels_and_notes_are_said_and_unsaid(worked: Home) -> None:
    pinned = worked.json("pin", "s1", "@5")["checkpoint"]
    assert (pinned["pinned"], pinned["reason"]) == (True, "step 1")
    labelled = worked.json("label", "s1", "@5", "the first roof")["checkpoint"]
    assert labelled == {**pinned, "label": "the first roof", "size_bytes": labelled["size_bytes"]}
    worked.command("note", "s1", "the first roof", "ask the client")
    found = document(worked, pinned["name"])["checkpoint"]
    assert (found["pinned"], found["label"], found["note"]) == (True, "the first roof", "ask the client")
    assert "the first roof" in worked.command("log", "s1")
    assert worked.json("log", "s1")["checkpoints"][0]["note"] == "ask the client"
    worked.command("label", "s1", "the first roof")
    worked.command("unpin", "s1", "@5")
    worked.command("note", "s1", "@5")
    found = document(worked, pinned["name"])["checkpoint"]
    assert (found["pinned"], found["label"], found["note"]) == (False, None, None)
    assert condition(worked) == "interrupted"
    assert worked.json("pin", "s1", "no such label", expect=3)["error"]["code"] == "not_found"
