"""What changed, as people and scripts are told: `diff`, and the lines of `log`."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator

import jsonpatch
import pytest
from harness import Home, eventually

EDIT = """
from edi_checkpoint import connect

SKY, SEA = ({"id": name, "confidence": 0.9, "bbox": [0, 0, 9, 9]} for name in ("sky_0", "sea_0"))
PROMPT = "dark storm clouds hang low over the quiet sea, a lighthouse on the right"

with connect() as client:
    with client.session("edit") as session:
        session.transition("analysis", scene={"entities": [SKY, SEA]}, big=2**70, seen=[1, None])
        session.checkpoint("first", label="seen")
        session.transition("refinement", current_iteration=2, prompts=[PROMPT], validation={"score": 0.62})
        session.checkpoint("second")
        session.update(current_iteration=3, prompts=[PROMPT.replace("quiet", "rough") + ", lit"], seen=None)
        session.update(scene={"entities": [{**SEA, "confidence": 0.95}]}, validation={"score": 0.87})
        session.checkpoint("third")
        session.update({"note": "\\x1b[31mred", "a/b": {"~": True}, "validation": None})
        session.flush()
    with client.session("branch", parent="edit") as session:
        session.update(scene={"entities": [SKY]}, big=2**70 + 1)
        session.flush()
    with client.session("empty") as session:
        session["n"] = 1
        session.flush()
"""


def publish(home: Home) -> None:
    home.daemon()
    assert home.python(EDIT).wait() == 0
    eventually(lambda: home.json("sessions")["sessions"][0]["condition"] != "live")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with its daemon running, for tests that only look."""
    home = Home(tmp_path_factory.mktemp("shared") / "h")
    try:
        publish(home)
        yield home
    finally:
        home.close()


def reasons(home: Home) -> dict[str, str]:
    """The file names of the session's own three checkpoints, by reason."""
    return {row["reason"]: row["name"] for row in home.json("log", "edit")["checkpoints"]}


# -- for programs ----------------------------------------------------------------------------------------------------


def test_the_patch_turns_any_state_of_a_session_into_any_other(shared: Home) -> None:
    names = reasons(shared)
    states = {names[reason]: shared.json("show", "edit", names[reason]) for reason in ("first", "second", "third")}
    for one, other in itertools.permutations(states, 2):
        found = shared.json("diff", "edit", one, other)
        assert jsonpatch.apply_patch(states[one]["state_info"], found["patch"]) == states[other]["state_info"]
        assert found["a"] == {"name": one, "sequence": states[one]["sequence"], "session_id": "edit"}
        assert found["b"]["name"] == other


def test_without_selectors_it_compares_the_newest_checkpoint_with_now(shared: Home) -> None:
    found, now = shared.json("diff", "edit"), shared.json("show", "edit")
    newest = shared.json("log", "edit")["checkpoints"][-1]
    assert (found["a"]["name"], found["a"]["sequence"]) == (newest["name"], newest["sequence"])
    assert (found["b"]["name"], found["b"]["sequence"]) == (None, now["sequence"])
    since = shared.json("diff", "edit", reasons(shared)["third"])
    assert since["patch"] == [
        {"op": "add", "path": "/note", "value": "\x1b[31mred"},
        {"op": "add", "path": "/a~1b", "value": {"~": True}},
        {"op": "replace", "path": "/validation", "value": None},
    ]


def test_two_sessions_are_compared_as_they_stand_or_by_their_checkpoints(shared: Home) -> None:
    edit, branch = (shared.json("show", name)["state_info"] for name in ("edit", "branch"))
    found = shared.json("diff", "edit", "--other", "branch")
    assert jsonpatch.apply_patch(edit, found["patch"]) == branch
    assert [found[side]["session_id"] for side in "ab"] == ["edit", "branch"]
    assert [found[side]["name"] for side in "ab"] == [None, None]
    at_checkpoints = shared.json("diff", "edit", "seen", "@1", "--other", "branch")
    seen = shared.json("show", "edit", "seen")
    assert at_checkpoints["a"]["name"] == seen["checkpoint"]
    assert at_checkpoints["b"]["name"] == shared.json("log", "branch")["checkpoints"][-1]["name"]
    assert jsonpatch.apply_patch(seen["state_info"], at_checkpoints["patch"]) == branch


def test_the_same_is_said_without_a_daemon(home: Home) -> None:
    publish(home)
    commands = [
        ("log", "edit"),
        ("diff", "edit"),
        ("diff", "edit", "seen", "@1"),
        ("diff", "edit", "--other", "branch"),
    ]
    before = [(home.command(*command), home.json(*command)) for command in commands]
    subprocess.run([sys.executable, "-m", "edi_checkpointd", "stop"], env=home.environment, check=True, timeout=60)
    assert [(home.command(*command), home.json(*command)) for command in commands] == before


def test_states_that_do_not_differ_are_done_and_empty(shared: Home) -> None:
    assert shared.json("diff", "edit", "seen", "seen")["patch"] == []
    assert "the states are equal" in shared.command("diff", "edit", "seen", "seen")


