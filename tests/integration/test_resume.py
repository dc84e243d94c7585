"""What a writer that resumes is told, how each kind of leaving is remembered, and the guard against crash loops."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime

import pytest
from harness import Home, Publisher, eventually

QUIET = ("--transition-keys", "attempt")
TIMINGS = {"stage3_sam_segmentation": 7.03, "stage4_clip_filter": 1.97, "stage6_validation": 60.0}


def row(home: Home, session_id: str = "s1") -> dict:
    (found,) = [one for one in home.json("sessions")["sessions"] if one["session_id"] == session_id]
    return found


def no_outbox(home: Home, session_id: str = "s1") -> bool:
    return not (home.state / "outbox" / session_id).exists()


def report(publisher: Publisher) -> dict:
    publisher.do("report = session.resume_report()")
    told = publisher.do("report")
    assert publisher.do("str(report)").startswith(f"Session {told['session_id']} ")
    return told


def test_a_new_session_says_that_it_is_new(home: Home) -> None:
    home.daemon()
    told = report(home.publisher("s1"))
    assert (told["resumed"], told["left_as"], told["sources"], told["updated"]) == (False, None, [], None)
    assert (told["sequence"], told["work_s"], told["gaps"], told["offered"]) == (0, 0, [], None)


def test_a_resumed_session_says_how_it_was_left_how_old_it_is_and_how_much_work_is_in_it(home: Home) -> None:
    home.daemon(*QUIET)
    first = home.publisher("s1")
    first.do(f"session.update(current_stage='validation', status='in_progress', result={{'stage_timings': {TIMINGS}}})")
    first.do("session.update(n=1)")
    before = datetime.now(UTC)
    first.kill()
    second = home.publisher("s1")
    told = report(second)
    assert (told["resumed"], told["left_as"], told["stage"], told["status"]) == (
        True, "interrupted", "validation", "in_progress",
    )  # fmt: skip
    assert (told["sequence"], told["journal_first"], told["journal_last"]) == (2, 1, 2)
    assert "journal" in told["sources"]
    assert told["work_s"] == pytest.approx(69.0)
    assert 0 <= told["age_s"] < (datetime.now(UTC) - before).total_seconds() + 5
    second.do("session.close()")
    third = home.publisher()
    third.do("session = client.session('s1')")
    assert report(third)["left_as"] == "clean"


def test_entries_that_waited_in_an_outbox_are_told_of_once(home: Home) -> None:
    first = home.publisher("s1")
    first.do("publish(7)")
    first.kill()
    home.daemon(*QUIET)
    second = home.publisher("s1")
    told = report(second)
    assert (told["from_outbox"], told["sources"]) == (7, ["journal", "outbox"])
    second.do("session.close()")
    second.do("session = client.session('s1')")
    assert report(second)["from_outbox"] == 0


def test_without_a_daemon_files_and_outboxes_are_named(home: Home) -> None:
    daemon = home.daemon(*QUIET)
    first = home.publisher("s1")
    first.do("session.update(n=1)")
    first.do("session.checkpoint()")
    daemon.kill()
    first.do("session.update(n=2)")
    first.kill()
    told = report(home.publisher("s1"))
    assert (told["resumed"], told["left_as"], told["sources"]) == (True, None, ["file", "outbox"])
    assert told["document"] in {path.name for path in [*home.checkpoints("s1"), home.sessions / "s1.json"]}
    assert told["from_outbox"] == 1


def test_a_lost_journal_is_told_of_by_the_file_that_stands_for_it(home: Home) -> None:
    daemon = home.daemon(*QUIET)
    first = home.publisher("s1")
    first.do("publish(5)")
    first.do("session.checkpoint()")
    first.do("session.close()")
    eventually(lambda: no_outbox(home))
    daemon.kill(signal.SIGTERM)
    for path in home.state.glob("journal*"):
        path.unlink()
    home.daemon(*QUIET)
    told = report(home.publisher("s1"))
    assert (told["sources"], told["document"] is not None, told["resumed"]) == (["file"], True, True)


def resume_and_die(home: Home, *, code: str = "") -> dict:
    publisher = home.publisher("s1")
    told = report(publisher)
    if code:
        publisher.do(code)
    publisher.kill()
    eventually(lambda: row(home)["condition"] == "interrupted")
    return told


def test_after_three_lives_cut_short_the_point_before_is_offered(home: Home) -> None:
    home.daemon(*QUIET)
    first = home.publisher("s1")
    first.do("session.update(n=1)")
    good = first.do("session.checkpoint('good')")
    first.do("session.update(n=2, broken=True)")
    first.kill()
    eventually(lambda: row(home)["condition"] == "interrupted")
    for lives in range(3):
        told = resume_and_die(home, code=f"session.update(tried={lives})")
        assert (told["short_lives"], told["offered"]) == (lives, None)
    publisher = home.publisher("s1")
    told = report(publisher)
    assert (told["short_lives"], told["offered"]["name"]) == (3, good["name"])
    assert good["name"] in publisher.do("str(report)")
    # It is offered, not forced; and a life that ends well ends the series.
    assert publisher.do("session['broken']") is True
    publisher.do("session.close()")
    assert report(home.publisher("s1"))["short_lives"] == 0


def test_lives_cut_short_are_counted_over_the_daemons_death(home: Home) -> None:
    daemon = home.daemon(*QUIET)
    first = home.publisher("s1")
    first.do("session.update(n=1)")
    first.kill()
    for _ in range(3):
        resume_and_die(home)
        daemon.kill()
        daemon = home.daemon(*QUIET)
    assert report(home.publisher("s1"))["short_lives"] == 3


@pytest.mark.parametrize(
    ("published", "status", "told"),
    [("None", None, "completed"), ("'failed'", None, "failed"), ("'in_progress'", "failed", "failed")],
)
def test_an_ended_session_has_its_status_and_its_writer_is_gone(
    home: Home, published: str, status: str | None, told: str
) -> None:
    home.daemon(*QUIET)
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    if published != "None":
        publisher.do(f"session.update(status={published})")
    publisher.do(f"session.end({status!r})" if status else "session.end()")
    found = eventually(lambda: row(home) if row(home)["condition"] == "ended" else None)
    assert found["status"] == told
    eventually(lambda: no_outbox(home))
    assert json.loads((home.sessions / "s1.json").read_bytes())["status"] == told


@pytest.mark.parametrize("daemon", [True, False], ids=["with a daemon", "without one"])
def test_files_that_the_state_names_are_said_to_be_the_same_moved_edited_or_missing(home: Home, daemon: bool) -> None:
    pictures = home.folder / "pictures"
    pictures.mkdir(parents=True)
    paths = {key: pictures / f"{key}.png" for key in ("image_path", "edited_image_path", "mask_path")}
    for path in paths.values():
        path.write_bytes(path.name.encode() * 1000)
    serving = home.daemon(*QUIET)
    first = home.publisher("s1")
    first.do(f"session.update({ {key: str(path) for key, path in paths.items()} })")
    made = first.do("session.checkpoint()")
    first.do("session.flush('checkpointed')")
    first.kill()
    eventually(lambda: no_outbox(home))
    if not daemon:
        serving.kill(signal.SIGTERM)
    moved = pictures / "renamed.png"
    paths["image_path"].rename(moved)
    paths["edited_image_path"].write_bytes(b"another picture")
    second = home.publisher("s1")
    told = report(second)
    assert told["checkpoint"] == made["name"]
    assert {key: (verdict, where) for key, _, verdict, where in told["files"]} == {
        "image_path": ("moved", str(moved)), "edited_image_path": ("edited", None), "mask_path": ("same", None),
    }  # fmt: skip
    assert f"is moved to {moved}" in second.do("str(report)")
