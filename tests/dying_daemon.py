"""Runs `edi-checkpointd` so that it dies by SIGKILL at a crash point: `dying_daemon.py POINT HITS run …`."""

from __future__ import annotations

import os
import signal
import sys

from edi_checkpointd import faults
from edi_checkpointd.__main__ import main

point = faults.CrashPoint[sys.argv[1]]
left = int(sys.argv[2])


def die(reached: faults.CrashPoint) -> None:
    global left
    if reached is point:
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


faults.hook = die
sys.exit(main(sys.argv[3:]))
