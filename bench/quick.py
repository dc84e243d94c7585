"""The main figures in a minute: publishing, durable updates, a checkpoint; each beside its floor. See README.md.

Prints a table, writes `results/latest.json`, and ends with one line of counts. Exit 0 whether or not targets are
reached, 1 when something could not be measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from floors import group_commit
from measure import ROUNDS, Row, Target, interleave, p50, p99, row, summary, table, write
from parts import Neighbours, Place, file_system
from worker import Worker, value_of

from edi_checkpoint.protocol import Update, encode_entry
from edi_checkpoint.records import pack

RESULTS = Path(__file__).with_name("results") / "latest.json"
LARGE_BYTES = 5_000_000

PUBLISH_COUNT = 300  # in one case of one round
PUBLISH_PACE_S = 0.002
PUBLISH_P50 = Target("value", 40)
PUBLISH_P99 = Target("value", 300)
BESIDE_EVERY_S = 0.1  # between the beginnings of the 5 MB checkpoints that another process asks for

PROCESSES = 4
DURABLE_S = 0.4
DURABLE_BESIDE_REDIS = {64: Target("value", 0.8, at_least=True), 1: Target("value", 0.4, at_least=True)}
ACK_BESIDE_REDIS = Target("value", 2.0)

CHECKPOINT_TURNS = 8  # in one round
CHECKPOINT_PAUSE_S = 0.02  # before each: what the one before leaves to unlink and to note is not its successor's
CHECKPOINT_BESIDE_FLOOR = Target("ratio", 1.15)
CHECKPOINT_BESIDE_SEED = Target("value", 20, at_least=True)


def publish(place: Place) -> list[Row]:
    """What a publishing call costs its caller: alone, and while another session writes 5 MB checkpoints."""
    home = place.home("publish")
    publisher, other = place.worker(home), place.worker(home)
    publisher.ask("attach")
    publisher.ask("bare", folder=str(place.folder), endpoint=place.sink())
    other.ask("attach", state_bytes=LARGE_BYTES)

    def call(*, bare: bool, beside: bool) -> list[float]:
        if beside:
            stop_s = time.monotonic() + PUBLISH_COUNT * PUBLISH_PACE_S
            other.begin("keep_checkpointing", stop_s=stop_s, every_s=BESIDE_EVERY_S)
        samples: list[float] = publisher.ask("publish", count=PUBLISH_COUNT, pace_s=PUBLISH_PACE_S, bare=bare)
        if beside:
            other.result()
        return samples

    call(bare=False, beside=True), call(bare=True, beside=True)  # warm up
    rows = []
    for beside, words in ((False, ""), (True, ", beside 5 MB checkpoints")):
        cases: dict[str, Callable[[], list[float]]] = {
            "ours": partial(call, bare=False, beside=beside),
            "floor": partial(call, bare=True, beside=beside),
        }
        if beside:
            cases["again"] = cases["ours"]
        found = interleave(cases)
        for share, name, target in ((p50, "p50", PUBLISH_P50), (p99, "p99", PUBLISH_P99)):
            series = {case: [share(samples) for samples in rounds] for case, rounds in found.items()}
            name = f"publish 100 B{words}: {name}"
            rows.append(row(name, "us", target=target if beside else None, **series))
    return rows


def durable(place: Place) -> list[Row]:
    """How many updates a second become durable and acknowledged, and how long one waits for that."""
    home = place.home("durable")
    workers = [place.worker(home) for _ in range(PROCESSES)]
    _ask_all(workers, "attach")
    redis = place.redis()
    record = pack(1 << 20, encode_entry(Update(time.time_ns() // 1000, {"progress": b'"%b"' % value_of(0).encode()})))

    def together(command: str, outstanding: int, **more: object) -> tuple[float, float]:
        start_s = time.monotonic() + 0.02
        times = {"start_s": start_s, "stop_s": start_s + DURABLE_S}
        answers = _ask_all(workers, command, outstanding=outstanding, **times, **more)
        took_us = [sample for answer in answers for sample in answer["us"]]
        return sum(answer["updates"] for answer in answers) / DURABLE_S, p50(took_us) if took_us else 0.0

    def ideal(outstanding: int) -> tuple[float, float]:
        rate = group_commit(place.folder / "commits", record, PROCESSES * outstanding, DURABLE_S / 2)
        return rate, PROCESSES / rate * 1e6

    rows = []
    for outstanding, beside_redis in DURABLE_BESIDE_REDIS.items():
        cases: dict[str, Callable[[], tuple[float, float]]] = {
            "ours": partial(together, "durable", outstanding),
            "floor": partial(ideal, outstanding),
            "again": partial(together, "durable", outstanding),
        }
        if redis is not None:
            cases["redis"] = partial(together, "redis", outstanding, path=redis)
        found = interleave(cases)
        words = f"{PROCESSES} processes, {outstanding} outstanding"
        rates = {case: [rate for rate, _ in rounds] for case, rounds in found.items()}
        rows += _beside_redis(f"durable updates, {words}", "1/s", rates, beside_redis)
        if outstanding == 1:
            waits = {case: [wait for _, wait in rounds] for case, rounds in found.items()}
            rows += _beside_redis(f"acknowledgement p50, {words}", "us", waits, ACK_BESIDE_REDIS)
    return rows


def _beside_redis(name: str, unit: str, series: dict[str, list[float]], target: Target) -> list[Row]:
    ours, floor, again = series["ours"], series["floor"], series["again"]
    rows = [row(name, unit, ours, floor=floor, again=again)]
    peer = f"{name}: beside Redis"
    if "redis" not in series:
        return [*rows, Row(peer, "x", None, target=target)]
    redis = series["redis"]
    rows.append(row(f"{name}: Redis, appendfsync always", unit, redis, floor=floor))
    pairs = {"ours": ours, "again": again}
    shares = {case: [one / other for one, other in zip(rates, redis, strict=True)] for case, rates in pairs.items()}
    return [*rows, row(peer, "x", target=target, **shares)]


def _ask_all(workers: Sequence[Worker], command: str, **arguments: object) -> list[Any]:
    for worker in workers:
        worker.begin(command, **arguments)
    return [worker.result() for worker in workers]


def checkpoint(place: Place) -> list[Row]:
    """One checkpoint of a 5 MB session after one small change: as its caller waits, and as the daemon writes."""
    home = place.home("checkpoint", timed=True)
    worker = place.worker(home)
    worker.ask("attach", state_bytes=LARGE_BYTES)
    worker.ask("files", folder=str(place.folder / "files"))

    def ours() -> tuple[float, list[float]]:
        time.sleep(CHECKPOINT_PAUSE_S)
        return worker.ask("checkpoint"), home.last_timing()

    def floor() -> tuple[float, list[float]]:
        time.sleep(CHECKPOINT_PAUSE_S)
        took_ms = worker.ask("same_bytes", sessions=str(home.sessions))
        return took_ms, [took_ms]

    ours(), floor()  # warm up
    waits: dict[str, list[float]] = {"ours": [], "again": [], "floor": []}
    writes: dict[str, list[float]] = {"ours": [], "again": [], "floor": []}
    seed: list[float] = []
    for _ in range(ROUNDS):
        for case, turns in interleave({"ours": ours, "floor": floor, "again": ours}, CHECKPOINT_TURNS).items():
            waits[case].append(median(wait for wait, _ in turns))
            writes[case].append(median(steps[0] for _, steps in turns))
        seed.append(worker.ask("seed"))
    words = "checkpoint 5 MB after one small change"
    faster = {case: [slow / one for slow, one in zip(seed, waits[case], strict=True)] for case in ("ours", "again")}
    return [
        row(f"{words}: round trip", "ms", target=CHECKPOINT_BESIDE_FLOOR, **waits),
        row(f"{words}: the daemon's write", "ms", target=CHECKPOINT_BESIDE_FLOOR, **writes),
        row(f"{words}: the seed's way, with fsync", "ms", seed, floor=waits["floor"]),
        row(f"{words}: faster than the seed's way", "x", target=CHECKPOINT_BESIDE_SEED, **faster),
    ]


FIGURES = {"publish": publish, "durable": durable, "checkpoint": checkpoint}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)}; all, if none is named")
    parser.add_argument("--below", type=Path, default=Path("/var/tmp"), help="a folder on the disk to measure")
    arguments = parser.parse_args()
    if unknown := set(arguments.figures) - FIGURES.keys():
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    start_s, neighbours = time.monotonic(), Neighbours()
    rows: list[Row] = []
    try:
        with Place(arguments.below) as place:
            disk = file_system(place.folder)
            for name in arguments.figures or FIGURES:
                print(f"measuring: {name}", file=sys.stderr)
                rows += FIGURES[name](place)
    except (OSError, RuntimeError) as error:
        print(f"bench: could not measure: {error}", file=sys.stderr)
        return 1
    if not arguments.figures:
        write(rows, RESULTS)
    print(table(rows))
    print(
        f"\nmedians of {ROUNDS} interleaved rounds in {time.monotonic() - start_s:.0f} s: {disk},"
        f" {os.cpu_count()} processors, Python {sys.version.split()[0]}"
    )
    print(neighbours.remark())
    if disk in ("tmpfs", "ramfs"):
        print("this is memory: fsync costs nothing here, choose a disk by --below")
    print(summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
