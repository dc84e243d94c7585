"""Kills at moments nobody chose: the daemon, the publishers, both.

The seed is printed; `KILL_SEED=<n>` makes the same choices again.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator

import pytest
from harness import Home, Process, Publisher, eventually

from edi_checkpoint.document import parse_autosave, parse_checkpoint
from edi_checkpoint.names import parse_checkpoint_name

FLAGS = (
    "--transition-keys", "attempt", "--transition-quiet-s", "0.01", "--keep-per-session", "3",
    "--autosave-every-s", "0.1", "--checkpoint-every-s", "0.2", "--history-max-bytes", str(1 << 40),
)  # fmt: skip
ROUNDS = 60 if os.environ.get("EDI_TEST_FULL") == "1" else 5
SESSIONS = ("s0", "s1", "s2")
LOAD = "[publish(10, pause_s=0.0003, padding={padding}, attempt=turn) for turn in range(10_000)]"


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"KILL_SEED={seed}")
    return random.Random(seed)


class Writers:
    """A publisher for each session, which publishes until it is killed; what the dead have told is kept."""

    def __init__(self, home: Home, chance: random.Random) -> None:
        self._home, self._chance = home, chance
        self.living: dict[str, Publisher] = {}
        self.runs: dict[str, list[Publisher]] = {session_id: [] for session_id in SESSIONS}
        for session_id in SESSIONS:
            self.begin(session_id)

    def begin(self, session_id: str) -> None:
        publisher = self._home.publisher(session_id)
        publisher.send(LOAD.format(padding=self._chance.choice((0, 100, 3000))))
        self.living[session_id] = publisher
        self.runs[session_id].append(publisher)

    def kill(self, session_id: str) -> None:
        self.living.pop(session_id).kill()


def moment(chance: random.Random) -> None:
    """Let the load go on for as long as chance says; nothing is waited for."""
    time.sleep(chance.uniform(0, 0.08))


def runs_of(entries: list[dict]) -> Iterator[list[int]]:
    """The numbers of each publisher of a session: every one begins at 1, and in the order of the sequences."""
    assert [entry["sequence"] for entry in entries] == list(range(1, len(entries) + 1))
    run: list[int] = []
    for entry in entries:
        if entry["op"] != "update":
            continue
        if entry["values"]["n"] == 1 and run:
            yield run
            run = []
        run.append(entry["values"]["n"])
    yield run


def assert_nothing_lost_or_doubled(home: Home, writers: Writers) -> None:
    told = {session_id: [one.acknowledged for one in runs] for session_id, runs in writers.runs.items()}
    for session_id, entries in home.journaled(*SESSIONS).items():
        held = list(runs_of(entries))
        assert all(run == list(range(1, len(run) + 1)) for run in held), session_id
        acknowledged = [count for count in told[session_id] if count]
        found = iter([len(run) for run in held])
        # The runs stand in the order of the publishers; one that published nothing has none.
        assert all(any(length >= count for length in found) for count in acknowledged), (session_id, acknowledged)


def assert_files_are_whole(home: Home) -> None:
    for path in home.sessions.glob("[!.]*.json"):
        parse = parse_checkpoint if parse_checkpoint_name(path.name) else parse_autosave
        with contextlib.suppress(FileNotFoundError):  # rotated meanwhile
            parse(path.read_bytes(), path.name)


def finish(home: Home, daemon: Process, writers: Writers) -> None:
    for session_id in list(writers.living):
        writers.kill(session_id)
    eventually(lambda: list((home.state / "outbox").iterdir()) == [], timeout_s=30)
    assert daemon.popen.poll() is None
    assert_nothing_lost_or_doubled(home, writers)
    assert_files_are_whole(home)
    for session_id, entries in home.journaled(*SESSIONS).items():
        shown = home.json("show", session_id)
        assert shown["condition"] == "interrupted"
        assert shown["state_info"]["n"] == [entry for entry in entries if entry["op"] == "update"][-1]["values"]["n"]
        newest = home.checkpoints(session_id)[-1]
        assert parse_checkpoint(newest.read_bytes(), newest.name).header.sequence == len(entries)


@pytest.mark.crash
def test_nothing_is_lost_or_doubled_while_daemons_are_killed(home: Home, chance: random.Random) -> None:
    daemon = home.daemon(*FLAGS)
    writers = Writers(home, chance)
    for _ in range(ROUNDS):
        moment(chance)
        daemon.kill()
        assert_nothing_lost_or_doubled(home, writers)
        assert_files_are_whole(home)
        daemon = home.daemon(*FLAGS)
    assert all(writer.popen.poll() is None and writer.stderr == [] for writer in writers.living.values())
    finish(home, daemon, writers)


@pytest.mark.crash
def test_nothing_is_lost_or_doubled_while_publishers_are_killed(home: Home, chance: random.Random) -> None:
    daemon = home.daemon(*FLAGS)
    writers = Writers(home, chance)
    for _ in range(ROUNDS):
        moment(chance)
        session_id = chance.choice(SESSIONS)
        writers.kill(session_id)
        writers.begin(session_id)
    finish(home, daemon, writers)


@pytest.mark.crash
def test_nothing_is_lost_or_doubled_while_daemons_and_publishers_are_killed(home: Home, chance: random.Random) -> None:
    daemon = home.daemon(*FLAGS)
    writers = Writers(home, chance)
    for _ in range(ROUNDS):
        moment(chance)
        for session_id in chance.sample(SESSIONS, chance.randint(0, len(SESSIONS))):
            writers.kill(session_id)
        daemon.kill()
        for session_id in SESSIONS:
            if session_id not in writers.living and chance.random() < 0.5:
                writers.begin(session_id)  # without a daemon
        moment(chance)
        daemon = home.daemon(*FLAGS)
        for session_id in SESSIONS:
            if session_id not in writers.living:
                writers.begin(session_id)
    finish(home, daemon, writers)
