"""Write answers as JSON documents for scripts: times in UTC, unknown values null.

Values of a state are copied as JSON text, so that numbers keep the size and precision that their writer gave them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from edi_checkpoint.model import CheckpointInfo, Event, HistoryEntry, SessionInfo
from edi_checkpoint.wire.messages import History, StateAt
from edi_checkpointd.system.clock import from_us

if TYPE_CHECKING:
    from edi_checkpointd.cli.views.attachments import Named

FORMAT: Final = 1


def write(document: Mapping[str, object] | msgspec.Struct) -> None:
    """Write one document to stdout, in UTF-8 with any locale."""
    fields = msgspec.structs.asdict(document) if isinstance(document, msgspec.Struct) else document
    _write_bytes([msgspec.json.format(msgspec.json.encode({"format": FORMAT, **fields}), indent=2) + b"\n"])


def write_event(event: Event) -> None:
    """Write an event of `watch` as one line, without `format`, and flush it."""
    _write_bytes([msgspec.json.encode(row(event)) + b"\n"])


def write_history(session_id: str, pages: Iterable[History]) -> None:
    """Write the document of `history`, one entry per line; each page is written when it comes."""
    _write_bytes(_history(session_id, pages))


def row(info: SessionInfo | CheckpointInfo | HistoryEntry | Event) -> dict[str, object]:
    """Return the fields of a session, a checkpoint, an entry or an event, with times in UTC."""
    fields: dict[str, object] = msgspec.structs.asdict(info)
    return {name: _utc(value) if isinstance(value, datetime) else value for name, value in fields.items()}


def log_row(info: CheckpointInfo, summary: str | None) -> dict[str, object]:
    """Return the row of a checkpoint in `log`."""
    fields = {**row(info), "summary": summary}
    del fields["session_id"]
    return fields


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
            **{name: getattr(named.reference, name) for name in ("sha256", "type", "dtype", "shape", "bytes")},
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
            yield separator + msgspec.json.encode(row(entry))
            separator = b",\n"
    yield b"]}\n"


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:  # less than its offset from the years 1 or 9999
        return time.replace(tzinfo=UTC)


def _write_bytes(parts: Iterable[bytes]) -> None:
    sys.stdout.flush()  # text written before must come first
    sys.stdout.buffer.writelines(parts)
    sys.stdout.buffer.flush()
