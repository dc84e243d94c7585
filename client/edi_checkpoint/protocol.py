"""The messages, the entries and the bytes between a client and a daemon. No I/O and no clock.

`docs/protocol.md` is normative. A frame is the mark `EDIC`, one byte of wire version, and a tagged msgpack map. A
client publishes each change of a session as an entry (`Update`, `Base`, `Mark`, `Rollback`, `Pin`) in a numbered record
(`edi_checkpoint.records`). The other messages ask, answer, or report how far the entries have come.

A reader ignores unknown fields. It raises `VersionMismatch` for an unknown wire version, and `ProtocolError` for any
other bytes that are no message.

Example:
    from edi_checkpoint.protocol import GetStatus, decode_from_client, encode

    frame = encode(GetStatus(7))
    print(frame[:4], decode_from_client(frame))  # b'EDIC' GetStatus(request=7)
"""

from edi_checkpoint.wire.codec import *  # noqa: F403
from edi_checkpoint.wire.entries import *  # noqa: F403
from edi_checkpoint.wire.messages import *  # noqa: F403
