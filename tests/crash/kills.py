"""Kills the daemon, publishers, or both at random moments while they work."""

from __future__ import annotations

import random
import time
from enum import Enum

from crash.verdict import Verdict, history, judge_entries, judge_files, newest_documents
from harness import Home, Process, Publisher, eventually

from edi_checkpoint.system.paths import locate

FLAGS = (
    "--transition-keys", "attempt", "--transition-quiet-s", "0.01", "--keep-per-session", "3",
    "--autosave-every-s", "0.1", "--checkpoint-every-s", "0.2", "--history-max-bytes", str(1 << 40),
)  # fmt: skip
SESSIONS = ("s0", "s1", "s2")
LOAD = "[publish(10, who={who!r}, pause_s=0.002, padding={padding}, attempt=turn, tell=True) for turn in range(10_000)]"
JUDGE_EVERY = 5  # deaths, since the whole journal is read after each


class Victims(Enum):
    """The processes to kill."""

    DAEMON = "daemon"
    PUBLISHERS = "publishers"
    BOTH = "both"


class Writers:
    """A publisher for each session, which publishes until it is killed; the reports of the dead are kept."""

    def __init__(self, home: Home, chance: random.Random) -> None:
        self._home, self._chance = home, chance
        self.living: dict[str, Publisher] = {}
        self.all: dict[str, Publisher] = {}  # by the name in their entries
        self.kills = 0
        for session_id in SESSIONS:
            self.begin(session_id)

    def begin(self, session_id: str) -> None:
        who = f"{session_id}-{len(self.all)}"
        publisher = self._home.publisher(session_id)
        publisher.send(LOAD.format(who=who, padding=self._chance.choice((0, 100, 3000))))
        self.living[session_id] = self.all[who] = publisher

    def kill(self, session_id: str) -> None:
        self.living.pop(session_id).kill()
        self.kills += 1

    def acknowledged(self) -> dict[str, int]:
        return {who: publisher.acknowledged_here for who, publisher in self.all.items()}

    def returned(self) -> dict[str, int]:
        return {who: publisher.returned for who, publisher in self.all.items()}


def kill_loop(home: Home, seed: int, victims: Victims, rounds: int) -> tuple[Verdict, int]:
    """Kill and restart processes this many times; return the verdict and the number of kills."""
    chance = random.Random(seed)
    paths, verdict, deaths = locate(home.environment), Verdict(), 0
    daemon = home.daemon(*FLAGS)
    writers = Writers(home, chance)
    for _ in range(rounds):
        _moment(chance)
        if victims is not Victims.DAEMON:
            most = 1 if victims is Victims.PUBLISHERS else len(SESSIONS)
            for session_id in chance.sample(SESSIONS, chance.randint(1, most)):
                writers.kill(session_id)
        if victims is not Victims.PUBLISHERS:
            daemon.kill()
            deaths += 1
            if deaths % JUDGE_EVERY == 0:
                verdict.add(judge_entries(history(paths), writers.acknowledged()))
            verdict.add(judge_files(paths))
            for session_id in SESSIONS:
                if session_id not in writers.living and chance.random() < 0.5:
                    writers.begin(session_id)  # without a daemon
            daemon = home.daemon(*FLAGS)
        for session_id in SESSIONS:
            if session_id not in writers.living:
                writers.begin(session_id)
    verdict.add(_come_to_rest(home, daemon, writers))
    return verdict, deaths + writers.kills


def _moment(chance: random.Random) -> None:
    """Let the load continue for a random time."""
    time.sleep(chance.uniform(0, 0.08))


def _come_to_rest(home: Home, daemon: Process, writers: Writers) -> Verdict:
    """Kill the living writers, and wait until the daemon has drained all into the newest documents."""
    paths = locate(home.environment)
    assert [one.stderr for one in writers.living.values() if one.popen.poll() is not None or one.stderr] == []
    for session_id in list(writers.living):
        writers.kill(session_id)
    eventually(lambda: not list(paths.outbox.iterdir()))
    assert daemon.popen.poll() is None, daemon.stderr
    held = history(paths)
    verdict = judge_entries(held, writers.returned())
    verdict.add(judge_files(paths))
    newest = newest_documents(paths)
    for session_id, entries in held.items():
        missing = entries[-1]["sequence"] - newest[session_id].header.sequence
        verdict.find(f"{session_id}: its newest document lacks {missing} entries", torn=missing != 0)
    for row in home.json("sessions")["sessions"]:
        assert row["condition"] == "interrupted", row
    return verdict
