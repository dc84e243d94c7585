"""Cuts the power at any moment; the disk keeps an arbitrary part of the unsynced data."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from crash.disk import Make, NamesKept, Operation, SizesKept, Told, Unlink
from crash.power_cut import (
    cut,
    cut_at_each_step,
    judge_daemon,
    judge_outbox,
    record_daemon,
    record_publisher,
    record_trash,
    record_unlinks,
)
from harness import Home

STATES, LIVES = (2000, 20) if os.environ.get("EDI_TEST_FULL") == "1" else (40, 1)


@pytest.mark.crash
@pytest.mark.parametrize("record", [record_daemon, record_trash], ids=["at work", "trash"])
def test_what_was_acknowledged_and_what_is_in_files_survives_a_power_cut(
    record: Callable[[Home, Path], list[Operation]], home: Home, tmp_path: Path
) -> None:
    operations = record(home, tmp_path / "log")
    assert {one.what for one in operations if isinstance(one, Told)} == {"acknowledged", "in a file"}
    verdict = cut(operations, seeded(), STATES, tmp_path, judge_daemon, lives=LIVES)
    assert not verdict, verdict.findings[:20]


@pytest.mark.crash
def test_what_a_publisher_has_synced_without_a_daemon_survives_a_power_cut(home: Home, tmp_path: Path) -> None:
    operations = record_publisher(home, tmp_path / "log")
    assert [one.number for one in operations if isinstance(one, Told)] == [26, 52, 78, 104]
    verdict = cut(operations, seeded(), STATES, tmp_path, judge_outbox, lives=LIVES)
    assert not verdict, verdict.findings[:20]


@pytest.mark.crash
def test_a_segment_that_a_power_cut_brings_back_hides_nothing_that_was_synced_behind_it(
    home: Home, tmp_path: Path
) -> None:
    operations = record_unlinks(home, tmp_path / "log")
    gone = [one.path for one in operations if isinstance(one, Unlink) and one.path.endswith(".seg")]
    assert len(gone) >= 3
    assert len([one for one in operations if isinstance(one, Told)]) == len(gone)
    verdict = cut_at_each_step(operations, SizesKept(), tmp_path, judge_outbox)
    assert not verdict, verdict.findings


@pytest.mark.crash
def test_a_power_cut_while_the_first_journal_is_made_leaves_none_that_counts_as_damaged(
    home: Home, tmp_path: Path
) -> None:
    making = record_daemon(home, tmp_path / "log")[:60]
    assert any(isinstance(one, Make) and one.path == "state/journal.sqlite-wal" for one in making)
    verdict = cut_at_each_step(making, NamesKept(), tmp_path, judge_daemon, writes=True)
    assert not verdict, verdict.findings


def seeded() -> random.Random:
    seed = int(os.environ.get("CUT_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"CUT_SEED={seed}")
    return random.Random(seed)
