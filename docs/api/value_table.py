"""The rows of the page's table of values: each value is stored and read back to fill them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np

from edi_checkpoint.errors import StateValueError
from edi_checkpoint.values.arrays import decode as decode_attachment
from edi_checkpoint.values.codec import decode, encode
from edi_checkpoint.wire.references import Attachment, Reference


class Stage(Enum):
    """An enumeration of an app."""

    UPLOAD = "upload"


@dataclass
class Entity:
    """A dataclass of an app."""

    id: str
    bbox: tuple[int, int]


class Size(NamedTuple):
    """A named tuple of an app."""

    width: int
    height: int


# What an expression may name.
NAMES: dict[str, Any] = {
    "Decimal": Decimal, "Entity": Entity, "Path": Path, "Size": Size, "Stage": Stage, "UTC": UTC, "UUID": UUID,
    "date": date, "datetime": datetime, "math": math, "np": np, "timedelta": timedelta,
}  # fmt: skip
EXPRESSIONS = (
    "None", "True", '"roof"', "10**30", "0.1", '{"a": 1}', "[1, 2]", "(1, 2)", "Size(4, 3)", "{3, 1, 2}",
    "Stage.UPLOAD", 'Path("/pictures/roof.jpg")', 'UUID("12345678123456781234567812345678")', 'Decimal("0.10")',
    "datetime(2026, 11, 24, 15, 0, tzinfo=UTC)", "date(2026, 11, 24)", "timedelta(seconds=90)",
    'Entity("sky_0", (1, 2))', 'b"\\x00\\x01"', "np.float32(0.1)", "np.int64(7)", "np.zeros((4, 3), bool)",
    "np.full((4, 3, 3), 200, np.uint8)", "np.array([0.5, math.nan])", "math.nan", '{1: "a"}', "1j", "object()",
    '"\\ud800"', '{"$attachment": 1}', "np.array([object()])",
)  # fmt: skip


def rows() -> Iterator[tuple[str, str, str]]:
    """Yield each value as an expression, its stored form, and what is read back."""
    for expression in EXPRESSIONS:
        value: Any = eval(expression, NAMES)
        carried: dict[str, Attachment] = {}
        try:
            text = encode(value, "key", carried)
        except StateValueError as error:
            yield f"`{expression}`", "refused", f"`StateValueError`: {str(error).removeprefix('key: ')}"
            continue
        back = decode(text, "key", lambda found, _, carried=carried: _content(found, carried))
        yield f"`{expression}`", _stored(text, carried), f"`{_shown(back)}`"


def _content(reference: Reference, carried: dict[str, Attachment]) -> object:
    return decode_attachment(reference, carried[reference.sha256].data)


def _stored(text: bytes, carried: dict[str, Attachment]) -> str:
    kinds = [attachment.type for attachment in carried.values()]
    return f"an attachment, `{kinds[0]}`" if kinds else f"`{text.decode()}`"


def _shown(value: Any) -> str:
    with contextlib.suppress(AttributeError):
        return f"array of {value.dtype}, shape {value.shape}"
    return repr(value)
