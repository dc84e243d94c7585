"""The examples of `docs/protocol.md` are what the code encodes and decodes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from edi_checkpoint.errors import SessionBusy
from edi_checkpoint.model import CheckpointInfo, Event
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.codec import decode_from_client, decode_from_daemon, encode
from edi_checkpoint.wire.entries import Entry, Mark, Update, decode_entry, encode_entry
from edi_checkpoint.wire.messages import (
    Ack,
    Attach,
    Attached,
    Entries,
    Error,
    Events,
    GetState,
    Hello,
    MarkDone,
    Resumed,
    StateAt,
    Subscribe,
    Welcome,
)
from edi_checkpoint.wire.records import pack

DOCUMENT = " ".join((Path(__file__).parents[3] / "docs" / "protocol.md").read_text().split())
HEAD = len(b"EDIC") + 1

STREAM = "5f0c9a5be7f24c7f8d4b6a0f2f9f1c3e"
FEED = "91d3c8e07b5a4f62a1c4e6d80b7f3a25"
NAME = "lighthouse_checkpoint_20261124_150002_104233.json"
AT = datetime(2026, 11, 24, 15, 0, 2, 104233, tzinfo=UTC)
AT_US = 1_795_532_402_104_233
BEFORE = {"current_stage": b'"analysis"', "progress": b"20"}
STATE = {"current_stage": b'"analysis"', "progress": b"40"}

UPDATE = Update(AT_US, {"progress": b"40"})
MARK = Mark(AT_US, "manual", "analysis_done", "good so far")
CHECKPOINT = CheckpointInfo(
    NAME, "lighthouse", 7, AT, "manual", "analysis_done", "analysis", "good so far", False, 1342
)
RESUMED = Resumed("interrupted", AT_US - 60_000_000, 1, 5, drained=1)

FROM_CLIENT: list[messages.ClientMessage] = [
    Hello("edi", "0.1.0", "/home/ada/.edi/sessions"),
    Attach(1, "lighthouse", STREAM, want_state=True),
    Entries(STREAM, memoryview(pack(1, encode_entry(UPDATE)))),
    GetState(2, "lighthouse", checkpoint=NAME),
    Subscribe(3, FEED, 41),
]
FROM_DAEMON: list[messages.DaemonMessage] = [
    Welcome("0.1.0", 4711, "0b6d6ac2c2ac4b8f9a9b7f0e3c5d1a2b"),
    Attached(1, STREAM, 3, 0, 0, 5, False, state=BEFORE, resumed=RESUMED, attachments_left=1 << 31),
    Ack(STREAM, 1, 0, attachments_left=1 << 31),
    MarkDone(STREAM, 2, CHECKPOINT),
    StateAt(2, "lighthouse", 7, AT_US, "analysis", "live", None, NAME, "file", STATE),
    Events(3, FEED, 42, [Event("checkpoint", "lighthouse", 7, AT, NAME, "analysis", "manual: analysis_done")]),
    Error(
        "session_busy", "session lighthouse: process 4242 writes to it", SessionBusy.default_hint,
        request=1, pid=4242, since="2026-11-24T15:00:00+00:00",
    ),
]  # fmt: skip
ENTRIES: list[Entry] = [UPDATE, MARK]


def printed(value: object) -> str:
    """Return `value` in the notation of the document: JSON, but bytes and times as they are explained there."""
    match value:
        case bytes() if value.isascii() and value.decode().isprintable():
            return f"'{value.decode()}'"
        case bytes():
            return f"h'{value.hex()}'"
        case datetime():
            return value.isoformat()
        case dict():
            return "{" + ", ".join(f'"{key}": {printed(part)}' for key, part in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(printed, value)) + "]"
        case _:
            return json.dumps(value)


def message(frame: bytes) -> str:
    return printed(msgspec.msgpack.decode(frame[HEAD:]))


@pytest.mark.parametrize("example", FROM_CLIENT, ids=lambda example: type(example).__name__)
def test_the_document_prints_what_a_client_sends(example: messages.ClientMessage) -> None:
    frame = encode(example)
    assert decode_from_client(frame) == example
    assert message(frame) in DOCUMENT


@pytest.mark.parametrize("example", FROM_DAEMON, ids=lambda example: type(example).__name__)
def test_the_document_prints_what_a_daemon_sends(example: messages.DaemonMessage) -> None:
    frame = encode(example)
    assert decode_from_daemon(frame) == example
    assert message(frame) in DOCUMENT


@pytest.mark.parametrize("example", ENTRIES, ids=lambda example: type(example).__name__)
def test_the_document_prints_what_an_outbox_holds(example: Entry) -> None:
    data = encode_entry(example)
    assert decode_entry(data) == example
    assert printed(msgspec.msgpack.decode(data)) in DOCUMENT


def test_the_document_prints_the_first_frame_of_a_connection() -> None:
    frame = encode(FROM_CLIENT[0])
    assert printed(frame) in DOCUMENT
