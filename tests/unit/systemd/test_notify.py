from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edi_checkpointd.systemd.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(10)
        yield listening


def test_heartbeats_wait_for_nobody_and_ready_is_heard_by_a_manager_that_was_busy(manager: socket.socket) -> None:
    with closing(Notifier({"NOTIFY_SOCKET": manager.getsockname()})) as notifier:
        for _ in range(1000):  # far more than the socket takes
            notifier.heartbeat()
        saying = threading.Thread(target=notifier.ready, args=("serves",))
        saying.start()
        heard = [manager.recv(4096)]
        while not heard[-1].startswith(b"READY"):
            heard.append(manager.recv(4096))
        saying.join()
    assert heard[-1] == b"READY=1\nSTATUS=serves"
    assert set(heard[:-1]) == {b"WATCHDOG=1"}
    assert len(heard) < 1000


def test_an_abstract_address_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0edi-checkpoint-test-{os.getpid()}")
        listening.settimeout(10)
        with closing(Notifier({"NOTIFY_SOCKET": f"@edi-checkpoint-test-{os.getpid()}"})) as notifier:
            notifier.ready("serves")
        assert listening.recv(4096).startswith(b"READY=1")


@pytest.mark.parametrize(
    ("told", "wanted_s"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
        ({}, None),
    ],
)
def test_heartbeats_are_for_whom_the_manager_wants_them_of(told: dict[str, str], wanted_s: float | None) -> None:
    assert Notifier(told).watchdog_s == wanted_s


def test_what_the_manager_said_is_not_handed_on(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    Notifier(environ).close()
    assert environ == {"HOME": "/"}


def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")})
    notifier.ready("serves")
    notifier.heartbeat()
    notifier.stopping("leaves")
