from __future__ import annotations

import signal

from harness import Home, Publisher, eventually

CALLS = 10_000
AS_FAST = 5  # times the median with a daemon at work beside it
QUIET = ("--transition-keys", "attempt")


def numbers(home: Home, session_id: str) -> list[int]:
    entries = home.journaled(session_id)[session_id]
    return [entry["values"]["n"] for entry in entries if "n" in entry["values"]]


def drained(home: Home, session_id: str) -> bool:
    return not (home.state / "outbox" / session_id).exists()


def manager(home: Home, session_id: str) -> Publisher:
    publisher = home.publisher()
    publisher.do(f"manager = StateManager({session_id!r})")
    publisher.do("manager.set_state('status', 'in_progress')")
    publisher.do("published = 0")
    return publisher


def test_ten_thousand_calls_keep_their_speed_and_survive_the_publisher_with_the_daemon_stopped(home: Home) -> None:
    daemon = home.daemon(*QUIET)
    publisher = manager(home, "s1")
    beside = publisher.do(f"timed({CALLS})")
    daemon.kill(signal.SIGSTOP)
    stopped = publisher.do(f"timed({CALLS})")
    publisher.kill()
    print(f"set_state beside a daemon {beside}, beside a stopped one {stopped}")
    assert stopped["p50_us"] <= AS_FAST * beside["p50_us"]
    daemon.kill(signal.SIGCONT)
    eventually(lambda: drained(home, "s1"))
    assert numbers(home, "s1") == list(range(1, 2 * CALLS + 1))


def test_ten_thousand_calls_keep_their_speed_and_survive_the_publisher_without_a_daemon(home: Home) -> None:
    daemon = home.daemon(*QUIET)
    beside = manager(home, "s1").do(f"timed({CALLS})")
    daemon.kill()
    publisher = manager(home, "s2")
    absent = publisher.do(f"timed({CALLS})")
    publisher.kill()
    print(f"set_state beside a daemon {beside}, without one {absent}")
    assert absent["p50_us"] <= AS_FAST * beside["p50_us"]
    home.daemon(*QUIET)
    eventually(lambda: drained(home, "s2"))
    assert numbers(home, "s2") == list(range(1, CALLS + 1))
