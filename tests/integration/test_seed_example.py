from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from harness import Home, eventually

EXAMPLE = """
from edi_checkpoint import StateManager

# Example usage:
if __name__ == "__main__":
    # Initialize a state manager
    state_manager = StateManager(session_id="session_12345")

    # Set some state data
    state_manager.set_state("current_stage", "image_processing")
    state_manager.set_state("progress", 0.75)
    state_manager.set_state("image_path", "/path/to/working/image.jpg")
    state_manager.set_state("workflow_step", "enhancement")

    # Create a checkpoint at a significant transition point
    state_manager.checkpoint("workflow_transition")

    # Simulate more work and create another checkpoint
    state_manager.set_state("current_stage", "result_generation")
    state_manager.set_state("progress", 0.9)
    state_manager.checkpoint("completion_phase")
"""
FIRST = {
    "current_stage": "image_processing",
    "progress": 0.75,
    "image_path": "/path/to/working/image.jpg",
    "workflow_step": "enhancement",
}
NAME = re.compile(r"session_12345_checkpoint_\d{8}_\d{6}_\d{6}\.json")
SEED_KEYS = {"session_id", "timestamp", "reason", "stage", "state_info", "parent_session"}


@pytest.fixture
def example(tmp_path: Path) -> list[str]:
    script = tmp_path / "example.py"
    script.write_text(EXAMPLE)
    return [sys.executable, str(script)]


def no_outbox_left(home: Home) -> bool:
    return not any((home.state / "outbox").iterdir())


def test_the_seeds_example_leaves_the_two_checkpoints_it_asks_for(home: Home, example: list[str]) -> None:
    home.daemon()
    process = home.start(example)
    assert (process.wait(), process.stdout, process.stderr) == (0, [], [])
    eventually(lambda: no_outbox_left(home))
    first, second = home.checkpoints("session_12345")
    assert NAME.fullmatch(first.name)
    assert NAME.fullmatch(second.name)
    documents = [json.loads(path.read_bytes()) for path in (first, second)]
    assert all(document.keys() >= SEED_KEYS for document in documents)
    assert [document["reason"] for document in documents] == ["workflow_transition", "completion_phase"]
    assert [document["stage"] for document in documents] == ["image_processing", "result_generation"]
    assert {document["session_id"] for document in documents} == {"session_12345"}
    assert {document["parent_session"] for document in documents} == {None}
    assert documents[0]["state_info"] == FIRST
    assert documents[1]["state_info"] == {**FIRST, "current_stage": "result_generation", "progress": 0.9}


def test_the_seeds_example_prints_nothing_and_fails_nowhere_without_a_daemon(home: Home, example: list[str]) -> None:
    process = home.start(example)
    assert (process.wait(), process.stdout, process.stderr) == (0, [], [])
    assert home.folder.exists()
    home.daemon()
    reasons = eventually(lambda: len(found := home.checkpoints("session_12345")) == 2 and found)
    assert [json.loads(path.read_bytes())["reason"] for path in reasons] == ["workflow_transition", "completion_phase"]


def test_a_second_run_begins_anew_and_keeps_what_the_first_one_left(home: Home, example: list[str]) -> None:
    home.daemon()
    assert home.start(example).wait() == 0
    eventually(lambda: no_outbox_left(home))
    before = home.checkpoints("session_12345")
    assert home.start(example).wait() == 0
    eventually(lambda: no_outbox_left(home))
    after = home.checkpoints("session_12345")
    assert after[:2] == before
    assert [json.loads(path.read_bytes())["state_info"] for path in after[2:]] == [
        FIRST,
        {**FIRST, "current_stage": "result_generation", "progress": 0.9},
    ]


def test_the_state_is_loaded_and_saved_as_edi_documents_it(home: Home) -> None:
    home.daemon()
    writer = home.publisher()
    fields = {
        "current_stage": "analysis",
        "image_path": "/pictures/roof.jpg",
        "naive_prompt": "mach das Dach grün",
        "scene_analysis": {"entities": [{"id": "sky_0", "bbox": [0, 0, 64, 32]}], "spatial_layout": "sky above roof"},
        "intent": {"target_entities": ["roof_0"], "edit_type": "color", "confidence": 0.93},
        "prompts": ["a green roof", "a mossy green roof"],
        "edited_image_path": "/pictures/roof_edited.jpg",
        "validation_results": {"score": 0.8, "delta": 0.1},
    }
    writer.do("manager = StateManager('session_12345')")
    writer.do(f"manager.set_state(**{fields!r})")
    writer.do("manager.save_state()")
    saved = home.sessions / "session_12345.json"
    assert {key: json.loads(saved.read_bytes())[key] for key in fields} == fields
    assert saved.stat().st_mode & 0o777 == 0o600
    for stage in ("intent", "refinement", "execution"):
        writer.do(f"manager.set_state(current_stage={stage!r})")
        writer.do("manager.save_state()")
        assert json.loads(saved.read_bytes())["current_stage"] == stage
    writer.kill()
    reader = home.publisher()
    reader.do("manager = StateManager()")
    assert reader.do("manager.load_state('session_12345')") is True
    assert reader.do("manager.state_data") == {**fields, "current_stage": "execution"}
    assert reader.do("manager.session_id") == "session_12345"
    assert reader.do("StateManager().load_state('nobody')") is False


def test_save_state_brings_the_session_file_up_to_date_also_right_after_a_checkpoint(home: Home) -> None:
    home.daemon()
    writer = home.publisher()
    writer.do("manager = StateManager('s1')")
    for number in range(5):
        writer.do(f"manager.set_state('n', {number})")
        writer.do("manager.checkpoint()")
        writer.do("manager.save_state()")
        assert json.loads((home.sessions / "s1.json").read_bytes())["n"] == number


def test_loading_a_state_and_saving_it_unchanged_publishes_nothing(home: Home) -> None:
    home.daemon()
    writer = home.publisher("s1")
    writer.do("session.update(nested={'a': [1, {'b': 1e-7}], 'c': {}}, n=1)")
    writer.do("session.close()")
    reader = home.publisher()
    reader.do("manager = StateManager('s1')")
    assert reader.do("manager.load_state()") is True
    reader.do("manager.save_state()")
    reader.do("manager.checkpoint()")
    assert [entry["op"] for entry in home.journaled("s1")["s1"]] == ["update", "mark", "mark"]
