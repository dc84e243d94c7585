"""Reads the kernel's account of a process: its processor time, its memory, and how often its threads woke up."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def woken(pid: int) -> int:
    """Return how often the threads of a process woke up from a wait."""
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0]) for text in texts)


def used_ms(pid: int) -> float:
    """Return the total processor time of a process."""
    paths = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in paths) / 1e6


def field_kib(status: str, field: str) -> int:
    """Return a line of the text of some `/proc/<pid>/status`, `VmRSS` for one."""
    return int(status.split(f"{field}:")[1].split()[0])


def timed(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Run a command and return its milliseconds. Raises RuntimeError if it fails."""
    start_s = time.perf_counter()
    done = subprocess.run(command, env=dict(environment), capture_output=True, check=False)
    took_ms = (time.perf_counter() - start_s) * 1000
    if done.returncode:
        raise RuntimeError(f"{command!r} ends with {done.returncode}: {done.stderr[-2000:].decode(errors='replace')}")
    return took_ms


def said(code: str) -> str:
    """Return the output of a Python program in a new interpreter."""
    return subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
