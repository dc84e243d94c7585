"""The program's name and its exit codes."""

from __future__ import annotations

from enum import IntEnum

from edi_checkpoint.errors import EdiCheckpointError

PROGRAM = "edi-checkpoint"


class Exit(IntEnum):
    """The exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NO_DAEMON = 4
    BUSY = 5
    DAMAGE = 6
    LOST = 7
    INTERRUPTED = 130  # Ctrl-C, as shells report it


_ERRORS = {
    Exit.USAGE: ("usage", "ambiguous", "config", "session_id"),
    Exit.NOT_FOUND: ("not_found",),
    Exit.NO_DAEMON: ("daemon_unavailable",),
    Exit.BUSY: ("session_busy", "daemon_runs"),
    Exit.DAMAGE: ("document_damaged", "attachment_missing", "attachment_damaged", "journal_damaged"),
}


def exit_code(error: EdiCheckpointError) -> Exit:
    """Return the exit code of a command that fails with `error`."""
    return next((code for code, errors in _ERRORS.items() if error.code in errors), Exit.FAILED)
