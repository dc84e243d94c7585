"""What the kernel says of a process: which sandbox is in force around it, and how many files it may open.

Read off /proc, so that nobody is asked whether the service manager did what the unit says; None where that is not
told: another system, another user's process, one that has ended.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

_SECCOMP: Final = ("off", "strict", "filter")  # proc_pid_status(5)
UNLIMITED: Final = 1 << 20  # of descriptors; no process of ours comes near


class Sandbox(msgspec.Struct, frozen=True):
    """What a process can never do again: gain privileges by a program it starts, make system calls that are filtered.

    `seccomp` is off, strict or filter, `filters` how many filters are laid over one another.
    """

    no_new_privileges: bool
    seccomp: str
    filters: int


class Descriptors(msgspec.Struct, frozen=True):
    """How many files a process has open, and how many it may: its hard limit, to which a daemon raises its own."""

    open: int
    limit: int


def sandbox(pid: int | None) -> Sandbox | None:
    """Return the sandbox around a process."""
    fields = dict.fromkeys(("NoNewPrivs", "Seccomp", "Seccomp_filters"), 0)
    try:
        for line in _place(pid).joinpath("status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in fields:
                fields[name] = int(value)
    except (OSError, ValueError):
        return None
    mode = fields["Seccomp"]
    return Sandbox(
        fields["NoNewPrivs"] == 1, _SECCOMP[mode] if mode < len(_SECCOMP) else "filter", fields["Seccomp_filters"]
    )


def descriptors(pid: int | None) -> Descriptors | None:
    """Return how many files a process has open and may open."""
    try:
        limits = _place(pid).joinpath("limits").read_text().splitlines()
        hard = next(line.split()[4] for line in limits if line.startswith("Max open files"))
        return Descriptors(
            sum(1 for _ in _place(pid).joinpath("fd").iterdir()), int(hard) if hard.isdigit() else UNLIMITED
        )
    except (OSError, StopIteration, IndexError):
        return None


def _place(pid: int | None) -> Path:
    return Path("/proc", "none" if pid is None else str(pid))
