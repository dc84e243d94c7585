"""`make crash`: every crash point under load, power cuts, and kills. Prints one line of result; progress on stderr.

`SEED=<n>` repeats a run with the same random choices.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from crash.cases import ONCE, POINTS
from crash.disk import Operation
from crash.kills import Victims, kill_loop
from crash.points import die_at
from crash.power_cut import (
    cut,
    judge_daemon,
    judge_outbox,
    record_daemon,
    record_publisher,
    record_trash,
    record_unlinks,
)
from crash.verdict import Verdict
from harness import Home

HITS = (1, 3)  # of a point, in the life of a process
LOAD = 2  # writers that publish all the time
LOOPS, ROUNDS = 3, 30  # of kills, for each kind of victims
RECORDINGS, STATES, LIVES = 2, 300, 3
Found = tuple[Verdict, Counter[str]]
Recording = Callable[[Home, Path], list[Operation]]
Job = tuple[str, Callable[..., Found], tuple[object, ...]]


def point_job(home: Home, _folder: Path, _seed: int, index: int, hits: int) -> Found:
    """Kill a process at a crash point."""
    return die_at(POINTS[index], home, hits=hits, load=LOAD), Counter({f"point {index}": 1})


def daemon_cuts_job(home: Home, folder: Path, seed: int, record: Recording) -> Found:
    """Record a daemon and cut its power."""
    operations = record(home, folder / "log")
    verdict = cut(operations, random.Random(seed), STATES, folder, judge_daemon, lives=LIVES)
    return verdict, Counter(states=STATES)


def outbox_cuts_job(home: Home, folder: Path, seed: int, record: Recording, lives: int) -> Found:
    """Record a publisher and cut its power."""
    operations = record(home, folder / "log")
    verdict = cut(operations, random.Random(seed), STATES, folder, judge_outbox, lives=lives)
    return verdict, Counter(states=STATES)


def kills_job(home: Home, _folder: Path, seed: int, victims: Victims) -> Found:
    """Kill at random moments."""
    verdict, kills = kill_loop(home, seed, victims, ROUNDS)
    return verdict, Counter(kills=kills)


def jobs() -> Iterator[Job]:
    """Yield all jobs, the long ones first."""
    for _ in range(LOOPS):
        for victims in Victims:
            yield f"kills of {victims.value}", kills_job, (victims,)
    for _ in range(RECORDINGS):
        yield "cuts of a daemon", daemon_cuts_job, (record_daemon,)
        yield "cuts of a daemon that fills the trash", daemon_cuts_job, (record_trash,)
        yield "cuts of an outbox", outbox_cuts_job, (record_publisher, LIVES)
        # No daemon starts on these: it reports the trimmed entries, since no file has them.
        yield "cuts of an outbox whose segments go", outbox_cuts_job, (record_unlinks, 0)
    for index, point in enumerate(POINTS):
        for hits in HITS if point not in ONCE else HITS[:1]:
            yield f"{point.name} {hits}", point_job, (index, hits)


def run(job: Job, seed: int) -> Found:
    """Do one job, in a home of its own."""
    _, function, arguments = job
    with tempfile.TemporaryDirectory(prefix="edi-crash-") as folder:
        home = Home(Path(folder) / "h")
        try:
            return function(home, Path(folder), seed, *arguments)
        finally:
            home.close()


def main() -> int:
    """Do all jobs, two at a time; return 1 if anything was found, or if a job failed."""
    begun_s = time.monotonic()
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SEED={seed}", file=sys.stderr)
    chance = random.Random(seed)
    verdict, counts, failed = Verdict(), Counter[str](), 0
    with ProcessPoolExecutor(2, initializer=logging.disable) as pool:  # what recovery says of what it meets
        futures = {}
        for job in jobs():
            own_seed = chance.randrange(1 << 32)
            futures[pool.submit(run, job, own_seed)] = f"{job[0]}, seed {own_seed}"
        for number, future in enumerate(as_completed(futures), start=1):
            name = futures[future]
            try:
                found, counted = future.result()
            except Exception:  # noqa: BLE001 - whatever it is, the other jobs go on, and it counts
                failed += 1
                print(f"{name} FAILED", traceback.format_exc(), sep="\n", file=sys.stderr)
                continue
            verdict.add(found)
            counts += counted
            told = f"{found.findings[:3]}" if found else "ok"
            print(f"{time.monotonic() - begun_s:4.0f} s  {number}/{len(futures)}  {name}: {told}", file=sys.stderr)
    points = sum(name.startswith("point ") for name in counts)
    print(
        f"crash: points={points} states={counts['states']} kills={counts['kills']}"
        f" lost={verdict.lost} duplicated={verdict.duplicated} torn={verdict.torn}"
    )
    return 1 if verdict or failed else 0


if __name__ == "__main__":
    sys.exit(main())
