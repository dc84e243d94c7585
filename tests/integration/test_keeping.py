"""What is deleted and why: clean-ups by age, number and bytes, the trash, and what explains them."""

from __future__ import annotations

import contextlib
import json
import shutil

import pytest
from harness import Home, eventually

QUIET = ("--transition-keys", "attempt")
AT_ONCE = (*QUIET, "--keep-closed-days", "0", "--trash-days", "1")  # whatever was left may go


def leave(home: Home, session_id: str, *, checkpoints: int = 2) -> None:
    """A session that is begun, worked on and left."""
    publisher = home.publisher(session_id)
    for number in range(1, checkpoints + 1):
        publisher.do(f"session.update(n={number}, prompt='{session_id}')")
        publisher.do(f"session.checkpoint('step {number}')")
    publisher.do("session.close()")
    publisher.close()
    at_rest(home, session_id)


def at_rest(home: Home, session_id: str) -> None:
    eventually(lambda: not (home.state / "outbox" / session_id).exists())


def files(home: Home, session_id: str) -> dict[str, bytes]:
    found = {}
    for path in home.sessions.iterdir():
        if path.is_file() and path.name.startswith(session_id):
            with contextlib.suppress(FileNotFoundError):  # the daemon may delete it just now
                found[path.name] = path.read_bytes()
    return found


def ids(home: Home, *arguments: str) -> set[str]:
    return {row["session_id"] for row in home.json("sessions", *arguments)["sessions"]}


def test_prune_shows_what_goes_and_apply_does_just_that(home: Home) -> None:
    home.daemon(*AT_ONCE)
    for session_id in ("s1", "s2"):
        leave(home, session_id)
    pinned = home.json("log", "s2")["checkpoints"][0]["name"]
    home.command("pin", "s2", pinned)
    at_rest(home, "s2")
    shown = eventually(lambda: (plan := home.json("prune"))["sessions"]["trash"] and plan)
    assert shown["applied"] is False
    assert [one["session_id"] for one in shown["sessions"]["trash"]] == ["s1"]
    assert shown["sessions"]["keep"] == [{"session_id": "s2", "reasons": ["pinned"]}]
    assert ids(home) == {"s1", "s2"}
    before = files(home, "s1")
    done = home.json("prune", "--apply")
    assert done["applied"] is True
    assert done["sessions"]["trash"] == shown["sessions"]["trash"]
    assert ids(home) == {"s2"}
    assert ids(home, "--condition", "trashed") == {"s1"}
    assert files(home, "s1") == {}
    trash = {path.name: path.read_bytes() for path in (home.sessions / "trash" / "s1").iterdir()}
    assert json.loads(trash.pop(".trashed"))["rule"] == "keep_closed_days"
    assert trash == before
    assert home.json("prune", "--apply")["sessions"]["trash"] == []


def test_a_session_comes_back_from_the_trash_whole_and_is_not_cleaned_up_again_at_once(home: Home) -> None:
    daemon = home.daemon(*AT_ONCE)
    leave(home, "s1")
    state, log, before = home.json("show", "s1")["state_info"], home.json("log", "s1"), files(home, "s1")
    archive = home.folder / "s1.zip"
    home.json("export", "s1", str(archive))
    home.json("prune", "--apply")
    assert home.json("show", "s1", expect=3)["error"]["hint"].endswith("`edi-checkpoint restore s1` brings it back")
    daemon.kill()
    assert ids(home) == set()
    home.daemon(*QUIET, "--keep-closed-days", "0.5")  # it stays in the trash over a restart
    assert ids(home) == set()
    assert home.json("import", str(archive), expect=1)["error"]["code"] == "session_exists"
    assert home.json("restore", "s1")["session"]["session_id"] == "s1"
    assert files(home, "s1") == before
    assert (home.json("show", "s1")["state_info"], home.json("log", "s1")) == (state, log)
    assert not (home.sessions / "trash" / "s1").exists()
    assert home.json("restore", "s1", expect=3)["error"]["message"] == "session s1 is not in the trash"
    at_rest(home, "s1")
    assert home.json("prune", "--apply")["sessions"]["trash"] == []
    assert [entry["sequence"] for entry in home.history("s1")] == [1, 2, 3, 4, 5]


def test_a_session_in_the_trash_is_brought_back_by_whoever_opens_it(home: Home) -> None:
    home.daemon(*AT_ONCE)
    leave(home, "s1")
    home.json("prune", "--apply")
    publisher = home.publisher("s1")
    assert publisher.do("dict(session)") == {"n": 2, "prompt": "s1"}
    assert publisher.do("len(session.checkpoints())") == 2
    publisher.do("session.update(n=3)")
    publisher.do("session.checkpoint('third')")
    assert [row["reason"] for row in home.json("log", "s1")["checkpoints"]] == ["step 1", "step 2", "third"]


