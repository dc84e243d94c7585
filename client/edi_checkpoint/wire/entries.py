"""The entries of a stream: typed values, encode and decode. No I/O and no clock.

`docs/protocol.md` is normative. An entry is what changes a session (`Update`, `Base`, `Mark`, `Rollback`, `Pin`). The
client numbers each entry and stores it in a record (`edi_checkpoint.wire.records`).

Unknown fields are ignored. Any other bytes raise `ProtocolError`.
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
KEEP_MAX = 1000  # checkpoints of one session that may be asked to be kept

Number: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Text: TypeAlias = Annotated[str, Meta(max_length=TEXT_MAX)]
JsonText: TypeAlias = bytes


class Update(Struct, tag="update", array_like=True, frozen=True, gc=False):
    """Keys set to JSON texts and keys removed, as one change.

    `time_us` is the publisher's clock (UTC, microseconds): it is shown and spaces transitions, it never orders.
    `covers` counts the earlier entries this one stands for (compaction); 0 for an entry as it was published.
    `attachments` is what the values refer to, by digest; the journal keeps it apart from the entry.
    """

    time_us: int
    changed: dict[str, JsonText]
    removed: tuple[str, ...] = ()
    reason: Text | None = None
    covers: Number = 0
    attachments: dict[Digest, Attachment] = {}


class Base(Struct, tag="base", array_like=True, frozen=True, gc=False):
    """The whole state; whatever stood before is replaced. It may follow a gap in the numbers.

    `attachments` is what the values refer to and no file holds yet.
    """

    time_us: int
    state: dict[str, JsonText]
    covers: Number = 0
    attachments: dict[Digest, Attachment] = {}


class Mark(Struct, tag="mark", array_like=True, frozen=True, gc=False):
    """A wish for a checkpoint of the state at this number.

    `kind` is `manual`; `shutdown` for a writer's last entry when it leaves cleanly; `interrupted` to have what an
    earlier writer left kept, before its session is begun anew. `keep` says how many checkpoints of the session are to
    be kept from now on; None leaves that as it is.
    """

    time_us: int
    kind: Annotated[str, Meta(pattern=r"^(manual|shutdown|interrupted)\Z")]
    reason: Text
    label: Text | None = None
    pinned: bool = False
    keep: Annotated[int, Meta(ge=1, le=KEEP_MAX)] | None = None
    attachments: ClassVar[Mapping[str, Attachment]] = MappingProxyType({})


class Rollback(Struct, tag="rollback", array_like=True, frozen=True, gc=False):
    """The return to an earlier state, which is given whole; what stood before is photographed first, then this.

    `to` is the sequence that was gone back to (0: of a file that says none), `reason` says it in words.
    """

    time_us: int
    state: dict[str, JsonText]
    to: Number
    reason: Text
    attachments: ClassVar[Mapping[str, Attachment]] = MappingProxyType({})  # whatever was there before is kept


class Pin(Struct, tag="pin", array_like=True, frozen=True, gc=False):
    """What a person notes at a checkpoint, by its file's name; None leaves as it is, an empty text removes."""

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
    """Return the bytes of an entry, as a record holds them."""
    return _encoder.encode(entry)


def decode_entry(data: bytes) -> Entry:
    """Return the entry of `data`; raises `ProtocolError`. The JSON texts inside are not looked at."""
    try:
        return _entry_decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"entry: {error}") from error


def decode_entries(data: Iterable[bytes]) -> list[Entry]:
    """Return the entries of several records; raises as `decode_entry` does."""
    decode = _entry_decoder.decode
    try:
        return [decode(one) for one in data]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"entry: {error}") from error
