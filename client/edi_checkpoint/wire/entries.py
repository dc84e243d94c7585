"""The entries of a stream, as typed structs, and the functions that encode and decode them. No I/O and no clock.

`docs/protocol.md` is normative. An entry is one change of a session (`Update`, `Base`, `Mark`, `Rollback`, `Pin`). The
client numbers each entry and stores it in a record (`wire.records`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, TypeAlias

import msgspec
from msgspec import Meta, Struct

from edi_checkpoint.errors import ProtocolError
from edi_checkpoint.wire.references import Attachment, Digest

TEXT_MAX = 1024
KEEP_MAX = 1000  # the most checkpoints of one session that a mark may ask to keep

Number: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Text: TypeAlias = Annotated[str, Meta(max_length=TEXT_MAX)]
JsonText: TypeAlias = bytes


class Update(Struct, tag="update", array_like=True, frozen=True, gc=False):
    """Sets and removes keys as one change.

    `time_us` is the publisher's clock (UTC, microseconds). It is shown and measures the time between transitions; it
    never orders entries. `covers` counts the earlier entries that a compaction merged into this one, else 0.
    `attachments` are those that the values refer to, by digest; the journal stores them apart from the entry.
    """

    time_us: int
    changed: dict[str, JsonText]
    removed: tuple[str, ...] = ()
    reason: Text | None = None
    covers: Number = 0
    attachments: dict[Digest, Attachment] = {}


class Base(Struct, tag="base", array_like=True, frozen=True, gc=False):
    """Replaces the whole state. It may follow a gap in the numbers.

    `attachments` are those that the values refer to and no file holds yet.
    """

    time_us: int
    state: dict[str, JsonText]
    covers: Number = 0
    attachments: dict[Digest, Attachment] = {}


class Mark(Struct, tag="mark", array_like=True, frozen=True, gc=False):
    """Asks for a checkpoint of the state at this number.

    `kind` is `manual`, `shutdown` or `interrupted`. `shutdown` is the last entry of a writer that leaves cleanly.
    `interrupted` saves an earlier writer's state before the session restarts empty. `keep` limits the checkpoints of
    the session from now on; None changes nothing.
    """

    time_us: int
    kind: Annotated[str, Meta(pattern=r"^(manual|shutdown|interrupted)\Z")]
    reason: Text
    label: Text | None = None
    pinned: bool = False
    keep: Annotated[int, Meta(ge=1, le=KEEP_MAX)] | None = None
    attachments: ClassVar[Mapping[str, Attachment]] = MappingProxyType({})


class Rollback(Struct, tag="rollback", array_like=True, frozen=True, gc=False):
    """Replaces the state by an earlier one. The daemon checkpoints the state before it, then this one.

    `to` is the sequence of the earlier state, 0 for a file that names none. `reason` describes it for people.
    """

    time_us: int
    state: dict[str, JsonText]
    to: Number
    reason: Text
    attachments: ClassVar[Mapping[str, Attachment]] = MappingProxyType({})  # those of an earlier state are stored


class Pin(Struct, tag="pin", array_like=True, frozen=True, gc=False):
    """Changes what a person noted on a checkpoint, named by its file; None changes nothing, an empty text removes."""

    time_us: int
    checkpoint: Text
    pinned: bool | None = None
    label: Text | None = None
    note: Text | None = None
    attachments: ClassVar[Mapping[str, Attachment]] = MappingProxyType({})


Entry: TypeAlias = Update | Base | Mark | Rollback | Pin

_encoder = msgspec.msgpack.Encoder()
_entry_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)


def encode_entry(entry: Entry) -> bytes:
    """Return the bytes of an entry for its record."""
    return _encoder.encode(entry)


def decode_entry(data: bytes) -> Entry:
    """Return the entry of `data`. Raises `ProtocolError`; it does not check the JSON texts inside."""
    try:
        return _entry_decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"entry: {error}") from error


def decode_entries(data: Iterable[bytes]) -> list[Entry]:
    """Return the entries of several records. Raises `ProtocolError`, as `decode_entry`."""
    decode = _entry_decoder.decode
    try:
        return [decode(one) for one in data]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"entry: {error}") from error
