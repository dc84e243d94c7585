"""What `doctor` looks at: one function a check, in the order in which a fault explains those after it.

    finding   what a check comes to: well, at fault with a remedy, or not to be said here
    setup     what is looked at, gathered once: places, lock, greeting, status
    places    configuration, folders, disks
    serving   service, lock, socket, daemon
    working   SQLite, clock, what `status` says, and a round trip

A check looks and changes nothing, but for the round trip, which clears up after itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpointd.cli.checks import places, serving, working
from edi_checkpointd.cli.checks.finding import Finding, at_fault
from edi_checkpointd.cli.checks.setup import Setup

CHECKS: Mapping[str, Callable[[Setup], Finding]] = MappingProxyType(
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


def examine(setup: Setup) -> Iterator[tuple[str, Finding]]:
    """Yield the name and the finding of each check, as they are made."""
    for name in CHECKS:
        yield name, finding_of(name, setup)


def finding_of(name: str, setup: Setup) -> Finding:
    """Return the finding of one check; whatever it cannot get over is one."""
    try:
        return CHECKS[name](setup)
    except EdiCheckpointError as error:
        return at_fault(error.message, error.hint)
    except OSError as error:
        return at_fault(str(error), "mend what the message names")
