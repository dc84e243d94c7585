"""Clocks that step, stand still or are set back, by libfaketime in the processes alone: nothing depends on them."""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from harness import Home, Process, Publisher, eventually

HOUR_S, DAY_S = 3600.0, 86400.0
FLAGS = (
    "--autosave-every-s", "0.1", "--checkpoint-every-s", "0.3", "--transition-keys", "attempt",
    "--collect-every-s", "0.1", "--keep-automatic", "5",
)  # fmt: skip
RUN = [sys.executable, "-m", "edi_checkpointd", "run", *FLAGS]


class Clock:
    """The wall clock of processes started with `environment`; their monotonic clock stays the machine's."""

    def __init__(self, folder: Path) -> None:
        """Begin at the machine's time; skips the test where libfaketime is not installed."""
        libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        if not libraries:
            pytest.skip("libfaketime is not installed (Debian package faketime)")
        self._file = folder / "clock"
        self.step(0)
        self.environment = {
            "LD_PRELOAD": str(libraries[0]), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1", "TZ": "Europe/Berlin",
        }  # fmt: skip

    def step(self, offset_s: float) -> None:
        """Let it be so far from the machine's."""
        self._write(f"{offset_s:+f}")

    def stand_at(self, text: str) -> None:
        """Let it stand still."""
        self._write(text)

    def _write(self, text: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(text + "\n")
        new.rename(self._file)


FULL = os.environ.get("EDI_TEST_FULL") == "1"


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


def started(home: Home, clock: Clock) -> tuple[Process, Publisher]:
    daemon = home.start(RUN, lines_from="stderr", **clock.environment)
    daemon.wait_line("ready ")
    return daemon, home.publisher("s1", **clock.environment)


def saved(home: Home) -> int:
    path = home.sessions / "s1.json"
    return json.loads(path.read_bytes())["n"] if path.exists() else 0


def timers_fire(home: Home, publisher: Publisher) -> None:
    """A change that nobody asks a checkpoint for comes into the auto-save by itself, and into a checkpoint."""
    publisher.do("publish(1)")
    n = publisher.do("session['n']")
    eventually(lambda: saved(home) == n, 5)
    eventually(lambda: [row["kind"] for row in publisher.do("session.checkpoints()")[-1:]] == ["interval"], 5)


def test_steps_of_the_clock_change_neither_order_nor_timers_nor_what_is_kept(home: Home, clock: Clock) -> None:
    daemon, publisher = started(home, clock)
    publisher.do("done = client.session('done')")
    publisher.do("done.update(n=1, raw=b'kept')")
    publisher.do("done.checkpoint(timeout_s=20) and None")
    publisher.do("done.end()")
    summer_time_ends = datetime(2026, 10, 25, 1, 0, tzinfo=UTC) - datetime.now(UTC)
    names: list[str] = []
    steps = [HOUR_S, -HOUR_S, 30 * DAY_S, -30 * DAY_S, summer_time_ends.total_seconds() - 1]
    for offset_s in (*steps, summer_time_ends.total_seconds() + 1) if FULL else steps[1::2]:
        clock.step(offset_s)
        timers_fire(home, publisher)
        names.append(publisher.do("session.checkpoint(pin=True, timeout_s=20)")["name"])
    assert names == sorted(set(names))
    assert [path.name for path in home.checkpoints("s1") if path.name in names] == names
    listed = publisher.do("session.checkpoints()")
    assert [row["sequence"] for row in listed] == sorted(row["sequence"] for row in listed)
    assert [entry["sequence"] for entry in home.history("s1")] == list(range(1, len(home.history("s1")) + 1))
    assert home.json("show", "done")["state_info"]["n"] == 1  # thirty days ahead is no age
    assert len(list((home.sessions / "attachments").glob("??/*.raw"))) == 1
    assert "clock_stepped" in [trouble["code"] for trouble in home.json("status")["degraded"]]
    assert sum("wall clock stepped" in line for line in daemon.stderr) >= (6 if FULL else 2)
    assert not [line for line in daemon.stderr if "timer fault" in line]


def test_checkpoints_of_one_microsecond_have_names_that_rise(home: Home, clock: Clock) -> None:
    clock.stand_at("2026-11-23 07:12:32")
    _, publisher = started(home, clock)
    names = [
        publisher.do(f"[session.update(n={number}), session.checkpoint(timeout_s=20).name][1]") for number in range(4)
    ]
    assert names == [f"s1_checkpoint_20261123_061232_00000{number}.json" for number in range(4)]


def test_a_daemon_that_slept_catches_up_once(home: Home) -> None:
    daemon = home.daemon(*FLAGS)
    publisher = home.publisher("s1")
    timers_fire(home, publisher)
    daemon.kill(signal.SIGSTOP)
    publisher.do("publish(200, pause_s=0.01)")  # five periods of the interval
    before = len(daemon.stderr)
    daemon.kill(signal.SIGCONT)
    publisher.do("session.flush(timeout_s=10)")
    eventually(lambda: saved(home) == 201, 5)
    eventually(lambda: publisher.do("session.checkpoints()")[-1]["sequence"] == 201, 5)
    made = [line for line in daemon.stderr[before:] if "kind=interval" in line]
    assert len(made) <= 2  # one of what came before it fell asleep or of its first breath, one of the rest
    assert not [line for line in daemon.stderr if "timer fault" in line]