def test_without_a_daemon_a_session_in_the_trash_is_read_there_and_comes_back_with_the_next_one(home: Home) -> None:
    daemon = home.daemon(*AT_ONCE)
    leave(home, "s1")
    home.json("prune", "--apply")
    daemon.kill()
    publisher = home.publisher("s1")
    assert publisher.do("dict(session)") == {"n": 2, "prompt": "s1"}
    publisher.do("session.update(n=3)")
    publisher.kill()
    home.daemon(*QUIET)
    eventually(lambda: home.json("show", "s1")["condition"] == "interrupted")
    assert home.json("show", "s1")["state_info"] == {"n": 3, "prompt": "s1"}


def test_restore_refuses_to_come_back_over_a_session_that_exists_again(home: Home) -> None:
    home.daemon(*AT_ONCE)
    leave(home, "s1")
    home.json("prune", "--apply")
    shutil.copy(home.sessions / "trash" / "s1" / "s1.json", home.sessions / "s1.json")
    home.processes[0].kill()
    home.daemon(*AT_ONCE)
    assert home.json("restore", "s1", expect=1)["error"]["code"] == "session_exists"
    assert (home.sessions / "trash" / "s1" / ".trashed").exists()


def test_a_fork_never_takes_the_id_of_a_session_in_the_trash(home: Home) -> None:
    home.daemon(*AT_ONCE)
    leave(home, "s1")
    home.json("prune", "--apply")
    leave(home, "s2")
    assert home.json("fork", "s2", "--as", "s1", expect=2)["error"]["code"] == "session_id"


def test_the_trash_is_emptied_for_good_by_its_own_rule_and_the_log_says_so(home: Home) -> None:
    daemon = home.daemon(*AT_ONCE)
    for session_id in ("s1", "s2"):
        leave(home, session_id)
    home.json("prune", "--apply")
    daemon.kill()
    daemon = home.daemon(*QUIET, "--trash-days", "0")
    emptied = home.json("prune", "--apply")["trash"]
    assert {(one["session_id"], one["rule"]) for one in emptied} == {("s1", "trash_days"), ("s2", "trash_days")}
    assert list((home.sessions / "trash").iterdir()) == []
    assert home.journaled("s1", "s2") == {"s1": [], "s2": []}
    assert ids(home) == set()
    assert any("session deleted from the trash session=s1 rule=trash_days" in line for line in daemon.stderr)


def test_whoever_comes_to_a_session_that_is_being_deleted_begins_it_anew(home: Home) -> None:
    daemon = home.daemon(*AT_ONCE)
    leave(home, "s1")
    home.json("prune", "--apply")
    daemon.kill()
    home.start_dying("ROWS_FORGOTTEN", 1, *QUIET, "--trash-days", "0", "--checkpoint-every-s", "0.1").wait()
    assert (home.sessions / "trash" / "s1" / ".condemned").exists()
    publisher = home.publisher("s1")
    assert publisher.do("dict(session)") == {}
    publisher.do("session.update(m=1)")
    publisher.kill()
    daemon = home.daemon(*QUIET)  # what the publisher left is taken in before a slice of the deletion is done
    at_rest(home, "s1")
    other = home.publisher("other")
    other.do("session.update(o=1)")
    other.do("session.flush()")
    eventually(lambda: not (home.sessions / "trash" / "s1").exists())
    daemon.kill()
    home.daemon(*QUIET)
    assert home.json("show", "s1")["state_info"] == {"m": 1}
    assert home.json("show", "other")["state_info"] == {"o": 1}
    assert [entry["sequence"] for entry in home.history("s1")] == [1]
    assert [entry["keys"] for entry in home.history("other")] == [["o"]]


def test_the_first_clean_up_ever_is_announced_one_grace_earlier(home: Home) -> None:
    daemon = home.daemon(*AT_ONCE, "--checkpoint-every-s", "0.2")
    leave(home, "s1")

    def announced() -> list[dict]:
        return [one for one in home.json("status")["degraded"] if one["code"] == "cleanup_announced"]

    (trouble,) = eventually(announced)
    assert "1 of them" in trouble["message"]
    assert "keep_closed_days" in trouble["hint"]
    assert ids(home) == {"s1"}
    daemon.kill()
    daemon = home.daemon(*QUIET, "--keep-closed-days", "0", "--trash-days", "0.00001", "--checkpoint-every-s", "0.2")
    eventually(lambda: home.json("sessions")["sessions"] == [])  # the grace, now shorter, is over
    daemon.wait_line(lambda line: "session moved into the trash session=s1 rule=keep_closed_days" in line)
    daemon.wait_line(lambda line: "session deleted from the trash session=s1 rule=trash_days" in line)
    assert announced() == []


def test_nothing_is_cleaned_up_that_somebody_writes_or_that_was_interrupted(home: Home) -> None:
    home.daemon(*AT_ONCE, "--keep-sessions", "1")
    live, killed = home.publisher("live"), home.publisher("killed")
    for publisher in (live, killed):
        publisher.do("session.update(n=1)")
        publisher.do("session.checkpoint()")
    killed.kill()
    eventually(lambda: home.json("show", "killed")["condition"] == "interrupted")
    assert home.json("prune", "--apply")["sessions"]["trash"] == []
    assert ids(home) == {"live", "killed"}
    live.do("session.update(n=2)")
    live.do("session.checkpoint()")


