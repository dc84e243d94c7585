"""What a check comes to."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """`ok` None: it cannot be said here, or does not apply. A fault has a remedy; `command`: that runs as it stands."""

    ok: bool | None
    message: str
    remedy: str | None = None
    command: bool = False


def well(message: str) -> Finding:
    """Nothing is wrong."""
    return Finding(True, message)


def not_said(message: str) -> Finding:
    """It does not apply, or cannot be found out, and why."""
    return Finding(None, message)


def at_fault(message: str, remedy: str) -> Finding:
    """Something is wrong; the remedy is a sentence."""
    return Finding(False, message, remedy)


def mended_by(command: str, message: str) -> Finding:
    """Something is wrong, and a command mends it."""
    return Finding(False, message, command, command=True)
