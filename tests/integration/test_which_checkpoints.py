from __future__ import annotations

import json
from pathlib import Path

from harness import Home, Publisher, eventually

KEEP = 10


def header(path: Path) -> dict:
    document = json.loads(path.read_bytes())
    return {**document["checkpoint"], **{key: document[key] for key in ("stage", "reason", "state_info")}}


def next_checkpoint(home: Home, session_id: str, before: list[Path]) -> list[Path]:
    """Return the session's checkpoints once there is one newer than those of `before`."""
    newest = before[-1].name if before else ""
    return eventually(lambda: (found := home.checkpoints(session_id)) and found[-1].name > newest and found)


def within_limit(home: Home, session_id: str) -> list[Path]:
    return eventually(lambda: len(found := home.checkpoints(session_id)) <= KEEP and found)


def change_stages(home: Home, publisher: Publisher, stages: list[str]) -> None:
    """Publish each stage when the checkpoint of the one before is there."""
    found = home.checkpoints("s1")
    for stage in stages:
        publisher.do(f"session.transition({stage!r})")
        found = next_checkpoint(home, "s1", found)


def test_a_hundred_stages_leave_the_ten_newest_checkpoints(home: Home) -> None:
    home.daemon("--transition-quiet-s", "0")
    publisher = home.publisher("s1")
    stages = [f"stage {number}" for number in range(100)]
    change_stages(home, publisher, stages)
    left = [header(path) for path in within_limit(home, "s1")]
    assert [one["stage"] for one in left] == stages[-KEEP:]
    assert {(one["kind"], one["reason"]) for one in left} == {("transition", "current_stage changed")}


def test_a_half_made_change_of_stage_is_not_photographed(home: Home) -> None:
    home.daemon("--transition-quiet-s", "0.2")
    publisher = home.publisher("s1")
    publisher.do("session.update(current_stage='analysis')")
    publisher.do("session.update(scene={'entities': []})")
    (path,) = next_checkpoint(home, "s1", [])
    assert header(path)["state_info"] == {"current_stage": "analysis", "scene": {"entities": []}}


def test_a_counter_that_counts_as_a_transition_writes_at_most_four_checkpoints_a_second(home: Home) -> None:
    home.daemon("--keep-per-session", "1000")
    publisher = home.publisher("s1")
    count_for_three_s = (
        "until_s = time.monotonic() + 3\n"
        "while time.monotonic() < until_s:\n"
        "    session['attempt'] = session.get('attempt', 0) + 1\n"
        "    time.sleep(0.002)\n"
    )
    publisher.do(f"exec({count_for_three_s!r})")
    last = publisher.do("session['attempt']")
    eventually(lambda: (found := home.checkpoints("s1")) and header(found[-1])["state_info"]["attempt"] == last)
    made = home.checkpoints("s1")
    assert 2 <= len(made) <= 3 * 4 + 1  # the last one is written when it is quiet


def test_sixty_saves_by_the_timer_leave_the_eight_newest_transitions(home: Home) -> None:
    daemon = home.daemon("--transition-quiet-s", "0", "--checkpoint-every-s", "0.1")
    publisher = home.publisher("s1")
    change_stages(home, publisher, [f"stage {number}" for number in range(12)])
    found = home.checkpoints("s1")
    for number in range(60):
        publisher.do(f"session.update(progress={number})")
        found = next_checkpoint(home, "s1", found)
    left = [header(path) for path in within_limit(home, "s1")]
    assert [one["kind"] for one in left] == ["transition"] * 8 + ["interval"] * 2
    assert [one["stage"] for one in left[:8]] == [f"stage {number}" for number in range(4, 12)]
    assert [one["state_info"]["progress"] for one in left[8:]] == [58, 59]
    eventually(lambda: sum("kind=interval" in line for line in daemon.stderr) >= 60)  # told after the file is there


def test_the_timer_goes_on_after_a_burst_of_more_transitions_than_are_kept(home: Home) -> None:
    home.daemon("--transition-quiet-s", "0", "--checkpoint-every-s", "0.2", "--transition-keys", "attempt")
    publisher = home.publisher("s1")
    publisher.do("[session.update(attempt=number) for number in range(2000)]")
    publisher.do("session.update(progress=1)")
    eventually(lambda: (found := home.checkpoints("s1")) and header(found[-1])["state_info"].get("progress") == 1)
    publisher.do("session.update(progress=2)")
    eventually(lambda: header(home.checkpoints("s1")[-1])["state_info"]["progress"] == 2)
    assert header(home.checkpoints("s1")[-1])["kind"] == "interval"
    publisher.do("session.close()")
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    assert len(within_limit(home, "s1")) == KEEP


def test_an_unchanged_state_is_not_written_again(home: Home) -> None:
    home.daemon("--checkpoint-every-s", "0.1", "--autosave-every-s", "0.1")
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    found = next_checkpoint(home, "s1", [])
    saved = home.sessions / "s1.json"
    eventually(saved.exists)
    before = saved.stat().st_mtime_ns
    publisher.do("session.checkpoint('asked for')")  # what somebody asks for is written
    publisher.do("other = client.session('s2')")
    publisher.do("other.update(n=1)")
    others = next_checkpoint(home, "s2", [])
    publisher.do("other.update(n=2)")
    next_checkpoint(home, "s2", others)
    assert len(home.checkpoints("s1")) == len(found) + 1
    assert saved.stat().st_mtime_ns == before


def test_pins_are_kept_besides_the_limit(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    for number in range(3):
        publisher.do(f"session.update(n={number})")
        publisher.do(f"session.checkpoint('kept', label='p{number}', pin=True)")
    for number in range(15):
        publisher.do(f"session.update(n={number})")
        publisher.do("session.checkpoint('rotated')")
    eventually(lambda: len(home.checkpoints("s1")) == KEEP + 3)
    pinned = [header(path)["label"] for path in home.checkpoints("s1") if header(path)["pinned"]]
    assert pinned == ["p0", "p1", "p2"]


def test_a_transition_that_is_photographed_is_not_photographed_again_after_a_restart(home: Home) -> None:
    daemon = home.daemon("--transition-quiet-s", "0.01")
    publisher = home.publisher("s1")
    publisher.do("session.transition('analysis')")
    found = next_checkpoint(home, "s1", [])
    publisher.do("session.update(progress=1)")
    publisher.do("session.flush()")
    daemon.kill()
    home.daemon("--transition-quiet-s", "0.01")
    publisher.do("session.update(progress=2)")
    publisher.do("session.flush(timeout_s=20)")
    publisher.do("session.transition('refinement')")
    eventually(lambda: header((found + home.checkpoints("s1"))[-1])["stage"] == "refinement")
    made = [header(path) for path in home.checkpoints("s1")]
    assert [one["stage"] for one in made if one["kind"] == "transition"] == ["analysis", "refinement"]


def test_a_transition_that_no_file_held_when_the_daemon_died_is_photographed_by_the_next(home: Home) -> None:
    daemon = home.daemon("--transition-quiet-s", "10", "--transition-max-s", "60")
    publisher = home.publisher("s1")
    publisher.do("session.transition('analysis', reason='the picture is read')")
    publisher.do("session.flush()")
    daemon.kill()
    home.daemon("--transition-quiet-s", "0.01")
    (path,) = next_checkpoint(home, "s1", [])
    assert header(path)["stage"] == "analysis"
    assert (header(path)["kind"], header(path)["reason"]) == ("transition", "the picture is read")
