"""Kills daemon, publishers, or both at random moments. `KILL_SEED=<n>` repeats the same choices."""

from __future__ import annotations

import os
import random

import pytest
from crash.kills import Victims, kill_loop
from harness import Home

ROUNDS = 60 if os.environ.get("EDI_TEST_FULL") == "1" else 5


@pytest.mark.crash
@pytest.mark.parametrize("victims", Victims, ids=lambda victims: victims.value)
def test_nothing_is_lost_or_doubled_while_somebody_is_killed(victims: Victims, home: Home) -> None:
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"KILL_SEED={seed}")
    verdict, _ = kill_loop(home, seed, victims, ROUNDS)
    assert not verdict, verdict.findings
