"""Turns messages into frames and back. No I/O and no clock.

`docs/protocol.md` is normative. A frame is the mark `EDIC`, one byte of wire version, and a tagged msgpack map. A
reader ignores unknown fields. It raises `VersionMismatch` for another wire version, and `ProtocolError` for all other
bytes that are no message.
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
_INVALID = (msgspec.MsgspecError, ValueError, RecursionError)

_encoder = msgspec.msgpack.Encoder()
_client_decoder: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)
_daemon_decoder: msgspec.msgpack.Decoder[DaemonMessage] = msgspec.msgpack.Decoder(DaemonMessage)


def encode(message: ClientMessage | DaemonMessage) -> bytes:
    """Return a message as one ZeroMQ frame."""
    return _PREFIX + _encoder.encode(message)


def decode_from_client(data: bytes | memoryview) -> ClientMessage:
    """Return a client's message. Raises `VersionMismatch` for another wire version, else `ProtocolError`."""
    try:
        return _client_decoder.decode(_body(data))
    except _INVALID as error:
        raise ProtocolError(f"message to the daemon: {error}") from error


class _Request(Struct):
    request: Number = 0


def request_of(data: bytes | memoryview) -> int:
    """Return the request number in a client's frame, also if the rest is invalid; 0 without one."""
    try:
        return msgspec.msgpack.decode(_body(data), type=_Request).request
    except (ProtocolError, *_INVALID):
        return 0


def decode_from_daemon(data: bytes | memoryview) -> DaemonMessage:
    """Return a daemon's message. Raises `VersionMismatch` for another wire version, else `ProtocolError`."""
    try:
        return _daemon_decoder.decode(_body(data))
    except _INVALID as error:
        raise ProtocolError(f"message from the daemon: {error}") from error


def _body(data: bytes | memoryview) -> memoryview:
    """Return the msgpack map of a frame. Raises as the decoders do."""
    view = memoryview(data)
    if view[:5] == _PREFIX:
        return view[5:]
    if view[:4] == _MARK and len(view) > 4:
        raise VersionMismatch(f"wire version {view[4]}; this side speaks {WIRE_VERSION}")
    raise ProtocolError(f"{len(view)} bytes without the mark {_MARK.decode()}")
