"""What happens, told while it happens: to scripts, to pipes, on a terminal; over restarts, and to who is slow."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from functools import partial

import pytest
from harness import Home, Process, eventually

COMMAND = [sys.executable, "-m", "edi_checkpointd.cli", "watch"]


def watcher(home: Home, *arguments: str) -> Process:
    """Start a watcher and wait until a daemon has it."""
    process = home.start([*COMMAND, *arguments])
    process.wait_line(lambda line: "connected" in line)
    return process


def told(process: Process, event: str, wanted: Callable[[dict], bool] = lambda event: True) -> dict:
    """Wait for an event of a kind, passing over others."""

    def accepts(line: str) -> bool:
        found = json.loads(line)
        return found["event"] == event and wanted(found)

    return json.loads(process.wait_line(accepts))


def test_scripts_are_told_of_changes_checkpoints_conditions_going_back_and_faults(home: Home) -> None:
    home.daemon("--autosave-every-s", "0.1")
    process = watcher(home, "--json")
    publisher = home.publisher("s1")
    assert told(process, "condition")["name"] == "live"
    publisher.do("session.update(naive_prompt='redder', n=1)")
    found = told(process, "update")
    assert (found["session_id"], found["sequence"], found["entries"]) == ("s1", 1, 1)
    assert found["detail"] == "naive_prompt, n"
    assert found["timestamp"].endswith("Z")
    publisher.do("session.transition('intent')")
    assert told(process, "update")["stage"] == "intent"
    publisher.do("session.checkpoint('mine')")
    made = told(process, "checkpoint", lambda event: event["detail"] == "manual: mine")
    assert made["name"] in [path.name for path in home.checkpoints("s1")]
    publisher.do("session.rollback(sequence=1)")
    assert told(process, "rollback")["detail"] == "back to sequence 1"
    in_the_way = home.sessions / ".s1.json.tmp"
    in_the_way.mkdir()
    publisher.do("session.update(n=2)")
    found = told(process, "fault")
    assert (found["name"], found["session_id"]) == ("checkpoints_failing", "s1")
    in_the_way.rmdir()
    publisher.kill()
    assert told(process, "condition")["name"] == "interrupted"
    publisher = home.publisher("s1")
    publisher.do("session.end('completed')")
    assert told(process, "condition", lambda event: event["name"] != "live")["name"] == "ended"


def test_a_watcher_waits_for_a_daemon_goes_on_with_the_next_and_says_so(home: Home) -> None:
    process = home.start([*COMMAND, "--json"])
    assert told(process, "daemon")["name"] == "gone"
    for _ in range(2):
        daemon = home.daemon()
        assert told(process, "daemon")["detail"] == f"process {daemon.pid}"
        publisher = home.publisher("s1")
        publisher.do("session.update(n=1)")
        assert told(process, "update")["session_id"] == "s1"
        publisher.kill()
        daemon.kill()
        assert told(process, "daemon")["name"] == "gone"


def test_who_is_slow_holds_nobody_up_and_is_told_how_much_it_missed(home: Home) -> None:
    home.daemon()
    process = watcher(home, "--json")
    publisher = home.publisher("s1")
    told(process, "condition")
    process.kill(signal.SIGSTOP)
    for _ in range(6):
        publisher.do("[(publish(1), session.flush())[1] for _ in range(100)]")
    process.kill(signal.SIGCONT)
    last = told(process, "update", lambda event: event["sequence"] == 600)
    assert last["entries"] == 1
    events = [json.loads(line) for line in process.stdout]
    missed = [int(event["detail"].split()[0]) for event in events if event["name"] == "events_missed"]
    assert missed
    updates = [event["sequence"] for event in events if event["event"] == "update"]
    assert 0 < 600 - len(updates) <= sum(missed)  # a checkpoint may be among what was missed
    assert updates == sorted(updates)


def test_a_pipe_gets_a_plain_line_for_each_event(home: Home) -> None:
    home.daemon()
    process = watcher(home)
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    line = process.wait_line(lambda line: "update" in line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d  update      s1 1  1 change: n", line)
    process.kill(signal.SIGINT)
    assert process.wait() == 130
    assert process.stderr == []


@pytest.mark.parametrize("by_key", [True, False], ids=["Ctrl-C", "SIGTERM"])
def test_the_live_view_fits_the_terminal_and_leaves_it_as_it_was(home: Home, by_key: bool) -> None:
    home.daemon()
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    own_terminal = partial(fcntl.ioctl, its, termios.TIOCSCTTY, 0)
    environment = {**home.environment, "TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen(
        COMMAND, env=environment, stdin=its, stdout=its, stderr=its, start_new_session=True, preexec_fn=own_terminal
    )
    os.close(its)
    text = b""

    def shows(wanted: bytes) -> bool:
        nonlocal text
        text += os.read(ours, 1 << 16)
        return wanted in text

    eventually(lambda: shows(b"daemon connected: process"))
    publisher = home.publisher("lighthouse")
    publisher.do("session.transition('refinement', naive_prompt='a stormier sky', image_path='/home/ann/' + 200 * 'x')")
    eventually(lambda: shows(b"2 changes: ") or shows(b"1 change: "))
    eventually(lambda: shows(b"refinement"))
    publisher.kill()
    eventually(lambda: shows(b"interrupted"))
    if by_key:
        os.write(ours, b"\x03")
    else:
        process.terminate()
    assert process.wait(20) == (130 if by_key else 128 + signal.SIGTERM)
    text += os.read(ours, 1 << 16)
    os.close(ours)
    assert text.startswith(b"\x1b[?1049h")
    assert text.endswith(b"\x1b[?25h\x1b[?1049l")
    frame = text.decode().replace("\r", "").rpartition("\x1b[H")[2].partition("\x1b[?25h")[0]
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).split("\n")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 82  # the interrupt echoes ^C
    assert "lighthouse" in frame
