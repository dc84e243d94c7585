"""EDI's documented examples, their class replaced, and what its users rely on."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

import pytest
from harness import Home, Process, Refused, eventually

from edi_checkpoint.documents.fragments import fragment
from edi_checkpoint.documents.layout import Header, checkpoint_document
from edi_checkpoint.documents.names import stamp_time
from edi_checkpoint.model import Kind

SAVE_EXAMPLE = """
import time
from edi_checkpoint import StateManager

manager = StateManager()
manager.set_state(
    current_stage="analysis", image_path="/pictures/roof.jpg", naive_prompt="make the roof green",
    scene_analysis={"entities": [{"id": "roof_0", "bbox": (1, 2, 30, 40)}], "spatial_layout": "roof below sky"},
    intent={"target_entities": ["roof_0"], "edit_type": "recolor", "confidence": 0.9},
    prompts=["a green tin roof", "a green tin roof, photorealistic"],
    validation_results={"score": 0.87, "delta": 0.1},
)
manager.save_state()
for stage in ("refinement", "execution", "validation"):
    time.sleep(0.1)
    manager.set_state(current_stage=stage)
    manager.save_state()
print(manager.session_id, manager.session_file_path)
"""
LOAD_EXAMPLE = """
from edi_checkpoint import StateManager

manager = StateManager()
if manager.load_state("session_12345"):
    print(manager.session_id, manager.current_stage, manager.image_path, manager.naive_prompt)
else:
    print("nothing")
