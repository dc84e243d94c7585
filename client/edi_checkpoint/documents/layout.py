"""Writes checkpoint and auto-save documents: their header and the parts of their files.

Both are the text of `json.dump(document, indent=2, ensure_ascii=False)` (`docs/format.md`). No I/O, no clock.
`reader` reads the documents of this version and of all earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, Literal

import msgspec

from edi_checkpoint.documents.fragments import Fragment
from edi_checkpoint.documents.named_files import FileFacts
from edi_checkpoint.model import Kind

FORMAT: Final = 1  # rises when older readers would misread a document; extra header keys do not raise it
AUTOSAVE: Final = "autosave"
RESERVED: Final = "_edi_checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The facts of a document besides the state. `timestamp` is aware; `previous` names the checkpoint before this one.

    `streams` has the number of each stream's newest entry in the document, `summary` what a session list shows
    (`summarise`). `keep` is how many checkpoints this session keeps, if it has a number of its own. `files` has the
    facts of the files that the state names. `rule` is the key whose change was the checkpoint's transition.
    """

    session_id: str
    timestamp: datetime
    kind: Kind | Literal["autosave"]
    sequence: int = 0
    reason: str = ""
    stage: str = "unknown"
    parent_session: str | None = None
    previous: str | None = None
    label: str | None = None
    pinned: bool = False
    note: str | None = None
    client: Mapping[str, object] = field(default_factory=dict)
    streams: Mapping[str, int] = field(default_factory=dict)
    summary: Mapping[str, object] = field(default_factory=dict)
    keep: int | None = None
    files: Mapping[str, FileFacts] = field(default_factory=dict)
    rule: str | None = None

    @property
    def score(self) -> float | None:
        """The state's validation score, if it has one."""
        score = self.summary.get("score")
        try:
            return float(score) if isinstance(score, int | float) else None
        except OverflowError:  # an integer too large for a float, in an edited file
            return None


def checkpoint_document(header: Header, fragments: Mapping[str, Fragment]) -> list[bytes]:
    """Return the parts of a checkpoint file, in order. Values are not copied."""
    block: dict[str, object] = {"format": FORMAT, "kind": header.kind, "sequence": header.sequence}
    block |= {"previous": header.previous, "label": header.label, "pinned": header.pinned, "note": header.note}
    block |= _shared_members(header)
    if header.rule is not None:
        block["rule"] = header.rule
    if header.files:
        block["files"] = {key: msgspec.structs.asdict(facts) for key, facts in header.files.items()}
    beginning = {"session_id": header.session_id, "timestamp": _written(header.timestamp), "reason": header.reason}
    head = _head({**beginning, "stage": header.stage, "parent_session": header.parent_session, "checkpoint": block})
    digests = {key: value.digest for key, value in fragments.items()}
    integrity = _pretty({"integrity": {"header": sha256(head).hexdigest(), "state_info": digests}})
    return [head, *state_info_parts(fragments), b",", integrity.removeprefix(b"{")]


def autosave_document(header: Header, fragments: Mapping[str, Fragment]) -> list[bytes]:
    """Return the parts of an auto-save, in order: the session id, the state's values, and our block last.

    Leaves out the state's keys `session_id` and `_edi_checkpoint`, and the header's kind, reason, label, pin and note.
    """
    parts = [b'{\n  "session_id": ', msgspec.json.encode(header.session_id)]
    for key, value in fragments.items():
        if key not in ("session_id", RESERVED):
            parts += (b",\n  " + msgspec.json.encode(key) + b": ", value.text.replace(b"\n    ", b"\n  "))
    parts.append(b",\n")
    state = sha256()
    for part in parts:
        state.update(part)
    block: dict[str, object] = {"format": FORMAT, "kind": AUTOSAVE, "timestamp": _written(header.timestamp)}
    block |= {"sequence": header.sequence, "previous": header.previous, "parent_session": header.parent_session}
    block |= {"stage": header.stage, **_shared_members(header)}
    lines = b'  "_edi_checkpoint": ' + _head(block).replace(b"\n ", b"\n   ")
    integrity = {"state": state.hexdigest(), "header": sha256(lines).hexdigest()}
    end = _pretty({RESERVED: {"integrity": integrity}}).removeprefix(b'{\n  "_edi_checkpoint": {\n')
    return [*parts, lines, end]


def _shared_members(header: Header) -> dict[str, object]:
    """Return the last members of our block that checkpoints and auto-saves share, in their order."""
    members = {"client": dict(header.client), "streams": dict(header.streams), "summary": dict(header.summary)}
    return members if header.keep is None else {**members, "keep": header.keep}


def state_info_parts(fragments: Mapping[str, Fragment]) -> list[bytes]:
    """Return the parts of a checkpoint's member `state_info`, from its indentation to its closing brace."""
    if not fragments:
        return [b'  "state_info": {}']
    parts: list[bytes] = []
    before = b'  "state_info": {\n    '
    for key, value in fragments.items():
        parts += (before + msgspec.json.encode(key) + b": ", value.text)
        before = b",\n    "
    return [*parts, b"\n  }"]


def _written(timestamp: datetime) -> str:
    return timestamp.astimezone(UTC).isoformat(timespec="microseconds")


def _pretty(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2)


def _head(value: Mapping[str, object]) -> bytes:
    """Return the text of an object without its closing brace, so that more members can follow."""
    return _pretty(value).removesuffix(b"\n}") + b",\n"
