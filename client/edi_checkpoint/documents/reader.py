"""Reads checkpoint and auto-save documents, or only their headers, from bytes. No I/O, no clock.

A JSON string holds no raw newline, so the first bytes of its line find a top-level key. That is how a header is read
without the rest of its file. Any bytes give a document, `DocumentDamaged` or `VersionMismatch`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec

from edi_checkpoint.documents.fragments import Fragment, parent_of, shown, stage_of, string, summarise
from edi_checkpoint.documents.layout import AUTOSAVE, FORMAT, RESERVED, Header, state_info_parts
from edi_checkpoint.documents.named_files import FileFacts
from edi_checkpoint.documents.names import check_session_id, parse_autosave_name, parse_checkpoint_name, stamp_time
from edi_checkpoint.errors import DocumentDamaged, SessionIdError, VersionMismatch
from edi_checkpoint.model import Kind
from edi_checkpoint.wire.entries import KEEP_MAX, Number

UNDATED: Final = datetime.fromtimestamp(0, UTC)  # the time of a foreign auto-save, which has none

_STATE_INFO: Final = b'\n  "state_info": '
_BLOCK: Final = b'\n  "_edi_checkpoint": '
_BLOCK_INTEGRITY: Final = b'\n    "integrity": '
_SHARED: Final = (
    "sequence",
    "previous",
    "client",
    "streams",
    "summary",
    "keep",
)  # fields of our block in every document
_OF_CHECKPOINTS: Final = ("label", "pinned", "note", "files", "rule")

T = TypeVar("T")

SEQUENCE_MAX: Final = 1 << 62  # of a document, so that the sequences after it fit into the journal
_Sequence: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)]
_Keep: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=KEEP_MAX)]


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document: its header, and the JSON text of each value of the state as the file has it, by key."""

    header: Header
    values: Mapping[str, bytes]


def read_header(head: bytes, name: str) -> Header | None:
    """Return the header of the checkpoint file `name` from the file's first bytes, without verifying digests.

    None if `head` ends before `state_info` begins: then call `parse_checkpoint` with the whole file. Raises as that.
    """
    end = head.find(_STATE_INFO)
    if end < 0:
        return None
    members = _members(head[:end].removesuffix(b",") + b"}", name)
    return _checkpoint_header(members, _block(members, "checkpoint", name), name)


def read_autosave_header(tail: bytes, name: str) -> Header | None:
    """Return the header of our auto-save `name` from the file's last bytes, without verifying digests.

    None if our block does not begin within `tail`: then call `parse_autosave` with the whole file. Raises as that.
    """
    start = tail.rfind(_BLOCK)
    if start < 0:
        return None
    members = _members(b"{" + tail[start:], name)
    return _autosave_header(members, _block(members, RESERVED, name), name)


def parse_checkpoint(data: bytes, name: str) -> Document:
    """Return the document in the checkpoint file `name`, with all its digests verified; EDI's old files have none.

    Raises `DocumentDamaged` with file and fault, and `VersionMismatch` for a file of a newer version.
    """
    members = _members(data, name)
    block = _block(members, "checkpoint", name)
    state = _member(members, "state_info", dict[str, msgspec.Raw], name)
    values = {key: bytes(value) for key, value in state.items()}
    if block is not None:
        _verify_checkpoint(data, members, values, name)
    elif "integrity" in members:
        raise DocumentDamaged(f"{name}: checkpoint: missing")
    return Document(_checkpoint_header(members, block, name), values)


def parse_autosave(data: bytes, name: str) -> Document:
    """Return the document in the auto-save `name`, with its digests verified; kind `FOREIGN` if it is not one of ours.

    The values of ours lack `session_id`, which is in the header. The values of a foreign auto-save are unchanged.
    Raises as `parse_checkpoint` does.
    """
    members = _members(data, name)
    block = _block(members, RESERVED, name)
    values = {key: bytes(value) for key, value in members.items()}
    if block is not None:
        start, end = data.rfind(_BLOCK) + 1, data.rfind(_BLOCK_INTEGRITY) + 1
        view = memoryview(data)
        for part, written in (("state", view[:start]), ("header", view[start:end])):
            if block.integrity.get(part) != sha256(written).hexdigest():
                raise DocumentDamaged(f"{name}: {part}: digest differs")
        values.pop("session_id", None)
        del values[RESERVED]
    return Document(_autosave_header(members, block, name), values)


class _Format(msgspec.Struct):
    format: int


class _Block(msgspec.Struct):
    """Our block in a checkpoint or an auto-save. A field that only one of the two has is optional."""

    format: int
    kind: str
    sequence: _Sequence
    client: dict[str, object]
    streams: dict[str, Number]
    summary: dict[str, object]
    previous: str | None
    label: str | None = None
    pinned: bool = False
    note: str | None = None
    timestamp: str = ""
    parent_session: str | None = None
    stage: str = "unknown"
    keep: _Keep | None = None
    files: dict[str, FileFacts] = {}
    rule: str | None = None
    integrity: dict[str, str] = {}


class _Integrity(msgspec.Struct):
    header: str
    state_info: dict[str, str]


for _type in (_Format, _Block, _Integrity):
    msgspec.json.Decoder(_type)  # built here: see `values.codec._Plain`


