"""Runs a program of ours so that it dies by SIGKILL at a crash point: `dying.py POINT HITS daemon|publisher ARG …`.

The point is reached for the nth time in the process; of the daemon's points and the client's, by its name. Each time
is told on stderr.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from enum import Enum
from pathlib import Path

from edi_checkpoint import faults
from edi_checkpointd.faults import CrashPoint

POINTS: dict[str, Enum] = {point.name: point for points in (CrashPoint, faults.ClientPoint) for point in points}


def die_at(point: Enum, hits: int) -> None:
    left = hits

    def die(reached: Enum) -> None:
        nonlocal left
        if reached is point:
            print(f"reached {point.name}", file=sys.stderr, flush=True)
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    faults.hook = die


if __name__ == "__main__":
    _, name, hits, program, *arguments = sys.argv
    die_at(POINTS[name], int(hits))
    if program == "daemon":
        sys.argv[1:] = arguments
        runpy.run_module("edi_checkpointd", run_name="__main__", alter_sys=True)
    else:
        puppet = str(Path(__file__).parent / "publishers" / "puppet.py")
        sys.argv = [puppet, *arguments]
        runpy.run_path(puppet, run_name="__main__")
