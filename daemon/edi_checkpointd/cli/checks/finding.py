"""The result of a check."""

from __future__ import annotations

from typing import NamedTuple


class CheckResult(NamedTuple):
    """A check's result. `ok` is None if the check does not apply. `command`: the remedy is a command to run."""

    ok: bool | None
    message: str
    remedy: str | None = None
    command: bool = False


def well(message: str) -> CheckResult:
    """Return a finding without a fault."""
    return CheckResult(True, message)


def skipped(message: str) -> CheckResult:
    """Return a finding for a check that does not apply or cannot tell, with the reason."""
    return CheckResult(None, message)


def at_fault(message: str, remedy: str) -> CheckResult:
    """Return a fault whose remedy is a sentence."""
    return CheckResult(False, message, remedy)


def fixed_by(command: str, message: str) -> CheckResult:
    """Return a fault whose remedy is a command."""
    return CheckResult(False, message, command, command=True)
