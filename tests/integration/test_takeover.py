"""A session taken over from a writer that lives: hung, connected, or out of the daemon's reach."""

from __future__ import annotations

import json
import signal

import pytest
from harness import Home, Publisher, Refused, eventually

QUIET = ("--transition-keys", "attempt")
FENCED = """
def fenced(call):
    try:
        return call()
    except edi_checkpoint.Fenced as error:
        return {"branch": error.branch, "number": error.number}
"""


def publisher(home: Home, session_id: str = "", **environment: str) -> Publisher:
    made = home.publisher(session_id, **environment)
    made.do(f"exec({FENCED!r}, globals())")
    return made


def take_over(home: Home) -> Publisher:
    taker = publisher(home)
    taker.do("session = client.session('s1', takeover=True)")
    return taker


def state(home: Home, session_id: str) -> dict:
    return home.json("show", session_id)["state_info"]


def row(home: Home, session_id: str) -> dict:
    (found,) = [one for one in home.json("sessions")["sessions"] if one["session_id"] == session_id]
    return found


def kinds(home: Home, session_id: str) -> list[str]:
    return [one["kind"] for one in home.json("log", session_id)["checkpoints"]]


def told(process: Publisher) -> dict:
    return process.sees("fenced(session._published.check)")


@pytest.mark.parametrize("daemon", [True, False], ids=["with a daemon", "without one"])
def test_a_living_writer_is_busy_until_it_is_taken_over_and_then_its_next_call_is_fenced(
    home: Home, daemon: bool
) -> None:
    if daemon:
        home.daemon(*QUIET)
    first, second = publisher(home, "s1"), publisher(home)
    first.do("session.update(n=1, mine='kept')")
    with pytest.raises(Refused) as busy:
        second.do("client.session('s1')")
    assert (busy.value.type, busy.value.pid) == ("SessionBusy", first.pid)
    second.do("session = client.session('s1', takeover=True)")
    assert second.do("dict(session)") == {"n": 1, "mine": "kept"}
    assert told(first) == {"branch": None, "number": 1}
    with pytest.raises(Refused, match="Fenced"):
        first.do("session.update(n=99)")
    second.do("session.update(n=2)")
    second.do("session.close()")
    if not daemon:
        home.daemon(*QUIET)
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    assert state(home, "s1") == {"n": 2, "mine": "kept"}
    assert [one["session_id"] for one in home.json("sessions")["sessions"]] == ["s1"]


def test_what_a_hung_writer_publishes_after_it_was_taken_over_is_found_in_its_branch(home: Home) -> None:
    home.daemon(*QUIET)
    first = publisher(home, "s1")
    first.do("session.update(n=1, mine='before')")
    first.do("session.flush()")
    first.popen.send_signal(signal.SIGSTOP)
    second = take_over(home)
    second.do("session.update(n=2)")
    second.do("session.flush()")
    # Its link learns of the fence only when it runs again; what it publishes until then has been returned to its user.
    first.send("[session.update(n=100 + number, mine='after') for number in range(3)] and None")
    first.popen.send_signal(signal.SIGCONT)
    published = 3
    try:
        first.answer()
    except Refused as refused:
        assert refused.type == "Fenced"
        published = first.do("session.durable")["published"] - 1
    fenced = told(first)
    branch = fenced["branch"]
    if published == 0:
        assert branch is None
        return
    eventually(lambda: "stranded" in kinds(home, branch))
    assert state(home, "s1") == {"n": 2, "mine": "before"}
    assert state(home, branch) == {"n": 100 + published - 1, "mine": "after"}
    found = row(home, branch)
    assert (found["parent_session"], found["condition"]) == ("s1", "interrupted")
    assert row(home, "s1")["condition"] == "live"
    # Its user goes on with the branch, in the same process.
    first.do(f"branch = client.session({branch!r})")
    first.do("branch.update(n=200)")
    first.do("branch.checkpoint()")
    assert state(home, branch)["n"] == 200
    second.do("session.update(n=3)")
    second.do("session.checkpoint()")
    assert state(home, "s1") == {"n": 3, "mine": "before"}


def strand(first: Publisher, count: int) -> None:
    """Have a writer publish on although it is fenced: its link, which would hear of it, is kept from running."""
    first.go_deaf()
    first.do(f"[session.update(n=100 + number) for number in range({count})] and None")


