"""The checks of `doctor`, one function each. A fault often explains the faults of later checks, hence the order.

    finding   the result of a check: ok, failed with a remedy, or skipped
    setup     what the checks look at, read only once: places, lock, greeting, status
    places    configuration, folders, disks
    serving   service, lock, socket, daemon
    working   SQLite, clock, the result of `status`, and a round trip

Checks change nothing. Only the round trip writes something, and deletes it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpointd.cli.checks import places, serving, working
from edi_checkpointd.cli.checks.finding import CheckResult, at_fault
from edi_checkpointd.cli.checks.setup import Setup

CHECKS: Mapping[str, Callable[[Setup], CheckResult]] = MappingProxyType(
    {
        check.__name__: check
        for check in (
            places.configuration,
            places.sessions_folder,
            places.state_folder,
            places.runtime_folder,
            places.disk_space,
            places.inodes,
            places.file_system,
            places.sync_folder,
            working.sqlite,
            serving.service,
            serving.lock,
            serving.socket,
            serving.daemon,
            serving.versions,
            serving.descriptors,
            working.clock,
            working.status,
            working.round_trip,
        )
    }
)


def examine(setup: Setup) -> Iterator[tuple[str, CheckResult]]:
    """Run the checks one by one; yield each one's name and finding."""
    for name in CHECKS:
        yield name, finding_of(name, setup)


def finding_of(name: str, setup: Setup) -> CheckResult:
    """Return the finding of one check; an error that it raises becomes a finding."""
    try:
        return CHECKS[name](setup)
    except EdiCheckpointError as error:
        return at_fault(error.message, error.hint)
    except OSError as error:
        return at_fault(str(error), "fix the path that the message names")
