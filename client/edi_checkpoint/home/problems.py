"""Finds the faults of a home in its files: each with a stable code, a message and a remedy. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from edi_checkpoint.documents.catalog import Fault
from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.system.paths import Paths

FREE_MIN_BYTES: Final = 1 << 20
CLOCK_SLACK_S: Final = 5.0
_NAMED_MAX = 3  # files that a message names


class Trouble(msgspec.Struct, frozen=True):
    """One fault of a home; `hint` is the remedy."""

    code: str
    message: str
    hint: str


def met(error: EdiCheckpointError) -> Trouble:
    """Return the trouble that reports an error."""
    return Trouble(error.code, error.message, error.hint)


def disk_full(folder: Path) -> list[Trouble]:
    """Return a trouble if the disk of `folder` is full."""
    try:
        disk = os.statvfs(folder)
    except OSError:  # the folder does not exist yet
        return []
    no_bytes = disk.f_bavail * disk.f_frsize < FREE_MIN_BYTES
    if not no_bytes and (disk.f_favail or not disk.f_files):
        return []
    what = "is full" if no_bytes else "has no room for more files"
    message = f"the disk of {folder} {what}; new changes may be in EDI's memory only"
    return [Trouble("disk_full", message, "free some space there; saving then resumes by itself")]


def daemon_hangs(pid: int | None) -> Trouble:
    """Return the trouble of a daemon that holds its lock but does not answer."""
    message = f"the daemon (process {pid}) does not answer; this status comes from the files"
    remedy = f"if it does not recover, run `kill -9 {pid}`: nothing is lost, the next daemon resumes"
    return Trouble("daemon_hangs", message, f"its disk may be slow; {remedy}")


def no_daemon(what: str) -> Trouble:
    """Return the trouble that no daemon runs although `what`, such as `3 changes of 1 session wait in an outbox`."""
    hint = "run `edi-checkpointd run`; EDI starts a daemon by itself, unless EDI_CHECKPOINT_AUTOSTART=0"
    return Trouble("no_daemon", f"no daemon runs, and {what}", hint)


def outbox_waiting(what: str) -> Trouble:
    """Return the trouble that changes wait for too long although a daemon runs; `what` as for `no_daemon`."""
    hint = "if no other fault here explains it, see the daemon's log; nothing is lost while the outbox exists"
    return Trouble("outbox_waiting", f"{what} although a daemon runs", hint)


def clock_stepped(newest: datetime | None, now: datetime) -> list[Trouble]:
    """Return a trouble if the clock is behind the time of the newest entry, `newest`."""
    behind_s = (newest - now).total_seconds() if newest else 0.0
    if behind_s <= CLOCK_SLACK_S:
        return []
    hint = "set the clock right; nothing is lost, and the order of changes does not depend on it"
    return [Trouble("clock_stepped", f"the clock is {behind_s:.0f} s behind the newest entry: it was set back", hint)]


_DELETE = "delete the files when you no longer need them"
_RECOVERED = "the states were recovered from checkpoints and outboxes"
_SET_ASIDE: Final = (
    # how names begin or end in the folder, the code, what was set aside, how the daemon handled it
    ("journal.sqlite", "journal_set_aside", "a damaged journal was", _RECOVERED),
    ("frame-", "entries_refused", "refused entries were", "EDI, which sent them, got an error at its next call"),
    (".seg", "outbox_damaged", "an outbox that could not be read to its end was", "its readable part was recovered"),
)


def set_aside(paths: Paths) -> list[Trouble]:
    """Return a trouble for each kind of file that was set aside as damaged."""
    names = _names(paths.damaged)
    troubles = []
    for mark, code, what, outcome in _SET_ASIDE:
        if found := [name for name in names if name.startswith(mark) or name.endswith(mark)]:
            message = f"{what} set aside: {_listed(found, paths.damaged)}"
            troubles.append(Trouble(code, message, f"{outcome}; {_DELETE}"))
    if moved := _names(paths.damaged_documents):
        message = f"damaged documents were set aside: {_listed(moved, paths.damaged_documents)}"
        troubles.append(Trouble("documents_damaged", message, f"older ones are used instead; {_DELETE}"))
    return troubles


def unusable(faults: Sequence[Fault]) -> list[Trouble]:
    """Return a trouble if documents in the sessions folder cannot be used."""
    if not faults:
        return []
    named = _listed([f"{fault.name} ({fault.fault})" for fault in faults])
    hint = "`edi-checkpoint log SESSION` lists the good ones; a file of a newer version needs newer software"
    return [Trouble("documents_damaged", f"some documents cannot be used: {named}", hint)]


def _listed(names: Sequence[str], folder: Path | None = None) -> str:
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    where = f" in {folder}" if folder else ""
    return ", ".join(names[:_NAMED_MAX]) + more + where


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
