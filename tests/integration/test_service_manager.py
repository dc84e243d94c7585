"""The daemon under a service manager whose part is played here; `tests/systemd` does the same with the real one."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Home, Publisher

FULL = os.environ.get("EDI_TEST_FULL") == "1"
RESTARTS, EACH_ROUND, PAUSE_S = (50, 600, 0.02) if FULL else (5, 120, 0.005)  # ten minutes; three seconds
PUBLISHERS = 4
PERIOD_S = 0.3  # in which the manager wants a heartbeat


class Manager:
    """The socket on which a service manager hears its services."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)

    def hear(self, timeout_s: float = 20.0) -> dict[str, str]:
        """The next message; raises TimeoutError."""
        self._socket.settimeout(timeout_s)
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().split("\n"))

    def hear_of(self, name: str) -> dict[str, str]:
        while name not in (message := self.hear()):
            pass
        return message

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


@pytest.mark.timeout(1500 if FULL else 120)
def test_publishers_see_no_error_and_nothing_is_lost_while_the_service_is_restarted(home: Home) -> None:
    with home.listen() as listening:
        daemon = home.start_activated(listening, "--history-max-bytes", str(1 << 40))
        publishers = [home.publisher(f"s{number}") for number in range(PUBLISHERS)]
        for restart in range(RESTARTS):
            for publisher in publishers:
                publisher.send(f"publish({EACH_ROUND}, pause_s={PAUSE_S}, attempt={restart})")
            daemon.kill(signal.SIGTERM if restart % 2 else signal.SIGKILL)
            daemon = home.start_activated(listening, "--history-max-bytes", str(1 << 40))
            for publisher in publishers:
                publisher.answer(timeout_s=100)
        for publisher in publishers:
            publisher.do("session.flush(timeout_s=60)", timeout_s=80)
        assert [publisher.stderr for publisher in publishers] == [[]] * PUBLISHERS
    held = home.journaled(*(f"s{number}" for number in range(PUBLISHERS)))
    for entries in held.values():
        assert [entry["values"]["n"] for entry in entries] == list(range(1, RESTARTS * EACH_ROUND + 1))


def test_who_connects_while_no_daemon_runs_is_served_by_the_next(home: Home) -> None:
    path = home.folder / "run" / "daemon.sock"
    with home.listen() as listening:
        same = path.with_name("same")
        same.hardlink_to(path)  # so that no other file can be given its inode
        first = home.start_activated(listening)
        first.wait_line("ready ")
        first.kill(signal.SIGTERM)
        assert path.samefile(same)
        publisher = home.start_publisher("s1")
        publisher.send("session.update(n=1)")
        second = home.start_activated(listening)
        publisher.wait_line("attached ")
        publisher.answer()
        publisher.do("session.flush(timeout_s=20)")
        assert publisher.do("client.status()['daemon']['pid']") == second.pid


def test_a_handed_socket_whose_path_is_gone_is_replaced(home: Home) -> None:
    with home.listen() as listening:
        (home.folder / "run" / "daemon.sock").unlink()
        daemon = home.start_activated(listening)
        daemon.wait_line("ready ")
        publisher = home.publisher("s1")
        publisher.do("session.update(n=1)")
        publisher.do("session.flush(timeout_s=20)")
        daemon.kill(signal.SIGTERM)
        assert not (home.folder / "run" / "daemon.sock").exists()


def test_a_daemon_started_by_hand_does_not_take_the_socket_from_the_service_manager(home: Home) -> None:
    with home.listen() as listening:
        second = home.start([sys.executable, "-m", "edi_checkpointd", "run"], lines_from="stderr")
        assert second.wait() == 5
        assert "systemctl --user start" in " ".join(second.stderr)
        home.start_activated(listening).wait_line("ready ")
        home.publisher("s1").do("session.flush(timeout_s=20)")


def test_a_handed_socket_that_is_not_ours_is_refused_by_name(home: Home, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "other.sock"))
        listening.listen()
        daemon = home.start_activated(listening)
        assert daemon.wait() == 1
        said = " ".join(daemon.stderr)
        assert str(tmp_path / "other.sock") in said
        assert str(home.folder / "run" / "daemon.sock") in said


def test_the_manager_is_told_when_entries_are_taken_settings_read_anew_and_when_the_daemon_leaves(
    home: Home, manager: Manager
) -> None:
    daemon = home.start(
        [sys.executable, "-m", "edi_checkpointd", "run"], lines_from="stderr", NOTIFY_SOCKET=manager.address
    )
    ready = manager.hear()
    assert ready["READY"] == "1"
    assert str(home.sessions) in ready["STATUS"]
    home.publisher("s1").do("session.flush(timeout_s=20)")
    daemon.popen.send_signal(signal.SIGHUP)
    reloading = manager.hear()
    assert reloading["RELOADING"] == "1"
    assert int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) / 1000
    assert manager.hear()["READY"] == "1"
    daemon.popen.send_signal(signal.SIGTERM)
    assert manager.hear()["STOPPING"] == "1"
    assert daemon.wait() == 0


def stalling(home: Home, manager: Manager, point: str, brake: Path) -> Publisher:
    """Start a daemon that stops at `point` while `brake` exists, and have something published to it."""
    home.start(
        [sys.executable, str(Path(__file__).parents[1] / "stalling_daemon.py"), point, str(brake), "run"],
        lines_from="stderr", NOTIFY_SOCKET=manager.address, WATCHDOG_USEC=str(int(PERIOD_S * 1e6)),
    ).wait_line("ready ")  # fmt: skip
    publisher = home.publisher("s1")
    manager.hear_of("WATCHDOG")
    brake.touch()
    publisher.do("session.update(n=1)")
    return publisher


def test_the_heartbeat_stops_when_the_intake_hangs(home: Home, manager: Manager, tmp_path: Path) -> None:
    stalling(home, manager, "RECEIVED_NOT_COMMITTED", tmp_path / "brake")
    deadline_s = time.monotonic() + 20
    with pytest.raises(TimeoutError):
        while time.monotonic() < deadline_s:
            manager.hear(4 * PERIOD_S)
    (tmp_path / "brake").unlink()
    manager.hear_of("WATCHDOG")


def test_the_heartbeat_goes_on_while_the_disk_takes_long(home: Home, manager: Manager, tmp_path: Path) -> None:
    publisher = stalling(home, manager, "COMMIT_BEGUN", tmp_path / "brake")
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < 4 * PERIOD_S:
        manager.hear_of("WATCHDOG")
    assert publisher.do("session.durable.journaled") == 0
