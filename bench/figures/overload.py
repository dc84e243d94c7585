"""Measures a slow disk, and publishers that are faster than the disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from measure import Row, Target, interleave, p50, p99, row
from parts import Place, ask_all

from figures.durability import Measured, redis_cases, together

SLOWER_MS = 3  # each fsync and fdatasync
PROCESSES = 4
SYNCS = 20  # to measure one fsync
WITHIN_FSYNCS = Target("ratio", 1.4)

FLOOD_S = 0.4
FLOOD_BYTES = 10_000  # a value
PAUSE_S = 0.01  # between two updates of the slow publisher
MEMORY = Target("value", 32)
KIB = 1024


def slow_disk(place: Place) -> list[Row]:
    """Measure how many fsyncs an acknowledgement takes if each fsync takes 3 ms longer."""
    name = f"acknowledgement p50, each fsync +{SLOWER_MS} ms, {PROCESSES} processes, 1 outstanding"
    under = place.slow_disk(SLOWER_MS)
    if under is None:
        return [Row(name, "ms", None, target=WITHIN_FSYNCS)]
    home = place.home("slow", under=under)
    ours = [place.worker(home) for _ in range(PROCESSES)]
    peers = [place.worker(home, "peers.py") for _ in ours]
    ask_all(ours, "attach")
    syncing = place.worker(home, "peers.py", under)

    def fsync() -> Measured:
        took_ms = p50(syncing.ask("slow_syncs", folder=str(place.folder), count=SYNCS))
        return Measured(1000 / took_ms, took_ms * 1000)

    durable = partial(together, ours, "durable", outstanding=1)
    cases: dict[str, Callable[[], Measured]] = {"ours": durable, "floor": fsync, "again": durable}
    cases |= redis_cases(peers, place.redis(under=under), 1)
    waits = {case: [one.wait_us / 1000 for one in rounds] for case, rounds in interleave(cases).items()}
    own = {case: waits.pop(case) for case in ("ours", "floor", "again")}
    return [
        row(name, "ms", target=WITHIN_FSYNCS, **own),
        *[row(f"{name}: {peer}", "ms", series, floor=own["floor"]) for peer, series in waits.items()],
    ]


def flood(place: Place) -> list[Row]:
    """Measure how a publisher that is faster than the disk affects the daemon's memory and a slow publisher."""
    name = f"overload, each fsync +{SLOWER_MS} ms"
    under = place.slow_disk(SLOWER_MS)
    if under is None:
        return [Row(f"{name}: the daemon's memory grows by", "MiB", None, target=MEMORY)]
    home = place.home("flooded", under=under)
    flooder, seldom = place.worker(home), place.worker(home)
    ask_all([flooder, seldom], "attach")
    before_kib = home.memory_kib("VmRSS")

    def acknowledgements(*, beside: bool) -> list[float]:
        start_s = time.monotonic() + 0.02
        stop_s = start_s + FLOOD_S
        if beside:
            flooder.begin("flood", stop_s=stop_s, size_bytes=FLOOD_BYTES)
        answer: Any = seldom.ask("durable", start_s=start_s, stop_s=stop_s, outstanding=1, pause_s=PAUSE_S)
        if beside:
            flooded.append(flooder.result() * FLOOD_BYTES / FLOOD_S)
            flooder.ask("settle")
        return [us / 1000 for us in answer["us"]]

    flooded: list[float] = []
    beside = partial(acknowledgements, beside=True)
    found = interleave({"ours": beside, "floor": partial(acknowledgements, beside=False), "again": beside})
    rows = []
    for share, words in ((p50, "p50"), (p99, "p99")):
        series = {case: [share(samples) for samples in rounds] for case, rounds in found.items()}
        rows.append(row(f"{name}: acknowledgement of one who publishes seldom, {words}", "ms", **series))
    grown_kib = home.memory_kib("VmHWM") - before_kib
    return [
        *rows,
        row(f"{name}: the other publishes", "MB/s", [one / 1e6 for one in flooded]),
        Row(f"{name}: the daemon's memory grows by", "MiB", grown_kib / KIB, target=MEMORY),
    ]
