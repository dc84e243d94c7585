"""Measures how much an hour of a typical session writes to the disk."""

from __future__ import annotations

import json
from pathlib import Path

from measure import ROUNDS, Row, Target, row
from parts import Place
from worker import Worker, large_state

STATE_BYTES = 200_000  # EDI's without masks: 10-200 kB
UPDATES, AUTOSAVES, CHECKPOINTS = 3600, 720, 60  # in an hour with an update a second, with the default settings
BESIDE_SEED = Target("value", 0.1)
COUNTS = {"update": 100, "save": 3, "checkpoint": 3}  # in one round
NO_TIMERS = {"EDI_CHECKPOINT_AUTOSAVE_EVERY_S": "3600", "EDI_CHECKPOINT_CHECKPOINT_EVERY_S": "86400"}
PAGE_BYTES = 4096


def typical(place: Place) -> list[Row]:
    """Measure the bytes that an update, an auto-save and a checkpoint write, and sum them for an hour.

    The kernel counts the bytes of publisher and daemon. Timers are off, so that each write belongs to a known cause.
    """
    home = place.home("hour", under=NO_TIMERS)
    saver = place.worker(home, "saver.py")
    saver.ask("attach", state_bytes=STATE_BYTES)
    processes = [Path(f"/proc/{pid}/io") for pid in (home.daemon.pid, saver.pid)]
    words = "disk written in an hour, 200 kB, an update a second"
    beside = f"{words}: beside the seed's saves, one each 5 s"
    if not all(path.exists() for path in processes):
        return [Row(beside, "x", None, target=BESIDE_SEED)]

    def weigh(command: str) -> float:
        before = sum(map(_written, processes))
        _do(saver, command, COUNTS[command])
        return (sum(map(_written, processes)) - before) / COUNTS[command]

    for command in COUNTS:
        weigh(command)  # warm up
    parts: dict[str, list[float]] = {"updates": [], "auto-saves": [], "checkpoints": []}
    for _ in range(ROUNDS):
        update = weigh("update")
        parts["updates"].append(UPDATES * update / 1e6)
        parts["auto-saves"].append(AUTOSAVES * (weigh("save") - update) / 1e6)  # each includes an update
        parts["checkpoints"].append(CHECKPOINTS * (weigh("checkpoint") - 2 * update) / 1e6)  # and its mark
    ours = [sum(round_) for round_ in zip(*parts.values(), strict=True)]
    seed_mb = AUTOSAVES * _on_pages(len(json.dumps(large_state(STATE_BYTES), indent=2))) / 1e6
    floor_mb = UPDATES * PAGE_BYTES / 1e6
    return [
        row(words, "MB", ours, floor=[floor_mb] * ROUNDS),
        *(row(f"{words}: {part}", "MB", series) for part, series in parts.items()),
        row(beside, "x", [mb / seed_mb for mb in ours], floor=[floor_mb / seed_mb] * ROUNDS, target=BESIDE_SEED),
    ]


def _do(saver: Worker, command: str, count: int) -> None:
    if command == "update":
        saver.ask("update", count=count)
    else:
        for _ in range(count):
            saver.ask(command)


def _on_pages(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def _written(io: Path) -> int:
    """Return how many bytes a process has written; the kernel counts pages when they become dirty."""
    return int(io.read_text().split("\nwrite_bytes: ")[1].split()[0])
