from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from pathlib import Path

import pytest
from harness import PATIENCE_S, Home, Publisher, eventually

LEAVES_WITHIN_S = 2.0


def numbers(home: Home, session_id: str) -> list[int]:
    entries = home.journaled(session_id)[session_id]
    return [entry["values"]["n"] for entry in entries if "n" in entry["values"]]


def load(home: Home, count: int) -> list[Publisher]:
    """Publishers that publish now and, by what they tell, are being acknowledged."""
    publishers = [home.publisher(f"s{number}") for number in range(count)]
    for publisher in publishers:
        publisher.send("publish(2000, pause_s=0.0002, padding=1000)")
    for publisher in publishers:
        publisher.wait_line("acked ")
    return publishers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_told_to_end_leaves_within_two_seconds_under_load_and_nothing_is_lost(
    home: Home, number: signal.Signals
) -> None:
    daemon = home.daemon("--transition-keys", "attempt")
    publishers = load(home, 3)
    begun_s = time.monotonic()
    daemon.popen.send_signal(number)
    assert daemon.wait() == 0
    assert time.monotonic() - begun_s < LEAVES_WITHIN_S
    acknowledged = [publisher.acknowledged for publisher in publishers]
    held = [numbers(home, f"s{number}") for number in range(3)]
    assert all(len(one) >= least for one, least in zip(held, acknowledged, strict=True))
    home.daemon("--transition-keys", "attempt")
    for session, publisher in enumerate(publishers):
        publisher.answer()
        publisher.do("session.flush(timeout_s=20)")
        assert numbers(home, f"s{session}") == list(range(1, 2001))
        assert publisher.stderr == []


def test_a_signal_that_does_not_interrupt_the_main_thread_ends_the_daemon_all_the_same(home: Home) -> None:
    """The signal may come just before the main thread begins to wait; the same is shown by one for another thread."""
    daemon = home.daemon()
    home.publisher("s1").do(f"session.checkpoint(timeout_s={PATIENCE_S})")  # meanwhile the main thread has come to wait
    threads = {int(path.name) for path in Path(f"/proc/{daemon.pid}/task").iterdir()}
    os.kill(max(threads - {daemon.pid}), signal.SIGTERM)  # Linux offers it to the thread of that id first
    assert daemon.wait() == 0


def test_a_daemon_told_to_end_with_hundreds_of_unsaved_sessions_leaves_the_rest_to_the_next(home: Home) -> None:
    daemon = home.daemon("--autosave-every-s", "3600")
    publisher = home.publisher()
    publisher.do("several = [client.session(f's{number}') for number in range(300)]")
    publisher.do("[session.update(n=number, text='x' * 10_000) for number, session in enumerate(several)]")
    publisher.do("[session.flush(timeout_s=20) for session in several]")
    begun_s = time.monotonic()
    daemon.popen.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert time.monotonic() - begun_s < LEAVES_WITHIN_S
    publisher.kill()
    home.daemon()
    eventually(lambda: not any((home.state / "outbox").iterdir()))
    saved = [json.loads((home.sessions / f"s{number}.json").read_bytes())["n"] for number in range(300)]
    assert saved == list(range(300))


def test_a_daemon_that_ends_leaves_its_states_in_files_and_no_socket(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.flush()")
    daemon.kill(signal.SIGTERM)
    assert not (home.folder / "run" / "daemon.sock").exists()
    assert json.loads((home.sessions / "s1.json").read_bytes())["n"] == 1
    (newest,) = home.checkpoints("s1")
    assert json.loads(newest.read_bytes())["checkpoint"]["kind"] == "shutdown"
    home.daemon()
    publisher.do("session.flush(timeout_s=20)")
    assert home.checkpoints("s1") == [newest]


def test_a_second_daemon_on_the_same_folder_exits_5_and_names_the_first(home: Home) -> None:
    first = home.daemon()
    publisher = home.publisher("s1")
    second = home.start([*first.popen.args[:-1], "run"], lines_from="stderr")
    assert second.wait() == 5
    assert str(first.pid) in " ".join(second.stderr)
    publisher.do("session.update(n=1)")
    publisher.do("session.flush()")


def test_a_daemon_that_was_killed_is_followed_by_another_at_once(home: Home) -> None:
    home.daemon().kill()
    assert home.daemon().popen.poll() is None


def test_stop_ends_the_daemon_and_is_content_when_none_runs(home: Home) -> None:
    daemon = home.daemon()
    stop = [*daemon.popen.args[:-1], "stop"]
    assert home.start(stop).wait() == 0
    assert daemon.wait() == 0
    assert home.start(stop).wait() == 0


def test_a_publisher_sees_no_error_and_no_slower_call_while_the_daemon_is_restarted(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher()
    publisher.do("manager = StateManager('s1')")
    for _ in range(3):
        publisher.send("timed(3000)")
        daemon.kill(signal.SIGKILL)
        daemon = home.daemon()
        assert publisher.answer()["p50_us"] < 1000
    publisher.do("manager.save_state()")
    assert publisher.sees("manager._session.durable.journaled == manager._session.durable.published")
    assert publisher.stderr == []
    assert numbers(home, "s1") == list(range(1, 9001))


def test_a_daemon_that_a_client_started_leaves_when_nobody_writes(home: Home) -> None:
    publisher = home.publisher("s1", EDI_CHECKPOINT_AUTOSTART="1", EDI_CHECKPOINT_IDLE_EXIT_S="1")
    daemon = os.pidfd_open(json.loads((home.sessions / ".daemon.lock").read_bytes())["pid"])
    try:
        publisher.do("session.update(n=1)")
        publisher.do("session.flush(timeout_s=10)")
        publisher.do("client.close()")
        assert select.select([daemon], [], [], 10)[0]
        assert json.loads((home.sessions / "s1.json").read_bytes())["n"] == 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(daemon, signal.SIGKILL)
        os.close(daemon)
