"""Measures how long a publishing call takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from measure import Row, Target, beside, interleave, p50, p99, p999, pooled, row
from parts import Place
from worker import Worker

Samples = list[float]  # microseconds, of each call

COUNT = 600  # in one case of one round; over five rounds the 99.9th percentile is the fourth worst of 3,000
PACE_S = 0.002
AT_P50 = Target("value", 40)
AT_P99 = Target("value", 300)
AT_P999 = Target("value", 5000)
CHECKPOINT_BYTES = 5_000_000
BESIDE_EVERY_S = 0.1  # between two 5 MB checkpoints of another process

SEEDS_STATES = {"this state": 0, "a 200 kB state": 200_000}  # the publisher's few bytes; a typical session of EDI
SEED_S = 0.2
FASTER_THAN_SEED = Target("value", 25, at_least=True)

WAYS_COUNT = 400
LARGE = {  # by size: calls in one case of one round, seconds between two calls, the target
    "10 kB": (10_000, 100, 0.002, Target("ratio", 1.5)),
    "1 MB": (1_000_000, 10, 0.04, Target("ratio", 1.3)),
}


def small(place: Place) -> list[Row]:
    """Measure publishing 100 B while another session writes 5 MB checkpoints, and a save by the seed."""
    home = place.home("publish")
    publisher, other, seed = place.worker(home), place.worker(home), place.worker(home, "peers.py")
    _ready(place, publisher)
    other.ask("attach", state_bytes=CHECKPOINT_BYTES)
    folder = place.folder / "seed"
    folder.mkdir()

    def call(*, bare: bool) -> Samples:
        stop_s = time.monotonic() + COUNT * PACE_S
        other.begin("keep_checkpointing", stop_s=stop_s, every_s=BESIDE_EVERY_S)
        samples = _publish(publisher, COUNT, bare=bare)
        other.result()
        return samples

    def seeds(state_bytes: int) -> Samples:
        start_s = time.monotonic()
        times = {"start_s": start_s, "stop_s": start_s + SEED_S}
        answer = seed.ask("seed", folder=str(folder), honest=True, state_bytes=state_bytes, **times)
        return answer["us"]

    call(bare=False), call(bare=True)  # warm up
    cases: dict[str, Callable[[], Samples]] = {
        "ours": partial(call, bare=False),
        "floor": partial(call, bare=True),
        "again": partial(call, bare=False),
        **{state: partial(seeds, size) for state, size in SEEDS_STATES.items()},
    }
    found = interleave(cases)
    ours = {case: found[case] for case in ("ours", "floor", "again")}
    seeds_own = {state: list(map(p50, found[state])) for state in SEEDS_STATES}
    rows = _quantiles("publish 100 B, beside 5 MB checkpoints", ours)
    for state, took in seeds_own.items():
        name = f"the seed's set_state + checkpoint + fsync, {state}"
        faster = beside(
            f"publish 100 B: faster than {name}",
            *[[1 / p50(samples) for samples in ours[case]] for case in ("ours", "again")],
            [1 / one for one in took],
            FASTER_THAN_SEED if SEEDS_STATES[state] else None,
        )
        rows += [row(name, "us", took), faster]
    return rows


def ways(place: Place) -> list[Row]:
    """Measure publishing 100 B with a running, a hanging and no daemon, and from a coroutine."""
    home, empty = place.home("ways"), place.home("empty", running=False)
    publisher, alone, looped = place.worker(home), place.worker(empty), place.worker(home)
    _ready(place, publisher)
    alone.ask("attach")
    looped.ask("attach_in_loop")

    def hanging() -> Samples:
        with home.stopped():
            samples: Samples = publisher.ask("publish", count=WAYS_COUNT, pace_s=PACE_S)
        publisher.ask("settle")
        return samples

    cases: dict[str, Callable[[], Samples]] = {
        "running": partial(_publish, publisher, WAYS_COUNT),
        "floor": partial(_publish, publisher, WAYS_COUNT, bare=True),
        "stopped": hanging,
        "absent": partial(alone.ask, "publish", count=WAYS_COUNT, pace_s=PACE_S),
        "in a coroutine": partial(looped.ask, "publish_in_loop", count=WAYS_COUNT, pace_s=PACE_S),
    }
    again = {f"{case}, again": call for case, call in cases.items() if case != "floor"}
    found = interleave({**cases, **again})
    rows = []
    for case, words in {
        "running": "nothing beside it",
        "stopped": "the daemon stopped",
        "absent": "no daemon",
        "in a coroutine": "from a coroutine",
    }.items():
        series = {"ours": found[case], "floor": found["floor"], "again": found[f"{case}, again"]}
        rows += _quantiles(f"publish 100 B, {words}", series)
    return rows


def large(place: Place) -> list[Row]:
    """Measure publishing texts and records of 10 kB and of 1 MB."""
    home = place.home("large")
    publisher = place.worker(home)
    _ready(place, publisher)

    def call(size_bytes: int, count: int, pace_s: float, *, records: bool, bare: bool) -> Samples:
        of = {"size_bytes": size_bytes, "records": records, "bare": bare}
        samples: Samples = publisher.ask("publish_large", count=count, pace_s=pace_s, **of)
        if not bare:
            publisher.ask("settle")
        return samples

    rows = []
    for size, (size_bytes, count, pace_s, target) in LARGE.items():
        for kind in ("text", "records"):
            this = partial(call, size_bytes, count, pace_s, records=kind == "records")
            this(bare=False), this(bare=True)  # warm up
            cases = {"ours": partial(this, bare=False), "floor": partial(this, bare=True)}
            found = interleave({**cases, "again": cases["ours"]})
            series = {case: [p50(samples) for samples in rounds] for case, rounds in found.items()}
            rows.append(row(f"publish {size} of {kind}: p50", "us", target=target, **series))
    return rows


def _ready(place: Place, publisher: Worker) -> None:
    publisher.ask("attach")
    publisher.ask("bare", folder=str(place.folder), endpoint=place.sink())


def _publish(publisher: Worker, count: int, *, bare: bool = False) -> Samples:
    samples: Samples = publisher.ask("publish", count=count, pace_s=PACE_S, bare=bare)
    if not bare:
        publisher.ask("settle")
    return samples


def _quantiles(name: str, series: dict[str, list[Samples]]) -> list[Row]:
    rows = []
    for share, words, target in ((p50, "p50", AT_P50), (p99, "p99", AT_P99)):
        of_rounds = {case: [share(samples) for samples in rounds] for case, rounds in series.items()}
        rows.append(row(f"{name}: {words}", "us", target=target, **of_rounds))
    return [*rows, pooled(f"{name}: p99.9 of all rounds", "us", p999, series, AT_P999)]
