"""What the daemon cannot take, for a moment or for ever, costs nothing else: no other entry, session or daemon."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from harness import Home, Process, Refused, eventually

QUIET = ("--transition-keys", "attempt")
REFUSING = """
import sys, time
from edi_checkpointd.journal import Journal, JournalRefused
commit, begun = Journal.commit, []
def refused_for_a_moment(self, transaction):
    if max(transaction.numbers.values(), default=0) >= 5:
        begun or begun.append(time.monotonic())
        if time.monotonic() - begun[0] < {seconds}:
            raise JournalRefused("disk full, for a moment")
    return commit(self, transaction)
Journal.commit = refused_for_a_moment
from edi_checkpointd.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def owner_file(home: Home, folder: str, stream: str, **more: object) -> Path:
    """A lock file that nobody holds, as a writer that died leaves it."""
    place = home.state / "outbox" / folder
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner = {
        "stream": stream, "session_id": folder, "parent_session": None, "app": "x", "pid": 1, "since": "", "order": 1,
        "seen": False, "fenced": {}, **more,
    }  # fmt: skip
    path = place / f"{stream}.lock"
    path.write_text(json.dumps(owner) + "\n")
    return path


@pytest.mark.parametrize("seconds", [0.05, 1.5])
def test_entries_that_the_disk_refused_for_a_moment_are_there_in_the_end(home: Home, seconds: float) -> None:
    daemon = home.start([sys.executable, "-c", REFUSING.format(seconds=seconds), "run", *QUIET], lines_from="stderr")
    daemon.wait_line("ready ")
    publisher = home.publisher("s1")
    publisher.do("publish(150, pause_s=0.02)", timeout_s=60)
    publisher.do("session.flush(timeout_s=20)", timeout_s=30)
    entries = home.journaled("s1")["s1"]
    assert [entry["values"]["n"] for entry in entries if entry["op"] == "update"] == list(range(1, 151))
    assert publisher.do("session.durable")["journaled"] == publisher.do("session.durable")["published"]