@pytest.mark.parametrize("killed", ["writer", "writer and daemon", "daemon first"])
def test_a_hung_writer_that_is_killed_has_lost_nothing_on_either_side(home: Home, killed: str) -> None:
    daemon = home.daemon(*QUIET)
    first = publisher(home, "s1")
    first.do("session.update(n=1)")
    first.do("session.flush()")
    strand(first, 0)
    second = take_over(home)
    second.do("session.update(m=2)")
    second.do("session.flush()")
    strand(first, 50)
    if killed == "daemon first":
        daemon.kill()
        first.kill()
        home.daemon(*QUIET)
    elif killed == "writer and daemon":
        first.kill()
        daemon.kill()
        home.daemon(*QUIET)
    else:
        first.kill()
    sessions = eventually(lambda: [one for one in home.json("sessions")["sessions"] if one["parent_session"] == "s1"])
    branch = sessions[0]["session_id"]
    eventually(lambda: "stranded" in kinds(home, branch))
    assert state(home, branch) == {"n": 149}
    assert state(home, "s1") == {"n": 1, "m": 2}
    assert [entry["values"]["n"] for entry in home.journaled(branch)[branch]] == list(range(100, 150))
    second.do("session.update(m=3)")
    second.do("session.close()")
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    assert state(home, "s1") == {"n": 1, "m": 3}
    document = json.loads(home.checkpoints(branch)[-1].read_bytes())
    assert (document["parent_session"], document["checkpoint"]["kind"]) == ("s1", "stranded")


def test_a_writer_out_of_the_daemons_reach_is_taken_over_and_told_when_it_is_back(home: Home) -> None:
    first = publisher(home, "s1")
    first.do("session.update(n=1)")
    second = take_over(home)
    assert second.do("dict(session)") == {"n": 1}
    second.do("session.update(m=2)")
    assert told(first)["branch"] is None
    third = take_over(home)
    third.do("session.update(o=3)")
    assert told(second)["branch"] is None
    home.daemon(*QUIET)
    third.do("session.flush(timeout_s=10)")
    assert state(home, "s1") == {"n": 1, "m": 2, "o": 3}
    for process in (first, second, third):
        process.do("client.close()")
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    assert state(home, "s1") == {"n": 1, "m": 2, "o": 3}


def test_entries_published_out_of_reach_after_a_take_over_go_into_the_branch(home: Home) -> None:
    first = publisher(home, "s1")
    first.do("session.update(n=1)")
    strand(first, 0)
    second = take_over(home)
    second.do("session.update(m=2)")
    strand(first, 20)
    first.kill()
    second.kill()
    home.daemon(*QUIET)
    (branch,) = eventually(lambda: [s for s in home.json("sessions")["sessions"] if s["parent_session"] == "s1"])
    eventually(lambda: "stranded" in kinds(home, branch["session_id"]))
    assert state(home, "s1") == {"n": 1, "m": 2}
    assert state(home, branch["session_id"]) == {"n": 119}
    eventually(lambda: not list((home.state / "outbox").iterdir()))


def test_a_branch_whose_drain_was_cut_short_by_the_daemons_end_is_of_kind_stranded(home: Home) -> None:
    first = publisher(home, "s1")
    first.do("session.update(n=1)")
    strand(first, 0)
    take_over(home).kill()
    first.do("publish(300, padding=100_000)")
    first.kill()
    home.daemon(*QUIET).kill(signal.SIGTERM)  # it has just begun to drain them
    home.daemon(*QUIET)
    eventually(lambda: not list((home.state / "outbox").iterdir()))
    (branch,) = [one for one in home.json("sessions")["sessions"] if one["parent_session"] == "s1"]
    assert kinds(home, branch["session_id"]) == ["stranded"]


def test_a_take_over_that_is_refused_leaves_the_writer_alone(home: Home) -> None:
    home.daemon(*QUIET)
    first, second = publisher(home, "s1"), publisher(home)
    first.do("session.update(n=1)")
    with pytest.raises(Refused, match="SessionIdError"):
        second.do("client.session('../s1', takeover=True)")
    first.do("session.update(n=2)")
    first.do("session.flush()")
    assert state(home, "s1") == {"n": 2}
