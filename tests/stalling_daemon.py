"""Runs a daemon that waits at a crash point while FILE exists: `stalling_daemon.py POINT FILE run …`."""

from __future__ import annotations

import sys
import time
from enum import Enum
from pathlib import Path

from edi_checkpoint import faults
from edi_checkpointd.__main__ import main
from edi_checkpointd.faults import CrashPoint

point = CrashPoint[sys.argv[1]]
brake = Path(sys.argv[2])


def stall(reached: Enum) -> None:
    while reached is point and brake.exists():
        time.sleep(0.01)


faults.hook = stall
sys.exit(main(sys.argv[3:]))
