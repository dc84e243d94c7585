from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Process

from edi_checkpoint.documents.names import parse_checkpoint_name
from edi_checkpointd.cli.demo.editor import CUT_AT, STEPS, Heard, find, steps_left, told

DEMO = [sys.executable, "-m", "edi_checkpointd.cli", "demo"]
CLOSING = re.compile(r"demo: acknowledged=(\d+) recovered=(\d+) lost=0 checkpoints=(\d+)")


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the demo makes its home, not too deep for a socket; nothing of it may run when the test is over."""
    folder = tmp_path_factory.mktemp("d")
    yield folder
    assert running_in(folder) == []


def environment(place: Path) -> dict[str, str]:
    others = {key: text for key, text in os.environ.items() if not key.startswith("EDI_CHECKPOINT_")}
    return {**others, "TMPDIR": str(place), "PYTHONDONTWRITEBYTECODE": "1"}


def running_in(place: Path) -> list[str]:
    """The command lines of the processes whose home lies below `place`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"EDI_CHECKPOINT_HOME={place}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended, or is not ours
    return found


def run_demo(place: Path, *flags: str, expect: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*DEMO, *flags],
        env={**environment(place), **variables},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == expect, (done.stdout, done.stderr)
    return done


@pytest.mark.slow
def test_the_demo_loses_nothing_tells_it_and_leaves_nothing(place: Path, tmp_path: Path) -> None:
    own = tmp_path / "sessions of the user"
    done = run_demo(place, EDI_CHECKPOINT_SESSIONS_DIR=str(own))

    lines = done.stdout.splitlines()
    closing = CLOSING.fullmatch(lines[-1])
    assert closing, lines[-1]
    acknowledged, recovered, checkpoints = map(int, closing.groups())
    assert len(STEPS) // 2 < acknowledged == recovered <= len(STEPS)
    assert sum(parse_checkpoint_name(line.rpartition(" ")[2]) is not None for line in lines) == checkpoints > 0
    assert done.stdout.isascii()
    assert max(map(len, lines)) <= 80
    assert done.stderr == ""
    assert list(place.iterdir()) == []
    assert not own.exists()


@pytest.mark.slow
def test_a_kept_home_holds_the_checkpoints_that_were_counted(place: Path) -> None:
    told_of = json.loads(run_demo(place, "--keep", "--json").stdout)

    assert told_of.keys() == {"format", "acknowledged", "recovered", "lost", "checkpoints", "home"}
    assert (told_of["format"], told_of["lost"]) == (1, 0)
    (home,) = place.iterdir()
    assert told_of["home"] == str(home)
    names = [parse_checkpoint_name(path.name) for path in (home / "sessions").iterdir()]
    assert sum(name is not None and name.session_id == "demo" for name in names) == told_of["checkpoints"]


def test_a_demo_that_is_stopped_ends_what_it_started(place: Path) -> None:
    demo = Process(DEMO, environment(place))
    try:
        demo.wait_line(lambda line: "clarification" in line)
        assert len(running_in(place)) == 2
        demo.popen.send_signal(signal.SIGTERM)
        assert demo.wait() == 1
    finally:
        demo.close()
    assert list(place.iterdir()) == []


def test_a_daemon_that_does_not_come_up_is_said_with_its_last_words(tmp_path: Path) -> None:
    too_deep = tmp_path / ("d" * 100)
    too_deep.mkdir()
    done = run_demo(too_deep, expect=1)
    assert "did not start" in done.stderr
    assert "the socket's path has" in done.stderr
    assert "demo: acknowledged" not in done.stdout
    assert list(too_deep.iterdir()) == []


def test_an_acknowledged_entry_that_is_not_found_counts_as_lost() -> None:
    first, second = Heard({1: "a", 2: "b", 3: "c"}, {1, 2}), Heard({1: "d"}, {1})
    assert find([first, second], ["a", "b", "c", "d"]) == (3, 3, 0, 0)
    assert find([first, second], ["a", "c", "d"]) == (3, 2, 0, 0)
    assert find([first, second], ["a", "c", "d"]).lost == 1
    assert find([first, second], ["a", "b", "d"]) == (3, 3, 1, 0)
    assert find([first, second], ["a", "b", "b", "c", "d"]) == (3, 3, 0, 1)
    assert find([first, second], []).lost == 3


def test_entries_in_another_order_are_not_found() -> None:
    assert find([Heard({1: "a", 2: "b"}, {1, 2})], ["b", "a"]).lost == 1


def test_an_editor_goes_on_behind_the_last_step_that_the_state_holds() -> None:
    state: dict[str, object] = {}
    for done, step in enumerate(STEPS):
        assert steps_left(state) == STEPS[done:]
        state.update(step.values)
    assert steps_left(state) == []


def test_the_cut_is_in_the_middle_of_refinement() -> None:
    assert told(CUT_AT).startswith("refinement ")
