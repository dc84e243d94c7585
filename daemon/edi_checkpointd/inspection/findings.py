"""Findings: what an inspection says of each thing that is not as it was written, and of the whole."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple


class Severity(StrEnum):
    """How bad it is.

    note         nothing is wrong that anybody would have to see to
    repairable   damage; nothing that was acknowledged is lost by it
    lost         acknowledged entries are provably nowhere
    """

    NOTE = "note"
    REPAIRABLE = "repairable"
    LOST = "lost"


class Code(StrEnum):
    """What is wrong, for whoever repairs it and for scripts; the text of the finding is for people."""

    JOURNAL_DAMAGED = "journal_damaged"
    JOURNAL_GONE = "journal_gone"
    JOURNAL_VERSION = "journal_version"
    ROWS_MISSING = "rows_missing"
    ENTRIES_MISSING = "entries_missing"
    ENTRIES_NEVER_CAME = "entries_never_came"
    DOCUMENT_DAMAGED = "document_damaged"
    DOCUMENT_MISNAMED = "document_misnamed"
    DOCUMENT_VERSION = "document_version"
    ATTACHMENT_DAMAGED = "attachment_damaged"
    ATTACHMENT_MISSING = "attachment_missing"
    ATTACHMENT_UNNAMED = "attachment_unnamed"
    OUTBOX_CUT_OFF = "outbox_cut_off"
    OUTBOX_DAMAGED = "outbox_damaged"
    OUTBOX_UNOWNED = "outbox_unowned"
    FOREIGN_FILE = "foreign_file"
    TEMPORARY = "temporary"
    MODE = "mode"
    OWNER = "owner"
    LINK = "link"
    HARD_LINK = "hard_link"


class Finding(NamedTuple):
    """One thing that is not as it should be: `what` it is, the `fault`, the `remedy`, and where it lies."""

    severity: Severity
    code: Code
    what: str
    fault: str
    remedy: str
    path: Path


class Result(StrEnum):
    """What an inspection, or a repair, came to."""

    CLEAN = "clean"
    REPAIRED = "repaired"
    REPAIRABLE = "repairable"
    LOST = "lost"


class Report(NamedTuple):
    """What was looked at, by kind, and what was found; the worst first."""

    checked: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def result(self) -> Result:
        """The worst of the findings; notes alone are clean."""
        severities = {finding.severity for finding in self.findings}
        if Severity.LOST in severities:
            return Result.LOST
        return Result.REPAIRABLE if Severity.REPAIRABLE in severities else Result.CLEAN


_WORST_FIRST: Final = (Severity.LOST, Severity.REPAIRABLE, Severity.NOTE)


def report_of(checked: dict[str, int], findings: Iterable[Finding]) -> Report:
    """Return the report of these findings, in its order."""
    return Report(checked, tuple(sorted(findings, key=lambda one: (_WORST_FIRST.index(one.severity), one.what))))


def confirmed(first: Report, second: Report) -> Report:
    """Return the second of two looks without what the first had not: what was only in motion is in one of them."""
    known = {(finding.code, finding.what) for finding in first.findings}
    return report_of(second.checked, (one for one in second.findings if (one.code, one.what) in known))


EXIT_CODES: Final = {Result.CLEAN: 0, Result.REPAIRED: 6, Result.REPAIRABLE: 6, Result.LOST: 7}
