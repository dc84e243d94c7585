"""Whether it works: SQLite, the clock, what `status` says, and a real session there and back."""

from __future__ import annotations

from edi_checkpoint.troubles import Trouble
from edi_checkpointd.cli.checks.finding import Finding, at_fault, mended_by, well
from edi_checkpointd.cli.checks.setup import Setup
from edi_checkpointd.journal import sound_sqlite

_CLOCK = "clock_stepped"


def sqlite(setup: Setup) -> Finding:
    """SQLite is of a version that loses no commits. Raises `VersionMismatch`."""
    return well(sound_sqlite())


def clock(setup: Setup) -> Finding:
    """The clock does not stand before what was written by it."""
    for trouble in _troubles(setup, clock=True):
        return mended_by("sudo timedatectl set-ntp true", f"{trouble.message}; {trouble.hint}")
    return well("not before anything that was written by it")


def status(setup: Setup) -> Finding:
    """`edi-checkpoint status` has nothing to tell but that all is safe."""
    found = _troubles(setup, clock=False)
    if found:
        more = f" (and {len(found) - 1} more: `edi-checkpoint status`)" if len(found) > 1 else ""
        return at_fault(found[0].message + more, found[0].hint)
    return well("all work is safe")


def _troubles(setup: Setup, *, clock: bool) -> list[Trouble]:
    return [trouble for trouble in setup.status.degraded if (trouble.code == _CLOCK) == clock]
