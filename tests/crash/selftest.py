"""Tests the crash tests: removes one safeguard at a time, and expects that its check fails."""

from __future__ import annotations

import logging
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from crash.points import die_at
from crash.power_cut import cut, judge_daemon, judge_outbox, record_daemon, record_publisher
from crash.verdict import Verdict, history, judge_entries
from harness import Home

from edi_checkpoint.system.paths import locate
from edi_checkpointd.faults import CrashPoint

WITHOUT = Path(__file__).with_name("without")
STATES = 150


def _daemon_cuts(home: Home, folder: Path) -> Verdict:
    return cut(record_daemon(home, folder / "log"), random.Random(1), STATES, folder, judge_daemon)


def _publisher_cuts(home: Home, folder: Path) -> Verdict:
    return cut(record_publisher(home, folder / "log"), random.Random(1), STATES, folder, judge_outbox)


def _before_the_commit(home: Home, _folder: Path) -> Verdict:
    return die_at(CrashPoint.RECEIVED_NOT_COMMITTED, home)


def _before_the_acknowledgement(home: Home, _folder: Path) -> Verdict:
    return die_at(CrashPoint.COMMITTED_NOT_ACKNOWLEDGED, home)


def _of_a_publisher(home: Home, _folder: Path) -> Verdict:
    publisher = home.publisher("s1")
    publisher.do("publish(50, who='s1', tell=True)")
    publisher.kill()
    home.daemon()
    home.json("sessions")  # drained before it is shown
    return judge_entries(history(locate(home.environment)), {"s1": publisher.returned})


class Check(NamedTuple):
    """One safeguard: its description, and the check without it."""

    name: str
    run: Callable[[Home, Path], Verdict]


CUTS = Check("power-cut states of a daemon", _daemon_cuts)
OUTBOX_CUTS = Check("power-cut states of an outbox", _publisher_cuts)
UNCOMMITTED = Check("daemon dies: sent, not committed", _before_the_commit)
UNACKNOWLEDGED = Check("daemon dies: committed, not acknowledged", _before_the_acknowledgement)
PUBLISHED = Check("publisher dies, and there was no daemon", _of_a_publisher)
CAUGHT_BY = {
    "the file fsync": CUTS,
    "the folder fsync": CUTS,
    "synchronous=FULL": CUTS,
    "the outbox's fsync": OUTBOX_CUTS,
    "the resend": UNCOMMITTED,
    "the dedupe row": UNACKNOWLEDGED,
    "the outbox drain": PUBLISHED,
}


def found_without(taken_out: str, check: Check) -> Verdict:
    """Return what `check` finds in a home whose processes lack a safeguard (`-`: nothing)."""
    with tempfile.TemporaryDirectory(prefix="edi-crash-") as folder:
        home = Home(Path(folder) / "h")
        home.environment |= {"PYTHONPATH": str(WITHOUT), "EDI_TAKEN_OUT": taken_out}
        try:
            return check.run(home, Path(folder))
        finally:
            for process in home.processes:  # what is left is damaged: no `home.close()`, which would say so
                process.close()


def main() -> int:
    """Remove each safeguard, print the table and the closing line; fail unless exactly these are caught."""
    begun_s = time.monotonic()
    runs = [*CAUGHT_BY.items(), *(("-", check) for check in dict.fromkeys(CAUGHT_BY.values()))]
    caught = 0
    sound = True
    with ProcessPoolExecutor(2, initializer=logging.disable) as pool:  # the log of recovery
        for (taken_out, check), verdict in zip(runs, pool.map(found_without, *zip(*runs, strict=True)), strict=True):
            counts = f"lost={verdict.lost} duplicated={verdict.duplicated} torn={verdict.torn}"
            print(f"{time.monotonic() - begun_s:4.0f} s  {verdict.findings[:1]}", file=sys.stderr)
            if taken_out == "-":
                sound = sound and not verdict
                print(f"{'nothing':20} {check.name:42} {counts}")
            else:
                caught += bool(verdict)
                print(f"{taken_out:20} {check.name:42} {counts}")
    print(f"crash-selftest: removed={len(CAUGHT_BY)} caught={caught}")
    return 0 if caught == len(CAUGHT_BY) and sound else 1


if __name__ == "__main__":
    sys.exit(main())
