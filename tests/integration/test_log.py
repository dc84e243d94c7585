from __future__ import annotations

import json
import os
import re
import signal
import sys

from harness import Home

CANARY = "Xanadu"
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (INFO|WARNING|ERROR) [\w.]+: .+")


def live_through(home: Home) -> None:
    """A session in which a canary stands wherever people type or name a picture, through all that is logged of one."""
    publisher = home.publisher("s1")
    publisher.do(f"session.update(naive_prompt='{CANARY}', image_path='/p/{CANARY}.jpg', intent={{'{CANARY}': 1}})")
    publisher.do(f"session.checkpoint('{CANARY}', label='{CANARY}', timeout_s=20)")
    publisher.do(f"session.transition('{CANARY}', reason='{CANARY}')")
    publisher.do("session.rollback(sequence=1)")
    publisher.do(f"session.update(clarification=['{CANARY}'])")
    publisher.do("session.flush(timeout_s=20)")
    (home.sessions / "s1.json").write_text(f'{{"session_id": "s1", "naive_prompt": "{CANARY}')
    os.kill(publisher.pid, signal.SIGKILL)
    publisher.wait()
    home.command("note", "s1", "@1", CANARY)
    home.command("fork", "s1", "--as", "s2")


def test_the_log_never_holds_what_people_typed_or_where_their_pictures_lie(home: Home) -> None:
    daemon = home.daemon("--checkpoint-every-s", "0.1", "--keep-per-session", "2")
    live_through(home)
    daemon.kill(signal.SIGTERM)
    said = daemon.stderr[1:]
    assert any("session interrupted session=s1" in line for line in said)
    assert any("checkpoint deleted" in line for line in said)
    assert CANARY not in "\n".join(said)
    assert all(LINE.fullmatch(line) for line in said), said


def test_on_request_each_line_is_json_with_its_fields(home: Home) -> None:
    daemon = home.daemon("--log-format", "json")
    live_through(home)
    daemon.kill(signal.SIGTERM)
    lines = [json.loads(line) for line in daemon.stderr if not line.startswith("ready ")]
    interrupted, *_ = [line for line in lines if line["message"].startswith("session interrupted")]
    assert interrupted["fields"]["session"] == "s1"
    assert (interrupted["level"], interrupted["module"]) == ("info", "writers.drains")
    assert CANARY not in json.dumps(lines)


def test_a_peer_that_sends_nonsense_does_not_fill_the_log(home: Home) -> None:
    daemon = home.daemon()
    code = """
import sys, zmq
socket = zmq.Context.instance().socket(zmq.DEALER)
socket.connect("ipc://" + sys.argv[1])
for number in range(3000):
    socket.send(b"nonsense %d" % number)
    socket.recv()
"""
    peer = home.start([sys.executable, "-c", code, str(home.folder / "run" / "daemon.sock")])
    assert peer.wait(60) == 0
    daemon.kill(signal.SIGTERM)
    refused = [line for line in daemon.stderr if "refused code=" in line]
    assert 10 <= len(refused) <= 12
    assert any("more=2990" in line for line in daemon.stderr)
