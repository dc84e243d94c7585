"""Checks that the system works: SQLite, the clock, the result of `status`, and a test session."""

from __future__ import annotations

import time
from functools import partial
from uuid import uuid4

import msgspec

from edi_checkpoint.client import Client, connect
from edi_checkpoint.documents.reader import parse_checkpoint
from edi_checkpoint.home.problems import Trouble
from edi_checkpoint.wire import messages
from edi_checkpointd.cli.checks.finding import CheckResult, at_fault, fixed_by, skipped, well
from edi_checkpointd.cli.checks.setup import Setup
from edi_checkpointd.cli.exits import PROGRAM
from edi_checkpointd.journal import sound_sqlite

_CLOCK = "clock_stepped"
_PATIENCE_S = 10.0  # for each of starting, writing and purging: the daemon's disk may be slow
_PROBE = {"text": "h\u00f6lzern \u7a7a", "number": 0.1, "list": [1, None, True]}


def sqlite(setup: Setup) -> CheckResult:
    """Check that this SQLite version loses no commits. Raises `VersionMismatch`."""
    return well(sound_sqlite())


def clock(setup: Setup) -> CheckResult:
    """Check that the clock is not behind the newest entry."""
    for trouble in _troubles(setup, clock=True):
        return fixed_by("sudo timedatectl set-ntp true", f"{trouble.message}; {trouble.hint}")
    return well("not behind the newest entry")


def status(setup: Setup) -> CheckResult:
    """Check that `edi-checkpoint status` reports no fault."""
    found = _troubles(setup, clock=False)
    if found:
        more = f" (and {len(found) - 1} more: `edi-checkpoint status`)" if len(found) > 1 else ""
        return at_fault(found[0].message + more, found[0].hint)
    return well("all work is safe")


def _troubles(setup: Setup, *, clock: bool) -> list[Trouble]:
    return [trouble for trouble in setup.status.degraded if (trouble.code == _CLOCK) == clock]


def round_trip(setup: Setup) -> CheckResult:
    """Save, checkpoint, read back and purge a test session; start a daemon if none runs.

    Raises the error of the step that fails.
    """
    if setup.held and not isinstance(setup.greeting, messages.Welcome):
        return skipped("the daemon does not answer")
    begun_s = time.monotonic()
    with connect(app=PROGRAM, timeout_s=_PATIENCE_S) as client:
        if client.disabled:
            return skipped("EDI_CHECKPOINT_DISABLE is set: nothing is saved")
        if not client.connected:
            remedy = "run `edi-checkpointd run`; it prints why it cannot start"
            return at_fault("no daemon answers, and none could be started", remedy)
        session_id = f"doctor-{uuid4().hex[:12]}"
        try:
            same = _there_and_back(setup, client, session_id)
        finally:
            purged = client.ask(partial(messages.Purge, sessions=(session_id,)), _PATIENCE_S)
    if isinstance(purged, messages.Purged) and purged.kept:
        return at_fault(
            f"session {session_id} cannot be purged: {purged.kept[0]}", "fix the path that the message names"
        )
    if not same:
        return at_fault("a checkpoint read back differs from what was written", f"{PROGRAM} verify")
    started = "" if setup.held else " (started a daemon for it)"
    return well(f"saved, checkpointed, read back and removed in {time.monotonic() - begun_s:.1f} s{started}")


def _there_and_back(setup: Setup, client: Client, session_id: str) -> bool:
    """Write a session and a checkpoint of it; return whether its file contains what was written."""
    with client.session(session_id) as session:
        session["probe"] = _PROBE
        made = session.checkpoint("doctor", timeout_s=_PATIENCE_S)
    document = parse_checkpoint((setup.paths.sessions / made.name).read_bytes(), made.name)
    return bool(msgspec.json.decode(document.values["probe"]) == _PROBE)
