"""Lists of sessions: the same ones from the daemon, from the journal and the files, and from the files alone."""

from __future__ import annotations

import json
import shutil

import pytest
from harness import Home, Publisher, Refused, eventually

LEFT = {"closed": "unfinished", "completed": "ended", "failed": "ended", "killed": "interrupted", "lives": "live"}


def conditions(rows: object) -> dict[str, str]:
    assert isinstance(rows, list)
    return {row["session_id"]: row["condition"] for row in rows}


LEAVING = """
for session_id, status in (("closed", "in_progress"), ("completed", "completed"), ("failed", "failed")):
    with client.session(session_id) as session:
        session.transition("refinement", image_path="/pictures/roof.jpg", naive_prompt="moss", status=status)
"""


def publish(home: Home) -> Publisher:
    """Leave a session in each way there is, and return the process of one that lives."""
    leaving, killed, lives = home.publisher(), home.publisher("killed"), home.publisher("lives")
    leaving.do(f"exec({LEAVING!r})")
    for publisher in (killed, lives):
        publisher.do(
            "session.transition('refinement', image_path='/pictures/roof.jpg', naive_prompt='moss',"
            " validation={'score': 0.5})"
        )
    killed.kill()
    return lives


def asked(home: Home) -> list:
    """What a client is told that cannot start a daemon."""
    found = home.publisher().do("client.sessions()")
    assert isinstance(found, list)
    return found


def test_however_a_session_was_left_everybody_says_so(home: Home) -> None:
    daemon = home.daemon()
    publish(home)
    told = [conditions(asked(home)), conditions(home.json("sessions")["sessions"])]
    daemon.kill()
    told += [conditions(asked(home)), conditions(home.json("sessions")["sessions"])]
    assert told == [LEFT] * 4


@pytest.mark.leaves("document_damaged", "mode", "outbox_damaged")
def test_without_a_daemon_everybody_lists_what_only_outboxes_hold(home: Home) -> None:
    publish(home)
    client = home.publisher()
    rows = {row["session_id"]: row for row in client.do("client.sessions()")}
    assert conditions([*rows.values()]) == LEFT
    assert conditions(client.do("client.interrupted()")) == {"killed": "interrupted"}
    row = rows["killed"]
    assert (row["stage"], row["image"], row["prompt"], row["score"]) == ("refinement", "roof.jpg", "moss", 0.5)
    assert (row["sequence"], row["checkpoints"]) == (1, 0)
    assert row["updated"] >= row["started"]
    assert rows["closed"]["sequence"] == 2
    as_json = {row["session_id"]: row for row in home.json("sessions")["sessions"]}
    for session_id, one in as_json.items():
        assert {**one, "started": None, "updated": None} == {**rows[session_id], "started": None, "updated": None}
    (segment,) = (home.state / "outbox" / "killed").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[20] ^= 0xFF
    segment.write_bytes(data)
    (home.state / "outbox" / "empty").mkdir()
    home.sessions.mkdir()
    (home.sessions / "torn.json").write_bytes(b'{"session_id": "torn"')
    assert conditions(client.do("client.sessions()")) == {**LEFT, "torn": "unfinished"}  # no other row is lost by it


def test_files_alone_make_the_same_list_as_daemon_and_journal(home: Home) -> None:
    daemon = home.daemon()
    publish(home).kill()
    eventually(lambda: not any((home.state / "outbox").iterdir()))
    expected = dateless(home)
    assert conditions(expected) == {**LEFT, "lives": "interrupted"}
    daemon.kill()
    assert dateless(home) == expected
    shutil.rmtree(home.state)
    assert dateless(home) == expected
    assert conditions(asked(home)) == conditions(expected)


def dateless(home: Home) -> list:
    """The list without `updated`: after a death an auto-save may be written once more."""
    rows = sorted(home.json("sessions")["sessions"], key=lambda row: row["session_id"])
    return [{name: value for name, value in row.items() if name != "updated"} for row in rows]


