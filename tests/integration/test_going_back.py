"""Rollback, the past at any entry, forks and pins, through the Python interface on real processes."""

from __future__ import annotations

import json
import signal

import pytest
from harness import Home, Publisher, Refused, eventually

STAGES = 30
ENTRIES = 300
FLAGS = ("--keep-per-session", "1000", "--transition-quiet-s", "0.01")
SESSION = f"""
def work():
    for number in range(1, {ENTRIES} + 1):
        fields = {{"n": number}}
        if number % {ENTRIES // STAGES} == 1:
            fields["current_stage"] = f"stage {{number // {ENTRIES // STAGES}}}"
        session.update(**fields)
        time.sleep(0.002)  # as the app works: a stage lasts longer than a transition has to be quiet
    session.flush()
"""


def state(home: Home, session_id: str, *where: str) -> dict:
    return home.json("show", session_id, *where)["state_info"]


def checkpoints(home: Home, session_id: str = "s1") -> list[dict]:
    return home.json("log", session_id)["checkpoints"]


def document(home: Home, name: str) -> dict:
    return json.loads((home.sessions / name).read_bytes())


def worked(home: Home) -> Publisher:
    publisher = home.publisher("s1")
    publisher.do(f"exec({SESSION!r}, globals())")
    publisher.do("work()")
    return publisher


def as_at(number: int) -> dict:
    return {"n": number, "current_stage": f"stage {(number - 1) // (ENTRIES // STAGES)}"}


def test_a_long_session_goes_back_to_a_checkpoint_a_sequence_and_a_time_and_each_is_undone(home: Home) -> None:
    home.daemon(*FLAGS)
    publisher = worked(home)
    publisher.do("marked = session.checkpoint('the end')")
    history = home.history("s1")
    then = next(entry["timestamp"] for entry in history if entry["sequence"] == 150)
    aim = eventually(lambda: [row for row in checkpoints(home) if row["kind"] == "transition"])[-1]
    ways = [
        (f"session.rollback({aim['name']!r})", document(home, aim["name"])["state_info"]),
        (f"session.rollback(sequence={aim['sequence'] - 3})", as_at(aim["sequence"] - 3)),
        (f"session.rollback(time=datetime.fromisoformat({then!r}))", None),
    ]
    publisher.do("from datetime import datetime")
    for code, expected in ways:
        before = publisher.do("dict(session)")
        told = publisher.do(code)
        now = publisher.do("dict(session)")
        if expected is None:  # of the entries of one microsecond the last
            expected = as_at(now["n"])
            assert now["n"] >= 150
            assert history[now["n"] - 1]["timestamp"] == then
        assert now == state(home, "s1") == expected
        assert told["kind"] == "rollback"
        rows = checkpoints(home)
        assert [row["kind"] for row in rows[-2:]] == ["before_rollback", "rollback"]
        assert document(home, rows[-2]["name"])["state_info"] == before
        assert document(home, rows[-1]["name"])["state_info"] == expected
        # Undo is one more rollback.
        publisher.do(f"session.rollback({rows[-2]['name']!r})")
        assert publisher.do("dict(session)") == state(home, "s1") == before
    entries = home.history("s1")
    assert [entry["op"] for entry in entries if entry["op"] == "rollback"] == ["rollback"] * 6
    assert entries[: len(history)] == history, "history is never rewritten"
    assert [entry["sequence"] for entry in entries] == list(range(1, len(entries) + 1))
    for number in (1, 7, 150, 299):
        assert (
            publisher.do(f"session.at(sequence={number})")
            == as_at(number)
            == state(home, "s1", "--sequence", str(number))
        )


def test_only_the_keys_named_go_back(home: Home) -> None:
    home.daemon(*FLAGS)
    publisher = home.publisher("s1")
    publisher.do("session.update(prompt='good', scene=[1], gone=True)")
    good = publisher.do("session.checkpoint('good')")
    publisher.do("session.update(prompt='bad', scene=[1, 2], answers=['yes'])")
    publisher.do("session.pop('gone')")
    publisher.do(f"session.rollback({good['name']!r}, keys=['prompt', 'gone'])")
    assert publisher.do("dict(session)") == state(home, "s1") == {
        "prompt": "good", "scene": [1, 2], "answers": ["yes"], "gone": True,
    }  # fmt: skip
    publisher.do(f"session.rollback({good['name']!r}, keys=['answers'])")
    assert "answers" not in state(home, "s1")
    with pytest.raises(Refused, match="NotFound"):
        publisher.do(f"session.rollback({good['name']!r}, keys=['nonsense'])")


