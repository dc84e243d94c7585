"""The daemon's part of the status: its uptime, the requests that it refused, its present faults.

Only the loop's thread uses it. `edi_checkpoint.home.status` finds everything that is visible from outside.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.home.problems import Trouble
from edi_checkpoint.home.status import DaemonReport, Served
from edi_checkpointd.config import Config
from edi_checkpointd.system import rlimits
from edi_checkpointd.system.clock import Clock
from edi_checkpointd.system.logs import LOG_BYTES

REPORT_S = 3600.0  # how long a past event is reported: a step of the clock, a removed folder


class Health:
    """Counts errors and records faults of one daemon."""

    def __init__(self, clock: Clock, version: str, *, journal_fault: str | None = None) -> None:
        """Start counting the uptime. `journal_fault` says why the journal was replaced by a new one, if it was."""
        self._clock = clock
        self._version = version
        self._journal_fault = journal_fault
        self._started_s = clock.monotonic_s()
        self._refusal: tuple[str, datetime] | None = None  # the disk's error, and when it first failed
        self._errors: Counter[str] = Counter()
        self._folder_lost: tuple[int, datetime, float] | None = None
        self._config_fault: EdiCheckpointError | None = None  # why the present file is not used

    def count(self, code: str) -> None:
        """Count an error that a client got."""
        self._errors[code] += 1

    def config_read(self, fault: EdiCheckpointError | None) -> None:
        """Record that the configuration file was read again, and its fault (None: it is used)."""
        self._config_fault = fault

    def disk_refused(self, error: OSError) -> bool:
        """Record that a commit failed, until one succeeds. Return whether the previous commit had succeeded."""
        self.count(getattr(error, "code", "disk"))
        before, self._refusal = self._refusal, (str(error), self._refusal[1] if self._refusal else self._clock.now())
        return before is None

    def disk_took(self) -> bool:
        """Record that a commit succeeded; return whether the previous commit had failed."""
        before, self._refusal = self._refusal, None
        return before is not None

    def folder_lost(self, sessions: int) -> None:
        """Record that the sessions folder was removed, and that the states of `sessions` sessions are saved again."""
        self._folder_lost = (sessions, self._clock.now(), self._clock.monotonic_s())

    def report(
        self, *, connections: int, failing: Mapping[str, str], refused_streams: int, stepped: tuple[float, float] | None
    ) -> DaemonReport:
        """Return the daemon's part of the status.

        `connections` counts clients that write. `failing` maps a session to the reason why its files could not be
        written. `refused_streams` counts outboxes that are not drained. `stepped` is the last step of the wall clock in
        seconds, and its monotonic time.
        """
        troubles = []

        def trouble(code: str, message: str, hint: str) -> None:
            troubles.append(Trouble(code, message, hint))

        if self._refusal:
            fault, since = self._refusal
            message = f"the journal cannot be written since {since.isoformat(timespec='seconds')}: {fault}"
            trouble("disk_refused", message, "free some space; the daemon then resumes by itself")
        if self._journal_fault:
            message = f"this daemon started a new journal: {self._journal_fault}"
            hint = "the states were recovered from checkpoints and outboxes; `edi-checkpoint sessions` lists them"
            trouble("journal_begun_anew", message, hint)
        if self._folder_lost and self._clock.monotonic_s() - self._folder_lost[2] < REPORT_S:
            sessions, when, _ = self._folder_lost
            trouble(
                "folder_removed",
                f"the sessions folder was found empty, without its marker, at {when.isoformat(timespec='seconds')}",
                f"the current states of {sessions} sessions were saved again; if the folder still exists elsewhere,"
                " move its files back: only it has the older checkpoints, masks and pictures",
            )
        if self._config_fault:
            message = f"the configuration file has an error and is not used: {self._config_fault}"
            hint = f"{self._config_fault.hint}; the previous settings still apply (`edi-checkpoint config`)"
            trouble("config_refused", message, hint)
        if failing:
            session_id, fault = next(iter(failing.items()))
            more = f", and of {len(failing) - 1} more sessions" if len(failing) > 1 else ""
            message = f"files of session {session_id}{more} cannot be written: {fault}"
            hint = "free some space or fix the sessions folder; the changes are safe in the journal"
            trouble("checkpoints_failing", message, hint)
        if refused_streams:
            message = f"{refused_streams} outboxes cannot be read into the journal and are kept unchanged"
            trouble("streams_refused", message, "the daemon's log names each one with the reason")
        if shortage := rlimits.short():
            message = f"{shortage} by the daemon; if it runs out of them, it ends and is restarted"
            hint = "close idle clients, or raise the limit (`ulimit -Hn`, LimitNOFILE= of the unit)"
            trouble("descriptors_short", message, hint)
        if stepped and self._clock.monotonic_s() - stepped[1] < REPORT_S:
            message = f"the clock was stepped by {stepped[0]:+.0f} s within the last hour"
            hint = "check that the clock is right now; timers and the order of changes were not affected"
            trouble("clock_stepped", message, hint)
        daemon = Served(True, os.getpid(), self._version, self._clock.monotonic_s() - self._started_s, connections)
        return DaemonReport(daemon, answered=True, troubles=troubles, errors=dict(self._errors))


def caps(config: Config) -> dict[str, int]:
    """Return the limits of disk space, in bytes, by the kinds of `edi_checkpoint.home.sizes`.

    Documents and trash share one limit; the limit of outboxes is per outbox.
    """
    return {
        "documents": config.sessions_max_bytes,
        "trash": config.sessions_max_bytes,
        "attachments": config.attachments_max_bytes,
        "journal": config.history_max_bytes,
        "outboxes": config.outbox_max_bytes,
        "damaged": config.damaged_max_bytes,
        "logs": 2 * LOG_BYTES,
    }
