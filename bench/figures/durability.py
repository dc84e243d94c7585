"""Measures how many updates a second become durable and acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

from floors import group_commit
from measure import Row, Target, beside, interleave, p50, row
from parts import Place, ask_all
from worker import Worker, value_of

from edi_checkpoint.wire.entries import Update, encode_entry
from edi_checkpoint.wire.records import pack

DURABLE_S = 0.4
OUTSTANDING = (64, 1)
MOST = 16  # processes
BESIDE_REDIS = {(16, 64): Target("value", 0.8, at_least=True), (16, 1): Target("value", 0.4, at_least=True)}
BESIDE_SQLITE = Target("value", 3, at_least=True)
ACK_BESIDE_REDIS = {4: Target("value", 2.0)}

RAW = "Redis, its bare protocol"
CLIENT = "Redis by redis-py"
SQLITE = "SQLite, a connection each"
LANGGRAPH = "LangGraph's SqliteSaver, by threads"
SEED = "the seed's set_state + checkpoint"
SEED_SAFE = "the seed's, with fsync"


class Load(NamedTuple):
    """How many processes publish, and how many unacknowledged updates each of them keeps."""

    processes: int
    outstanding: int

    def __str__(self) -> str:
        """Return the load as a part of a row's name."""
        return f"{self.processes} process{'es' * (self.processes > 1)}, {self.outstanding} outstanding"


class Measured(NamedTuple):
    """The result of one case in one round."""

    rate: float  # updates a second
    wait_us: float  # the median of the turns


def few(place: Place) -> list[Row]:
    """Measure durable updates of 4 processes, and of Redis."""
    return _updates(place, (4,))


def updates(place: Place) -> list[Row]:
    """Measure durable updates of 1, 4 and 16 processes, and of all peers."""
    return _updates(place, (1, 4, MOST))


def _updates(place: Place, counts: Sequence[int]) -> list[Row]:
    home = place.home("durable")
    ours = [place.worker(home) for _ in range(max(counts))]
    peers = [place.worker(home, "peers.py") for _ in ours]
    ask_all(ours, "attach")
    record = pack(1 << 20, encode_entry(Update(time.time_ns() // 1000, {"progress": b'"%b"' % value_of(0).encode()})))
    stand_beside = _Peers(place, peers)

    def ideal(load: Load) -> Measured:
        waiting = load.processes * load.outstanding
        rate = group_commit(place.folder / "commits", record, waiting, DURABLE_S / 2)
        return Measured(rate, load.processes / rate * 1e6)

    rows = []
    for load in [Load(count, outstanding) for count in counts for outstanding in OUTSTANDING]:
        durable = partial(together, ours[: load.processes], "durable", outstanding=load.outstanding)
        cases = {"ours": durable, "floor": partial(ideal, load), "again": durable, **stand_beside.cases(load)}
        rows += _rows(load, interleave(cases))
    return rows


class _Peers:
    """The peers that are measured under the same load."""

    def __init__(self, place: Place, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._redis = place.redis()
        self._sqlite = str(place.folder / "peers.sqlite")
        self._seed = place.folder / "seed"
        self._seed.mkdir()
        saver = str(place.folder / "langgraph.sqlite")
        self._langgraph = len(workers) == MOST and workers[0].ask("langgraph_ready", path=saver)["installed"]

    def cases(self, load: Load) -> dict[str, Callable[[], Measured]]:
        """Return the installed peers by name."""
        workers, outstanding = self._workers[: load.processes], load.outstanding
        found = redis_cases(workers, self._redis, outstanding)
        if load.processes == MOST:
            found[SQLITE] = partial(together, workers, "sqlite", path=self._sqlite, outstanding=outstanding)
        if load == (MOST, 1):
            if self._langgraph:
                found[LANGGRAPH] = partial(together, workers[:1], "langgraph", threads=MOST)
            for name, honest in ((SEED, False), (SEED_SAFE, True)):
                found[name] = partial(together, workers, "seed", folder=str(self._seed), honest=honest)
        return found


def redis_cases(workers: Sequence[Worker], path: str | None, outstanding: int) -> dict[str, Callable[[], Measured]]:
    """Return the installed clients for a Redis server at `path`."""
    commands = {RAW: "redis_raw", **({CLIENT: "redis_py"} if find_spec("redis") else {})} if path else {}
    return {
        name: partial(together, workers, command, path=path, outstanding=outstanding)
        for name, command in commands.items()
    }


def together(workers: Sequence[Worker], command: str, **more: object) -> Measured:
    start_s = time.monotonic() + 0.02
    answers: list[Any] = ask_all(workers, command, start_s=start_s, stop_s=start_s + DURABLE_S, **more)
    turns_us = [sample for answer in answers for sample in answer["us"]]
    return Measured(sum(answer["updates"] for answer in answers) / DURABLE_S, p50(turns_us) if turns_us else 0.0)


def _rows(load: Load, found: dict[str, list[Measured]]) -> list[Row]:
    rates = {case: [one.rate for one in rounds] for case, rounds in found.items()}
    rows = _beside_peers(f"durable updates, {load}", "1/s", rates)
    ours, again = rates["ours"], rates["again"]
    targets = {}
    if target := BESIDE_REDIS.get(load):
        targets = {RAW: target, CLIENT: target, SQLITE: BESIDE_SQLITE}
        if load.outstanding == 1:
            targets[LANGGRAPH] = BESIDE_SQLITE
    for peer, target in targets.items():
        rows.append(beside(f"durable updates, {load}: beside {peer}", ours, again, rates.get(peer, ()), target))
    if load.outstanding == 1:
        waits = {
            case: [one.wait_us for one in found[case]]
            for case in ("ours", "floor", "again", RAW, CLIENT)
            if case in found
        }
        rows += _beside_peers(f"acknowledgement p50, {load}", "us", waits)
        if target := ACK_BESIDE_REDIS.get(load.processes):
            for peer in (RAW, CLIENT):
                name = f"acknowledgement p50, {load}: beside {peer}"
                rows.append(beside(name, waits["ours"], waits["again"], waits.get(peer, ()), target))
    return rows


def _beside_peers(name: str, unit: str, series: dict[str, list[float]]) -> list[Row]:
    own = {case: series[case] for case in ("ours", "floor", "again")}
    peers = {case: numbers for case, numbers in series.items() if case not in own}
    return [
        row(name, unit, **own),
        *[row(f"{name}: {peer}", unit, numbers, floor=own["floor"]) for peer, numbers in peers.items()],
    ]
