from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time

import pytest
from harness import Home, Refused, eventually

from edi_checkpoint.system.paths import locate

FORK = """
def forked(session):
    read, write = os.pipe()
    if os.fork() == 0:
        told = []
        for name in ("update", "checkpoint", "flush"):
            try:
                getattr(session, name)(**({"n": 2} if name == "update" else {}))
                told.append("nothing raised")
            except BaseException as error:
                told.append(type(error).__name__)
        try:
            own = edi_checkpoint.connect(app="child")
            with own, own.session("childs_own") as mine:
                mine["n"] = 3
                mine.flush()
            told.append("own session")
        except BaseException as error:
            told.append(repr(error))
        os.write(write, " ".join(told).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        return file.read().split(" ", 3)
"""

THREADS = """
def in_threads(session, count):
    from threading import Thread
    failures = []
    def work(number):
        try:
            for part in range(count):
                session.update({f"k{number}": part, "current_stage": f"{number}.{part}"})
                if part % 100 == 99:
                    session.checkpoint(f"{number}.{part}", timeout_s=20)
                if part % 50 == 49:
                    session.flush(timeout_s=20)
        except BaseException as error:
            failures.append(repr(error))
    threads = [Thread(target=work, args=(number,)) for number in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return failures
"""


def test_a_second_process_is_told_who_writes_to_the_session(home: Home) -> None:
    home.daemon()
    first, second = home.publisher("s1"), home.publisher()
    with pytest.raises(Refused) as refused:
        second.do("client.session('s1')")
    assert (refused.value.type, refused.value.pid) == ("SessionBusy", first.pid)
    first.do("session.update(n=1)")
    first.do("session.close()")
    second.do("session = client.session('s1')")
    assert second.do("dict(session)") == {"n": 1}


def test_a_second_process_is_told_who_writes_to_the_session_without_a_daemon_too(home: Home) -> None:
    first, second = home.publisher("s1"), home.publisher()
    with pytest.raises(Refused) as refused:
        second.do("client.session('s1')")
    assert (refused.value.type, refused.value.pid) == ("SessionBusy", first.pid)
    first.kill()
    second.do("session = client.session('s1')")


