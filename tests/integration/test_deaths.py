from __future__ import annotations

import json
import signal

import pytest
from harness import Home, Refused, eventually

from edi_checkpoint.documents.reader import parse_checkpoint


def outboxes(home: Home) -> list[str]:
    return [path.name for path in (home.state / "outbox").iterdir()]


def row(home: Home, session_id: str) -> dict:
    (found,) = [one for one in home.json("sessions")["sessions"] if one["session_id"] == session_id]
    return found


def kinds(home: Home, session_id: str) -> list[str]:
    return [json.loads(path.read_bytes())["checkpoint"]["kind"] for path in home.checkpoints(session_id)]


def test_a_killed_publishers_session_is_interrupted_with_its_last_entry_in_a_checkpoint(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.transition('refinement', image_path='/pictures/roof.jpg', naive_prompt='moss')")
    assert row(home, "s1")["condition"] == "live"
    publisher.do("session.update(answer='the left one')")
    publisher.kill()
    eventually(lambda: kinds(home, "s1")[-1:] == ["interrupted"])
    eventually(lambda: not outboxes(home))
    found = row(home, "s1")
    assert (found["condition"], found["stage"], found["image"]) == ("interrupted", "refinement", "roof.jpg")
    newest = json.loads(home.checkpoints("s1")[-1].read_bytes())
    assert newest["state_info"]["answer"] == "the left one"
    assert [one["session_id"] for one in home.publisher().do("client.interrupted()")] == ["s1"]


def test_what_a_killed_publisher_had_published_is_the_state_that_the_next_one_finds(home: Home) -> None:
    home.daemon()
    first = home.publisher("s1")
    first.send("publish(100_000)")
    first.wait_line("acked ")
    first.kill()
    second = home.publisher("s1")
    assert second.do("session['n']") >= first.acknowledged
    entries = home.journaled("s1")["s1"]
    assert [entry["values"]["n"] for entry in entries] == list(range(1, len(entries) + 1))
    assert second.do("session['n']") == len(entries)


@pytest.mark.parametrize(("status", "condition"), [(None, "unfinished"), ("completed", "ended"), ("failed", "ended")])
def test_a_session_left_cleanly_is_no_interrupted_one_and_leaves_no_outbox(
    home: Home, status: str | None, condition: str
) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    if status:
        publisher.do(f"session.update(status={status!r})")
    publisher.do("session.close()")
    eventually(lambda: not outboxes(home))
    assert row(home, "s1")["condition"] == condition
    assert "interrupted" not in kinds(home, "s1")
    assert json.loads(home.checkpoints("s1")[-1].read_bytes())["state_info"]["n"] == 1


def test_a_client_that_closes_leaves_no_outbox_though_its_process_lives_on(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("client.close()")
    eventually(lambda: not outboxes(home))
    assert row(home, "s1")["condition"] == "unfinished"


def test_a_suspended_publisher_is_not_taken_for_a_dead_one(home: Home) -> None:
    home.daemon()
    publisher, other = home.publisher("s1"), home.publisher()
    publisher.do("session.update(n=1)")
    publisher.do("session.flush()")
    publisher.kill(signal.SIGSTOP)
    with pytest.raises(Refused, match="SessionBusy"):
        other.do("client.session('s1')")
    assert row(home, "s1")["condition"] == "live"
    publisher.kill(signal.SIGCONT)
    publisher.do("session.update(n=2)")
    publisher.do("session.checkpoint()")
    assert "interrupted" not in kinds(home, "s1")


def test_all_sessions_of_a_killed_process_are_interrupted(home: Home) -> None:
    home.daemon()
    publisher = home.publisher()
    publisher.do("several = [client.session(f's{number}') for number in range(20)]")
    publisher.do("[session.update(n=number) for number, session in enumerate(several)]")
    publisher.do("several[0].close()")
    publisher.kill()
    eventually(lambda: not outboxes(home))
    conditions = {one["session_id"]: one["condition"] for one in home.json("sessions")["sessions"]}
    assert conditions == {"s0": "unfinished", **{f"s{number}": "interrupted" for number in range(1, 20)}}
    assert all(kinds(home, f"s{number}") == ["interrupted"] for number in range(1, 20))


def test_leaving_by_the_end_of_the_program_is_clean_and_by_an_exception_is_not(home: Home) -> None:
    home.daemon()
    begin = "from edi_checkpoint import connect; session = connect().session({!r}); session['n'] = 1; "
    assert home.python(begin.format("ends")).wait() == 0
    assert home.python(begin.format("raises") + "raise RuntimeError('no GPU')").wait() == 1
    eventually(lambda: not outboxes(home))
    assert (row(home, "ends")["condition"], row(home, "raises")["condition"]) == ("unfinished", "interrupted")


def test_a_session_that_is_gone_on_with_is_no_longer_interrupted(home: Home) -> None:
    home.daemon()
    first = home.publisher("s1")
    first.do("session.update(n=1)")
    first.kill()
    eventually(lambda: not outboxes(home))
    second = home.publisher("s1")
    assert second.do("dict(session)") == {"n": 1}
    assert row(home, "s1")["condition"] == "live"
    second.do("session.update(n=2)")
    second.do("session.close()")
    eventually(lambda: not outboxes(home))
    assert row(home, "s1")["condition"] == "unfinished"


def test_two_clients_that_die_one_after_the_other_without_a_daemon_are_taken_in_in_order(home: Home) -> None:
    for number in range(3):
        publisher = home.publisher("s1")
        assert publisher.do("session.get('n', 0)") == number * 10
        publisher.do(f"[session.update(n={number} * 10 + part) for part in range(1, 11)]")
        publisher.kill()
    home.daemon()
    eventually(lambda: not outboxes(home))
    assert [entry["values"]["n"] for entry in home.journaled("s1")["s1"]] == list(range(1, 31))
    assert row(home, "s1")["condition"] == "interrupted"


def test_a_daemon_that_was_stopped_outlives_the_death_of_those_it_owes_answers(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.flush()")
    daemon.kill(signal.SIGSTOP)
    publisher.do("publish(100)")
    with pytest.raises(Refused, match="FlushTimeout"):  # by then it has asked, and the question waits in the socket
        publisher.do("session.flush(timeout_s=1)")
    publisher.kill()
    daemon.kill(signal.SIGCONT)
    eventually(lambda: not outboxes(home))
    assert daemon.popen.poll() is None
    assert row(home, "s1")["condition"] == "interrupted"
    assert len(home.journaled("s1")["s1"]) == 101


def test_a_killed_publisher_is_noticed_by_a_daemon_that_was_started_after_its_death(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.flush()")
    daemon.kill()
    publisher.do("session.update(n=2)")
    publisher.kill()
    home.daemon()
    eventually(lambda: not outboxes(home))
    assert row(home, "s1")["condition"] == "interrupted"
    assert json.loads(home.checkpoints("s1")[-1].read_bytes())["state_info"] == {"n": 2}


def test_who_opens_a_session_while_its_large_outbox_is_taken_in_gets_all_of_it(home: Home) -> None:
    first = home.publisher("s1")
    first.do("publish(4000, padding=10_000)")
    first.kill()
    home.daemon("--transition-keys", "attempt")
    second = home.publisher("s1")
    assert second.do("session['n']") == 4000
    second.do("session.update(n=4001)")
    second.do("session.flush()")
    assert [entry["values"]["n"] for entry in home.journaled("s1")["s1"]] == list(range(1, 4002))


def test_values_far_larger_than_a_frame_survive_publisher_and_daemon(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(mask=[0, 1] * 1_000_000)")
    publisher.do("session.update(text='ä' * 4_000_000)")
    publisher.do("session.flush(timeout_s=20)")
    publisher.do("session.update(n=1)")
    daemon.kill()
    publisher.kill()
    home.daemon()
    again = home.publisher("s1")
    assert again.do("(session['mask'] == [0, 1] * 1_000_000, session['text'] == 'ä' * 4_000_000, session['n'])") == [
        True,
        True,
        1,
    ]
    with pytest.raises(Refused, match="StateValueError"):
        again.do("session.update(more='x' * 60_000_000)")
    again.do("session.update(n=2)")
    told = again.do("session.checkpoint('large', timeout_s=20)")
    assert parse_checkpoint((home.sessions / told["name"]).read_bytes(), told["name"]).values["n"] == b"2"


def test_outboxes_of_several_dead_publishers_are_cleared_though_daemons_die_over_them(home: Home) -> None:
    for point, hits in (("OUTBOX_DRAINED", 2), ("TEMPORARY_WRITTEN", 2), ("SAVED_NOTED", 1), ("STREAM_CLOSED", 1)):
        for _ in range(2):
            publisher = home.publisher("s1")
            publisher.do("publish(100, padding=1000)")
            publisher.kill()
        assert home.start_dying(point, hits).wait() == -signal.SIGKILL
    home.daemon()
    eventually(lambda: not outboxes(home))
    assert [entry["values"]["n"] for entry in home.journaled("s1")["s1"]] == [*range(1, 101)] * 8


def test_a_death_has_one_auto_save_written(home: Home) -> None:
    daemon = home.start_dying("AUTOSAVE_WRITTEN", 1000)
    daemon.wait_line("ready ")
    publisher = home.publisher("s1")
    publisher.do("publish(200, attempt=1)")
    publisher.kill()
    eventually(lambda: not outboxes(home) and daemon.has_said("reached "))
    assert row(home, "s1")["condition"] == "interrupted"  # answered after what was told of the auto-save
    daemon.kill(signal.SIGTERM)
    assert [line for line in daemon.stderr if line.startswith("reached ")] == ["reached AUTOSAVE_WRITTEN"]


def test_an_outbox_is_unlinked_though_frames_of_others_always_wait(home: Home) -> None:
    home.daemon("--transition-keys", "attempt")
    flooding = [home.publisher(f"flood-{number}") for number in range(3)]
    for publisher in flooding:
        publisher.send("publish(10**7)")
    publisher = home.publisher("s1")
    publisher.do("publish(20)")
    publisher.kill()
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    for publisher in flooding:
        publisher.kill()
