"""Write answers as JSON documents for scripts: times in UTC, unknown values null.

Values of a state are copied as JSON text, so that numbers keep the size and precision that their writer gave them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.model import CheckpointInfo, Event, HistoryEntry, SessionInfo
from edi_checkpoint.wire.messages import History, StateAt
from edi_checkpointd.system.clock import from_us

if TYPE_CHECKING:
    from edi_checkpoint.home.status import Status
    from edi_checkpointd.cli.checks.finding import CheckResult
    from edi_checkpointd.cli.views.attachments import Named
    from edi_checkpointd.retention.explain import Why

FORMAT: Final = 1


def write(document: dict[str, object]) -> None:
    """Write one document to stdout, in UTF-8 with any locale."""
    _write_bytes([_pretty({"format": FORMAT, **document}) + b"\n"])


def write_line(document: dict[str, object]) -> None:
    """Write one document as one line, and flush it."""
    _write_bytes([msgspec.json.encode(document) + b"\n"])


def write_history(session_id: str, pages: Iterable[History]) -> None:
    """Write the document of `history`, one entry per line; each page is written when it comes."""
    _write_bytes(_history(session_id, pages))


def failure(error: EdiCheckpointError) -> dict[str, object]:
    """Return the document of a failure."""
    return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}


def sessions(found: Sequence[SessionInfo]) -> dict[str, object]:
    """Return the document of `sessions`."""
    return {"sessions": [_row(info) for info in found]}


def session(changed: SessionInfo) -> dict[str, object]:
    """Return the document of a command that changed one session."""
    return {"session": _row(changed)}


def status(found: Status) -> dict[str, object]:
    """Return the document of `status`."""
    return msgspec.structs.asdict(found)


def event(told: Event) -> dict[str, object]:
    """Return the document of an event of `watch`; a line has no `format`."""
    return _row(told)


def doctor(found: Sequence[tuple[str, CheckResult]]) -> dict[str, object]:
    """Return the document of `doctor`; `command` says whether the remedy is a command to run."""
    checks = [{"name": name, **finding._asdict()} for name, finding in found]
    return {"ok": all(finding.ok is not False for _, finding in found), "checks": checks}


def why(found: Why) -> dict[str, object]:
    """Return the document of `why`."""
    return msgspec.structs.asdict(found)


def log(session_id: str, found: Sequence[CheckpointInfo], summaries: Sequence[str | None]) -> dict[str, object]:
    """Return the document of `log`."""
    return {"session_id": session_id, "checkpoints": [_log_row(*one) for one in zip(found, summaries, strict=True)]}


def checkpoint(changed: CheckpointInfo, summary: str | None) -> dict[str, object]:
    """Return the document of a command that changed one checkpoint."""
    return {"checkpoint": _log_row(changed, summary)}


def _log_row(info: CheckpointInfo, summary: str | None) -> dict[str, object]:
    row = {**_row(info), "summary": summary}
    del row["session_id"]
    return row


def show(found: StateAt) -> dict[str, object]:
    """Return the document of `show`."""
    return {
        "session_id": found.session_id,
        "sequence": found.sequence,
        "timestamp": from_us(found.time_us) if found.time_us else None,
        "stage": found.stage,
        "condition": found.condition,
        "parent_session": found.parent_session,
        "checkpoint": found.checkpoint,
        "source": found.source,
        "state_info": {key: msgspec.Raw(text) for key, text in found.state.items()},
    }


def attachments(session_id: str, found: Iterable[Named]) -> dict[str, object]:
    """Return the document of `attachments`; `fault` is an error code, null if the attachment is intact."""
    rows = [
        {
            "sha256": named.reference.sha256,
            "type": named.reference.type,
            "dtype": named.reference.dtype,
            "shape": named.reference.shape,
            "bytes": named.reference.bytes,
            "path": named.path,
            "fault": named.fault and named.fault.code,
            "file": named.file and str(named.file),
        }
        for named in found
    ]
    return {"session_id": session_id, "attachments": rows}


def _history(session_id: str, pages: Iterable[History]) -> Iterator[bytes]:
    separator = b"\n"
    for page in pages:
        if separator == b"\n":
            head = {"format": FORMAT, "session_id": session_id, "first": page.first, "last": page.last}
            yield msgspec.json.encode(head).removesuffix(b"}") + b',"entries":['
        for entry in page.entries:
            yield separator + msgspec.json.encode(_row(entry))
            separator = b",\n"
    yield b"]}\n"


def _row(info: SessionInfo | CheckpointInfo | HistoryEntry | Event) -> dict[str, object]:
    row: dict[str, object] = msgspec.structs.asdict(info)
    return {name: _utc(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:  # less than its offset from the years 1 or 9999
        return time.replace(tzinfo=UTC)


def _pretty(document: dict[str, object]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


def _write_bytes(parts: Iterable[bytes]) -> None:
    sys.stdout.flush()  # text written before must come first
    sys.stdout.buffer.writelines(parts)
    sys.stdout.buffer.flush()
