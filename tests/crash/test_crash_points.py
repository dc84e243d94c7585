"""Kills a process at every durable step: acknowledged entries exist once and in order, and no file is torn."""

from __future__ import annotations

import os
from enum import Enum

import pytest
from crash.cases import CASES, ONCE, POINTS
from crash.points import die_at
from harness import Home

HITS = (1, 2, 3) if os.environ.get("EDI_TEST_FULL") == "1" else (1,)
DEATHS = [(point, hits) for point in POINTS for hits in (HITS if point not in ONCE else (1,))]


@pytest.mark.crash
@pytest.mark.parametrize(("point", "hits"), DEATHS, ids=[f"{point.name}-{hits}" for point, hits in DEATHS])
def test_nothing_is_lost_doubled_or_torn_by_a_death_at(point: Enum, hits: int, home: Home) -> None:
    verdict = die_at(point, home, hits=hits)
    assert not verdict, verdict.findings


def test_every_crash_point_has_a_case_and_a_name_of_its_own() -> None:
    assert set(CASES) == set(POINTS)
    assert len({point.name for point in POINTS}) == len(POINTS)
