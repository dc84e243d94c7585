"""How fast updates become durable and acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from floors import group_commit
from measure import Row, Target, interleave, p50, row
from parts import Place, ask_all
from worker import value_of

from edi_checkpoint.protocol import Update, encode_entry
from edi_checkpoint.records import pack

PROCESSES = 4
DURABLE_S = 0.4
DURABLE_BESIDE_REDIS = {64: Target("value", 0.8, at_least=True), 1: Target("value", 0.4, at_least=True)}
ACK_BESIDE_REDIS = Target("value", 2.0)


def updates(place: Place) -> list[Row]:
    """How many updates a second become durable and acknowledged, and how long one waits for that."""
    home = place.home("durable")
    workers = [place.worker(home) for _ in range(PROCESSES)]
    ask_all(workers, "attach")
    redis = place.redis()
    record = pack(1 << 20, encode_entry(Update(time.time_ns() // 1000, {"progress": b'"%b"' % value_of(0).encode()})))

    def together(command: str, outstanding: int, **more: object) -> tuple[float, float]:
        start_s = time.monotonic() + 0.02
        times = {"start_s": start_s, "stop_s": start_s + DURABLE_S}
        answers = ask_all(workers, command, outstanding=outstanding, **times, **more)
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