def test_a_daemon_whose_disk_refuses_to_let_a_writer_in_lets_no_call_fail(home: Home) -> None:
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    code = (
        "import sys\n"
        "from edi_checkpointd.journal import Journal, JournalRefused\n"
        "def refuse(*_): raise JournalRefused('no space')\n"
        "Journal.attach = refuse\n"
        "from edi_checkpointd.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    daemon = home.start([sys.executable, "-c", code, "run", *QUIET], lines_from="stderr")
    daemon.wait_line("ready ")
    publisher.sees("client.connected")
    daemon.wait_line(lambda line: "no space" in line)
    for number in range(2, 6):
        publisher.do(f"session.update(n={number})")
    daemon.kill()
    home.daemon(*QUIET)
    publisher.do("session.flush(timeout_s=20)", timeout_s=30)
    assert home.json("show", "s1")["state_info"] == {"n": 5}


def test_an_attachment_beyond_the_bound_takes_no_other_entry_with_it(home: Home) -> None:
    publisher = home.publisher("s1")
    publisher.do("session.update(answer='typed by hand')")
    publisher.do("session.update(big=bytes(200_000))")
    publisher.do("session.update(score=0.5)")
    home.daemon(*QUIET, "--attachments-max-bytes", "100000")
    with pytest.raises(Refused, match="AttachmentsFull"):
        publisher.sees("session._published.check()")
    publisher.do("session.update(later=1)")
    publisher.do("session.flush(timeout_s=10)")
    assert home.json("show", "s1")["state_info"] == {"answer": "typed by hand", "score": 0.5, "later": 1}


def test_equal_bytes_published_as_an_array_and_as_bytes_both_come_back(home: Home) -> None:
    daemon = home.daemon(*QUIET)
    first = home.publisher("s1")
    first.do("import io, numpy as np")
    first.do("exec('b = io.BytesIO(); np.save(b, np.arange(5.0))', globals())")
    first.do("session.update(array=np.arange(5.0), raw=b.getvalue())")
    first.do("session.checkpoint()")
    first.do("session.close()")
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    daemon.kill(signal.SIGTERM)  # which drops the blobs that are files by now
    second = home.publisher("s1")
    assert second.do("[session['array'].tolist(), len(session['raw'])]") == [[0.0, 1.0, 2.0, 3.0, 4.0], 168]


@pytest.mark.parametrize(
    ("point", "hits"), [("COMMITTED_NOT_ACKNOWLEDGED", 2), ("COMMITTED_NOT_ACKNOWLEDGED", 3), ("OUTBOX_DRAINED", 1)]
)
def test_a_branch_whose_draining_the_daemon_dies_over_holds_each_entry_once(home: Home, point: str, hits: int) -> None:
    hung, taker = home.publisher("s1"), home.publisher()
    hung.do("publish(20)")
    hung.go_deaf()
    taker.do("session = client.session('s1', takeover=True)")
    taker.do("session.update(taken=True)")
    hung.do("publish(300, padding=10000)")
    hung.kill()
    taker.kill()
    home.start_dying(point, hits, *QUIET).wait(30)
    home.daemon(*QUIET)
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    (branch,) = [row["session_id"] for row in home.json("sessions")["sessions"] if row["parent_session"] == "s1"]
    entries = home.journaled(branch)[branch]
    assert [entry["values"]["n"] for entry in entries if entry["op"] == "update"] == list(range(21, 321))
    assert home.json("log", branch)["checkpoints"][-1]["kind"] == "stranded"


def test_a_fence_outlives_the_writer_that_took_over(home: Home) -> None:
    daemon = home.daemon(*QUIET, "--autosave-every-s", "0.1")
    hung, taker = home.publisher("s1"), home.publisher()
    hung.do("session.update(n=1)")
    hung.do("session.flush()")
    hung.go_deaf()
    taker.do("session = client.session('s1', takeover=True)")
    taker.do("session.update(n=2)")
    taker.do("session.checkpoint()")
    taker.do("client.close()")
    daemon.kill()
    hung.do("session.update(n=99)")
    hung.kill()
    third = home.publisher("s1")
    assert third.do("dict(session)") == {"n": 2}
    home.daemon(*QUIET)
    third.do("session.update(m=3)")
    third.do("session.flush(timeout_s=10)")
    assert home.json("show", "s1")["state_info"] == third.do("dict(session)") == {"n": 2, "m": 3}


def fenced_by_itself(home: Home) -> None:
    owner_file(home, "s1", "a" * 32, fenced={"a" * 32: 5})


def fenced_by_each_other(home: Home) -> None:
    owner_file(home, "s1", "a" * 32, fenced={"b" * 32: 5})
    owner_file(home, "s1", "b" * 32, order=2, fenced={"a" * 32: 5})


def no_session_id(home: Home) -> None:
    owner_file(home, "a b", "a" * 32)


def a_pipe(home: Home) -> None:
    folder = home.state / "outbox" / "s1"
    folder.mkdir(parents=True, mode=0o700)
    os.mkfifo(folder / f"{'a' * 32}.lock")


def a_link(home: Home) -> None:
    path = owner_file(home, "s1", "a" * 32)
    path.rename(home.state / "elsewhere")
    path.symlink_to(home.state / "elsewhere")


@pytest.mark.leaves("link", "mode", "outbox_unowned")
@pytest.mark.parametrize("plant", [fenced_by_itself, fenced_by_each_other, no_session_id, a_pipe, a_link])
def test_lock_files_that_cannot_be_meant_stop_neither_daemon_nor_writers(home: Home, plant) -> None:
    plant(home)
    daemon: Process = home.daemon(*QUIET)
    for session_id in ("s1", "s2"):
        publisher = home.publisher(session_id)
        publisher.do("session.update(n=1)")
        publisher.do("session.flush(timeout_s=10)")
        publisher.do("client.close()")
    assert daemon.popen.poll() is None
    assert home.json("show", "s1")["state_info"] == {"n": 1}


def test_a_fork_of_a_session_from_edis_own_file_is_saved_like_any_other(home: Home) -> None:
    home.sessions.mkdir(parents=True, mode=0o700)
    (home.sessions / "old.json").write_text(json.dumps({"session_id": "old", "current_stage": "upload"}))
    home.daemon(*QUIET)
    publisher = home.publisher()
    publisher.do("manager = StateManager('old')")
    assert publisher.do("manager.load_state()") is True
    fork = publisher.do("manager._session.fork()")
    publisher.do(f"forked = StateManager({fork!r})")
    assert publisher.do("forked.load_state()") is True
    assert publisher.do("dict(forked.state_data)") == {"session_id": fork, "current_stage": "upload"}
    publisher.do("forked.checkpoint('of its own')")
    assert json.loads(home.checkpoints(fork)[-1].read_bytes())["reason"] == "of its own"