def test_files_of_edi_itself_and_of_others_are_never_cleaned_up(home: Home) -> None:
    home.sessions.mkdir(parents=True)
    old = {"session_id": "old", "timestamp": "2020-01-01T00:00:00", "reason": "x", "stage": "s", "state_info": {"a": 1}}
    (home.sessions / "old_checkpoint_20200101_000000.json").write_text(json.dumps(old))
    (home.sessions / "theirs.json").write_text(json.dumps({"session_id": "theirs", "current_stage": "upload"}))
    home.daemon(*AT_ONCE)
    plan = home.json("prune", "--apply")
    assert (plan["drop"], plan["sessions"]["trash"]) == ([], [])
    assert {one["session_id"]: one["reasons"] for one in plan["sessions"]["keep"]} == {
        "old": ["not_ours"],
        "theirs": ["not_ours"],
    }


def test_beyond_the_bytes_the_trash_is_emptied_and_checkpoints_go_but_never_the_newest(home: Home) -> None:
    home.daemon(*QUIET, "--sessions-max-bytes", "65536", "--checkpoint-every-s", "0.2")
    publisher = home.publisher("s1")
    for number in range(6):
        publisher.do(f"session.update(n={number}, padding='x' * 20_000)")
        publisher.do("session.checkpoint()")
    names = [path.name for path in home.checkpoints("s1")]
    eventually(lambda: sum(map(len, files(home, "s1").values())) <= 65536)
    left = [path.name for path in home.checkpoints("s1")]
    assert left == names[-len(left) :]
    assert 1 <= len(left) <= 3
    deleted = {f"checkpoint deleted name={name} rule=sessions_max_bytes" for name in names[: -len(left)]}
    eventually(lambda: all(any(line.endswith(one) for line in home.processes[0].stderr) for one in deleted))


@pytest.mark.parametrize("running", [True, False], ids=["with a daemon", "without"])
def test_why_says_what_made_a_checkpoint_what_keeps_it_and_what_deletes_it(home: Home, running: bool) -> None:
    daemon = home.daemon("--keep-per-session", "3", "--transition-quiet-s", "0.05")
    publisher = home.publisher("s1")
    publisher.do("session.transition('analysis', reason='the user wants it')")
    eventually(lambda: len(home.checkpoints("s1")) == 1)
    publisher.do("session.update(n=1)")
    publisher.do("session.checkpoint('by hand', pin=True)")
    if not running:
        publisher.do("session.close()")
        at_rest(home, "s1")
        daemon.kill()
    first, second = home.json("why", "s1", "@2"), home.json("why", "s1", "@1")
    assert first["made_by"] == {"kind": "transition", "rule": "current_stage", "reason": "the user wants it"}
    assert first["kept_by"] == ["keep_per_session"]
    assert second["kept_by"][:2] == ["newest_valid", "pinned"]
    assert second["deleted_when"] is None
    if running:
        assert first["deleted_when"] == {"rule": "keep_per_session", "after_checkpoints": 3}
    text = home.command("why", "s1", "@2")
    assert "current_stage" in text
    assert "keep_per_session" in text
    assert home.json("why", "s1", "no such", expect=3)["error"]["code"] == "not_found"


def test_why_of_a_session_that_was_left_says_when_it_goes(home: Home) -> None:
    home.daemon(*QUIET)
    leave(home, "s1")
    assert home.json("why", "s1", "@1")["deleted_when"]["rule"] == "keep_closed_days"
    assert "into the trash on" in home.command("why", "s1", "@1")


def test_du_says_how_much_each_session_takes_and_all_by_kind(home: Home) -> None:
    home.daemon(*AT_ONCE)
    leave(home, "s1")
    home.command("prune", "--apply")
    publisher = home.publisher("s2")
    publisher.do("session.update(raw=bytes(50_000), padding='x' * 30_000)")
    publisher.do("session.checkpoint()")
    found = home.json("du")
    rows = {row["session_id"]: row for row in found["sessions"]}
    assert [row["session_id"] for row in found["sessions"]] == ["s2", "s1"]
    assert rows["s1"]["trashed"] and not rows["s2"]["trashed"]
    assert rows["s2"]["documents_bytes"] == sum(path.stat().st_size for path in home.sessions.glob("s2*.json"))
    assert rows["s2"]["attachments_bytes"] == 50_000
    assert rows["s2"]["journal_bytes"] > 30_000
    assert rows["s2"]["outbox_bytes"] >= 0
    assert rows["s1"]["attachments_bytes"] == 0
    sizes = found["sizes"]
    assert sizes["documents"]["bytes"] == rows["s2"]["documents_bytes"]
    assert sizes["trash"]["bytes"] == rows["s1"]["documents_bytes"]
    assert sizes["attachments"]["bytes"] == 50_000
    assert {kind for kind, one in sizes.items() if one["cap_bytes"] is None} == set()
    text = home.command("du")
    assert "s1 (trash)" in text
    assert "2.0 GiB" in text