def test_what_is_not_there_is_exit_code_3(shared: Home) -> None:
    assert shared.json("diff", "nobody", expect=3)["error"]["code"] == "not_found"
    assert shared.json("diff", "edit", "@99", expect=3)["error"]["code"] == "not_found"
    assert shared.json("diff", "edit", "--other", "nobody", expect=3)["error"]["code"] == "not_found"
    assert shared.json("diff", "edit", "seen", "seen", "@1", expect=2)["error"]["code"] == "usage"


# -- for people ------------------------------------------------------------------------------------------------------


def test_people_are_told_of_each_change_in_its_own_way(shared: Home) -> None:
    names = reasons(shared)
    lines = shared.command("diff", "edit", names["second"], names["third"]).splitlines()
    assert [line[:2] for line in lines[:3]] == ["- ", "+ ", ""]
    assert lines[3:] == [
        "~ scene.entities[sea_0].confidence: 0.9 -> 0.95 (+0.05)",
        '- scene.entities[sky_0]: {"id": "sky_0", "confidence": 0.9, "bbox": [0, 0, 9, 9]}',
        "~ seen: [1, null] -> null",
        "~ current_iteration: 2 -> 3 (+1)",
        "~ prompts[0]: ... low over the -quiet +rough sea, a lighthouse on the right +, +lit",
        "~ validation.score: 0.62 -> 0.87 (+0.25)",
    ]


def test_what_a_state_holds_does_not_steer_the_terminal(shared: Home) -> None:
    text = shared.command("diff", "edit", reasons(shared)["third"])
    assert "\x1b" not in text
    assert r"\u001b[31mred" in text


def test_log_sums_up_what_each_checkpoint_brought(shared: Home) -> None:
    rows = {row["reason"]: row for row in shared.json("log", "edit")["checkpoints"]}
    assert shared.json("log", "edit")["checkpoints"][0]["summary"] is None
    assert rows["third"]["summary"] == ("refinement 2->3: +rough +lit -quiet, score 0.62->0.87, 1 entity lost, 2 more")
    assert f"    {rows['third']['summary']}\n" in shared.command("log", "edit")


@pytest.mark.leaves("document_damaged")
def test_a_checkpoint_that_cannot_be_read_is_listed_without_a_summary(home: Home) -> None:
    publish(home)
    names = reasons(home)
    damaged = home.sessions / names["second"]
    damaged.write_bytes(damaged.read_bytes().replace(b"quiet", b"quick"))
    rows = {row["reason"]: row["summary"] for row in home.json("log", "edit")["checkpoints"]}
    assert rows["second"] is None
    assert rows["third"] is None
    eventually(lambda: not damaged.exists())  # the daemon has set it aside
    assert home.json("diff", "edit", names["second"], expect=3)["error"]["code"] == "not_found"


# -- masks -----------------------------------------------------------------------------------------------------------

MASKS = """
import numpy as np
from edi_checkpoint import connect

def mask(top, left, width=40):
    made = np.zeros((100, 200), bool)
    made[top:50, left:left + width] = True
    return {"id": "sky_0", "mask": made}

with connect() as client, client.session("masks") as session:
    session.update(entities=[mask(10, 10)], vector=np.arange(4.0), crop=mask(0, 0)["mask"])
    session.checkpoint("first", label="before")
    session.update(entities=[mask(20, 10, 50)], vector=np.ones(4), crop=mask(0, 0)["mask"][:50])
    session["embedding"] = np.zeros(3)
    session.flush()
"""
# of 1,600 and 1,500 pixels, 1,200 common to both
OVERLAPPING = "~ entities[sky_0].mask: area 1,600 -> 1,500 px (-6.2 %), overlap 0.63"


def published_masks(home: Home) -> list[str]:
    """The lines that tell how the masks changed, without those that say what is compared."""
    return home.command("diff", "masks", "before").splitlines()[3:]


def test_masks_are_told_by_area_and_overlap_and_other_arrays_by_digest(home: Home) -> None:
    home.daemon()
    assert home.python(MASKS).wait() == 0
    lines = published_masks(home)
    assert lines[0] == OVERLAPPING
    array = r"<array of float64 4, 160 B> [0-9a-f]{12}"
    assert re.fullmatch(rf"~ vector: {array} -> {array}", lines[1])
    assert lines[2] == "~ crop: area 2,000 -> 2,000 px (+0.0 %)"  # of another shape
    assert lines[3] == "+ embedding: <array of float64 3, 152 B>"
    subprocess.run([sys.executable, "-m", "edi_checkpointd", "stop"], env=home.environment, check=True, timeout=60)
    assert published_masks(home) == lines
    patch = home.json("diff", "masks", "before")["patch"]
    assert {operation["path"] for operation in patch} >= {"/entities/0/mask", "/vector"}


@pytest.mark.leaves("attachment_damaged")
def test_a_mask_whose_content_is_gone_is_told_by_its_area(home: Home) -> None:
    home.daemon()
    assert home.python(MASKS).wait() == 0
    subprocess.run([sys.executable, "-m", "edi_checkpointd", "stop"], env=home.environment, check=True, timeout=60)
    assert published_masks(home)[0] == OVERLAPPING
    for file in (home.sessions / "attachments").rglob("*.png"):
        file.write_bytes(b"no picture")
    assert published_masks(home)[0] == OVERLAPPING.removesuffix(", overlap 0.63")
