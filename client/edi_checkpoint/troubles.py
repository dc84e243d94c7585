"""What can be wrong with a home, seen from outside: each trouble with a stable code, what and where, and what to do.

Looks into folders and asks the disk; changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from edi_checkpoint.catalog import Fault
from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.paths import Paths

FREE_MIN_BYTES: Final = 1 << 20
CLOCK_SLACK_S: Final = 5.0
_NAMED = 3  # files that a message names


class Trouble(msgspec.Struct, frozen=True):
    """Something that is not as it should be; `hint` is the remedy."""

    code: str
    message: str
    hint: str


def met(error: EdiCheckpointError) -> Trouble:
    """Return the trouble that an error tells of."""
    return Trouble(error.code, error.message, error.hint)


def disk_full(folder: Path) -> list[Trouble]:
    """Return the trouble of a disk without room for what is published, where `folder` lies."""
    try:
        disk = os.statvfs(folder)
    except OSError:  # nothing was ever written there
        return []
    no_bytes = disk.f_bavail * disk.f_frsize < FREE_MIN_BYTES
    if not no_bytes and (disk.f_favail or not disk.f_files):
        return []
    what = "is full" if no_bytes else "takes no more files"
    return [
        Trouble(
            "disk_full",
            f"the disk of {folder} {what}; what is published now may wait in EDI's memory",
            "free some space there; everything resumes by itself",
        )
    ]


def daemon_hangs(pid: int | None) -> Trouble:
    """Return the trouble of a daemon that holds its lock and does not answer."""
    return Trouble(
        "daemon_hangs",
        f"the daemon (process {pid}) does not answer; this is what the files say",
        f"its disk may be slow; if it stays so, `kill -9 {pid}`: nothing is lost, and the next one goes on from there",
    )


def no_daemon(what: str) -> Trouble:
    """Return the trouble that `what` waits and nobody is there to take it."""
    return Trouble(
        "no_daemon",
        f"no daemon runs, and {what}",
        "start one with `edi-checkpointd run`; EDI starts one by itself, unless EDI_CHECKPOINT_AUTOSTART=0",
    )


def outbox_waiting(what: str) -> Trouble:
    """Return the trouble that `what` waits for longer than it should."""
    return Trouble(
        "outbox_waiting",
        f"{what} although a daemon runs",
        "if nothing else here tells why, look into the daemon's log; nothing is lost while the outbox lies there",
    )


def clock_stepped(newest: datetime | None, now: datetime) -> list[Trouble]:
    """Return the trouble of a clock that stands before what was written by it, at `newest`."""
    behind_s = (newest - now).total_seconds() if newest else 0.0
    if behind_s <= CLOCK_SLACK_S:
        return []
    return [
        Trouble(
            "clock_stepped",
            f"the clock stands {behind_s:.0f} s before the newest entry's time: it was set back",
            "set the clock right; order never comes from it, so nothing is lost or mixed up",
        )
    ]


_DELETE = "delete the files when you have no more use for them"
_KEPT: Final = (
    # how names begin or end in the folder, the code, what it is, what came of it
    ("journal.sqlite", "journal_set_aside", "a damaged journal", "states came from checkpoints and outboxes"),
    ("frame-", "entries_refused", "entries that were refused", "the EDI that sent them was told at its next call"),
    (".seg", "outbox_damaged", "an outbox that could not be read to its end", "what could be read was taken"),
)


def set_aside(paths: Paths) -> list[Trouble]:
    """Return what was moved out of the way, and lies there since."""
    names = _names(paths.damaged)
    troubles = []
    for mark, code, what, outcome in _KEPT:
        kept = [name for name in names if name.startswith(mark) or name.endswith(mark)]
        if kept:
            troubles.append(
                Trouble(code, f"{what} was set aside: {_listed(kept, paths.damaged)}", f"{outcome}; {_DELETE}")
            )
    if moved := _names(paths.damaged_documents):
        message = f"damaged documents were set aside: {_listed(moved, paths.damaged_documents)}"
        troubles.append(Trouble("documents_damaged", message, f"older ones took their place; {_DELETE}"))
    return troubles


def unusable(faults: Sequence[Fault]) -> list[Trouble]:
    """Return the trouble of documents that lie in their place and cannot be used."""
    if not faults:
        return []
    named = _listed([f"{fault.name} ({fault.fault})" for fault in faults])
    hint = "`edi-checkpoint log SESSION` lists the good ones; a file of a newer version needs the newer software"
    return [Trouble("documents_damaged", f"documents that cannot be used: {named}", hint)]


def _listed(names: Sequence[str], folder: Path | None = None) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    where = f" in {folder}" if folder else ""
    return ", ".join(names[:_NAMED]) + more + where


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
