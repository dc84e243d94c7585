"""Encodes arrays and bytes as attachments, and decodes them.

    0 and 1 (bool, uint8)          png, 1 bit a pixel; higher dimensions are stacked vertically
    uint8, HxW, HxWx3, HxWx4       png, 8 bits: grey, RGB, RGBA
    any other array                npy, without pickle
    bytes                          raw

`png` writes each kind of PNG in one way, the fastest of all that were measured and among the smallest
(`docs/decisions.md`). Decoding accepts no other PNG, and compares the sizes before it allocates memory. numpy is
imported at the first array.
"""

from __future__ import annotations

import ast
import io
import math
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from edi_checkpoint.errors import ArraysMissing
from edi_checkpoint.values.cache import Recent
from edi_checkpoint.values.png import AS_IS, COLOURS, GREY, MINUS_ABOVE, from_png, to_png
from edi_checkpoint.wire.references import Attachment, Encoded, Reference

if TYPE_CHECKING:
    import numpy as np

    from edi_checkpoint.values.png import Array

ATTACHMENT_MAX_BYTES: Final = (64 << 20) - 1024  # an entry has at most 64 MiB, with the value that names it
ARRAY_MAX_BYTES: Final = 1 << 30  # in memory; a picture of few colours is a thousand times larger than its file


def is_array(value: object) -> bool:
    """Return whether `value` is a numpy array, without importing numpy."""
    kind: Any = type(value)
    return _is_array_type(kind)


@lru_cache(maxsize=256)
def _is_array_type(kind: type) -> bool:
    return any(base.__module__ == "numpy" and base.__name__ == "ndarray" for base in kind.__mro__)


# -- encoding --------------------------------------------------------------------------------------------------------


def encode(value: Any, recent: Recent | None = None) -> Encoded:
    """Return a numpy array or bytes as an attachment. Raises ValueError with the reason if it cannot be one."""
    size = value.nbytes if hasattr(value, "nbytes") else len(value)
    if size > ARRAY_MAX_BYTES:
        raise ValueError(f"{size} bytes in memory; at most {ARRAY_MAX_BYTES} bytes can be stored")
    if not is_array(value):
        data = bytes(value)
        return _encoded("raw", data, None, (len(data),), recent=recent)
    if type(value).__name__ not in ("ndarray", "memmap"):
        raise ValueError("would be read back as an array of another class; convert it with numpy.asarray")
    import numpy as np

    value = np.asarray(value)
    shape, dtype = value.shape, value.dtype
    in_colour = len(shape) == 3 and shape[2] in (3, 4)
    if shape and value.size:
        if dtype == np.bool_ or (dtype == np.uint8 and not in_colour and value.max() <= 1):
            return _image(value, recent, is_mask=True)
        if dtype == np.uint8 and (in_colour or len(shape) == 2):
            return _image(value, recent, is_mask=False)
    return _encoded("npy", _npy(value), str(dtype), shape, recent=recent)


def _encoded(
    kind: str, data: bytes, dtype: str | None, shape: tuple[int, ...], area: int | None = None,
    *, recent: Recent | None, key: bytes | None = None,
) -> Encoded:  # fmt: skip
    if len(data) > ATTACHMENT_MAX_BYTES:
        raise ValueError(f"{len(data)} bytes as {kind}; at most {ATTACHMENT_MAX_BYTES} bytes can be stored")
    reference = Reference(sha256(data).hexdigest(), kind, dtype, shape, len(data), area)
    encoded = Encoded(reference, Attachment(kind, data))
    if recent is not None:
        recent.keep(encoded, key)
    return encoded


def _image(value: Array, recent: Recent | None, *, is_mask: bool) -> Encoded:
    import numpy as np

    height, width, colour = _mask_size(value.shape) if is_mask else _picture_size(value.shape)
    pixels = np.ascontiguousarray(value).reshape(height, -1)
    if is_mask:
        pixels = np.packbits(pixels, axis=1)
    key = _key(value, pixels)
    if recent is not None and (known := recent.known(key)) is not None:
        return known
    rows = np.empty((height, pixels.shape[1] + 1), np.uint8)
    if is_mask:
        rows[:, 0], rows[:, 1:] = AS_IS, pixels
    else:
        rows[:, 0], rows[0, 1:] = MINUS_ABOVE, pixels[0]
        np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    area = int(np.count_nonzero(value)) if is_mask else None
    data = to_png(rows, width, height, 1 if is_mask else 8, colour)
    return _encoded("png", data, str(value.dtype), value.shape, area, recent=recent, key=key)


