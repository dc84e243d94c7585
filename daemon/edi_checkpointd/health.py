"""What a daemon knows of itself and nobody sees from outside: since when it runs, what it refused, what it fails at.

Kept by the intake thread. All that can be seen from outside, `edi_checkpoint.status` looks for itself.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.status import Served, Told
from edi_checkpoint.troubles import Trouble
from edi_checkpointd import descriptors
from edi_checkpointd.clock import Clock
from edi_checkpointd.config import Config
from edi_checkpointd.logs import LOG_BYTES

TOLD_S = 3600.0  # how long is told of what is over: a step of the clock, a folder that was removed


class Health:
    """One daemon's account of itself."""

    def __init__(self, clock: Clock, version: str, *, journal_fault: str | None = None) -> None:
        """Begin to run now; `journal_fault` says why the journal was begun anew, if it was."""
        self._clock = clock
        self._version = version
        self._journal_fault = journal_fault
        self._started_s = clock.monotonic_s()
        self._refusal: tuple[str, datetime] | None = None  # what the disk said, and since when it refuses
        self._errors: Counter[str] = Counter()
        self._folder_lost: tuple[int, datetime, float] | None = None
        self._config_fault: EdiCheckpointError | None = None  # why the file as it is now is not in force

    def count(self, code: str) -> None:
        """Count an error that somebody was told."""
        self._errors[code] += 1

    def config_read(self, fault: EdiCheckpointError | None) -> None:
        """Note that the configuration file was read again, and what is wrong with it, if anything is."""
        self._config_fault = fault

    def disk_refused(self, error: OSError) -> bool:
        """Note that a commit failed; it counts until one succeeds. Return whether the one before had succeeded."""
        self.count(getattr(error, "code", "disk"))
        before, self._refusal = self._refusal, (str(error), self._refusal[1] if self._refusal else self._clock.now())
        return before is None

    def disk_took(self) -> bool:
        """Note that a commit succeeded; return whether the one before had failed."""
        before, self._refusal = self._refusal, None
        return before is not None

    def folder_lost(self, sessions: int) -> None:
        """Note that the sessions folder was removed, and the states of so many sessions are saved again."""
        self._folder_lost = (sessions, self._clock.now(), self._clock.monotonic_s())

    def told(
        self,
        *,
        connections: int,
        failing: Mapping[str, str],
        refused_streams: int,
        stepped: tuple[float, float] | None,
    ) -> Told:
        """Return what is to be told of the daemon just now.

        `connections` counts clients that write; `failing` holds, by session, why its files could not be written;
        `refused_streams` counts outboxes that are kept as they are; `stepped` is by how many seconds the wall clock was
        stepped last, and when (monotonic).
        """
        troubles = []
        if self._refusal:
            fault, since = self._refusal
            troubles.append(
                Trouble(
                    "disk_refused",
                    f"the disk refuses the journal since {since.isoformat(timespec='seconds')}: {fault}",
                    "free some space; the daemon acknowledges again by itself",
                )
            )
        if self._journal_fault:
            troubles.append(
                Trouble(
                    "journal_begun_anew",
                    f"the journal was begun anew when this daemon started: {self._journal_fault}",
                    "states came from checkpoints and outboxes; `edi-checkpoint sessions` shows them",
                )
            )
        if self._folder_lost and self._clock.monotonic_s() - self._folder_lost[2] < TOLD_S:
            sessions, when, _ = self._folder_lost
            troubles.append(
                Trouble(
                    "folder_removed",
                    f"the sessions folder was found empty, without its marker, at {when.isoformat(timespec='seconds')}",
                    f"the current states of {sessions} sessions were saved again; if you have the folder elsewhere,"
                    " move its files back: older checkpoints, masks and pictures are nowhere else",
                )
            )
        if self._config_fault:
            troubles.append(
                Trouble(
                    "config_refused",
                    f"the configuration file as it is now is not used: {self._config_fault}",
                    f"{self._config_fault.hint}; the settings from before hold, `edi-checkpoint config` shows them",
                )
            )
        if failing:
            session_id, fault = next(iter(failing.items()))
            more = f", and of {len(failing) - 1} more sessions" if len(failing) > 1 else ""
            troubles.append(
                Trouble(
                    "checkpoints_failing",
                    f"files of session {session_id}{more} cannot be written: {fault}",
                    "free some space or mend the sessions folder; the entries are safe in the journal",
                )
            )
        if refused_streams:
            troubles.append(
                Trouble(
                    "streams_refused",
                    f"{refused_streams} outboxes cannot be taken in and are kept as they are",
                    "the daemon's log names each with the reason",
                )
            )
        if shortage := descriptors.short():
            troubles.append(
                Trouble(
                    "descriptors_short",
                    f"{shortage} by the daemon; without any left it ends, and is started anew",
                    "close what is connected and idle, or raise the limit (`ulimit -Hn`, LimitNOFILE= of the unit)",
                )
            )
        if stepped and self._clock.monotonic_s() - stepped[1] < TOLD_S:
            troubles.append(
                Trouble(
                    "clock_stepped",
                    f"the clock was stepped by {stepped[0]:+.0f} s within the last hour",
                    "timers were shifted and order never comes from it: only see that the clock is right now",
                )
            )
        daemon = Served(True, os.getpid(), self._version, self._clock.monotonic_s() - self._started_s, connections)
        return Told(daemon, answered=True, troubles=troubles, errors=dict(self._errors))


def caps(config: Config) -> dict[str, int]:
    """Return the bounds of what lies on disk, in bytes, by the kinds of `edi_checkpoint.sizes`.

    Documents and trash share theirs; of outboxes each has it.
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
