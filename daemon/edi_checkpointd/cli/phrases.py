"""Attachments in a few words: what people are shown in the place of a reference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

import msgspec

from edi_checkpoint.references import MARK, Reference
from edi_checkpointd.cli.screen import size

_REFERENCE = re.compile(rb'\{\s*"\$attachment":\s*(\{(?:[^{}"]|"(?:[^"\\]|\\.)*")*\})\s*\}')


def phrase(reference: Reference) -> str:
    """Return what an attachment is; pictures are measured as pictures are, width first."""
    shape, kind = reference.shape, f"array of {reference.dtype}"
    if reference.dtype is None:
        return f"bytes, {size(reference.bytes)}"
    if reference.area is not None:
        share = 100 * reference.area / max(1, prod(shape))
        return f"mask {_times(shape[::-1])}, {share:.1f} % set, {size(reference.bytes)}"
    if reference.type == "png":
        shape, kind = shape[1::-1], "picture"
    return f"{kind} {_times(shape)}, {size(reference.bytes)}"


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def in_words(text: bytes) -> bytes:
    """Return a JSON text with each reference in it said in words: `<mask 64x64, 1.6 % set, 107 B>`."""
    return _REFERENCE.sub(_said, text) if MARK in text else text


def _said(found: re.Match[bytes]) -> bytes:
    try:
        return f"<{phrase(msgspec.json.decode(found[1], type=Reference))}>".encode()
    except msgspec.MsgspecError:
        return found[0]
