from __future__ import annotations

import struct
from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edi_checkpoint.errors import ProtocolError
from edi_checkpoint.wire.records import ENTRY_MAX_BYTES, NUMBER_MAX, pack, scan, scan_all, whole

NUMBERED = st.lists(
    st.tuples(st.integers(1, NUMBER_MAX), st.binary(max_size=60)), max_size=6, unique_by=lambda pair: pair[0]
).map(sorted)
SOME = NUMBERED.filter(bool)


def packed(numbered: list[tuple[int, bytes]]) -> bytes:
    return b"".join(pack(number, entry) for number, entry in numbered)


def scanned(data: bytes) -> list[tuple[int, bytes]]:
    return [(number, entry) for number, entry, _ in scan(data)]


@settings(deadline=None)
@given(NUMBERED)
@example([(1, b"")])
@example([(NUMBER_MAX, b"x")])
def test_what_is_packed_is_scanned(numbered: list[tuple[int, bytes]]) -> None:
    data = packed(numbered)
    assert scanned(data) == [(number, entry) for number, entry, _ in scan(memoryview(data))] == numbered
    ends = [record.end for record in scan(data)]
    assert ends == [len(packed(numbered[: count + 1])) for count in range(len(numbered))]


@settings(deadline=None)
@given(NUMBERED)
def test_all_of_good_data_is_records(numbered: list[tuple[int, bytes]]) -> None:
    data = packed(numbered)
    if numbered:
        assert scan_all(data) == scan(data)
    else:
        with pytest.raises(ProtocolError):
            scan_all(data)


@settings(deadline=None)
@given(NUMBERED)
def test_the_lengths_alone_say_the_same_of_good_data(numbered: list[tuple[int, bytes]]) -> None:
    data = packed(numbered)
    end, last = whole(data)
    assert (end, last) == ((scan(data)[-1].end, scan(data)[-1].number) if numbered else (0, 0))


@settings(deadline=None)
@given(NUMBERED, st.integers(1, 7))
def test_no_more_records_are_looked_at_than_asked_for(numbered: list[tuple[int, bytes]], most: int) -> None:
    assert whole(packed(numbered), most) == whole(packed(numbered[:most]))


@settings(deadline=None)
@given(SOME, st.data())
def test_a_torn_tail_ends_the_scan_before_it(numbered: list[tuple[int, bytes]], data: st.DataObject) -> None:
    good = packed(numbered[:-1])
    torn = packed(numbered)[: len(good) + data.draw(st.integers(1, len(pack(*numbered[-1])) - 1))]
    assert scanned(torn) == numbered[:-1]
    assert whole(torn) == (len(good), numbered[-2][0] if good else 0)
    with pytest.raises(ProtocolError, match=f"byte {len(good)} of {len(torn)}"):
        scan_all(torn)


@settings(deadline=None)
@given(SOME, st.data())
def test_a_flipped_bit_ends_the_scan_before_its_record(numbered: list[tuple[int, bytes]], data: st.DataObject) -> None:
    damaged = bytearray(packed(numbered))
    bit = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    good = [pair for pair, record in zip(numbered, scan(packed(numbered)), strict=True) if record.end * 8 <= bit]
    assert scanned(bytes(damaged)) == good
    with pytest.raises(ProtocolError):
        scan_all(bytes(damaged))


@settings(deadline=None)
@given(NUMBERED, st.binary(min_size=1, max_size=40))
@example([(1, b"x")], bytes(16))
@example([(1, b"x")], bytes(4096))  # what a power cut may leave of a file that had grown
def test_left_overs_are_refused_and_not_read(numbered: list[tuple[int, bytes]], rest: bytes) -> None:
    data = packed(numbered) + rest
    assert scanned(data) == numbered  # 40 bytes that pass for a record by chance are not found in a life
    with pytest.raises(ProtocolError):
        scan_all(data)


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_give_records_that_pack_to_the_same(data: bytes) -> None:
    records = scan(data)
    good = packed([(record.number, record.entry) for record in records])
    assert data.startswith(good)
    end, _ = whole(data)
    assert len(good) <= end <= len(data)


@settings(deadline=None)
@given(SOME, st.data())
def test_a_number_that_does_not_rise_ends_the_scan(numbered: list[tuple[int, bytes]], data: st.DataObject) -> None:
    again = data.draw(st.integers(1, numbered[-1][0]))
    assert scanned(packed(numbered) + pack(again, b"again")) == numbered


@pytest.mark.parametrize("number", [0, NUMBER_MAX + 1, 2**64 - 1])
def test_a_number_that_nobody_gives_is_no_record(number: int) -> None:
    assert scan(pack(number, b"x")) == []


def test_an_entry_larger_than_any_may_be_is_no_record() -> None:
    assert scan(pack(1, bytes(ENTRY_MAX_BYTES + 1))) == []
    assert scanned(pack(1, b"x" * ENTRY_MAX_BYTES)) == [(1, b"x" * ENTRY_MAX_BYTES)]


def test_the_layout_on_disk_never_changes() -> None:
    number = struct.pack("<Q", 0x0102030405060708)
    checksum = struct.pack("<I", crc32(number + b"entry"))
    assert pack(0x0102030405060708, b"entry") == b"\5\0\0\0" + checksum + number + b"entry"
    assert pack(7, b"entry") == b"\5\0\0\0\xb7*\4\x9f\7\0\0\0\0\0\0\0entry"