def _members(data: bytes, name: str) -> dict[str, msgspec.Raw]:
    """Return the texts of a JSON object's values, by key, checked for syntax and encoding."""
    if not data.isascii():
        try:
            data.decode()  # msgspec does not check the encoding of strings
        except UnicodeDecodeError as error:
            raise DocumentDamaged(f"{name}: byte {error.start} is not UTF-8") from error
    try:
        return _decode(data, dict[str, msgspec.Raw], name)
    except DocumentDamaged:
        constants: list[str] = []
        with suppress(ValueError, RecursionError):
            json.loads(data, parse_constant=constants.append)
        if constants:
            raise DocumentDamaged(f"{name}: holds {constants[0]}, which is not JSON") from None
        raise


def _decode(text: bytes | msgspec.Raw, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        fault = f"truncated at byte {len(bytes(text))}" if str(error) == "Input data was truncated" else str(error)
        raise DocumentDamaged(f"{what}: {fault}") from error


def _member(members: Mapping[str, msgspec.Raw], key: str, kind: type[T], name: str) -> T:
    if key not in members:
        raise DocumentDamaged(f"{name}: {key}: missing")
    return _decode(members[key], kind, f"{name}: {key}")


def _block(members: Mapping[str, msgspec.Raw], key: str, name: str) -> _Block | None:
    """Return our block in a document, None if it has none. Raises `VersionMismatch` for one of a newer format."""
    if key not in members:
        return None
    if (version := _member(members, key, _Format, name).format) > FORMAT:
        raise VersionMismatch(f"{name}: format {version}; this version reads up to {FORMAT}")
    return _member(members, key, _Block, name)


def _verify_checkpoint(data: bytes, members: Mapping[str, msgspec.Raw], values: Mapping[str, bytes], name: str) -> None:
    integrity = _member(members, "integrity", _Integrity, name)
    start = data.find(_STATE_INFO) + 1
    if sha256(memoryview(data)[:start]).hexdigest() != integrity.header:
        raise DocumentDamaged(f"{name}: header: digest differs")
    fragments = {key: Fragment(value) for key, value in values.items()}
    for key in dict.fromkeys([*integrity.state_info, *values]):
        if key not in fragments:
            raise DocumentDamaged(f"{name}: state_info.{key}: missing")
        if integrity.state_info.get(key) != fragments[key].digest:
            raise DocumentDamaged(f"{name}: state_info.{key}: digest differs")
    if not data.startswith(b"".join(state_info_parts(fragments)), start):  # a key given twice, or other spaces
        raise DocumentDamaged(f"{name}: state_info: its layout was changed")


def _checkpoint_header(members: Mapping[str, msgspec.Raw], block: _Block | None, name: str) -> Header:
    named = parse_checkpoint_name(name)
    try:
        kind = Kind.REFERENCE if block is None else Kind(block.kind)
    except ValueError:
        raise VersionMismatch(f"{name}: kind {block and block.kind!r} is of a newer version") from None
    return Header(
        session_id=_session_id(members, named and named.session_id, name),
        timestamp=_time(_string_of(members, "timestamp"), named and named.stamp, name),
        kind=kind,
        reason=_shown_of(members, "reason", ""),
        stage=_shown_of(members, "stage", "unknown"),
        parent_session=_string_of(members, "parent_session"),
        **_fields(block, *_SHARED, *_OF_CHECKPOINTS),
    )


def _autosave_header(members: Mapping[str, msgspec.Raw], block: _Block | None, name: str) -> Header:
    session_id = _session_id(members, parse_autosave_name(name), name)
    if block is None:
        state = {key: Fragment(bytes(value)) for key, value in members.items()}
        return Header(
            session_id=session_id, timestamp=UNDATED, kind=Kind.FOREIGN, stage=stage_of(state),
            parent_session=parent_of(state), summary=summarise(state),
        )  # fmt: skip
    timestamp = _time(block.timestamp, None, name)
    own = _fields(block, *_SHARED, "stage", "parent_session")
    return Header(session_id=session_id, timestamp=timestamp, kind=AUTOSAVE, **own)


def _fields(block: _Block | None, *names: str) -> dict[str, Any]:
    """Return the fields `names` of our block as those of a header; none without a block."""
    return {name: getattr(block, name) for name in names} if block else {}


def _session_id(members: Mapping[str, msgspec.Raw], named: str | None, name: str) -> str:
    """Return the valid session id in a document, or else in its name. Raises `DocumentDamaged` if neither has one."""
    for session_id in (_string_of(members, "session_id"), named):
        with suppress(SessionIdError):
            return check_session_id(session_id)
    raise DocumentDamaged(f"{name}: session_id: missing or invalid")


def _time(text: str | None, stamp: str | None, name: str) -> datetime:
    """Return the time in a document, or else the one in its name. EDI's own times are naive, and so local."""
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text or "").astimezone(UTC)
    if stamp is None:
        raise DocumentDamaged(f"{name}: timestamp: not a time")
    return stamp_time(stamp)


def _string_of(members: Mapping[str, msgspec.Raw], key: str) -> str | None:
    return string(bytes(members[key])) if key in members else None


def _shown_of(members: Mapping[str, msgspec.Raw], key: str, missing: str) -> str:
    return shown(bytes(members[key])) if key in members else missing
