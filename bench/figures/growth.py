"""Measures what grows with the number of live sessions, and what must not grow."""

from __future__ import annotations

import sys
import time
from functools import partial
from statistics import median

from measure import Row, Target, interleave, p50, row
from parts import Home, Place, ask_all
from processes import timed, used_ms
from worker import Worker

COUNTS = (1, 100, 1_000, 5_000)
HOLDERS = 4  # processes that hold them
UPDATES_S = 0.3  # in one case of one round
BESIDE_ONE = Target("ratio", 1.3)
# The sessions' timers do not fire during the measurement, so no file is written.
LATER = {"EDI_CHECKPOINT_AUTOSAVE_EVERY_S": "3600", "EDI_CHECKPOINT_CHECKPOINT_EVERY_S": "3600"}


def sessions(place: Place) -> list[Row]:
    """Measure an acknowledged update in one session, with many other sessions attached, changed and not yet saved.

    The floor has one other session. One update is outstanding. It also measures a list of all sessions.
    """
    homes = {count: place.home(f"growth-{count}", under=LATER) for count in COUNTS}
    publishers = {count: place.worker(home) for count, home in homes.items()}
    ask_all(list(publishers.values()), "attach")
    for count, home in homes.items():
        holders = [place.worker(home, "resident.py") for _ in range(min(HOLDERS, count))]
        ask_all(holders, "sessions", count=count // len(holders))
    update = {count: partial(_update, homes[count], publishers[count]) for count in COUNTS}
    cases = {str(count): update[count] for count in COUNTS} | {f"{count} again": update[count] for count in COUNTS}
    found = interleave(cases)
    rows = []
    for words, unit, which in (("update", "us", 0), ("the daemon's part of an update", "us", 1)):
        series = {case: [samples[which] for samples in rounds] for case, rounds in found.items()}
        for count in COUNTS:
            name = f"{words} beside {count:,} live sessions"
            target = BESIDE_ONE if count > 1 else None
            rows.append(
                row(name, unit, series[str(count)], again=series[f"{count} again"], floor=series["1"], target=target)
            )
    command = [sys.executable, "-m", "edi_checkpointd.cli", "sessions"]
    return [*rows, *(_listed(f"edi-checkpoint sessions of {count:,}", command, homes[count]) for count in COUNTS[1:])]


def _update(home: Home, publisher: Worker) -> tuple[float, float]:
    """Return the microseconds from an update to its acknowledgement, and the daemon's processor time for it."""
    start_s = time.monotonic()
    before_ms = used_ms(home.daemon.pid)
    answer = publisher.ask("durable", start_s=start_s, stop_s=start_s + UPDATES_S, outstanding=1)
    return p50(answer["us"]), (used_ms(home.daemon.pid) - before_ms) * 1000 / answer["updates"]


def _listed(name: str, command: list[str], home: Home) -> Row:
    return Row(name, "ms", median(timed(command, home.environment) for _ in range(3)))