@pytest.mark.leaves("document_damaged")
def test_without_a_target_it_goes_to_the_newest_intact_checkpoint_that_is_not_failed_and_differs(home: Home) -> None:
    home.daemon(*FLAGS, "--transition-keys", "attempt")
    publisher = home.publisher("s1")
    for fields in ("n=1", "n=2", "n=3, status='failed'", "n=4, status='failed'"):
        publisher.do(f"session.update({fields})")
        publisher.do("session.checkpoint()")
    damaged = checkpoints(home)[1]["name"]
    path = home.sessions / damaged
    path.write_bytes(path.read_bytes().replace(b'"n": 2', b'"n": 9'))
    publisher.do("session.rollback()")
    assert publisher.do("dict(session)") == {"n": 1}
    with pytest.raises(Refused, match="NotFound"):
        publisher.do("client.session('empty').rollback()")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("session.rollback('s1_checkpoint_20200101_000000_000000.json')", "NotFound"),
        ("session.rollback('../../etc/passwd')", "NotFound"),
        ("session.rollback(sequence=99)", "NotFound"),
        ("session.at(sequence=99)", "NotFound"),
        ("session.at(time=datetime(2020, 1, 1))", "NotFound"),
        ("session.fork(session_id='../x')", "SessionIdError"),
        ("session.fork(session_id='s1')", "SessionIdError"),
    ],
)
def test_a_point_that_there_is_not_is_refused_by_name_and_changes_nothing(home: Home, code: str, error: str) -> None:
    home.daemon(*FLAGS)
    publisher = home.publisher("s1")
    publisher.do("from datetime import datetime")
    publisher.do("session.update(n=1)")
    publisher.do("session.flush()")
    before = home.history("s1")
    with pytest.raises(Refused, match=error):
        publisher.do(code)
    assert home.history("s1") == before
    assert [row["session_id"] for row in home.json("sessions")["sessions"]] == ["s1"]


def test_without_a_daemon_a_checkpoint_can_be_gone_back_to_and_the_files_follow(home: Home) -> None:
    daemon = home.daemon(*FLAGS)
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    good = publisher.do("session.checkpoint('good')")
    publisher.do("session.update(n=2)")
    publisher.do("session.flush()")
    daemon.kill()
    publisher.sees("not client.connected")
    with pytest.raises(Refused, match="FlushTimeout"):
        publisher.do(f"session.rollback({good['name']!r})", timeout_s=30)
    assert publisher.do("dict(session)") == {"n": 1}
    with pytest.raises(Refused, match="DaemonUnavailable"):
        publisher.do("session.rollback(sequence=1)", timeout_s=30)
    publisher.kill()
    home.daemon(*FLAGS)
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    assert state(home, "s1") == {"n": 1}
    assert [row["kind"] for row in checkpoints(home)][-2:] == ["before_rollback", "rollback"]


def test_a_fork_is_a_session_of_its_own_with_the_state_it_was_made_of(home: Home) -> None:
    home.daemon(*FLAGS)
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    first = publisher.do("session.checkpoint('first')")
    publisher.do("session.update(n=2)")
    of_now, of_checkpoint = (
        publisher.do("session.fork()"),
        publisher.do(f"session.fork({first['name']!r}, session_id='variant')"),
    )
    of_sequence = publisher.do("session.fork(sequence=1)")
    assert of_checkpoint == "variant"
    for session_id, number in ((of_now, 2), ("variant", 1), (of_sequence, 1)):
        found = home.json("show", session_id)
        assert (found["state_info"], found["parent_session"]) == ({"n": number}, "s1")
        assert found["condition"] == "unfinished"
        assert home.history(session_id)[0]["op"] == "base"
        assert checkpoints(home, session_id)[0]["reason"].startswith("forked from s1, ")
    variant = publisher.do("client.session('variant')") and home.json("show", "variant")
    assert variant["condition"] == "live"
    publisher.do("session.update(n=3)")
    publisher.do("session.flush()")
    assert state(home, "variant") == {"n": 1}


def test_a_pin_a_label_and_a_note_are_in_the_file_and_its_body_stays(home: Home) -> None:
    daemon = home.daemon("--keep-per-session", "2", "--transition-keys", "attempt")
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    name = publisher.do("session.checkpoint('first')")["name"]
    before = document(home, name)
    told = publisher.do(f"session.amend({name!r}, pinned=True, label='before the roof', note='ask again')")
    assert (told["name"], told["pinned"], told["label"]) == (name, True, "before the roof")
    after = document(home, name)
    assert (after["checkpoint"]["pinned"], after["checkpoint"]["label"], after["checkpoint"]["note"]) == (
        True, "before the roof", "ask again",
    )  # fmt: skip
    assert after["state_info"] == before["state_info"]
    assert after["integrity"]["state_info"] == before["integrity"]["state_info"]
    for number in range(4):
        publisher.do(f"session.update(m={number})")
        publisher.do("session.checkpoint()")
    eventually(lambda: len(checkpoints(home)) == 3)
    assert home.history("s1")[2]["op"] == "pin"
    daemon.kill(signal.SIGKILL)
    home.daemon("--keep-per-session", "2", "--transition-keys", "attempt")
    assert checkpoints(home)[0]["label"] == "before the roof"
    publisher.sees("client.connected")
    publisher.do(f"session.amend({name!r}, pinned=False, label='')")
    eventually(lambda: len(checkpoints(home)) == 2)
    with pytest.raises(Refused, match="no checkpoint"):
        publisher.do(f"session.amend({name!r}, pinned=True)")


def test_pins_have_a_limit_that_is_told_of(home: Home) -> None:
    home.daemon("--keep-per-session", "60", "--transition-keys", "attempt")
    publisher = home.publisher("s1")
    for number in range(51):
        publisher.do(f"session.update(n={number})")
        told = publisher.do("session.checkpoint(pin=True)")
        assert told["pinned"] == (number < 50)
    with pytest.raises(Refused, match="50 pinned"):
        publisher.do(f"session.amend({told['name']!r}, pinned=True)")