"""
DOCUMENTED = {
    "session_id": "session_12345", "current_stage": "refinement", "image_path": "/pictures/roof.jpg",
    "naive_prompt": "make it green", "scene_analysis": {"entities": []}, "from_a_newer_edi": [1, 2],
}  # fmt: skip
KILLS = 50 if os.environ.get("EDI_TEST_FULL") == "1" else 6
WRITER = """
import sys
from edi_checkpoint import StateManager
manager = StateManager("s1")
manager.load_state()
number = manager.state_data.get("n", 0)
while True:
    number += 1
    if number % 40 == 0:
        manager.checkpoint("fortieth")
    manager.set_state(n=number, current_stage=str(number // 10), prompt="words " * 20)
    print(f"published {number:06d}", flush=True)
"""
RESUMER = """
from edi_checkpoint import StateManager
manager = StateManager("s1")
print("resumed", manager.load_state(), manager.n)
"""


def run(home: Home, code: str, **environment: str) -> Process:
    process = home.python(code, **environment)
    assert (process.wait(), process.stderr) == (0, [])
    return process


@pytest.mark.parametrize("daemon", [True, False], ids=["with a daemon", "a client starts one"])
def test_the_save_state_example_leaves_the_file_it_documents(home: Home, daemon: bool) -> None:
    autostart = {} if daemon else {"EDI_CHECKPOINT_AUTOSTART": "1"}
    if daemon:
        home.daemon()
    session_id, path = run(home, SAVE_EXAMPLE, **autostart).stdout[0].split()
    document = json.loads(Path(path).read_bytes())
    assert path == str(home.sessions / f"{session_id}.json")
    assert document.pop("_edi_checkpoint")["kind"] == "autosave"
    assert document == {
        "session_id": session_id, "current_stage": "validation", "image_path": "/pictures/roof.jpg",
        "naive_prompt": "make the roof green",
        "scene_analysis": {"entities": [{"id": "roof_0", "bbox": [1, 2, 30, 40]}], "spatial_layout": "roof below sky"},
        "intent": {"target_entities": ["roof_0"], "edit_type": "recolor", "confidence": 0.9},
        "prompts": ["a green tin roof", "a green tin roof, photorealistic"],
        "validation_results": {"score": 0.87, "delta": 0.1},
    }  # fmt: skip
    assert Path(path).stat().st_mode & 0o777 == 0o600
    if not daemon:
        assert home.start([sys.executable, "-m", "edi_checkpointd", "stop"]).wait() == 0


@pytest.mark.parametrize("daemon", [True, False], ids=["with a daemon", "without one"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (json.dumps(DOCUMENTED), "session_12345 refinement /pictures/roof.jpg make it green"),
        (json.dumps({**DOCUMENTED, "session_id": None}).replace('"session_id": null, ', ""), "nothing"),
        (json.dumps(DOCUMENTED)[:-20], "nothing"),
        (None, "nothing"),
    ],
    ids=["EDI's file", "without session_id", "broken", "none"],
)
@pytest.mark.leaves("document_damaged")
def test_the_load_state_example_reads_the_file_that_edi_wrote(
    home: Home, daemon: bool, content: str | None, told: str
) -> None:
    home.sessions.mkdir(parents=True, mode=0o700)
    if content is not None:
        (home.sessions / "session_12345.json").write_text(content)
    if daemon:
        home.daemon()
    assert run(home, LOAD_EXAMPLE).stdout == [told]
    if told == "nothing":
        assert [one["session_id"] for one in home.json("sessions")["sessions"] if one["sequence"]] == []


def test_a_state_loaded_from_edis_file_is_gone_on_with_and_unknown_fields_stay(home: Home) -> None:
    home.sessions.mkdir(parents=True, mode=0o700)
    (home.sessions / "session_12345.json").write_text(json.dumps(DOCUMENTED))
    home.daemon()
    publisher = home.publisher()
    publisher.do("manager = StateManager()")
    assert publisher.do("manager.load_state('session_12345')") is True
    publisher.do("manager.set_state('current_stage', 'approval')")
    publisher.do("manager.save_state()")
    document = json.loads((home.sessions / "session_12345.json").read_bytes())
    assert document.pop("_edi_checkpoint")["kind"] == "autosave"
    assert document == {**DOCUMENTED, "current_stage": "approval"}
    (foreign,) = [one for one in home.json("log", "session_12345")["checkpoints"] if one["kind"] == "foreign"]
    assert json.loads((home.sessions / foreign["name"]).read_bytes())["state_info"] == DOCUMENTED


@pytest.mark.parametrize("daemon", [True, False], ids=["with a daemon", "without one"])
def test_old_checkpoints_of_edis_class_are_loaded_when_there_is_nothing_else(home: Home, daemon: bool) -> None:
    home.sessions.mkdir(parents=True, mode=0o700)
    for second, stage in ((1, "upload"), (2, "analysis")):
        name = f"s1_checkpoint_20250101_00000{second}_000000.json"
        old = {
            "session_id": "s1", "timestamp": f"2025-01-01T00:00:0{second}", "reason": "manual", "stage": stage,
            "state_info": {"current_stage": stage}, "parent_session": None,
        }  # fmt: skip
        (home.sessions / name).write_text(json.dumps(old, indent=2))
    if daemon:
        home.daemon()
    publisher = home.publisher()
    publisher.do("manager = StateManager('s1')")
    assert publisher.do("(manager.load_state(), manager.state_data)") == [True, {"current_stage": "analysis"}]
    publisher.do("manager.checkpoint()")
    if not daemon:
        home.daemon()
    eventually(lambda: len(home.checkpoints("s1")) == 3)


@pytest.mark.leaves("document_damaged")
@pytest.mark.parametrize("daemon", [True, False], ids=["with a daemon", "without one"])
def test_damaged_files_give_way_to_the_next_good_one(home: Home, daemon: bool) -> None:
    serving = home.daemon()
    publisher = home.publisher()
    publisher.do("manager = StateManager('s1')")
    for number in range(3):
        publisher.do(f"manager.set_state(n={number})")
        publisher.do("manager.checkpoint()")
    publisher.do("manager._session.close()")
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    serving.kill(signal.SIGTERM)
    for path in home.state.glob("journal*"):
        path.unlink()
    for path in [home.sessions / "s1.json", home.checkpoints("s1")[-1]]:
        if path.exists():
            path.write_bytes(path.read_bytes()[:-30])
    if daemon:
        home.daemon()
    again = home.publisher()
    again.do("manager = StateManager('s1')")
    assert again.do("(manager.load_state(), manager.n)") == [True, 1]


def test_a_checkpoint_limit_is_the_sessions_own_and_outlives_daemon_and_journal(home: Home) -> None:
    def count() -> int:
        return len(home.checkpoints("s1"))

    daemon = home.daemon("--keep-per-session", "5", "--transition-keys", "attempt")
    publisher = home.publisher()
    publisher.do("manager = StateManager('s1')")
    publisher.do("manager.checkpoint_limit = 8")
    for number in range(10):
        publisher.do(f"manager.set_state(n={number})")
        publisher.do("manager.checkpoint()")
    eventually(lambda: count() == 8)
    publisher.do("manager._session.close()")
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    daemon.kill(signal.SIGTERM)
    for path in home.state.glob("journal*"):
        path.unlink()
    home.daemon("--keep-per-session", "5", "--transition-keys", "attempt")
    other = home.publisher("s1")
    for number in range(3):
        other.do(f"session.update(m={number})")
        other.do("session.checkpoint()")
    other.do("session.close()")
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    eventually(lambda: count() == 8)
    publisher.do("again = StateManager('s1')")
    publisher.do("again.load_state()")
    publisher.do("again.checkpoint_limit = 2")
    publisher.do("again.checkpoint()")
    eventually(lambda: count() == 2)


@pytest.mark.parametrize("daemon", [True, False], ids=["with a daemon", "without one"])
def test_a_session_begun_anew_keeps_what_nobody_has_seen(home: Home, daemon: bool) -> None:
    flags = ("--keep-automatic", "0", "--keep-per-session", "3")
    if daemon:
        home.daemon(*flags)
    first = home.publisher()
    first.do("manager = StateManager('s1')")
    first.do("manager.set_state(answers='typed for ten minutes')")
    first.kill()
    second = home.publisher()
    second.do("manager = StateManager('s1')")
    second.do("manager.set_state(n=1)")
    assert second.do("dict(manager._session)") == {"n": 1}
    if not daemon:
        home.daemon(*flags)
    for number in range(8):
        second.do(f"manager.set_state(n={number}, current_stage='{number}')")
        second.do("manager.checkpoint()")
    eventually(lambda: len(home.checkpoints("s1")) == 4)  # three, and the one that nobody has seen
    rows = home.json("log", "s1")["checkpoints"]
    states = [json.loads((home.sessions / row["name"]).read_bytes())["state_info"] for row in rows]
    assert {"answers": "typed for ten minutes"} in states
    kept = [row["kind"] for row, state in zip(rows, states, strict=True) if "answers" in state]
    assert kept == ["interrupted"]
    # Whoever continues the session has seen it: from then on it goes like others of its kind.
    second.kill()
    third = home.publisher("s1")
    for number in range(8):
        third.do(f"session.update(m={number})")
        third.do("session.checkpoint()")
    third.do("session.close()")
    eventually(lambda: not any("answers" in path.read_text() for path in home.checkpoints("s1")))


def test_a_manager_whose_session_was_taken_over_loads_it_again(home: Home) -> None:
    home.daemon()
    first, second = home.publisher(), home.publisher()
    first.do("manager = StateManager('s1')")
    first.do("manager.set_state(n=1)")
    second.do("session = client.session('s1', takeover=True)")
    second.do("session.update(n=2)")
    second.do("session.close()")
    with pytest.raises(Refused, match="Fenced"):
        first.sees("manager.set_state(n=3)")
    assert first.do("(manager.load_state(), manager.n)") == [True, 2]
    first.do("manager.set_state(n=4)")
    first.do("manager.save_state()")
    assert home.json("show", "s1")["state_info"] == {"n": 4}


@pytest.mark.slow
@pytest.mark.parametrize("situation", ["with a daemon", "without one", "with the daemon killed too"])
def test_a_new_process_resumes_at_once_with_the_last_value_that_was_published(home: Home, situation: str) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    daemon = None if situation == "without one" else home.daemon()
    reached = 0
    for _ in range(KILLS):
        writer = home.python(WRITER)
        wanted = reached + chance.randrange(1, 120)
        writer.wait_line(lambda line, wanted=wanted: int(line.split()[1]) >= wanted, 30)
        writer.popen.kill()
        if daemon is not None and situation == "with the daemon killed too":
            daemon.popen.kill()
        resumer = home.python(RESUMER)
        writer.wait()
        published = max(int(line.split()[1]) for line in writer.stdout if len(line) == len("published 000000"))
        _, loaded, number = resumer.wait_line("resumed ").split()
        assert loaded == "True"
        assert int(number) in (published, published + 1)  # it may have died before it could say so
        assert resumer.wait() == 0
        assert resumer.stderr == []
        reached = int(number)
        if daemon is not None and situation == "with the daemon killed too":
            daemon.wait()
            daemon = home.daemon()
    if daemon is None:
        home.daemon()
        eventually(lambda: not (home.state / "outbox" / "s1").exists())
    assert home.json("show", "s1")["state_info"]["n"] == reached


@pytest.mark.leaves("mode")
def test_the_newest_intact_checkpoint_written_by_us_is_loaded_from_a_folder_of_files_alone(home: Home) -> None:
    home.sessions.mkdir(parents=True, mode=0o700)
    for number in (1, 2):
        stamp = stamp_time(f"20260101_00000{number}_000000")
        header = Header(session_id="s1", timestamp=stamp, kind=Kind.MANUAL, sequence=number)
        name = f"s1_checkpoint_20260101_00000{number}_000000.json"
        parts = checkpoint_document(header, {"n": fragment(str(number).encode())})
        (home.sessions / name).write_bytes(b"".join(parts))
    publisher = home.publisher()
    publisher.do("manager = StateManager('s1')")
    assert publisher.do("(manager.load_state(), manager.n)") == [True, 2]
