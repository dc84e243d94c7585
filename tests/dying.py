"""Runs the daemon or a publisher until a crash point kills it: `dying.py POINT HITS daemon|publisher ARG …`.

POINT is the name of a point of the daemon or the client. The process dies by SIGKILL when it reaches it for the nth
time (HITS). It reports each time on stderr.
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
