"""A Textual app that edits a session: its loop is never held, whatever becomes of the daemon and the disk."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import built
from harness import Home, Process, eventually

STALL_MAX_MS = 20.0
TRIES = 3  # of which the best counts: what our code does it does each time
FULL = bool(os.environ.get("EDI_TEST_FULL"))
STAGES = 8 if FULL else 2
TESTS = Path(__file__).parents[1]


def app(home: Home, session_id: str = "", **environment: str) -> Process:
    process = home.start([sys.executable, str(TESTS / "textual_app.py"), session_id], **environment)
    process.wait_line("ready")
    return process


def phase(process: Process, name: str, in_the_middle: Callable[[], object] = lambda: None) -> dict:
    assert process.popen.stdin is not None
    process.popen.stdin.write(f"{name} {STAGES}\n".encode())
    process.popen.stdin.flush()
    process.wait_line("middle")
    in_the_middle()
    return json.loads(process.wait_line("{", 60))


def ends(process: Process) -> None:
    assert process.popen.stdin is not None
    process.popen.stdin.write(b"\n")
    process.popen.stdin.flush()
    assert process.wait() == 0
    assert process.stderr == []


def best(situation: str, run: Callable[[], dict], **counts: int) -> None:
    """Run until a round does not stall and has these counts, at most `TRIES` times; our code stalls in every round."""
    found: list[dict] = []
    while len(found) < TRIES:
        found.append(run())
        print(f"{situation:9} {found[-1]}")
        if found[-1]["max_ms"] <= STALL_MAX_MS and counts.items() <= found[-1].items():
            return
    raise AssertionError((situation, counts, found))


@pytest.fixture(scope="module")
def slow_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process whose disk takes 25 ms for each fsync."""
    return {"LD_PRELOAD": str(built("slow_disk.c", tmp_path_factory.mktemp("built"))), "SLOW_MS": "25"}


def test_the_loop_is_never_held_whatever_becomes_of_the_daemon(home: Home) -> None:
    if FULL:  # to read the others by; nothing is asked of it
        control = app(home)
        phase(control, "warm up")
        print(f"control   {phase(control, 'control')}")
        ends(control)
    edi = app(home, "s1")
    phase(edi, "warm up")
    best("absent", lambda: phase(edi, "absent"), follows=STAGES)
    daemon = home.daemon()
    eventually(lambda: home.checkpoints("s1"))  # the daemon has caught up
    best("opening", lambda: phase(edi, "opening"))
    best("running", lambda: phase(edi, "running"), made=STAGES)
    daemon.kill(signal.SIGSTOP)
    best("stopped", lambda: phase(edi, "stopped"), follows=STAGES)
    daemon.kill(signal.SIGCONT)
    best("killed", lambda: phase(edi, "killed", daemon.kill))
    home.daemon()
    ends(edi)
    eventually(lambda: not any((home.state / "outbox").iterdir()))
    told = home.json("show", "s1")
    assert told["condition"] == "unfinished"
    assert told["state_info"]["progress"] > 100
    assert len(told["state_info"]["scene_analysis"]["entities"]) == 20


def test_the_loop_is_never_held_by_a_slow_disk(home: Home, slow_disk: dict[str, str]) -> None:
    daemon = [sys.executable, "-m", "edi_checkpointd", "run"]
    home.start(daemon, lines_from="stderr", **slow_disk, SLOW_WRITES="1").wait_line("ready")
    edi = app(home, "s1", **slow_disk)
    phase(edi, "warm up")
    best("slow disk", lambda: phase(edi, "slow disk"), follows=STAGES)  # else the disk was not slow
    ends(edi)
    eventually(lambda: not any((home.state / "outbox").iterdir()))
    assert home.json("show", "s1")["condition"] == "unfinished"
