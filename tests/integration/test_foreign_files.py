from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from harness import Home, Refused, eventually

FOREIGN = 10_000
SEED_START = datetime(2026, 1, 2, 3, 4, 5, 678901)  # noqa: DTZ001 - the seed's class writes naive local times


def write_old_checkpoint(home: Home, session_id: str, number: int) -> Path:
    """A file as the seed's class writes it."""
    moment = SEED_START + timedelta(minutes=number)
    document = {
        "session_id": session_id,
        "timestamp": moment.isoformat(),
        "reason": "workflow_transition",
        "stage": "refinement",
        "state_info": {"current_stage": "refinement", "n": number, "prompt": "ein Dach aus Moos"},
        "parent_session": None,
    }
    path = home.sessions / f"{session_id}_checkpoint_{moment.strftime('%Y%m%d_%H%M%S_%f')}.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False))
    return path


def bytes_of(paths: list[Path]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.leaves("document_damaged")
def test_ten_thousand_foreign_files_are_left_alone_and_in_nobodys_way(home: Home) -> None:
    home.sessions.mkdir(parents=True)
    foreign = [home.sessions / f"other_{number}_checkpoint_20260102_030405_{number:06}.json" for number in range(5_000)]
    foreign += [home.sessions / f"notes_{number}.txt" for number in range(FOREIGN - len(foreign))]
    for path in foreign:
        path.write_bytes(b"{}")
    home.daemon()
    publisher = home.publisher("s1")
    for number in range(15):
        publisher.do(f"session.update(n={number})")
        publisher.do(f"session.checkpoint('{number}')")
    assert len(eventually(lambda: len(found := home.checkpoints("s1")) == 10 and found)) == 10
    assert all(path.read_bytes() == b"{}" for path in foreign)


def test_an_id_that_cannot_be_a_files_name_is_refused_by_name(home: Home) -> None:
    home.daemon()
    publisher = home.publisher()
    before = sorted(home.folder.rglob("*"))
    for session_id in ("s[1]", "../x", "a/b", "", ".hidden", "s1_checkpoint_20260102_030405_678901", "x" * 129):
        for call in (f"client.session({session_id!r})", f"StateManager({session_id!r})"):
            with pytest.raises(Refused) as refused:
                publisher.do(call)
            assert refused.value.type == "SessionIdError"
            assert repr(session_id)[:80] in refused.value.message
    assert sorted(home.folder.rglob("*")) == before


def test_sessions_of_similar_names_keep_to_their_own_files(home: Home) -> None:
    home.daemon()
    publisher = home.publisher()
    for session_id in ("s1", "s11", "a_checkpoint_b", "a_checkpoint"):
        publisher.do(f"held = client.session({session_id!r})")
        publisher.do("held.update(n=1)")
        publisher.do("held.checkpoint()")
    before = {name: bytes_of(home.checkpoints(name)) for name in ("s11", "a_checkpoint_b", "a_checkpoint")}
    for session_id in ("s", "a"):
        publisher.do(f"rotated = client.session({session_id!r})")
        for number in range(15):
            publisher.do(f"rotated.update(n={number})")
            publisher.do("rotated.checkpoint()")
        eventually(lambda session_id=session_id: len(home.checkpoints(session_id)) == 10)
        assert {row["session_id"] for row in publisher.do("rotated.checkpoints()")} == {session_id}
    assert {name: bytes_of(home.checkpoints(name)) for name in before} == before


def test_files_of_edis_old_class_are_listed_as_reference_and_never_deleted_by_rotation(home: Home) -> None:
    home.sessions.mkdir(parents=True)
    old = [write_old_checkpoint(home, "s1", number) for number in range(12)]
    left_over = home.sessions / old[0].name.replace(".json", ".tmp.json")
    left_over.write_bytes(b"{")
    before = bytes_of([*old, left_over])
    home.daemon()
    publisher = home.publisher("s1")
    for number in range(15):
        publisher.do(f"session.update(n={number})")
        publisher.do(f"session.checkpoint('{number}')")
    rows = eventually(lambda: len(found := home.json("log", "s1")["checkpoints"]) == 22 and found)
    assert [row["kind"] for row in rows] == ["reference"] * 12 + ["manual"] * 10
    assert [row["stage"] for row in rows[:12]] == ["refinement"] * 12
    assert [row["reason"] for row in rows[12:]] == [str(number) for number in range(5, 15)]
    assert bytes_of([*old, left_over]) == before


def test_a_session_known_from_edis_old_files_alone_is_continued_from_the_newest(home: Home) -> None:
    home.sessions.mkdir(parents=True)
    for number in range(3):
        write_old_checkpoint(home, "s1", number)
    home.daemon()
    publisher = home.publisher()
    publisher.do("manager = StateManager('s1')")
    assert publisher.do("manager.load_state()") is True
    assert publisher.do("manager.state_data") == {"current_stage": "refinement", "n": 2, "prompt": "ein Dach aus Moos"}


def test_a_session_file_that_somebody_else_wrote_is_kept_before_it_is_replaced(home: Home) -> None:
    home.sessions.mkdir(parents=True)
    theirs = {"session_id": "s1", "current_stage": "upload", "image_path": "/pictures/roof.jpg", "plan": [1, 2]}
    (home.sessions / "s1.json").write_text(json.dumps(theirs))
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.flush('checkpointed')")
    assert json.loads((home.sessions / "s1.json").read_bytes())["n"] == 1
    (kept,) = [row for row in publisher.do("session.checkpoints()") if row["kind"] == "foreign"]
    assert json.loads((home.sessions / kept["name"]).read_bytes())["state_info"] == theirs
