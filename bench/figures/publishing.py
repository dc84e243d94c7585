"""What a publishing call costs its caller."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from measure import Row, Target, interleave, p50, p99, row
from parts import Place

COUNT = 300  # in one case of one round
PACE_S = 0.002
AT_P50 = Target("value", 40)
AT_P99 = Target("value", 300)
LARGE_BYTES = 5_000_000
BESIDE_EVERY_S = 0.1  # between the beginnings of the 5 MB checkpoints that another process asks for


def small(place: Place) -> list[Row]:
    """What a publishing call costs its caller: alone, and while another session writes 5 MB checkpoints."""
    home = place.home("publish")
    publisher, other = place.worker(home), place.worker(home)
    publisher.ask("attach")
    publisher.ask("bare", folder=str(place.folder), endpoint=place.sink())
    other.ask("attach", state_bytes=LARGE_BYTES)

    def call(*, bare: bool, beside: bool) -> list[float]:
        if beside:
            stop_s = time.monotonic() + COUNT * PACE_S
            other.begin("keep_checkpointing", stop_s=stop_s, every_s=BESIDE_EVERY_S)
        samples: list[float] = publisher.ask("publish", count=COUNT, pace_s=PACE_S, bare=bare)
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
        for share, name, target in ((p50, "p50", AT_P50), (p99, "p99", AT_P99)):
            series = {case: [share(samples) for samples in rounds] for case, rounds in found.items()}
            name = f"publish 100 B{words}: {name}"
            rows.append(row(name, "us", target=target if beside else None, **series))
    return rows