@pytest.mark.leaves("document_damaged")
def test_a_list_is_made_of_heads_also_of_sessions_that_end_with_a_mark(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.transition('refinement', naive_prompt='moss')")
    publisher.do("session.checkpoint('mine')")
    publisher.do("session.flush('checkpointed')")
    publisher.do("session.close()")
    eventually(lambda: not any((home.state / "outbox").iterdir()))
    expected = home.json("sessions")["sessions"]
    daemon.kill()
    for path in home.sessions.glob("*.json"):  # whoever reads the state finds it damaged
        data = path.read_bytes()
        assert data.count(b'"naive_prompt": "moss"') == 1
        path.write_bytes(data.replace(b'"naive_prompt": "moss"', b'"naive_prompt": "rust"'))
    assert home.json("sessions")["sessions"] == expected
    assert [row["prompt"] for row in expected] == ["moss"]


# -- dismissing ------------------------------------------------------------------------------------------------------


def kept(home: Home) -> dict[str, object]:
    """The checkpoints, byte for byte, and the auto-save's state; its head may be written once more after a death."""
    saved = json.loads((home.sessions / "s1.json").read_bytes())
    del saved["_edi_checkpoint"]
    return {"saved": saved, **{path.name: path.read_bytes() for path in home.checkpoints("s1")}}


def killed(home: Home, code: str = "session.update(n=1, status='in_progress')") -> None:
    publisher = home.publisher("s1")
    publisher.do(code)
    publisher.kill()


def dismissed(home: Home, *options: str, expect: int = 0) -> dict:
    return home.json("dismiss", "s1", *options, expect=expect)


def offered(home: Home) -> list:
    return home.json("sessions", "--condition", "interrupted")["sessions"]


def test_a_dismissed_session_is_offered_no_more_and_has_no_other_trace(home: Home) -> None:
    daemon = home.daemon()
    killed(home, "session.update(n=1, status='failed')")
    eventually(lambda: home.checkpoints("s1") and (home.sessions / "s1.json").exists())
    before, state = kept(home), home.json("show", "s1")["state_info"]
    row = offered(home)[0]
    after = dismissed(home)["session"]
    assert after["condition"] == "ended"
    for changed in ("condition", "sequence", "updated"):
        del after[changed], row[changed]
    assert after == row
    assert offered(home) == []
    assert home.publisher().do("client.interrupted()") == []
    assert home.json("show", "s1")["state_info"] == state
    eventually(lambda: not any((home.state / "outbox").iterdir()))
    assert kept(home) == before
    daemon.kill()
    assert offered(home) == []
    home.daemon()
    assert offered(home) == []
    assert kept(home) == before


def test_a_session_is_dismissed_without_a_daemon_too_and_can_be_gone_on_with(home: Home) -> None:
    killed(home)
    assert [row["condition"] for row in offered(home)] == ["interrupted"]
    assert dismissed(home)["session"]["condition"] == "unfinished"
    assert offered(home) == home.publisher().do("client.interrupted()") == []
    home.daemon()
    eventually(lambda: not any((home.state / "outbox").iterdir()))
    assert offered(home) == []
    again = home.publisher("s1")  # it can be gone on with
    assert again.do("dict(session)") == {"n": 1, "status": "in_progress"}
    again.do("session.update(n=2)")
    again.kill()
    eventually(lambda: [row["session_id"] for row in offered(home)] == ["s1"])


def test_a_session_that_lives_is_dismissed_only_by_taking_it_over(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    error = dismissed(home, expect=5)["error"]
    assert (error["code"], str(publisher.pid) in error["message"]) == ("session_busy", True)
    assert publisher.do("session.update(n=2)") is None
    assert dismissed(home, "--takeover")["session"]["condition"] == "unfinished"
    with pytest.raises(Refused, match="Fenced"):
        publisher.sees("session.update(n=3)")


def test_dismissing_what_is_unknown_or_was_left_cleanly_attaches_nobody(home: Home) -> None:
    home.daemon()
    assert dismissed(home, expect=3)["error"]["code"] == "not_found"
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.close()")
    before = home.json("show", "s1")["sequence"]
    assert dismissed(home)["session"]["condition"] == "unfinished"
    assert home.json("show", "s1")["sequence"] == before
    assert [row["session_id"] for row in home.json("sessions")["sessions"]] == ["s1"]
