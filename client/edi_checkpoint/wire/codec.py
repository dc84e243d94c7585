"""Messages to frames and back: mark, wire version, msgpack. No I/O and no clock.

`docs/protocol.md` is normative. A frame is the mark `EDIC`, one byte of wire version, and a tagged msgpack map. Unknown
fields are ignored. An unknown version raises `VersionMismatch`. All other bytes give a message or one `ProtocolError`.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from edi_checkpoint.errors import ProtocolError, VersionMismatch
from edi_checkpoint.wire.entries import Number
from edi_checkpoint.wire.messages import ClientMessage, DaemonMessage

WIRE_VERSION = 1
_MARK = b"EDIC"
_PREFIX = _MARK + bytes([WIRE_VERSION])


_encoder = msgspec.msgpack.Encoder()
_client_decoder: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)
_daemon_decoder: msgspec.msgpack.Decoder[DaemonMessage] = msgspec.msgpack.Decoder(DaemonMessage)


def encode(message: ClientMessage | DaemonMessage) -> bytes:
    """Return a message as one ZeroMQ frame."""
    return _PREFIX + _encoder.encode(message)


def decode_from_client(data: bytes | memoryview) -> ClientMessage:
    """Return what a client sent. Raises `VersionMismatch` for another wire version, else `ProtocolError`."""
    try:
        return _client_decoder.decode(_body(data))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"message to the daemon: {error}") from error


class _Asked(Struct):
    request: Number = 0


def request_of(data: bytes | memoryview) -> int:
    """Return the request that a client's message carries, also one that is none otherwise; 0 when it carries none."""
    try:
        return msgspec.msgpack.decode(_body(data), type=_Asked).request
    except (ProtocolError, msgspec.MsgspecError, ValueError, RecursionError):
        return 0


def decode_from_daemon(data: bytes | memoryview) -> DaemonMessage:
    """Return what a daemon sent. Raises `VersionMismatch` for another wire version, else `ProtocolError`."""
    try:
        return _daemon_decoder.decode(_body(data))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"message from the daemon: {error}") from error


def _body(data: bytes | memoryview) -> memoryview:
    view = memoryview(data)
    if view[:5] == _PREFIX:
        return view[5:]
    if view[:4] == _MARK and len(view) > 4:
        raise VersionMismatch(f"wire version {view[4]}; this side speaks {WIRE_VERSION}")
    raise ProtocolError(f"{len(view)} bytes without the mark {_MARK.decode()}")
