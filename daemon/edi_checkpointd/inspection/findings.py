"""Findings: the faults that an inspection found, and its overall result."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple


class Severity(StrEnum):
    """How bad a finding is.

    note         nobody has to do anything
    repairable   damage, but no acknowledged entry is lost
    lost         acknowledged entries are provably lost
    """

    NOTE = "note"
    REPAIRABLE = "repairable"
    LOST = "lost"


class Code(StrEnum):
    """The kind of a finding, for the repair and for scripts; the finding's text is for people."""

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
    """One fault: `what` is damaged, the `fault`, the `remedy`, and the path."""

    severity: Severity
    code: Code
    what: str
    fault: str
    remedy: str
    path: Path


class Result(StrEnum):
    """The overall result of an inspection or a repair."""

    CLEAN = "clean"
    REPAIRED = "repaired"
    REPAIRABLE = "repairable"
    LOST = "lost"


class Report(NamedTuple):
    """How many things of each kind were checked, and the findings, the worst first."""

    checked: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def result(self) -> Result:
        """The result of the worst finding; with notes only, it is clean."""
        severities = {finding.severity for finding in self.findings}
        if Severity.LOST in severities:
            return Result.LOST
        return Result.REPAIRABLE if Severity.REPAIRABLE in severities else Result.CLEAN


_WORST_FIRST: Final = (Severity.LOST, Severity.REPAIRABLE, Severity.NOTE)


def report_of(checked: dict[str, int], findings: Iterable[Finding]) -> Report:
    """Return a report of these findings, sorted."""
    return Report(checked, tuple(sorted(findings, key=lambda one: (_WORST_FIRST.index(one.severity), one.what))))


def confirmed(first: Report, second: Report) -> Report:
    """Return the second report with only the findings that the first has, too; others were changes in progress."""
    known = {(finding.code, finding.what) for finding in first.findings}
    return report_of(second.checked, (one for one in second.findings if (one.code, one.what) in known))


EXIT_CODES: Final = {Result.CLEAN: 0, Result.REPAIRED: 6, Result.REPAIRABLE: 6, Result.LOST: 7}