def _key(value: Array, pixels: Array) -> bytes:
    """Return a digest of the pixels, by which `Recent` finds them again.

    It takes a third of the time of compressing a mask, and a tenth for a picture.
    """
    key = sha256(f"{value.dtype} {value.shape} {pixels.nbytes} ".encode())
    key.update(pixels.data)
    return key.digest()


def _mask_size(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return math.prod(shape[:-1]), shape[-1], GREY


def _picture_size(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return height, width and PNG's colour type, as `_mask_size` does."""
    return shape[0], shape[1], COLOURS[shape[2] if len(shape) == 3 else 1]


def _npy(value: Array) -> bytes:
    import numpy as np

    if value.dtype.hasobject:
        raise ValueError("holds Python objects; convert it to a list")
    file = io.BytesIO()
    try:
        np.lib.format.write_array(file, value, version=(1, 0), allow_pickle=False)
        stored = np.lib.format.descr_to_dtype(np.lib.format.dtype_to_descr(value.dtype))
    except (ValueError, TypeError) as error:  # also UnicodeEncodeError, for the names of fields
        raise ValueError(f"npy cannot store it: {error}") from error
    if str(stored) != str(value.dtype):
        raise ValueError(f"npy does not keep its type {value.dtype}")
    return file.getvalue()


# -- decoding --------------------------------------------------------------------------------------------------------


def decode(reference: Reference, data: bytes) -> object:
    """Return the array or bytes in `data`, whose digest the caller has verified.

    Raises ValueError if `data` does not agree with the reference, before memory for it is allocated. Raises
    `ArraysMissing` without numpy.
    """
    if reference.type == "raw" and reference.dtype is None:
        return data
    try:
        import numpy as np
    except ImportError:
        raise ArraysMissing(f"an array of {reference.dtype} needs numpy, which is not installed") from None

    if reference.type == "npy":
        return _from_npy(reference, data)
    shape, kind = reference.shape, {"bool": np.bool_, "uint8": np.uint8}.get(reference.dtype or "")
    if reference.type != "png" or kind is None or not shape or not 0 < math.prod(shape) <= ARRAY_MAX_BYTES:
        raise ValueError(f"a {reference.type} cannot hold {reference.dtype} of shape {shape}")
    if reference.area is not None:
        height, width, colour = _mask_size(shape)
        packed = from_png(data, width, height, 1, colour, -(-width // 8), AS_IS)
        return np.unpackbits(packed, axis=1, count=width).view(kind).reshape(shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in COLOURS) or kind is not np.uint8:
        raise ValueError(f"a picture cannot have the shape {shape}")
    height, width, colour = _picture_size(shape)
    return np.add.accumulate(
        from_png(data, width, height, 8, colour, math.prod(shape[1:]), MINUS_ABOVE), axis=0, dtype=np.uint8
    ).reshape(shape)


def _from_npy(reference: Reference, data: bytes) -> object:
    import numpy as np

    start = 10 + int.from_bytes(data[8:10], "little")
    shape, in_columns, dtype = _npy_header(data[:start])
    if dtype.hasobject or (str(dtype), shape) != (reference.dtype, reference.shape):
        raise ValueError(f"it holds {dtype} of shape {shape}, not {reference.dtype} of {reference.shape}")
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"its {len(data) - start} bytes do not fit the shape {shape}")
    return np.ndarray(shape, dtype, bytearray(memoryview(data)[start:]), order="F" if in_columns else "C")


def _npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return the parts of an npy header: shape, whether the order is by columns, dtype. Raises ValueError for others.

    numpy's own reader raises errors of its tokenizer and compiler for some bytes.
    """
    import numpy as np

    if not header.startswith(b"\x93NUMPY\x01\x00"):
        raise ValueError("it is not an npy file of version 1.0")
    try:
        fields = ast.literal_eval(header[10:].decode("latin-1").strip())
        shape, in_columns = fields["shape"], fields["fortran_order"]
        dtype = np.lib.format.descr_to_dtype(fields["descr"])
    except (ValueError, TypeError, LookupError, ArithmeticError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"its npy header cannot be read: {error}") from error
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"its npy header has the shape {shape!r:.80}")
    return shape, bool(in_columns), dtype
