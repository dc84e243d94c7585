"""What each kind of array and bytes is stored as, and that it comes back; what cannot be is refused, in both ways."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
import zlib
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edi_checkpoint.errors import StateValueError
from edi_checkpoint.values import arrays, png
from edi_checkpoint.values.arrays import decode, encode
from edi_checkpoint.values.cache import Recent
from edi_checkpoint.values.codec import encode as encode_value
from edi_checkpoint.wire.references import Reference

RANDOM = np.random.default_rng(7)
MASK = RANDOM.random((40, 61)) < 0.5
PICTURE = RANDOM.integers(0, 256, (17, 23, 3), np.uint8)

STORED = [
    # what is published, the file's type, the mode that a viewer sees (None: no picture)
    (MASK, "png", "1"),
    (MASK.astype(np.uint8), "png", "1"),
    (np.zeros((8, 8), bool), "png", "1"),
    (np.ones((3, 1), np.uint8), "png", "1"),
    (MASK[::2, ::-3], "png", "1"),
    (np.asfortranarray(MASK), "png", "1"),
    (np.stack([MASK, ~MASK, MASK]), "png", "1"),
    (MASK[0], "png", "1"),
    (RANDOM.random((2, 3, 4, 5)) < 0.5, "png", "1"),
    (RANDOM.random((4, 5, 3)) < 0.5, "png", "1"),
    (np.zeros((4, 5, 7), np.uint8), "png", "1"),
    (PICTURE, "png", "RGB"),
    (PICTURE[::2, 1::2], "png", "RGB"),
    (np.zeros((4, 5, 3), np.uint8), "png", "RGB"),
    (RANDOM.integers(0, 256, (17, 23, 4), np.uint8), "png", "RGBA"),
    (PICTURE[..., 0], "png", "L"),
    (MASK.astype(np.uint8) * 255, "png", "L"),
    (RANDOM.integers(0, 256, (5, 5, 2), np.uint8), "npy", None),
    (RANDOM.integers(0, 256, 9, np.uint8), "npy", None),
    (np.array(True), "npy", None),
    (np.zeros((0, 4), bool), "npy", None),
    (np.zeros((3, 0), np.uint8), "npy", None),
    (np.float32([0.1, np.nan, -np.inf]), "npy", None),
    (np.arange(12.0).reshape(3, 4).T, "npy", None),
    (np.array(3 + 2j), "npy", None),
    (np.arange(5, dtype=">i2"), "npy", None),
    (np.array(["sky", "roof"]), "npy", None),
    (np.array([b"a", b"\x00"]), "npy", None),
    (np.array(["2026-11-23", "NaT"], "M8[us]"), "npy", None),
    (np.array([(1, 2.5)], [("a", "<i4"), ("b", ">f8")]), "npy", None),
    (np.array([np.longdouble(1) / 3]), "npy", None),
    (np.zeros((2, 3), "S0"), "npy", None),
    (b"", "raw", None),
    (b"\x00\xffabc", "raw", None),
    (bytearray(b"abc"), "raw", None),
    (memoryview(b"abcdef")[::2], "raw", None),
    (np.bytes_(b"abc"), "raw", None),
]


def same(back: object, value: object) -> bool:
    if isinstance(value, np.ndarray):
        return (
            type(back) is np.ndarray
            and (back.dtype, back.shape) == (value.dtype, value.shape)
            and back.tobytes() == value.tobytes()
            and back.flags.writeable
        )
    return type(back) is bytes and back == bytes(value)


@pytest.mark.parametrize(("value", "kind", "mode"), STORED, ids=lambda part: getattr(part, "dtype", None))
def test_an_array_or_bytes_are_stored_by_the_table_and_come_back_bit_for_bit(
    value: object, kind: str, mode: str | None
) -> None:
    reference, attachment = encode(value)
    assert (reference.type, attachment.type) == (kind, kind)
    assert reference.sha256 == sha256(attachment.data).hexdigest()
    assert reference.bytes == len(attachment.data)
    assert same(decode(reference, attachment.data), value)
    if isinstance(value, np.ndarray):
        assert (reference.dtype, reference.shape) == (str(value.dtype), value.shape)
        if kind == "npy":
            assert same(np.load(io.BytesIO(attachment.data)), np.asarray(value))
    if mode is None:
        assert reference.area is None
        return
    with Image.open(io.BytesIO(attachment.data)) as image:
        image.load()
        assert image.mode == mode
        seen = np.asarray(image)
    assert isinstance(value, np.ndarray)
    if mode == "1":
        assert reference.area == np.count_nonzero(value)
        assert (seen == value.reshape(-1, value.shape[-1]).astype(bool)).all()
    else:
        assert (seen == value).all()


def test_a_mask_costs_kilobytes() -> None:
    y, x = np.mgrid[:1024, :1024]
    disc = (y - 500) ** 2 + (x - 480) ** 2 < 300**2
    assert len(encode(disc).attachment.data) < 3000


REFUSED = [
    (np.array([{}]), "holds Python objects"),
    (np.array([(1, None)], [("a", "i4"), ("b", "O")]), "holds Python objects"),
    (np.ma.array([1]), "would be read back as an array of another class"),
    (np.rec.array([(1, 2.0)]), "would be read back as an array of another class"),
    (np.zeros(1, [("\u754c", "i4")]), "npy cannot store it"),
    (np.zeros(1, np.dtype([("a", "i1"), ("b", "i4")], align=True)), "npy does not keep its type"),
]


@pytest.mark.parametrize(("value", "reason"), REFUSED, ids=lambda part: type(part).__name__)
def test_what_would_not_come_back_as_it_was_is_refused_by_name(value: object, reason: str) -> None:
    with pytest.raises(StateValueError, match=rf"^k\.a\[0\]: numpy.*{reason}"):
        encode_value({"a": [value]}, "k")


def test_sizes_are_capped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "ATTACHMENT_MAX_BYTES", 1000)
    monkeypatch.setattr(arrays, "ARRAY_MAX_BYTES", 100_000)
    encode_value([bytes(1000)], "k")
    for value, said in (
        (bytes(1001), "bytes: 1001 bytes as raw; at most 1000"),
        (np.zeros(1001), "numpy.ndarray: 8136 bytes as npy"),
        (np.zeros((1001, 100), bool), "100100 bytes in memory; at most 100000"),
    ):
        with pytest.raises(StateValueError, match=rf"^k\[0\]: .*{said}"):
            encode_value([value], "k")


def test_a_reference_has_to_fit_below_the_deepest_container() -> None:
    value: object = b"x"
    for _ in range(97):
        value = [value]
    encode_value(value, "k")
    with pytest.raises(StateValueError, match="arrays and bytes must be nested in at most"):
        encode_value([value], "k")


# -- what is read is never trusted -----------------------------------------------------------------------------------


def changed(reference: Reference, **fields: object) -> Reference:
    return Reference(**{name: getattr(reference, name) for name in reference.__struct_fields__} | fields)


GOOD = [encode(value) for value in (MASK, PICTURE, np.arange(20.0), np.array([(1, 2.5)], [("a", "<i4"), ("b", "f8")]))]


@given(st.data())
def test_damaged_bytes_and_wrong_references_end_in_one_error_or_in_the_array(data: st.DataObject) -> None:
    reference, attachment = data.draw(st.sampled_from(GOOD))
    noise = bytearray(attachment.data)
    for _ in range(data.draw(st.integers(0, 3))):
        noise[data.draw(st.integers(0, len(noise) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(noise)) | st.just(len(noise)))
    shape = data.draw(st.just(reference.shape) | st.lists(st.integers(0, 10**12), max_size=4).map(tuple))
    dtype = data.draw(st.sampled_from([reference.dtype, "bool", "uint8", "float64", "O", "<U9", None]))
    kind = data.draw(st.sampled_from([reference.type, "png", "npy", "zip"]))
    area = data.draw(st.sampled_from([reference.area, None, 5]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, for types that it will not know much longer
        try:
            back = decode(changed(reference, shape=shape, dtype=dtype, type=kind, area=area), bytes(noise[:end]))
        except ValueError:
            return
    assert isinstance(back, np.ndarray)
    assert (back.shape, str(back.dtype)) == (shape, dtype)


def test_a_bomb_is_refused_before_it_is_inflated() -> None:
    rows = zlib.compressobj(9)
    bomb = b"".join([*(rows.compress(bytes(1 << 20)) for _ in range(64)), rows.flush()])
    reference, _ = encode(np.zeros((8, 8), bool))
    head = png._PNG + png._chunk(b"IHDR", png._IHDR.pack(8, 8, 1, 0, 0, 0, 0))
    with pytest.raises(ValueError, match="not the 16 bytes"):
        decode(reference, head + png._chunk(b"IDAT", bomb) + png._chunk(b"IEND", b""))
    huge = changed(reference, shape=(1 << 20, 1 << 20))
    with pytest.raises(ValueError, match="shape"):
        decode(huge, b"")


def test_a_pickle_in_an_npy_is_not_loaded() -> None:
    file = io.BytesIO()
    np.save(file, np.array([print], object), allow_pickle=True)
    reference = changed(encode(np.arange(1)).reference, dtype="object", shape=(1,))
    with pytest.raises(ValueError, match="it holds object"):
        decode(reference, file.getvalue())


def test_without_numpy_bytes_are_stored_and_an_array_says_what_to_install() -> None:
    script = """
