"""Turn a report into text for people, and into a JSON document for scripts."""

from __future__ import annotations

import textwrap

from edi_checkpointd.inspection.findings import Report, Result, Severity

_KINDS = {
    "checkpoints": ("checkpoint", "checkpoints"),
    "autosaves": ("auto-save", "auto-saves"),
    "attachments": ("attachment", "attachments"),
    "entries": ("journaled change", "journaled changes"),
    "outboxes": ("outbox", "outboxes"),
}
_VERDICTS = {
    Result.CLEAN: "nothing is wrong",
    Result.REPAIRED: "repaired; no acknowledged change was lost",
    Result.REPAIRABLE: "damaged; no acknowledged change is lost",
    Result.LOST: "acknowledged changes are lost",
}
_SIGNS = {Severity.NOTE: "-", Severity.REPAIRABLE: "!", Severity.LOST: "!!"}


def document(report: Report, result: Result) -> dict[str, object]:
    """Return the JSON document of `check` and `verify`."""
    return {
        "result": result,
        "checked": report.checked,
        "findings": [
            {"severity": one.severity, "code": one.code, "what": one.what, "fault": one.fault, "remedy": one.remedy}
            for one in report.findings
        ],
    }


def lines(report: Report, result: Result, width: int | None) -> list[str]:
    """Return the report in lines of at most `width` characters (None: not wrapped); the verdict comes first."""
    counts = [f"{count} {_KINDS[kind][count != 1]}" for kind, count in report.checked.items() if count]
    said = [f"{_VERDICTS[result]}: {', '.join(counts) or 'nothing is saved yet'}"]
    for one in report.findings:
        said.append(f"{_SIGNS[one.severity]} {one.what}: {one.fault}")
        if result is not Result.REPAIRED:
            said.append(f"    {one.remedy}")
    if width is None:
        return said
    wrapper = textwrap.TextWrapper(width, subsequent_indent="    ", break_on_hyphens=False)
    return [line for text in said for line in wrapper.wrap(text)]