def test_a_second_session_of_the_same_process_is_busy_too_until_the_first_is_closed(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    with pytest.raises(Refused, match="SessionBusy"):
        publisher.do("client.session('s1')")
    publisher.do("session.update(n=1)")
    publisher.do("session.close()")
    publisher.do("again = client.session('s1')")
    publisher.do("again.update(m=2)")
    publisher.do("again.flush()")
    assert publisher.do("dict(again)") == {"n": 1, "m": 2}


def test_a_forked_child_is_refused_and_may_open_its_own_while_the_parent_goes_on(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do(f"exec({FORK!r}, globals())")
    assert publisher.do("forked(session)") == ["SessionForked", "SessionForked", "SessionForked", "own session"]
    publisher.do("session.update(n=4)")
    publisher.do("session.flush()")
    assert [entry["values"]["n"] for entry in home.journaled("s1")["s1"]] == [1, 4]
    publisher.kill()
    eventually(lambda: not (home.state / "outbox" / "s1").exists())


def test_checkpoint_returns_when_its_file_is_there_and_tells_of_it(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.transition('refinement', n=1)")
    told = publisher.do("session.checkpoint('before the job', label='good one')")
    path = home.sessions / told["name"]
    document = json.loads(path.read_bytes())
    assert (document["reason"], document["checkpoint"]["label"]) == ("before the job", "good one")
    assert document["state_info"] == {"n": 1, "current_stage": "refinement"}
    assert (told["kind"], told["stage"], told["sequence"]) == ("manual", "refinement", 2)
    assert (told["size_bytes"], told["session_id"]) == (path.stat().st_size, "s1")
    assert publisher.do("session.checkpoints()") == [told]


def test_flush_brings_the_session_file_up_to_date(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    for number in range(5):
        publisher.do(f"session.update(n={number})")
        publisher.do("session.flush('checkpointed')")
        assert json.loads((home.sessions / "s1.json").read_bytes())["n"] == number
        durable = publisher.do("session.durable")
        assert durable["published"] == durable["journaled"] == durable["checkpointed"]


def test_flush_brings_the_session_file_up_to_date_under_a_load_that_never_pauses(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do(
        "exec(\"import threading; on = True\\ndef load():\\n while on: session['m'] = 1; time.sleep(0.0005)\\n"
        'thread = threading.Thread(target=load); thread.start()", globals())'
    )
    for number in range(5):
        publisher.do(f"session.update(n={number})")
        publisher.do("session.flush('checkpointed')")
        assert json.loads((home.sessions / "s1.json").read_bytes())["n"] == number
    publisher.do("exec('on = False', globals())")
    publisher.do("thread.join()")


def test_a_checkpoint_without_a_daemon_times_out_and_its_file_follows(home: Home) -> None:
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    with pytest.raises(Refused, match="FlushTimeout"):
        publisher.do("session.checkpoint('asked for', label='mine', timeout_s=0.1)")
    publisher.do("session.update(n=2)")
    home.daemon()
    (path,) = eventually(lambda: home.checkpoints("s1"))
    document = json.loads(path.read_bytes())
    assert (document["reason"], document["checkpoint"]["label"]) == ("asked for", "mine")
    assert document["state_info"] == {"n": 1}


def test_a_checkpoint_that_waits_while_the_daemon_is_restarted_gets_its_file(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.flush()")
    daemon.kill(signal.SIGSTOP)
    publisher.send("session.checkpoint('over the restart', timeout_s=20)")
    daemon.kill()
    home.daemon()
    told = publisher.answer()
    assert json.loads((home.sessions / told["name"]).read_bytes())["reason"] == "over the restart"


def test_a_checkpoint_that_cannot_be_written_fails_by_name_and_leaves_the_older_ones(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.checkpoint()")
    before = home.checkpoints("s1")
    home.sessions.rename(home.folder / "elsewhere")
    home.sessions.write_text("no folder")
    with pytest.raises(Refused) as refused:
        publisher.do("session.checkpoint()")
    assert refused.value.type == "CheckpointFailed"
    home.sessions.unlink()
    (home.folder / "elsewhere").rename(home.sessions)
    publisher.do("session.checkpoint('again')")
    assert home.checkpoints("s1")[:1] == before
    assert len(home.checkpoints("s1")) == 2


def test_no_publishing_call_waits_for_a_stopped_daemon(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    daemon.kill(signal.SIGSTOP)
    begun_s = time.monotonic()
    for call in ("session.update(n=2)", "session.__setitem__('m', [1])", "session.pop('m')", "session.transition('x')"):
        publisher.do(call)
    assert time.monotonic() - begun_s < 1
    assert publisher.do("session.durable")["published"] == 5
    daemon.kill(signal.SIGCONT)
    publisher.do("session.flush(timeout_s=10)")


def test_a_client_of_another_sessions_folder_is_told_nothing_and_its_entries_wait(home: Home) -> None:
    home.daemon()
    other = home.folder / "other"
    publisher = home.publisher("s1", EDI_CHECKPOINT_SESSIONS_DIR=str(other))
    publisher.do("session.update(n=1)")
    assert publisher.do("client.connected") is False
    assert publisher.do("session.durable")["journaled"] == 0
    assert home.checkpoints("s1") == []


def test_several_threads_publish_to_one_session_and_each_finds_its_own_order(home: Home) -> None:
    home.daemon("--transition-keys", "attempt")
    publisher = home.publisher("s1")
    publisher.do(f"exec({THREADS!r}, globals())")
    assert publisher.do("in_threads(session, 300)") == []
    entries = home.journaled("s1")["s1"]
    stages = [entry["values"]["current_stage"] for entry in entries if entry["op"] == "update"]
    for number in range(6):
        own = [stage for stage in stages if stage.startswith(f"{number}.")]
        assert own == [f"{number}.{part}" for part in range(300)]
    assert sum(entry["op"] == "mark" for entry in entries) == 18
    assert {key: value for key, value in publisher.do("dict(session)").items() if key[0] == "k"} == {
        f"k{number}": 299 for number in range(6)
    }


def test_a_forked_child_ends_by_itself_and_leaves_the_parents_session_alone(home: Home) -> None:
    home.daemon()
    code = (
        "import os, sys\n"
        "from edi_checkpoint import connect\n"
        "session = connect().session('s1')\n"
        "session['n'] = 1\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    sys.exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "session['n'] = 2\n"
        "session.flush()\n"
        "print('done', flush=True)\n"
        "input()\n"
    )
    process = home.python(code)
    process.wait_line("done")
    assert home.json("show", "s1")["condition"] == "live"
    process.kill()
    eventually(lambda: home.json("show", "s1")["condition"] == "interrupted")
    assert home.json("show", "s1")["state_info"] == {"n": 2}


def test_a_child_of_a_publisher_keeps_no_dead_session_alive(home: Home) -> None:
    home.daemon()
    code = (
        "import os, subprocess, time\n"
        "from edi_checkpoint import connect\n"
        "session = connect().session('s1')\n"
        "session['n'] = 1\n"
        "other = subprocess.Popen(['sleep', '600'])\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    time.sleep(600)\n"
        "session.flush()\n"
        "print(f'children {other.pid} {child}', flush=True)\n"
        "input()\n"
    )
    process = home.python(code)
    children = [int(pid) for pid in process.wait_line("children ").split()[1:]]
    try:
        process.popen.kill()
        process.popen.wait()
        eventually(lambda: home.json("show", "s1")["condition"] == "interrupted")
        assert home.publisher("s1").do("dict(session)") == {"n": 1}
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)


def test_a_closed_session_refuses_by_name(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.close()")
    publisher.do("session.close()")
    for call in ("session.update(n=2)", "session.checkpoint()", "session.flush()"):
        with pytest.raises(Refused, match="SessionClosed"):
            publisher.do(call)
    publisher.do("client.close()")
    with pytest.raises(Refused, match="SessionClosed"):
        publisher.do("client.session('s2')")


def test_what_is_published_while_the_daemon_is_busy_leaves_in_few_frames(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=0)")
    publisher.do("session.flush()")
    os.kill(daemon.pid, signal.SIGSTOP)
    publisher.do("[session.update(n=n) for n in range(1, 501)]")
    os.kill(daemon.pid, signal.SIGCONT)
    publisher.do("session.flush(timeout_s=20)")
    assert home.counted("s1") == list(range(501))
    with contextlib.closing(sqlite3.connect(locate(home.environment).journal)) as journal:
        [(frames,)] = journal.execute("SELECT count(*) FROM frames WHERE last > 1")
    assert frames <= 3  # the first entry, what gathered behind it, and what `flush` found unsent


def test_a_mark_does_not_wait_for_what_is_under_way(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    os.kill(daemon.pid, signal.SIGSTOP)
    publisher.do("session.update(n=1)")
    publisher.sees("session._stream.window.in_flight")
    publisher.do("session.update(n=2)")
    publisher.do("asked = session.core.publication.ask_checkpoint('now')")
    publisher.sees("session._stream.window.sent == session._stream.outbox.published")
    os.kill(daemon.pid, signal.SIGCONT)
    assert publisher.do("asked.result(20).reason") == "now"
