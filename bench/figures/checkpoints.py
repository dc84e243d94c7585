"""What a checkpoint costs, from the wish for it to the durable file."""

from __future__ import annotations

import time
from statistics import median

from measure import ROUNDS, Row, Target, interleave, row
from parts import Place

LARGE_BYTES = 5_000_000
TURNS = 8  # in one round
PAUSE_S = 0.02  # before each: what the one before leaves to unlink and to note is not its successor's
BESIDE_FLOOR = Target("ratio", 1.15)
BESIDE_SEED = Target("value", 20, at_least=True)


def large(place: Place) -> list[Row]:
    """One checkpoint of a 5 MB session after one small change: as its caller waits, and as the daemon writes."""
    home = place.home("checkpoint", timed=True)
    worker = place.worker(home)
    worker.ask("attach", state_bytes=LARGE_BYTES)
    worker.ask("files", folder=str(place.folder / "files"))

    def ours() -> tuple[float, list[float]]:
        time.sleep(PAUSE_S)
        return worker.ask("checkpoint"), home.last_timing()

    def floor() -> tuple[float, list[float]]:
        time.sleep(PAUSE_S)
        took_ms = worker.ask("same_bytes", sessions=str(home.sessions))
        return took_ms, [took_ms]

    ours(), floor()  # warm up
    waits: dict[str, list[float]] = {"ours": [], "again": [], "floor": []}
    writes: dict[str, list[float]] = {"ours": [], "again": [], "floor": []}
    seed: list[float] = []
    for _ in range(ROUNDS):
        for case, turns in interleave({"ours": ours, "floor": floor, "again": ours}, TURNS).items():
            waits[case].append(median(wait for wait, _ in turns))
            writes[case].append(median(steps[0] for _, steps in turns))
        seed.append(worker.ask("seed"))
    words = "checkpoint 5 MB after one small change"
    faster = {case: [slow / one for slow, one in zip(seed, waits[case], strict=True)] for case in ("ours", "again")}
    return [
        row(f"{words}: round trip", "ms", target=BESIDE_FLOOR, **waits),
        row(f"{words}: the daemon's write", "ms", target=BESIDE_FLOOR, **writes),
        row(f"{words}: the seed's way, with fsync", "ms", seed, floor=waits["floor"]),
        row(f"{words}: faster than the seed's way", "x", target=BESIDE_SEED, **faster),
    ]
