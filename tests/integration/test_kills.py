from __future__ import annotations

import os
import random

import pytest
from harness import Home, Publisher

FULL = os.environ.get("EDI_TEST_FULL") == "1"  # the long form, minutes instead of seconds
PUBLISHERS = 4
ENTRIES, KILLS = (5_000, 10) if FULL else (1_000, 4)
SESSIONS = [f"s{number}" for number in range(PUBLISHERS)]


def numbers(entries: list[dict]) -> list[int]:
    return [entry["values"]["n"] for entry in entries if entry["op"] == "update"]


def assert_holds_what_was_acknowledged(home: Home, publishers: dict[str, Publisher]) -> None:
    acknowledged = {session_id: publisher.acknowledged for session_id, publisher in publishers.items()}
    for session_id, entries in home.journaled(*publishers).items():
        held = numbers(entries)
        assert held == list(range(1, len(held) + 1)), session_id
        assert len(held) >= acknowledged[session_id], session_id


@pytest.mark.crash
@pytest.mark.slow
def test_each_acknowledged_entry_is_there_once_and_in_order_however_often_the_daemon_is_killed(home: Home) -> None:
    flags = ("--transition-keys", "attempt")
    chance = random.Random(4_000)
    daemon = home.daemon(*flags)
    publishers = {session_id: home.publisher(session_id) for session_id in SESSIONS}
    share = ENTRIES // (KILLS + 1)
    for _ in range(KILLS):
        for publisher in publishers.values():
            publisher.do("session.flush(timeout_s=20)", timeout_s=30)
        for publisher in publishers.values():
            publisher.send(f"publish({share}, pause_s=0.0005)")
        for publisher in chance.sample(list(publishers.values()), chance.randint(1, PUBLISHERS)):
            publisher.wait_line("acked ")
        daemon.kill()
        assert_holds_what_was_acknowledged(home, publishers)
        daemon = home.daemon(*flags)
        for publisher in publishers.values():
            publisher.answer()
    for publisher in publishers.values():
        publisher.do(f"publish({ENTRIES - KILLS * share})")
        publisher.do("session.flush(timeout_s=30)", timeout_s=40)
        assert publisher.do("session.durable.journaled") == ENTRIES
    for session_id, entries in home.journaled(*SESSIONS).items():
        assert numbers(entries) == list(range(1, ENTRIES + 1)), session_id
    for session_id, publisher in publishers.items():
        publisher.do("session.close()")
        history = home.history(session_id)
        assert [entry["sequence"] for entry in history] == list(range(1, len(history) + 1))
        assert [entry["stage"] for entry in history if entry["op"] == "update"] == [
            str(number) for number in range(1, ENTRIES + 1)
        ]
        assert publisher.stderr == []
