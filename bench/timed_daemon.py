"""Runs `edi-checkpointd` and records how long its checkpoints take: `timed_daemon.py FILE run …`.

FILE gets a line of milliseconds for each: from the wish to the durable file in total, then to the fsynced temporary
file, to the rename, and to the fsync of the folder. The clock is read at the daemon's crash points.
"""

from __future__ import annotations

import os
import sys
import time
from enum import Enum
from itertools import pairwise

from edi_checkpoint import faults
from edi_checkpointd.__main__ import main
from edi_checkpointd.faults import CrashPoint

_STEPS = (CrashPoint.TEMPORARY_WRITTEN, CrashPoint.RENAMED, CrashPoint.CHECKPOINT_WRITTEN)
_output = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
_times_s: list[float] = []


def note(point: Enum) -> None:
    if point is CrashPoint.MARK_COMMITTED:
        _times_s[:] = [time.perf_counter()]
    elif _times_s and point in _STEPS:
        _times_s.append(time.perf_counter())
        if point is CrashPoint.CHECKPOINT_WRITTEN:
            steps = [after - before for before, after in pairwise(_times_s)]
            text = " ".join(f"{1000 * step:.4f}" for step in (sum(steps), *steps))
            os.write(_output, f"{text}\n".encode())
            _times_s.clear()


faults.hook = note
sys.exit(main(sys.argv[2:]))
