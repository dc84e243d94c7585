from __future__ import annotations

import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edi_checkpoint.errors import ProtocolError, VersionMismatch
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.codec import decode_from_client, decode_from_daemon, encode
from edi_checkpoint.wire.entries import Base, Entry, Mark, Update, decode_entry, encode_entry
from edi_checkpoint.wire.records import scan_all

PREFIX = b"EDIC\x01"
DECODERS = (decode_from_client, decode_from_daemon)
FROM_CLIENT, FROM_DAEMON = get_args(messages.ClientMessage), get_args(messages.DaemonMessage)
MESSAGES = FROM_CLIENT + FROM_DAEMON
ENTRIES = get_args(Entry)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """All that a field of type `hint` may hold."""
    if get_origin(hint) is Annotated:
        kind, meta = get_args(hint)
        if kind is int:
            return st.integers(meta.ge, meta.le)
        if meta.pattern is not None:
            return st.from_regex(meta.pattern, fullmatch=True).filter(lambda text: "\n" not in text)
        if kind is not str:
            return values_of(kind)
        return st.text(max_size=60) | st.just("x" * meta.max_length)
    if get_origin(hint) in (Union, UnionType):
        return st.one_of([values_of(part) for part in get_args(hint)])
    if get_origin(hint) is list:
        return st.lists(values_of(get_args(hint)[0]), max_size=3)
    if get_origin(hint) is tuple:
        return st.lists(values_of(get_args(hint)[0]), max_size=3).map(tuple)
    if get_origin(hint) is dict:
        return st.dictionaries(*map(values_of, get_args(hint)), max_size=4)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return structs(hint)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        NoneType: st.none(),
        bool: st.booleans(),
        int: st.integers(-(2**63), 2**64 - 1),
        float: st.floats(allow_nan=False),
        str: st.text(max_size=60),
        bytes: st.binary(max_size=60),
        memoryview: st.binary(max_size=60),  # equal to a view of the same bytes
        datetime: st.datetimes(timezones=st.just(UTC)),
    }
    return simple[hint]


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{name: values_of(hints[name]) for name in kind.__struct_fields__})


def captured() -> list[bytes]:
    """The frames of a real session (`data/capture_frames.py`), both ways, in order."""
    data = (Path(__file__).parents[2] / "data" / "frames.bin").read_bytes()
    frames, offset = [], 0
    while offset < len(data):
        (length,) = struct.unpack_from("<I", data, offset)
        frames.append(data[offset + 4 : offset + 4 + length])
        offset += 4 + length
    return frames


def decoded(frame: bytes) -> Any:
    """The message of a frame, whichever way it goes."""
    try:
        return decode_from_client(frame)
    except ProtocolError:
        return decode_from_daemon(frame)


FRAMES = captured()
CAPTURED_ENTRIES = [
    record.entry
    for frame in FRAMES
    if isinstance(message := decoded(frame), messages.Entries)
    for record in scan_all(message.records)
]


def gives_a_message_or_one_error(decode: Callable[[bytes], Any], data: bytes) -> None:
    try:
        message = decode(data)
    except ProtocolError as error:
        assert type(error) in (ProtocolError, VersionMismatch)
        assert str(error)
        assert error.hint
    else:
        assert isinstance(message, (*MESSAGES, *ENTRIES))


def every_way(data: bytes) -> None:
    for decode in DECODERS:
        gives_a_message_or_one_error(decode, data)
        gives_a_message_or_one_error(decode, PREFIX + data)
    gives_a_message_or_one_error(decode_entry, data)


# -- any bytes ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=250)
@given(st.binary(max_size=200))
@example(b"")
@example(b"EDIC")
@example(b"EDIC\x01")
@example(b"EDI\x01\x80")
@example(b"\xc1")  # the byte that msgpack never uses
@example(b"\x81\xa4type\xa3ack")  # a tag and nothing else
@example(b"\xd9\xff" + b"x" * 20)  # a text that ends early
@example(b"\xa2\xff\xfe")  # no UTF-8
def test_any_bytes_give_a_message_or_one_protocol_error(data: bytes) -> None:
    every_way(data)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_mutated_real_frame_gives_a_message_or_one_protocol_error(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from(FRAMES)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame)))
        match data.draw(st.sampled_from(["flip", "insert", "delete", "repeat", "splice"])):
            case "flip" if at < len(frame):
                frame[at] ^= 1 << data.draw(st.integers(0, 7))
            case "insert":
                frame[at:at] = data.draw(st.binary(max_size=9))
            case "delete":
                del frame[at : at + data.draw(st.integers(1, 9))]
            case "repeat":
                frame[at:at] = frame[at : at + data.draw(st.integers(1, 40))]
            case "splice":
                frame[at:] = data.draw(st.sampled_from(FRAMES))[at:]
    for decode in DECODERS:
        gives_a_message_or_one_error(decode, bytes(frame))


