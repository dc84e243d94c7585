"""Read from /proc the sandbox of a process, and how many files it may open.

So the kernel itself confirms that systemd applied the unit's settings. Both functions return None where /proc does not
tell: on another system, for another user's process, or after the process ended.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

_SECCOMP: Final = ("off", "strict", "filter")  # proc_pid_status(5)
_UNLIMITED: Final = 1 << 20  # of descriptors; no process of ours opens so many


class Sandbox(msgspec.Struct, frozen=True):
    """The sandbox of a process: whether it can gain privileges through a program it starts, and its seccomp filters.

    `seccomp` is off, strict or filter; `filters` is the number of filters.
    """

    no_new_privileges: bool
    seccomp: str
    filters: int


class Descriptors(msgspec.Struct, frozen=True):
    """How many files a process has open, and its hard limit. A daemon raises its own soft limit to that."""

    open: int
    limit: int


def sandbox(pid: int | None) -> Sandbox | None:
    """Return the sandbox of a process."""
    fields = dict.fromkeys(("NoNewPrivs", "Seccomp", "Seccomp_filters"), 0)
    try:
        for line in _folder(pid).joinpath("status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in fields:
                fields[name] = int(value)
    except (OSError, ValueError):
        return None
    return Sandbox(fields["NoNewPrivs"] == 1, _SECCOMP[min(fields["Seccomp"], 2)], fields["Seccomp_filters"])


def descriptors(pid: int | None) -> Descriptors | None:
    """Return how many files a process has open and may open."""
    try:
        limits = _folder(pid).joinpath("limits").read_text().splitlines()
        hard = next(line.split()[4] for line in limits if line.startswith("Max open files"))
        opened = sum(1 for _ in _folder(pid).joinpath("fd").iterdir())
        return Descriptors(opened, int(hard) if hard.isdigit() else _UNLIMITED)
    except (OSError, StopIteration, IndexError):
        return None


def _folder(pid: int | None) -> Path:
    return Path("/proc", "none" if pid is None else str(pid))
