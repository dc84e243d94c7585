"""Measures checkpoints: the time to the durable file, with many other files, and the delay of other sessions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import NamedTuple

from measure import ROUNDS, Row, Target, interleave, p99, pooled, row
from parts import Place

PAUSE_S = 0.02  # before each, so that the previous checkpoint's unlinks and notes do not count
BESIDE_FLOOR = Target("ratio", 1.15)
BESIDE_SEED = Target("value", 20, at_least=True)

ACKNOWLEDGED_S = 0.6  # in one case of one round
BESIDE_ALONE = Target("ratio", 2)

FOREIGN = (10, 1_000, 10_000, 100_000)
FOREIGN_TURNS = 6
GROWTH = Target("ratio", 1.3)


class Size(NamedTuple):
    """The size of a state, and how its checkpoints are measured: `turns` in one case of one round."""

    words: str
    bytes: int
    turns: int
    target: Target | None = None
    seed: bool = False  # whether the seed's way is measured too


LARGE = Size("5 MB", 5_000_000, 8, BESIDE_FLOOR, seed=True)
SIZES = (Size("5 kB", 5_000, 8), Size("250 kB", 250_000, 8, BESIDE_FLOOR), LARGE, Size("50 MB", 50_000_000, 3))


class Took(NamedTuple):
    """The milliseconds of one checkpoint: the caller's wait, and the daemon's write. A floor has the same for both."""

    wait: float
    write: float


Series = dict[str, list[float]]  # by case, one number per round


class Saved:
    """A session of `size_bytes` in a home of its own, whose sessions folder has `foreign` files of other programs."""

    def __init__(self, place: Place, size_bytes: int, *, foreign: int = 0) -> None:
        self._home = place.home(f"checkpoints-{size_bytes}-{foreign}", running=False)
        self._home.sessions.mkdir(mode=0o700)
        for number in range(foreign):
            (self._home.sessions / f"foreign-{number:06d}.txt").touch()
        self._home.start(timed=True, under={})
        self.worker = place.worker(self._home)
        self.worker.ask("attach", state_bytes=size_bytes)
        self.worker.ask("files", folder=str(place.folder / "files"))
        self._pause_s = PAUSE_S + size_bytes / 1e9
        self.ours()  # warm up

    def ours(self) -> Took:
        time.sleep(self._pause_s)
        return Took(self.worker.ask("checkpoint"), self._home.last_timing()[0])

    def floor(self) -> Took:
        time.sleep(self._pause_s)
        took_ms = self.worker.ask("same_bytes", sessions=str(self._home.sessions))
        return Took(took_ms, took_ms)


def _one_round(cases: Mapping[str, Callable[[], Took]], turns: int, waits: Series, writes: Series) -> None:
    for case, took in interleave(cases, turns).items():
        waits.setdefault(case, []).append(median(one.wait for one in took))
        writes.setdefault(case, []).append(median(one.write for one in took))


def large(place: Place) -> list[Row]:
    """Measure one checkpoint of 5 MB after one small change."""
    return _of_size(place, LARGE)


def sizes(place: Place) -> list[Row]:
    """Measure one checkpoint of 5 kB to 50 MB after one small change."""
    return [one for size in SIZES for one in _of_size(place, size)]


def _of_size(place: Place, size: Size) -> list[Row]:
    saved = Saved(place, size.bytes)
    waits: Series = {}
    writes: Series = {}
    seed: list[float] = []
    for _ in range(ROUNDS):
        cases = {"ours": saved.ours, "floor": saved.floor, "again": saved.ours}
        _one_round(cases, size.turns, waits, writes)
        if size.seed:
            seed.append(saved.worker.ask("seed"))
    saved.worker.close()  # so that its memory does not affect the next case
    words = f"checkpoint, {size.words} after one small change"
    rows = [
        row(f"{words}: the daemon's write", "ms", target=size.target, **writes),
        row(f"{words}: round trip", "ms", **waits),
    ]
    if size.seed:
        faster = {case: [slow / one for slow, one in zip(seed, waits[case], strict=True)] for case in ("ours", "again")}
        rows += [
            row(f"{words}: the seed's way, with fsync", "ms", seed, floor=waits["floor"]),
            row(f"{words}: faster than the seed's way", "x", target=BESIDE_SEED, **faster),
        ]
    return rows


def acknowledgements(place: Place) -> list[Row]:
    """Measure a publisher's wait for an acknowledgement while the daemon writes another session's checkpoints."""
    home = place.home("acknowledgements")
    publisher, other = place.worker(home), place.worker(home)
    publisher.ask("attach")
    other.ask("attach", state_bytes=LARGE.bytes)

    def waits(*, beside: bool) -> list[float]:
        start_s = time.monotonic()
        stop_s = start_s + ACKNOWLEDGED_S
        if beside:
            other.begin("keep_checkpointing", stop_s=stop_s, every_s=0)
        answer = publisher.ask("durable", start_s=start_s, stop_s=stop_s, outstanding=1)
        if beside:
            other.result()
        return answer["us"]

    waits(beside=True)  # warm up
    found = interleave(
        {
            "ours": partial(waits, beside=True),
            "floor": partial(waits, beside=False),
            "again": partial(waits, beside=True),
        }
    )
    name = "acknowledgement beside 5 MB checkpoints back to back: p99"
    return [pooled(name, "us", p99, found, BESIDE_ALONE)]


def growth(place: Place) -> list[Row]:
    """Measure one checkpoint of 250 kB in a folder with 10 to 100,000 files of other programs."""
    saved = {count: Saved(place, 250_000, foreign=count) for count in FOREIGN}
    cases = {f"{case} {count}": one.ours for case in ("ours", "again") for count, one in saved.items()}
    waits: Series = {}
    writes: Series = {}
    for _ in range(ROUNDS):
        _one_round(cases, FOREIGN_TURNS, waits, writes)
    least = FOREIGN[0]
    return [
        row(
            f"checkpoint, {count:,} foreign files: the daemon's write",
            "ms",
            writes[f"ours {count}"],
            again=writes[f"again {count}"],
            floor=[] if count == least else writes[f"ours {least}"],
            target=None if count == least else GROWTH,
        )
        for count in FOREIGN
    ]