def test_every_flipped_bit_and_every_cut_of_real_entries_gives_an_entry_or_one_protocol_error() -> None:
    for entry in sorted(CAPTURED_ENTRIES, key=len)[:6]:
        for bit in range(8 * len(entry)):
            flipped = bytearray(entry)
            flipped[bit // 8] ^= 1 << bit % 8
            gives_a_message_or_one_error(decode_entry, bytes(flipped))
        for end in range(len(entry)):
            with pytest.raises(ProtocolError):
                decode_entry(entry[:end])
        with pytest.raises(ProtocolError):
            decode_entry(entry + b"\0")


def test_a_frame_cut_short_or_with_something_behind_it_is_refused() -> None:
    for frame in FRAMES:
        for decode in DECODERS:
            for end in range(len(frame)):
                with pytest.raises(ProtocolError):
                    decode(frame[:end])
            with pytest.raises(ProtocolError):
                decode(frame + b"\0")


NESTS = {
    "arrays": b"\x91" * 200_000,
    "maps": b"\x81\xa1k" * 100_000,
    "large arrays": b"\xdc\x00\x01" * 100_000,
    "keys of maps": b"\x81" * 200_000,
}


@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS)
@pytest.mark.parametrize(
    "before", [b"", b"\x82\xa4type\xa3ack\xa1x", b"\x83\xa4type\xa5hello\xa3app", b"\x96\xa4base\x00"]
)
def test_deep_nesting_is_one_protocol_error(nest: bytes, before: bytes) -> None:
    for data in (before + nest, before + nest + b"\xc0" * 4):
        for decode in DECODERS:
            with pytest.raises(ProtocolError):
                decode(PREFIX + data)
        with pytest.raises(ProtocolError):
            decode_entry(data)