import sys; sys.modules["numpy"] = None
from edi_checkpoint import ArraysMissing
from edi_checkpoint.values.arrays import decode, encode
from edi_checkpoint.wire.references import Reference
assert decode(*[encode(b"abc").reference, encode(b"abc").attachment.data]) == b"abc"
try:
    decode(Reference("0" * 64, "npy", "float64", (3,), 9), b"")
except ArraysMissing as error:
    print(error.hint)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "install the extra `arrays` from the clone: pip install '.[arrays]'\n"


# -- what was encoded lately -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [MASK, MASK.astype(np.uint8), PICTURE], ids=str)
def test_an_array_published_again_is_not_encoded_again_and_one_changed_in_place_is(value: np.ndarray) -> None:
    recent = Recent()
    value = value.copy()
    first = encode(value, recent)
    assert encode(value.copy(), recent) is first
    value[3, 3] ^= True
    second = encode(value, recent)
    assert second.reference.sha256 != first.reference.sha256
    assert same(decode(second.reference, second.attachment.data), value)
    assert encode(value, recent) is second


def test_what_looks_alike_in_other_types_and_shapes_is_not_taken_for_the_same() -> None:
    recent = Recent()
    alike = [np.zeros(shape, dtype) for shape in [(8, 16), (16, 8), (128,), (2, 4, 16)] for dtype in (bool, np.uint8)]
    alike += [np.zeros((16, 8, 3), np.uint8), np.zeros((8, 16, 3), np.uint8)]
    for value in alike * 2:
        assert same(decode(encode(value, recent).reference, encode(value, recent).attachment.data), value)


@given(st.lists(st.integers(1, 40), max_size=60))
def test_the_memory_is_bounded_and_holds_the_latest(sizes: list[int]) -> None:
    recent = Recent(max_bytes=100)
    for at, size in enumerate(sizes):
        encoded = encode(bytes([at]) * size, recent)
        assert recent.attachment(encoded.reference.sha256) == encoded.attachment
        assert recent._bytes == sum(len(held.attachment.data) for held, _ in recent._encoded.values()) <= 100
    before = recent._bytes
    encode(bytes(101), recent)  # too large to be held, and no reason to forget the others
    assert recent._bytes == before
