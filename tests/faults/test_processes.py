"""Many processes, few descriptors, and ones that hang: the daemon serves on, or the next one does."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

from harness import Home, Process, Refused, eventually

QUIET = ("--transition-keys", "attempt")
FULL = bool(os.environ.get("EDI_TEST_FULL"))
CONNECTS = 500
STOPPED_S = 60.0 if FULL else 2.0
WELCOMES = """
import sys, zmq
from edi_checkpoint.system.paths import locate, socket_path
from edi_checkpoint.wire.codec import decode_from_daemon, encode
from edi_checkpoint.wire.messages import Hello, Welcome
paths, count = locate(), int(sys.argv[1])
context = zmq.Context()
context.set(zmq.MAX_SOCKETS, count + 10)
sockets = [context.socket(zmq.DEALER) for _ in range(count)]
for one in sockets:
    one.linger = 0
    one.connect(f"ipc://{socket_path(paths)}")
    one.send(encode(Hello("many", "0", str(paths.sessions))))
welcomed = 0
for one in sockets:
    if one.poll(10_000):
        welcomed += isinstance(decode_from_daemon(one.recv()), Welcome)
print("welcomed", welcomed, flush=True)
sys.stdin.read()
"""


def test_of_daemons_started_at_once_one_serves_and_the_others_name_it(home: Home) -> None:
    started = [home.start([sys.executable, "-m", "edi_checkpointd", "run"], lines_from="stderr") for _ in range(3)]
    eventually(lambda: sum(one.popen.poll() is not None for one in started) == 2, 20)
    (first,) = [one for one in started if one.popen.poll() is None]
    first.wait_line("ready ")
    for other in started:
        if other is not first:
            assert other.wait() == 5
            assert "is served by" in other.stderr[0]
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.flush(timeout_s=20)")


def test_five_hundred_connects_at_once_are_all_welcomed(home: Home) -> None:
    daemon = home.daemon(*QUIET)
    many = home.python(WELCOMES, str(CONNECTS))
    assert many.wait_line("welcomed", 40) == f"welcomed {CONNECTS}"
    publisher = home.publisher("s1")
    publisher.do("publish(10)")
    publisher.do("session.flush(timeout_s=10)")
    assert daemon.popen.poll() is None


def few_descriptors(home: Home, limit: int) -> Process:
    run = f"ulimit -n {limit}; exec {sys.executable} -m edi_checkpointd run --transition-keys attempt"
    daemon = home.start(["sh", "-c", run], lines_from="stderr")
    daemon.wait_line("ready ")
    return daemon


def test_a_daemon_short_of_descriptors_says_so_while_it_serves(home: Home) -> None:
    daemon = few_descriptors(home, 100)
    home.python(WELCOMES, "70").wait_line("welcomed 70", 40)
    daemon.wait_line(lambda line: "of 100 file descriptors are open" in line)
    assert "descriptors_short" in [trouble["code"] for trouble in home.json("status")["degraded"]]
    assert sum("file descriptors are open" in line for line in daemon.stderr) == 1
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.flush(timeout_s=10)")


def test_a_daemon_without_descriptors_is_followed_by_another_and_nothing_is_lost(home: Home) -> None:
    daemon = few_descriptors(home, 60)
    publisher = home.publisher("s1")
    publisher.do("publish(20)")
    publisher.do("session.flush(timeout_s=20)")
    silent = []
    while daemon.popen.poll() is None and len(silent) < 200:  # libzmq ends the process when it cannot accept
        silent.append(socket.socket(socket.AF_UNIX))
        silent[-1].settimeout(0.2)
        try:
            silent[-1].connect(str(home.folder / "run" / "daemon.sock"))
        except OSError:
            break
    eventually(lambda: daemon.popen.poll() is not None)
    publisher.do("publish(20)")
    for one in silent:
        one.close()
    home.daemon(*QUIET)
    publisher.do("session.flush(timeout_s=20)", timeout_s=30)
    assert home.counted("s1") == list(range(1, 41))
    assert publisher.stderr == []


def test_an_intake_that_hangs_holds_no_publisher_and_is_named_until_it_goes_on(home: Home, tmp_path: Path) -> None:
    brake = tmp_path / "brake"
    stalling = Path(__file__).parents[1] / "stalling_daemon.py"
    daemon = home.start([sys.executable, str(stalling), "COMMIT_BEGUN", str(brake), "run", *QUIET], lines_from="stderr")
    daemon.wait_line("ready ")
    publisher = home.publisher("s1")
    publisher.do("publish(10)")
    publisher.do("session.flush(timeout_s=20)")
    brake.touch()
    publisher.do("publish(500)")
    told = publisher.do("session.durable")
    assert (told["spooled"], told["journaled"]) == (510, 10)
    found = home.json("status")
    assert (found["safe"], [trouble["code"] for trouble in found["degraded"]]) == (False, ["daemon_hangs"])
    brake.unlink()
    publisher.do("session.flush(timeout_s=20)", timeout_s=30)
    assert home.counted("s1") == list(range(1, 511))
    assert daemon.popen.poll() is None


def test_a_client_that_stands_still_keeps_its_session_and_goes_on_where_it_was(home: Home) -> None:
    daemon = home.daemon(*QUIET, "--autosave-every-s", "0.1")
    stopped, other = home.publisher("s1"), home.publisher("s2")
    stopped.send("publish(2000, pause_s=0.0005)")
    stopped.wait_line("acked ")
    stopped.kill(signal.SIGSTOP)
    other.do(f"[publish(10, pause_s=0.01) for _ in range({int(STOPPED_S * 10)})]", timeout_s=STOPPED_S + 60)
    other.do("session.flush(timeout_s=10)")
    listed = {row["session_id"]: row["condition"] for row in home.json("sessions")["sessions"]}
    assert listed == {"s1": "live", "s2": "live"}
    try:
        other.do("client.session('s1')")
    except Refused as refused:
        assert (refused.type, refused.pid) == ("SessionBusy", stopped.pid)
    else:
        raise AssertionError("a second writer was let in")
    stopped.kill(signal.SIGCONT)
    assert stopped.answer() == 2000
    stopped.do("session.flush(timeout_s=20)", timeout_s=30)
    assert home.counted("s1") == list(range(1, 2001))
    assert not [line for line in daemon.stderr if "interrupted" in line]