@pytest.mark.parametrize("length", [0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("head", [b"\xc6", b"\xdb", b"\xdd", b"\xdf", b"\xc9"])
def test_a_length_that_the_bytes_do_not_have_is_refused_at_once(head: bytes, length: int) -> None:
    body = head + struct.pack(">I", length) + b"\x01" * 20
    before = time.thread_time()
    for data in (
        body,
        b"\x82\xa4type\xa7entries\xa7records" + body,
        b"\x93\xa6update\x00" + body,
        b"\x95\xa6update\x00\x80" + body,
        b"\x82\xa4type\xa8sessions\xa8sessions" + body,
    ):
        every_way(data)
    assert time.thread_time() - before < 0.1  # nothing of that size was made


# -- round trips -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=12)
@pytest.mark.parametrize("kind", FROM_CLIENT, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_what_a_client_sends_arrives_as_it_was(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    message = data.draw(structs(kind))
    assert decode_from_client(encode(message)) == decode_from_client(memoryview(encode(message))) == message


@settings(deadline=None, max_examples=12)
@pytest.mark.parametrize("kind", FROM_DAEMON, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_what_a_daemon_sends_arrives_as_it_was(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    message = data.draw(structs(kind))
    assert decode_from_daemon(encode(message)) == decode_from_daemon(memoryview(encode(message))) == message


@settings(deadline=None, max_examples=40)
@pytest.mark.parametrize("kind", ENTRIES, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_an_entry_comes_back_as_it_was(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    entry = data.draw(structs(kind))
    assert decode_entry(encode_entry(entry)) == entry


def test_each_captured_frame_is_a_message_of_exactly_one_side() -> None:
    assert len(FRAMES) > 30
    kinds = set()
    for frame in FRAMES:
        read = []
        for decode in DECODERS:
            try:
                read.append(decode(frame))
            except ProtocolError:
                continue
        (message,) = read
        kinds.add(type(message))
        assert decoded(encode(message)) == message
    assert kinds >= {
        messages.Hello, messages.Welcome, messages.Attach, messages.Attached, messages.Entries, messages.Ack,
        messages.MarkDone, messages.Close, messages.StateAt, messages.History, messages.Error,
    }  # fmt: skip
    assert {type(decode_entry(entry)) for entry in CAPTURED_ENTRIES} == {Update, Base, Mark}


# -- other versions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(deadline=None, max_examples=6)
@given(data=st.data())
def test_fields_that_a_later_version_adds_are_ignored(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    message = data.draw(structs(kind))
    fields = msgspec.msgpack.decode(encode(message)[len(PREFIX) :], type=dict[str, msgspec.Raw])
    added = data.draw(st.dictionaries(st.text(max_size=9), st.integers() | st.text() | st.lists(st.none()), max_size=3))
    unknown = {
        f"later_{key}": msgspec.Raw(msgspec.msgpack.encode(value)) for key, value in added.items() if _fits(value)
    }
    decode = decode_from_client if kind in FROM_CLIENT else decode_from_daemon
    assert decode(PREFIX + msgspec.msgpack.encode({**fields, **unknown})) == message


def _fits(value: object) -> bool:
    return not isinstance(value, int) or -(2**63) <= value < 2**64


@settings(deadline=None, max_examples=40)
@given(st.one_of([structs(kind) for kind in ENTRIES]), st.lists(st.text(max_size=9) | st.none(), max_size=3))
def test_fields_that_a_later_version_adds_to_an_entry_are_ignored(entry: Entry, added: list[object]) -> None:
    parts = msgspec.msgpack.decode(encode_entry(entry), type=list[msgspec.Raw])
    assert decode_entry(msgspec.msgpack.encode([*parts, *added])) == entry


@pytest.mark.parametrize("version", [0, 2, 3, 255])
def test_another_wire_version_is_refused_by_its_number(version: int) -> None:
    for frame in (*FRAMES[:4], PREFIX, PREFIX + b"\xff\xff\xff"):
        for decode in DECODERS:
            with pytest.raises(VersionMismatch, match=f"wire version {version};.* speaks 1"):
                decode(b"EDIC" + bytes([version]) + frame[5:])


@pytest.mark.parametrize("data", [b"", b"EDIC", b"edic\x01\x80", b"EDI\x01\x80", b"GET / HTTP/1.1", b"\0" * 64])
def test_bytes_without_our_mark_are_no_other_version(data: bytes) -> None:
    for decode in DECODERS:
        with pytest.raises(ProtocolError) as refused:
            decode(data)
        assert type(refused.value) is ProtocolError


# -- bounds ------------------------------------------------------------------------------------------------------------

STREAM = "0123456789abcdef" * 2
OUT_OF_BOUNDS = {
    "a stream with a newline behind it": messages.Close(STREAM + "\n"),
    "a stream in capitals": messages.Close(STREAM.upper()),
    "a stream that is a path": messages.Close("../" + STREAM[3:]),
    "a short stream": messages.Close(STREAM[1:]),
    "a negative number": messages.Probe(STREAM, -1),
    "a number that SQLite cannot hold": messages.Probe(STREAM, 2**63),
    "a session id too long": messages.ListCheckpoints(1, "x" * 1025),
    "a limit of none": messages.ListSessions(1, None, 0),
    "too great a limit": messages.GetHistory(1, "s", limit=10_001),
    "a path too long": messages.Hello("edi", "1", "/" * 4097),
    "a request that is a text": messages.GetStatus("1"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("message", OUT_OF_BOUNDS.values(), ids=OUT_OF_BOUNDS)
def test_a_field_out_of_bounds_is_refused(message: messages.ClientMessage) -> None:
    with pytest.raises(ProtocolError):
        decode_from_client(encode(message))


@pytest.mark.parametrize(
    "entry",
    [
        Mark(0, "interval", "r"),
        Mark(0, "manual\n", "r"),
        Mark(0, "", "r"),
        Mark(0, "manual", "r" * 1025),
        Mark(0, "manual", "r", "l" * 1025),
        Update(0, {}, (), "r" * 1025),
        Update(0, {}, (), None, -1),
        Base(0, {}, 2**63),
        Update(0, {"k": "no bytes"}),  # type: ignore[dict-item]
    ],
)
def test_an_entry_out_of_bounds_is_refused(entry: Entry) -> None:
    with pytest.raises(ProtocolError):
        decode_entry(encode_entry(entry))
