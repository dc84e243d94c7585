"""The wire and the entries: typed messages, encode, decode, version. No I/O and no clock.

`docs/protocol.md` is normative. A message is the mark `EDIC`, one byte of wire version, and a tagged msgpack map. Every
change of a session is an entry of a stream (`Update`, `Base`, `Mark`, `Rollback`, `Pin`), numbered and kept in records
(`edi_checkpoint.records`). The other messages ask, answer, or report how far entries are.

Unknown fields are ignored, an unknown version is refused by name, and any bytes at all give a message or one
`ProtocolError`.

Example:
    from edi_checkpoint.protocol import GetStatus, decode_from_client, encode

    frame = encode(GetStatus(7))
    print(frame[:4], decode_from_client(frame))  # b'EDIC' GetStatus(request=7)
"""

from edi_checkpoint.wire.codec import WIRE_VERSION as WIRE_VERSION
from edi_checkpoint.wire.codec import decode_from_client as decode_from_client
from edi_checkpoint.wire.codec import decode_from_daemon as decode_from_daemon
from edi_checkpoint.wire.codec import encode as encode
from edi_checkpoint.wire.codec import request_of as request_of
from edi_checkpoint.wire.entries import KEEP_MAX as KEEP_MAX
from edi_checkpoint.wire.entries import TEXT_MAX as TEXT_MAX
from edi_checkpoint.wire.entries import Base as Base
from edi_checkpoint.wire.entries import Entry as Entry
from edi_checkpoint.wire.entries import JsonText as JsonText
from edi_checkpoint.wire.entries import Mark as Mark
from edi_checkpoint.wire.entries import Number as Number
from edi_checkpoint.wire.entries import Pin as Pin
from edi_checkpoint.wire.entries import Rollback as Rollback
from edi_checkpoint.wire.entries import Text as Text
from edi_checkpoint.wire.entries import Update as Update
from edi_checkpoint.wire.entries import decode_entries as decode_entries
from edi_checkpoint.wire.entries import decode_entry as decode_entry
from edi_checkpoint.wire.entries import encode_entry as encode_entry
from edi_checkpoint.wire.messages import FRAME_BYTES as FRAME_BYTES
from edi_checkpoint.wire.messages import MESSAGE_MAX_BYTES as MESSAGE_MAX_BYTES
from edi_checkpoint.wire.messages import SESSIONS_MAX as SESSIONS_MAX
from edi_checkpoint.wire.messages import WINDOW_BYTES as WINDOW_BYTES
from edi_checkpoint.wire.messages import Ack as Ack
from edi_checkpoint.wire.messages import Answer as Answer
from edi_checkpoint.wire.messages import AskMark as AskMark
from edi_checkpoint.wire.messages import Attach as Attach
from edi_checkpoint.wire.messages import Attached as Attached
from edi_checkpoint.wire.messages import AttachmentFound as AttachmentFound
from edi_checkpoint.wire.messages import Checkpoints as Checkpoints
from edi_checkpoint.wire.messages import CleanupReply as CleanupReply
from edi_checkpoint.wire.messages import ClientMessage as ClientMessage
from edi_checkpoint.wire.messages import Close as Close
from edi_checkpoint.wire.messages import DaemonMessage as DaemonMessage
from edi_checkpoint.wire.messages import Entries as Entries
from edi_checkpoint.wire.messages import Error as Error
from edi_checkpoint.wire.messages import Events as Events
from edi_checkpoint.wire.messages import Explained as Explained
from edi_checkpoint.wire.messages import GetAttachment as GetAttachment
from edi_checkpoint.wire.messages import GetCleanup as GetCleanup
from edi_checkpoint.wire.messages import GetHistory as GetHistory
from edi_checkpoint.wire.messages import GetSettings as GetSettings
from edi_checkpoint.wire.messages import GetState as GetState
from edi_checkpoint.wire.messages import GetStatus as GetStatus
from edi_checkpoint.wire.messages import GetWhy as GetWhy
from edi_checkpoint.wire.messages import Hello as Hello
from edi_checkpoint.wire.messages import History as History
from edi_checkpoint.wire.messages import Import as Import
from edi_checkpoint.wire.messages import Imported as Imported
from edi_checkpoint.wire.messages import ListCheckpoints as ListCheckpoints
from edi_checkpoint.wire.messages import ListSessions as ListSessions
from edi_checkpoint.wire.messages import MarkDone as MarkDone
from edi_checkpoint.wire.messages import MarkFailed as MarkFailed
from edi_checkpoint.wire.messages import Order as Order
from edi_checkpoint.wire.messages import Probe as Probe
from edi_checkpoint.wire.messages import Prune as Prune
from edi_checkpoint.wire.messages import Purge as Purge
from edi_checkpoint.wire.messages import Purged as Purged
from edi_checkpoint.wire.messages import Query as Query
from edi_checkpoint.wire.messages import Question as Question
from edi_checkpoint.wire.messages import Restore as Restore
from edi_checkpoint.wire.messages import Restored as Restored
from edi_checkpoint.wire.messages import Resumed as Resumed
from edi_checkpoint.wire.messages import Save as Save
from edi_checkpoint.wire.messages import Sessions as Sessions
from edi_checkpoint.wire.messages import Settings as Settings
from edi_checkpoint.wire.messages import StateAt as StateAt
from edi_checkpoint.wire.messages import StatusReply as StatusReply
from edi_checkpoint.wire.messages import StreamId as StreamId
from edi_checkpoint.wire.messages import Subscribe as Subscribe
from edi_checkpoint.wire.messages import Welcome as Welcome
from edi_checkpoint.wire.messages import WhyReply as WhyReply
